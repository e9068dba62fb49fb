"""The cost of recording: a step with all rows' norms to TensorBoard and CSV, compared with a step without."""

from __future__ import annotations

from functools import partial

from alternate import compare, pipeline
from measure import Result, main


def measure(device: str, quick: bool = False) -> list[Result]:
    """MLP, batch 512, recorder and tap on and off. Pictures, histograms, checkpoints and progress are off in both."""
    same = ["model=mlp", "data.batch_size=512", f"trainer.accelerator={device}", "callbacks.pictures=null"]
    same += ["callbacks.histograms=null", "callbacks.checkpoints=null"]
    norms = "callbacks.recorder.quantities=[row_grad_norm,input_grad_norm]"
    results = []
    for scenario in ("baseline", "augment"):
        loops = {
            name: partial(pipeline, overrides=[*same, f"scenario={scenario}", word])
            for name, word in {"recorder on": norms, "off": "callbacks.recorder=null"}.items()
        }
        what = f"a step with the recorder on ÷ off (MLP, batch 512, {scenario})"
        bound = "≤ 1.03" if device == "cpu" else "≤ 1.05"
        result = Result("recorder", what, ("recorder on", "off"), bound, "ms a step", {})
        results.append(compare(result, loops, device, quick=quick))
    return results


if __name__ == "__main__":
    main(__doc__, measure)
