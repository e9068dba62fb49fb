"""The article's three scenarios on its own 2x3 tensor, run through the scenario code that training uses.

`python scripts/two_rows.py` prints claim, measurement, verdict. Every gradient is measured and every verdict follows
from a comparison with a control; nothing is written in.

Source: "How does pytorch.detach() affect two rows of pixels?" (2025-01-30).
"""

from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from rowgrad.process import commanded
from rowgrad.randomness import Draw
from rowgrad.scenario.scenario import Scenario

PIXELS = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


def gradient(loss: Callable[[Tensor], Tensor], **scenario: Any) -> Tensor:
    """∂L/∂θ (2, 3) of a loss of what the network would see."""
    rows = torch.zeros(2, 3, requires_grad=True)
    route = Scenario.of(**scenario, height=2)
    loss(route((PIXELS + rows)[None, None], Draw(seed=0, step=0))).backward()
    assert rows.grad is not None
    return rows.grad


def squared_distance(target: float) -> Callable[[Tensor], Tensor]:
    """The article's loss: (sum of the pixels - target)²."""
    return lambda pixels: (pixels.sum() - target) ** 2


def modify() -> tuple[str, str, str]:
    """Scenario 1: the second row is detached, doubled and left out of the loss."""
    rows = {"rows": 1, "operation": "scale 2", "route": "exclude"}
    cut, control = (gradient(squared_distance(10), **rows, detach=detach) for detach in (True, False))
    numbers = "numbers right" if cut[0].any() and not cut[1].any() else "numbers wrong"
    reason = "reason wrong: the loss never uses the row, so it is 0 without detach too"
    verdict = numbers + (f", {reason}" if torch.equal(cut, control) else ", reason right: without detach it is not 0")
    claim = "only the first row gets gradient, because the second was detached"
    return claim, f"{show(cut)}\nwithout detach\n{show(control)}", verdict


def visualize() -> tuple[str, str, str]:
    """Scenario 2: the first row is detached, halved and looked at."""
    looked = gradient(squared_distance(20), rows=0, operation="scale 0.5", route="observe")
    alone = gradient(squared_distance(20))
    verdict = "right" if torch.equal(looked, alone) else "wrong: looking changes the gradient"
    return "the gradient reaches both rows as if nobody looked", f"{show(looked)}\nnobody looks\n{show(alone)}", verdict


def augment_as_published() -> tuple[str, str, str]:
    """Scenario 3 as the article has it: the row is replaced inside the leaf tensor."""
    leaf = PIXELS.clone().requires_grad_()
    try:
        leaf[0, :] = leaf[0, :].detach() + 1
        squared_distance(20)(leaf).backward()
        measured, verdict = show(leaf.grad), "runs"
    except RuntimeError as error:
        measured, verdict = f"RuntimeError: {error}", "does not run"
    return "the row can be replaced in place", measured, verdict


def augment() -> tuple[str, str, str]:
    """Scenario 3 with a new tensor: the first row is detached, shifted by +1 and fed to the loss."""
    replaced = gradient(squared_distance(20), rows=0, operation="shift 1")
    alone = gradient(squared_distance(20))
    faults = []
    if not torch.equal(replaced[0], alone[0]):
        faults.append(f"the replaced row gets {replaced[0, 0]:g}, not {alone[0, 0]:g}")
    if not torch.equal(replaced[1], alone[1]):
        faults.append(f"the loss sees augmented values, so the other row gets {replaced[1, 0]:g}, not {alone[1, 0]:g}")
    counted = {0: "right", 1: "wrong: ", 2: "wrong twice: "}[len(faults)] + "; ".join(faults)
    claim = "backpropagation goes on as if the augmentation did not occur"
    return claim, f"{show(replaced)}\nno augmentation\n{show(alone)}", counted


def storage() -> tuple[str, str, str]:
    """What the article leaves out: the detached row is the original's own memory."""
    leaf = PIXELS.clone().requires_grad_()
    leaf[0].detach().mul_(100)
    changed = not torch.equal(leaf, PIXELS)
    verdict = "right, and left out: changing it in place changes the original, silently" if changed else "wrong: a copy"
    return "a detached tensor shares the data", f"after detached row 0 × 100\n{show(leaf)}", verdict


def show(values: Tensor | None) -> str:
    """A tensor (2, 3) as nested lists."""
    assert values is not None
    rows = [",".join(f"{value:g}" for value in row) for row in values.detach().tolist()]
    return "[" + ",".join(f"[{row}]" for row in rows) + "]"


def main() -> None:
    """Prints the table."""
    table = Table(title="The article, executed", show_lines=True, caption=f"PyTorch {torch.__version__}")
    for column in ("scenario", "claim", "measured gradient", "verdict"):
        table.add_column(column, width=23 if column == "measured gradient" else None)
    examined = {
        "1 modify": modify,
        "2 visualize": visualize,
        "3 augment, as published": augment_as_published,
        "3 augment, out of place": augment,
        "storage": storage,
    }
    for name, examine in examined.items():
        table.add_row(name, *examine())
    Console(markup=False).print(table)


if __name__ == "__main__":
    with commanded(at_once=True):
        main()
