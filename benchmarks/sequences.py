"""The cost of a cut between rows: a truncated step compared with the same network's step without a cut."""

from __future__ import annotations

from functools import partial

from alternate import compare, pipeline
from measure import Result, main

CUTS = {
    "one cut": (["scenario.rows=14"], "≤ 1.1"),
    "a cut at every row": (["scenario.rows=all"], "≤ 1.5"),
    "a cut at every row, each by chance in each image": (["scenario.rows=all", "scenario.probability=0.5"], None),
}


def measure(device: str, quick: bool = False) -> list[Result]:
    """GRU and LSTM with a loss after every row, batch 128, recorder on."""
    results = []
    same = ["scenario=truncate", "model.network.readout=every", f"trainer.accelerator={device}"]
    same += [f"callbacks.{name}=null" for name in ("pictures", "histograms", "bias", "checkpoints")]
    cases = [(model, cut) for model in ("gru", "lstm") for cut in CUTS][: 1 if quick else None]
    for model, cut in cases:
        words, bound = CUTS[cut]
        loops = {
            cut: partial(pipeline, overrides=[*same, f"model={model}", *words]),
            "none": partial(pipeline, overrides=[*same, f"model={model}", *words, "scenario.detach=false"]),
        }
        what = f"a step with {cut} ÷ without ({model}, batch 128)"
        result = Result("sequences", what, (cut, "none"), bound, "ms a step", {})
        results.append(compare(result, loops, device, quick=quick, pairs=2, launches=6))
    return results


if __name__ == "__main__":
    main(__doc__, measure)
