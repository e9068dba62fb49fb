"""The cost of Lightning, rows and recorder together: the pipeline's step compared with a bare PyTorch loop's."""

from __future__ import annotations

import os
from functools import partial

from alternate import Pace, compare, pipeline
from bare import PlainGRU, bare_loop
from measure import Result, build, configure, main

BOUNDS = {
    "cpu": {"mlp": "≤ 1.08", "cnn": "≤ 1.10", "gru": "≤ 1.10"},
    "cuda": {"mlp": "≤ 1.3", "cnn": "≤ 1.3", "gru": None},
}


def bare(pace: Pace, overrides: list[str], device: str) -> None:
    """The bare loop on the pipeline's images, with its batch size and its network, or a GRU as one writes it."""
    # Lightning sets it on import, and where there is no GPU torch's AdamW then looks for a driver at each step: 0.3 ms.
    os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
    data, module = build(configure(*overrides))
    train = data.dataset.train
    network, clip = (PlainGRU(), 1.0) if "model=gru" in overrides else (module.network, None)
    bare_loop(train.pixels.to(device), train.labels.to(device), network, data.settings.batch_size, pace, clip)


def measure(device: str, quick: bool = False) -> list[Result]:
    """MLP with batch 512; the default network, and the GRU, with their batch of 128."""
    results = []
    off = ["callbacks.pictures=null", "callbacks.histograms=null", "callbacks.checkpoints=null"]
    for model, batch_size in (("mlp", 512), ("cnn", 128), ("gru", 128)):
        same = [f"model={model}", f"data.batch_size={batch_size}", "scenario=baseline", "data.shift=0"]
        loops = {
            "pipeline": partial(pipeline, overrides=[*same, *off, f"trainer.accelerator={device}"]),
            "bare loop": partial(bare, overrides=same, device=device),
        }
        what = f"the pipeline's step (Lightning, rows, recorder) ÷ a bare loop's ({model}, batch {batch_size})"
        bound = BOUNDS[device][model]
        result = Result("pipeline", what, ("pipeline", "bare loop"), bound, "ms a step", {})
        results.append(compare(result, loops, device, quick=quick))
    return results


if __name__ == "__main__":
    main(__doc__, measure)
