"""What a run has recorded, in words: which rows are cut, how much that stops, what makes the zeros, what vanishes.

Closing lines, the tab *Rows*, pictures, sweeps and the report say it with these functions. No files, no Lightning.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rowgrad.scenario.rows import name_rows, short_rows
from rowgrad.scenario.settings import STATE
from rowgrad.scenario.zeros import AT_SOME, ZeroCause
from rowgrad.watch.norms import FAINT, FIRST, LAST, contrast, cut_fraction, first_and_last
from rowgrad.watch.quantities import ARRIVES, REACHES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from rowgrad.scenario.scenario import Scenario
    from rowgrad.scenario.settings import ScenarioSettings
    from rowgrad.scenario.zeros import Zeros

MOST_NAMES, MOST_LETTERS = 3, 90  # in a list of names; longer lists are counted
WHY = {
    ZeroCause.DETACH: "the loss uses these rows, and without detach gradient would reach them",
    ZeroCause.LOSS: "the network never sees these rows, so they get 0 with detach and without",
    ZeroCause.OPERATION: "at these steps it lets no gradient back to these rows, detached or not",
}


def name_causes(zeros: Sequence[Zeros]) -> str:
    """What makes the zeros, each cause with its rows if there are several: `detach`, `the loss, not detach`."""
    return "; ".join(_name_cause(part, of_several=len(zeros) > 1) for part in zeros)


def _name_cause(part: Zeros, *, of_several: bool, place: str = "") -> str:
    notes = "; ".join(filter(None, [place, AT_SOME * part.partly]))
    notes = f" ({notes})" if notes else ""
    rows = f" for {listed_rows(part.rows)}" if of_several else ""
    return f"{part.cause.value}{notes}{rows}" + ("" if part.cause is ZeroCause.DETACH else ", not detach")


def describe_zeros(zeros: Sequence[Zeros], scenario: Scenario | ScenarioSettings) -> list[str]:
    """What makes the zeros, in which line, and why, by cause."""
    off = "" if scenario.detach else " (detach is off here)"
    through_state = "without it, gradient would go on through the state to the rows above"
    why = WHY | ({ZeroCause.DETACH: through_state} if scenario.route == STATE else {})
    several = len(zeros) > 1
    return [f"{_name_cause(part, of_several=several, place=part.place)}: {why[part.cause]}{off}" for part in zeros]


def describe_no_zeros(scenario: Scenario | ScenarioSettings) -> str:
    """What detach does in a scenario that makes no zeros; empty if nothing is to be said."""
    if not scenario.detach:
        return "detach is off: this is the control of the same run with it"
    if scenario.route == "observe":
        return "detach is on copies that only observers see: nothing that is learnt from is cut"
    return ""


def zeros_sentence(zeros: Sequence[Zeros], scenario: Scenario | ScenarioSettings) -> str:
    """What makes the zeros and why, or what detach does without zeros, as a sentence."""
    words = describe_zeros(zeros, scenario)
    return sentence(f"zeros are made by {'; by '.join(words)}" if words else describe_no_zeros(scenario))


def describe_cut(counts: Tensor | None, steps: int, exactly: str = "row gradient exactly 0.0") -> str:
    """Which rows are cut, at each step or at some.

    Args:
        counts: at how many of the recorded steps each row was cut, (H,); None if that is unknown.
        steps: the number of recorded steps.
        exactly: what a cut is.
    """
    if counts is None:
        return "not recorded"
    always, sometimes = counts == steps, (counts > 0) & (counts < steps)
    if not counts.any():
        return "no row: gradient reached every row"
    if not always.any():
        return f"{name_rows(sometimes.tolist())}: {exactly} at some of {steps} steps"
    words = f"{name_rows(always.tolist())}: {exactly} at each of {steps} steps"
    return words + (f"; {name_rows(sometimes.tolist())} at some of them" if sometimes.any() else "")


def describe_stopped(norms: Mapping[str, Tensor]) -> str:
    """Which share of the gradient the cut stops, averaged over T steps (T, H); empty if it stops nothing."""
    if not {REACHES, ARRIVES} <= norms.keys():
        return ""
    stopped = float(cut_fraction(norms[REACHES], norms[ARRIVES]).nanmean())
    return f"{stopped:.1%} of the squared gradient is stopped" if stopped > 0 else ""


def describe_bias(cosine: float, ratio: float) -> str:
    """The weights' gradient compared with the one without detach, by means over steps."""
    if cosine == ratio == 1:
        return "on the same batch, their gradient is exactly what it would be without detach"
    return f"their gradient beside the one without detach: cosine {below_one(cosine)}, {ratio:.4f} of its norm (means)"


def describe_vanishing(norms: Tensor | None) -> str:
    """The weakest row beside the strongest if it gets less than `FAINT` at the first or last of T steps (T, H)."""
    if norms is None or not len(norms):
        return ""
    found = [contrast(part) for part in first_and_last(norms)]
    if any(one is None for one in found) or min(one.ratio for one in found if one) >= FAINT:
        return ""
    count = len(norms)
    parts = zip((f"first {min(FIRST, count)} step{'s' * (count > 1)}", f"last {min(LAST, count)}"), found, strict=True)
    return "; ".join(f"{when}: row {c.weakest} gets {_part(c.ratio)} of row {c.strongest}" for when, c in parts if c)


def faintest_layer(norms: Tensor, names: Sequence[str]) -> str:
    """The layer with the smallest mean norm beside the one with the largest, of T steps (T, layers and the total)."""
    means = norms[:, :-1].double().nanmean(0).nan_to_num(0.0)
    weakest, strongest = int(means.argmin()), int(means.argmax())
    if not means[strongest] > 0:
        return "no layer gets any gradient"
    ratio = float(means[weakest] / means[strongest])
    part = "exactly 0 beside" if ratio == 0 else f"{_part(ratio)} of"
    return f"{names[weakest]} gets {part} {names[strongest]}'s gradient"


def _part(ratio: float) -> str:
    return f"1/{float(f'{1 / ratio:.2g}'):,.0f}" if ratio < FAINT else f"{ratio:.2f}"


# Words that have several parts.


def listed_rows(rows: Sequence[int]) -> str:
    """Rows by their indices: `rows 0–13`."""
    return name_rows([row in rows for row in range(max(rows, default=-1) + 2)])


def below_one(cosine: float, decimals: int = 4) -> str:
    """A cosine with some decimals, or with as many as are needed to tell it from 1."""
    while cosine < 1 and float(f"{cosine:.{decimals}f}") == 1:
        decimals += 1
    return f"{cosine:.{decimals}f}"


def percent(share: float, sign: str = "") -> str:
    """A share in percent."""
    return f"{share:{sign}.2%}".replace("%", " %")


def listed(names: Sequence[str]) -> str:
    """Names in a sentence; a long list is counted."""
    if len(names) > MOST_NAMES or (len(names) > 1 and sum(map(len, names)) > MOST_LETTERS):
        return f"{len(names)} settings"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def names_by_words(words: Mapping[str, str]) -> dict[str, list[str]]:
    """The settings' names by what is said of them, so that the same words are said once."""
    found: dict[str, list[str]] = {}
    for name, said in words.items():
        found.setdefault(said, []).append(name)
    return found


def sentence(words: str) -> str:
    """With a capital letter and a full stop."""
    return f"{words[0].upper()}{words[1:].removesuffix('.')}." if words else ""


def rows_in_settings(what: str, rows: Mapping[str, Sequence[bool]]) -> str:
    """In which settings which rows have a property, as a sentence.

    Args:
        what: the property.
        rows: which of H rows have it, by the setting's name.
    """
    found = names_by_words({name: short_rows(selected) for name, selected in rows.items()})
    order = sorted(found, key=lambda words: words == "none")
    if not order:
        return ""
    if len(rows) == 1:
        return f"{what}: {order[0]}."
    if len(found) > 2 * MOST_NAMES:
        return f"{what}: others in each of {len(rows)} settings."
    return f"{what}: " + "; ".join(f"{words} in {listed(found[words])}" for words in order) + "."


def range_in_settings(what: str, found: Mapping[str, float]) -> str:
    """The smallest and the largest share, with the settings that have them, as a sentence."""
    known = {name: value for name, value in found.items() if math.isfinite(value)}
    if not known:
        return ""
    low, high = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
    if known[low] == known[high]:
        return f"{what} is {percent(known[low])}."
    ends = [percent(known[name]) + (f" ({name})" if len(name) <= MOST_LETTERS else "") for name in (low, high)]
    return f"{what} lies between {' and '.join(ends)}."
