"""What recording costs: a step with all rows' norms, every step, to TensorBoard and CSV, against one without."""

from measure import Result, main, seconds_a_step, side_by_side


def measure(device: str, quick: bool = False) -> list[Result]:
    """MLP, batch 512; recorder and tap on against off; nothing else but progress is switched off in both."""
    some = ["model=mlp", "data.batch_size=512", f"trainer.accelerator={device}", "callbacks.pictures=null"]
    some += ["callbacks.histograms=null", "callbacks.checkpoints=null"]
    norms = "callbacks.recorder.quantities=[row_grad_norm,input_grad_norm]"
    length = {"start": 5, "stop": 10} if quick else {"start": 100, "stop": 300}
    results = []
    for scenario in ("baseline", "augment"):
        sides = {
            "recorder on": lambda s=scenario: 1e3 * seconds_a_step(*some, norms, f"scenario={s}", **length),
            "off": lambda s=scenario: 1e3 * seconds_a_step(*some, "callbacks.recorder=null", f"scenario={s}", **length),
        }
        values = side_by_side(sides, 1 if quick else 7)
        what = f"a step with the recorder on ÷ off (MLP, batch 512, {scenario})"
        bound = "≤ 1.05" if device == "cpu" else "≤ 1.10"
        results.append(Result("recorder", what, ("recorder on", "off"), bound, "ms a step", values))
    return results


if __name__ == "__main__":
    main(__doc__, measure)
