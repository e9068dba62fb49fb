"""The cost of `find_cuts`: ResNet-18, 3×32×32 images, batch 64, compared with its forward and backward pass.

Measured are the pass that sees all calls, and the passes that let one place through each. A planted place detaches half
of a layer's output, so that gradient reaches all parameters in every pass, and each place costs a whole one. On a CPU,
measured is the processor time of one thread, which hardly depends on other load.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch
from alternate import interval
from bare import now
from measure import Result, main, side_by_side
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.models import resnet18

import rowgrad

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH = 64
HALVES: list[Callable[[Tensor], Tensor]] = [  # each in a line of its own, which makes it a place
    lambda x: (x + x.detach()) / 2,
    lambda x: (x + x.detach()) / 2,
    lambda x: (x + x.detach()) / 2,
    lambda x: (x + x.detach()) / 2,
    lambda x: (x + x.detach()) / 2,
]


class Planted(nn.Module):
    """ResNet-18 with ten classes, and with cuts behind the first of its five stages."""

    def __init__(self, cuts: int) -> None:
        super().__init__()
        self.network = resnet18(num_classes=10)
        self.halves = HALVES[:cuts]

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> logits (B, 10)."""
        network = self.network
        x = network.relu(network.bn1(network.conv1(x)))
        stages = [network.maxpool, network.layer1, network.layer2, network.layer3, network.layer4]
        for number, stage in enumerate(stages):
            x = stage(x)
            if number < len(self.halves):
                x = self.halves[number](x)
        return network.fc(network.avgpool(x).flatten(1))


def timed(cuts: int, heal: int | None, device: str) -> Callable[[], float]:
    """A function that times `find_cuts` in milliseconds, or for `heal=None` a forward and a backward pass."""
    clock = now if device == "cuda" else time.process_time
    torch.manual_seed(0)
    model = Planted(cuts).to(device)
    images, labels = torch.randn(BATCH, 3, 32, 32, device=device), torch.randint(10, (BATCH,), device=device)

    def step() -> Tensor:
        return cross_entropy(model(images), labels)

    def once() -> float:
        begun = clock()
        if heal is None:
            model.zero_grad()
            step().backward()
        else:
            found = rowgrad.find_cuts(model, step, heal=heal)
            healed = sum(cut.stopped is not None for cut in found.cuts)
            if healed != heal:
                raise RuntimeError(f"{healed} places were let through, not {heal}:\n{found}")
        return 1e3 * (clock() - begun)

    once()  # the first call takes longer
    return once


def measure(device: str, quick: bool = False) -> list[Result]:
    """Calls each side once in a round."""
    sides = {
        "plain": (0, None), "no cut": (0, 0), "one cut let through": (1, 1),
        "five cuts, none let through": (5, 0), "five cuts let through": (5, 5),
    }  # fmt: skip
    torch.set_num_threads(1)
    functions = {side: timed(cuts, heal, device) for side, (cuts, heal) in sides.items()}
    values = side_by_side(functions, 1 if quick else 10)
    pairs = zip(values["five cuts let through"], values["five cuts, none let through"], strict=True)
    values["one place"] = [(five - none) / 5 for five, none in pairs]
    setting = f"(ResNet-18, 3×32×32, batch {BATCH})"
    rows = [
        (f"find_cuts(heal=0) ÷ a forward and backward pass {setting}", "no cut", "plain", "≤ 3.0"),
        ("find_cuts with one cut let through ÷ the pass", "one cut let through", "plain", None),
        ("find_cuts with five cuts let through ÷ the pass", "five cuts let through", "plain", None),
        ("each place let through ÷ the pass", "one place", "plain", None),
        ("each place let through ÷ find_cuts(heal=0)", "one place", "five cuts, none let through", "≤ 1.0"),
    ]
    results = []
    for what, top, bottom, bound in rows:
        own = {side: values[side] for side in (top, bottom)}
        result = Result("cuts", what, (top, bottom), bound, "ms", own)
        result.interval = interval(result.ratios)
        results.append(result)
    return results


if __name__ == "__main__":
    main(__doc__, measure)
