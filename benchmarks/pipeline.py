"""What Lightning, rows and recorder cost together: the pipeline's step against a bare PyTorch loop's."""

from __future__ import annotations

from bare import bare_loop
from measure import Result, apart, build, configure, main, seconds_a_step, side_by_side


def measure(device: str, quick: bool = False) -> list[Result]:
    """MLP with batch 512, and the default network with its batch of 128."""
    results = []
    length = {"start": 5, "stop": 10} if quick else {"start": 100, "stop": 300}
    off = ["callbacks.pictures=null", "callbacks.histograms=null", "callbacks.checkpoints=null"]
    for model, batch_size in (("mlp", 512), ("cnn", 128)):
        same = [f"model={model}", f"data.batch_size={batch_size}", "scenario=baseline", "data.shift=0"]

        @apart
        def bare(same: list[str] = same, batch_size: int = batch_size) -> float:
            data, module = build(configure(*same))
            train = data.dataset.train
            return bare_loop(train.pixels.to(device), train.labels.to(device), module.network, batch_size, **length)

        chosen = [*same, f"trainer.accelerator={device}"]
        sides = {
            "pipeline": lambda c=chosen: 1e3 * seconds_a_step(*c, *off, **length),
            "bare loop": lambda b=bare: 1e3 * b(),
            "pipeline, all callbacks": lambda c=chosen: 1e3 * seconds_a_step(*c, **length),
        }
        what = f"the pipeline's step (Lightning, rows, recorder) ÷ a bare loop's ({model}, batch {batch_size})"
        bound = ("≤ 1.15" if device == "cpu" else "≤ 1.25") if model == "mlp" else None
        values = side_by_side(sides, 1 if quick else 7)
        results.append(Result("pipeline", what, ("pipeline", "bare loop"), bound, "ms a step", values))
    return results


if __name__ == "__main__":
    main(__doc__, measure)
