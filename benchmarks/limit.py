"""How far a step is from its limit: the pipeline's, the same in a bare loop, compiled, and replayed as a CUDA graph.

The bare step does what the pipeline's does: gather, θ, scenario, network, backward, norms of both taps, AdamW. It is
captured as a CUDA graph: the step's number is on the device, norms go to a ring there, and Python knows no value. Only
the scenario's random numbers are those of step 0 each time.

The arithmetic of a step is set beside two ceilings that are measured first: multiplications of large matrices in 32
bits, and copies of a large tensor. Bytes are those of all inputs and outputs of torch's calls, none of them fused.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from alternate import PERIOD, Pace, compare, pipeline
from bare import now
from measure import Result, apart, build, configure, main, say
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import FlopCounterMode

from rowgrad.data.batches import Resident
from rowgrad.randomness import Draw
from rowgrad.tap import RowTap
from rowgrad.watch.norms import row_norms

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

CHOOSING = {torch.ops.aten.index_select.default, torch.ops.aten.index.Tensor}
WARM_UP = 3  # steps before a capture, as torch's documentation asks


class Step:
    """One optimizer step, of which Python knows nothing but its calls.

    Args:
        overrides: of the config.
        device: `cpu` or `cuda`.
        compiled: whether the network is compiled.

    Attributes:
        norms: of the rows' gradients and of those at the network's input, of the last `PERIOD` steps, (PERIOD, 2, H).
    """

    def __init__(self, overrides: list[str], device: str, *, compiled: bool = False) -> None:
        data, module = build(configure(*overrides))
        self.images = Resident(data.dataset.train, data.dataset.normalization(), torch.device(device))
        self.module = module.to(device).train()
        self.network = torch.compile(module.network) if compiled else module.network
        self.tap, self.draw = RowTap(), Draw(0, 0)
        weights = [*module.network.parameters(), module.theta]
        self.optimizer = torch.optim.AdamW(
            weights, lr=1e-2, betas=(0.9, 0.99), weight_decay=1e-2, fused=True, capturable=device == "cuda"
        )
        self.size = data.settings.batch_size
        self.order = torch.randperm(len(self.images), device=device)
        self.place = torch.arange(self.size, device=device)
        self.number = torch.zeros(1, dtype=torch.long, device=device)
        self.norms = torch.zeros(PERIOD, 2, module.theta.shape[-2], dtype=torch.float64, device=device)

    def __call__(self) -> None:
        """Does the step."""
        self.optimizer.zero_grad()
        self.tap.reset()
        images, labels = self.batch()
        rows = images + self.module.theta
        loss = cross_entropy(
            self.network(self.tap(self.module.scenario(rows, self.draw))), labels, label_smoothing=0.05
        )
        loss.backward()
        norms = row_norms(torch.stack([self.module.theta.grad, self.tap.grad]))
        self.norms.index_copy_(0, self.number % PERIOD, norms[None])
        self.optimizer.step()
        self.number += 1

    def batch(self) -> tuple[Tensor, Tensor]:
        """The images and labels of the coming step."""
        index = self.order[(self.number * self.size + self.place) % len(self.order)]
        return self.images.gather(index * self.images.area), self.images.labels[index]

    def captured(self) -> Callable[[], None]:
        """The step as a CUDA graph, to be replayed."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad()
        self.tap.reset()
        with torch.cuda.graph(graph):
            self()
        return graph.replay


def loop(pace: Pace, overrides: list[str], device: str, how: str) -> None:
    """Trains by such steps: `eager`, `compiled` or `replayed`."""
    step = Step(overrides, device, compiled=how == "compiled")
    do = step.captured() if how == "replayed" else step
    for _ in pace:
        do()


class Traffic(TorchDispatchMode):
    """Counts the bytes of all inputs and outputs of torch's calls, except of views."""

    nbytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if not function.is_view:
            chooses = function in CHOOSING  # of the table only what the result has is read
            tensors, _ = tree_flatten((args[1:] if chooses else args, kwargs, result, result if chooses else None))
            self.nbytes += sum(one.nbytes for one in tensors if isinstance(one, torch.Tensor))
        return result


def ceilings(device: str, size: int) -> tuple[float, float]:
    """Operations a second of matrices of this size in 32 bits, and bytes a second of copies."""
    matrix = torch.randn(size, size, device=device)
    wide, copy = (torch.zeros(size, size, 4, device=device) for _ in range(2))
    return 2 * size**3 / fastest(lambda: matrix @ matrix), 2 * wide.nbytes / fastest(lambda: copy.copy_(wide))


def fastest(call: Callable[[], Any], times: int = 5) -> float:
    """Seconds of the fastest of some calls."""
    taken = []
    for _ in range(times + 1):
        begun = now()
        call()
        taken.append(now() - begun)
    return min(taken[1:])


@apart
def arithmetic(overrides: list[str], device: str, *, quick: bool) -> dict[str, float]:
    """Microseconds of a step on the device, and what its operations and its bytes would take at the ceilings."""
    step = Step(overrides, device)
    do = step.captured() if device == "cuda" else step
    rate, speed = ceilings(device, 256 if quick else 8192)
    say(f"ceilings: {rate / 1e12:.3g} teraflops in 32 bits, {speed / 1e9:.4g} GB a second")
    with FlopCounterMode(display=False) as flops:
        step()
    with Traffic() as traffic:
        step()
    times = 2 if quick else 50
    kind = ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU
    with profile(activities=[kind]) as profiler:
        for _ in range(times):
            do()
        now()
    name = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    busy = sum(getattr(event, name) for event in profiler.key_averages())
    return {
        "on the device": busy / times,
        "its operations at the ceiling": 1e6 * flops.get_total_flops() / rate,
        "its bytes at the ceiling": 1e6 * traffic.nbytes / speed,
    }


def measure(device: str, quick: bool = False) -> list[Result]:
    """MLP with batch 512, and the default network with batch 128, both with `scenario=augment`."""
    results = []
    ways = ["eager", "compiled", "replayed"] if device == "cuda" else ["eager"]
    for model, batch_size in (("mlp", 512), ("cnn", 128)):
        same = [f"model={model}", f"data.batch_size={batch_size}", "scenario=augment", "data.shift=0"]
        off = ["callbacks.pictures=null", "callbacks.histograms=null", "callbacks.checkpoints=null"]
        told = arithmetic(same, device, quick=quick)
        loops: dict[str, Callable[[Pace], None]] = {
            "pipeline": partial(pipeline, overrides=[*same, *off, f"trainer.accelerator={device}"]),
            **{how: partial(loop, overrides=same, device=device, how=how) for how in ways},
        }
        what = f"the pipeline's step ÷ the same step {ways[-1]} ({model}, batch {batch_size}, augment)"
        notes = {"microseconds of a step": {name: [value] for name, value in told.items()}}
        result = Result("limit", what, ("pipeline", ways[-1]), None, "ms a step", {}, notes)
        launches = 3 if device == "cuda" else None  # a compiled loop is compiled anew each time, and no bound is judged
        results.append(compare(result, loops, device, quick=quick, launches=launches))
    return results


if __name__ == "__main__":
    main(__doc__, measure)
