"""The article's three scenarios on its own 2x3 tensor, run through the scenario code that training uses.

`python scripts/two_rows.py` prints claim, loss, gradient by hand, measurement, verdict. Losses and gradients by hand
are computed from the pixels and the target, without torch. Each verdict compares them with the measurement, and the
measurement with a control. The only constants are the article's numbers.

Source: "How does pytorch.detach() affect two rows of pixels?" (2025-01-30).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from rowgrad.process import run_script

Grid = list[list[float]]

PIXELS: Grid = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
FIRST, SECOND = 0, 1
ROW = ("first row", "second row")


@dataclass(frozen=True)
class ByHand:
    """Loss and gradient by hand. The loss is (sum of the pixels that it sees - target)².

    Its derivative by a pixel is 2 · (sum - target) if the loss sees the pixel itself, and 0 if it sees a detached copy
    or nothing.

    Attributes:
        sees: the pixels that the loss sees, row by row; an empty list for a row that it does not see.
        uses: for each row, whether the loss sees the row itself and not a detached copy.
        target: the article's target.
    """

    sees: Grid
    uses: tuple[bool, bool]
    target: float

    @property
    def total(self) -> float:
        return sum(map(sum, self.sees))

    @property
    def loss(self) -> float:
        return (self.total - self.target) ** 2

    @property
    def slope(self) -> float:
        """The derivative by each pixel that the loss uses."""
        return 2 * (self.total - self.target)

    @property
    def gradient(self) -> Grid:
        return [[self.slope if used else 0.0] * len(PIXELS[row]) for row, used in enumerate(self.uses)]

    def sum_in_words(self) -> str:
        """The sum as text: "1 + 2 + 3 = 6"."""
        return " + ".join(number(pixel) for row in self.sees for pixel in row) + f" = {number(self.total)}"

    def loss_in_words(self) -> str:
        return f"({number(self.total)} − {number(self.target)})² = {number(self.loss)}"

    def slope_in_words(self) -> str:
        return f"2 · ({number(self.total)} − {number(self.target)}) = {number(self.slope)}"


@dataclass(frozen=True)
class Measured:
    """Loss and gradient by the scenario code and autograd."""

    loss: float
    gradient: Grid

    def agrees(self, hand: ByHand) -> bool:
        """Whether loss and gradient equal those by hand, exactly."""
        return (self.loss, self.gradient) == (hand.loss, hand.gradient)


@dataclass(frozen=True)
class Finding:
    """A claim of the article, examined.

    Attributes:
        title: what the scenario does.
        claim: the article's claim.
        verdict: whether the claim is right.
        work: further lines, each a name and a text.
        grids: grids to print side by side, by name.
    """

    title: str
    claim: str
    verdict: str
    work: list[tuple[str, str]] = field(default_factory=list)
    grids: dict[str, Grid] = field(default_factory=dict)

    def text(self) -> str:
        """The finding as text of 80 columns."""
        from rowgrad.results.tables import hanging

        work = [hanging(name, words) for name, words in self.work]
        grids = ["", *side_by_side(self.grids), ""] if self.grids else []
        return "\n".join([self.title, hanging("claim", self.claim), *work, *grids, hanging("verdict", self.verdict)])


def measure(target: float, **scenario: Any) -> Measured:
    """The article's loss of the images that the network would see, and its gradient by the rows."""
    from rowgrad.randomness import Draw
    from rowgrad.scenario.scenario import Scenario

    theta = torch.zeros(2, 3, requires_grad=True)
    route = Scenario.of(**scenario, height=2)
    loss = (route((torch.tensor(PIXELS) + theta)[None, None], Draw(seed=0, step=0)).sum() - target) ** 2
    loss.backward()
    assert theta.grad is not None
    return Measured(loss.item(), theta.grad.tolist())


def judge(pairs: list[tuple[ByHand, Measured]], verdict: str) -> str:
    """The verdict, if all measurements equal those by hand; otherwise a text that names the first difference."""
    for hand, measured in pairs:
        if not measured.agrees(hand):
            by_hand = f"by hand the loss is {number(hand.loss)} and the gradient {hand.gradient}"
            return f"NONE: {by_hand}, measured {number(measured.loss)} and {measured.gradient}; one of them is wrong"
    return verdict


def modify() -> Finding:
    """Scenario 1: the second row is detached, doubled and left out of the loss."""
    hand = ByHand([PIXELS[FIRST], []], uses=(True, False), target=10)
    cut, control = (
        measure(hand.target, rows=1, operation="scale 2", route="exclude", detach=detach) for detach in (True, False)
    )
    numbers = "numbers right" if any(cut.gradient[FIRST]) and not any(cut.gradient[SECOND]) else "numbers wrong"
    without = "without detach the second row gets"
    reason = (
        f"reason wrong: {without} 0 too, because the loss never uses it"
        if cut == control
        else f"reason right: {without} {row_of(control.gradient, SECOND)}"
    )
    return Finding(
        "1 modify: the second row is detached, doubled and left out of the loss",
        "only the first row gets gradient, because the second was detached",
        judge([(hand, cut), (hand, control)], f"{numbers}, {reason}"),
        [
            ("loss", f"(sum of the first row − {number(hand.target)})²"),
            ("", f"the sum is {hand.sum_in_words()}, the loss {hand.loss_in_words()}; measured {number(cut.loss)}"),
            ("by hand", f"first row: {hand.slope_in_words()} for each pixel"),
            ("", f"second row: {row_of(hand.gradient, SECOND)}, as it is not in the loss, detached or not"),
        ],
        {"by hand": hand.gradient, "measured": cut.gradient, "without detach": control.gradient},
    )


def visualize() -> Finding:
    """Scenario 2: the first row is detached, halved and looked at."""
    hand = ByHand(PIXELS, uses=(True, True), target=20)
    looked = measure(hand.target, rows=0, operation="scale 0.5", route="observe")
    alone = measure(hand.target)
    verdict = "right" if looked == alone else "wrong: looking changes the gradient"
    return Finding(
        "2 visualize: the first row is detached, halved and only looked at",
        "the gradient reaches both rows as if nobody looked",
        judge([(hand, looked), (hand, alone)], verdict),
        [
            ("loss", f"(sum of all pixels − {number(hand.target)})²; the halved copy is not in it"),
            ("", f"the sum is {hand.sum_in_words()}, the loss {hand.loss_in_words()}; measured {number(looked.loss)}"),
            ("by hand", f"both rows: {hand.slope_in_words()} for each pixel"),
        ],
        {"by hand": hand.gradient, "measured": looked.gradient, "nobody looks": alone.gradient},
    )


def augment_as_published() -> Finding:
    """Scenario 3 as published: the row is replaced in place, inside the leaf tensor."""
    leaf = torch.tensor(PIXELS, requires_grad=True)
    try:
        leaf[0, :] = leaf[0, :].detach() + 1
        ((leaf.sum() - 20) ** 2).backward()
        assert leaf.grad is not None
        measured, verdict = str(leaf.grad.tolist()), "it runs"
    except RuntimeError as error:
        measured, verdict = f"RuntimeError: {error}", "does not run"
    title = "3 augment, as published: the first row is replaced inside the tensor"
    return Finding(title, "the row can be replaced in place", verdict, [("measured", measured)])


def augment() -> Finding:
    """Scenario 3 with a new tensor: the first row is detached, shifted by +1 and fed to the loss."""
    shifted = [[pixel + 1 for pixel in PIXELS[FIRST]], PIXELS[SECOND]]
    hand = ByHand(shifted, uses=(False, True), target=20)
    hand_without = ByHand(shifted, uses=(True, True), target=20)
    hand_claimed = ByHand(PIXELS, uses=(True, True), target=20)
    replaced, control = (measure(hand.target, rows=0, operation="shift 1", detach=detach) for detach in (True, False))
    alone = measure(hand.target)
    gets, others = replaced.gradient, alone.gradient
    faults = []
    if gets[FIRST] != others[FIRST]:
        faults.append(f"the replaced row gets {row_of(gets, FIRST)}, not {row_of(others, FIRST)}")
    if gets[SECOND] != others[SECOND]:
        seen = "the loss sees augmented values, so the other row gets"
        faults.append(f"{seen} {row_of(gets, SECOND)}, not {row_of(others, SECOND)}")
    counted = {0: "right", 1: "wrong: ", 2: "wrong twice: "}[len(faults)] + "; ".join(faults)
    if gets[FIRST] != control.gradient[FIRST]:
        counted += f". The {row_of(gets, FIRST)} is detach's doing: without it {row_of(control.gradient, FIRST)}"
    return Finding(
        "3 augment, out of place: the first row is detached, shifted by +1 and replaced",
        "backpropagation goes on as if the augmentation did not occur",
        judge([(hand, replaced), (hand_without, control), (hand_claimed, alone)], counted),
        [
            ("loss", f"(sum of the shifted first row and the second row − {number(hand.target)})²"),
            (
                "",
                f"the sum is {hand.sum_in_words()}, the loss {hand.loss_in_words()}; measured {number(replaced.loss)}",
            ),
            ("by hand", f"first row: {row_of(hand.gradient, FIRST)}, as only a detached copy of it is in the loss"),
            ("", f"second row: {hand.slope_in_words()} for each pixel"),
            ("", f"had nothing been augmented: {hand_claimed.slope_in_words()} for each pixel of both"),
        ],
        {
            "by hand": hand.gradient,
            "measured": gets,
            "without detach": control.gradient,
            "not augmented": others,
        },
    )


def storage() -> Finding:
    """A consequence that the article omits: the detached row shares the original's memory."""
    factor = 100
    leaf = torch.tensor(PIXELS, requires_grad=True)
    leaf[FIRST].detach().mul_(factor)
    after = leaf.tolist()
    if after == PIXELS:
        verdict = "wrong: it is a copy"
    elif after == [[pixel * factor for pixel in PIXELS[FIRST]], PIXELS[SECOND]]:
        verdict = "right, and left out: changing it in place changes the original, silently"
    else:
        verdict = "NONE: the original is changed, but not as its copy was"
    return Finding(
        f"storage: the first row is detached, and that is multiplied by {factor} in place",
        "a detached tensor shares the data",
        verdict,
        grids={"pixels before": PIXELS, "pixels after": after},
    )


def number(value: float) -> str:
    """A number as text, with a minus sign instead of a hyphen."""
    return f"{value:g}".replace("-", "−")


def row_of(grid: Grid, row: int) -> str:
    """The values of a row as text: a single number if all are equal."""
    values = [number(value) for value in grid[row]]
    return values[0] if len(set(values)) == 1 else ", ".join(values)


def side_by_side(grids: dict[str, Grid]) -> list[str]:
    """Lines of text: grids of two rows next to each other, under their names."""
    widest = max(len(number(value)) for grid in grids.values() for row in grid for value in row)
    columns = [
        [name, *(" ".join(f"{number(value):>{widest}}" for value in row) for row in grid)]
        for name, grid in grids.items()
    ]
    lines = zip(*columns, strict=True)
    return [
        "".join([f"{start:16}", *(f"{cell:16}" for cell in line)]).rstrip()
        for start, line in zip(("", *ROW), lines, strict=True)
    ]


EXAMINED: tuple[Callable[[], Finding], ...] = (modify, visualize, augment_as_published, augment, storage)


def main() -> None:
    """Prints all findings."""
    print('The article "How does pytorch.detach() affect two rows of pixels?" (2025-01-30),')
    print(f"executed with PyTorch {torch.__version__}. Its two rows of pixels:\n")
    print("\n".join(side_by_side({"": PIXELS})[1:]))
    for examine in EXAMINED:
        print(f"\n\n{examine().text()}")


if __name__ == "__main__":
    run_script("execute the article", main)
