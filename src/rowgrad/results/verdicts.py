"""What is seen in a figure, in a sentence: which rows are cut, how much that stops, by whom; what was learnt."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rowgrad.scenario.rows import name_rows
from rowgrad.scenario.settings import STATE
from rowgrad.scenario.zeros import ZeroCause, zeros_sentence

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rowgrad.results.groups import Setting

MOST, LONG = 3, 90  # names in a sentence, and their letters
WHO = {
    ZeroCause.DETACH: "detach",
    ZeroCause.LOSS: "the loss, not detach,",
    ZeroCause.OPERATION: "the operation, not detach,",
    None: "what was not recorded",
}


def listed(names: Sequence[str]) -> str:
    """Names in a sentence, or how many there are."""
    if len(names) > MOST or (len(names) > 1 and sum(map(len, names)) > LONG):
        return f"{len(names)} settings"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def whole(sentence: str) -> str:
    """With a capital letter and a full stop."""
    return f"{sentence[0].upper()}{sentence[1:].removesuffix('.')}." if sentence else ""


def on_heatmaps(settings: Sequence[Setting]) -> str:
    """Who stops how much in which settings, and in which nothing is cut."""
    cut: dict[ZeroCause | None, list[Setting]] = {}
    for setting in settings:
        if setting.cut is not None and any(map(any, setting.cut)):
            maker = setting.zeros_by
            cut.setdefault(None if maker is ZeroCause.NONE else maker, []).append(setting)
    parts = []
    for maker in sorted(cut, key=list(WHO).index):
        state = [one for one in cut[maker] if one.first.scenario.route == STATE]
        others = [one for one in cut[maker] if one not in state]
        if others:
            parts.append(f"{WHO[maker]} stops {_shares(others)}")
        if state:
            parts.append(f"{WHO[maker]} cuts the state between rows in {listed([one.name for one in state])}")
    whole_ = [one.name for one in settings if one.cut is not None and not any(map(any, one.cut))]
    if whole_:
        parts.append(f"nothing is cut in {listed(whole_)}")
    return whole("; ".join(parts))


def _shares(settings: Sequence[Setting]) -> str:
    """Shares of the squared gradient, each with the settings in which it is stopped."""
    by_share: dict[str, list[str]] = {}
    for setting in settings:
        by_share.setdefault(_percent(setting.stopped or 0), []).append(setting.name)
    if len(by_share) > MOST:
        low, *_, high = sorted(setting.stopped or 0 for setting in settings)
        return f"{_percent(low)} to {_percent(high)} of the squared gradient in {len(settings)} settings"
    (first, names), *rest = by_share.items()
    words = [f"{first} of the squared gradient in {listed(names)}"]
    return ", ".join([*words, *(f"{share} in {listed(names)}" for share, names in rest)])


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def on_cut(setting: Setting) -> str:
    """The same for one setting, in a few words."""
    if setting.cut is None:
        return "what is cut was not recorded"
    always, some = setting.cut
    if not any(always) and not any(some):
        return "nothing is cut"
    words = f"{name_rows(always)} cut" if any(always) else f"{name_rows(some)} cut at some steps"
    if any(always) and any(some):
        words += f", {name_rows(some)} at some steps"
    both = setting.first.scenario.route == STATE
    words += ", in both norms" if both else f": {_percent(setting.stopped or 0)} of the squared gradient stopped"
    maker = None if setting.zeros_by is ZeroCause.NONE else setting.zeros_by
    return f"{words}, by {WHO[maker].removesuffix(',')}" if maker is not None else words


def on_makers(settings: Sequence[Setting]) -> str:
    """Who makes the zeros and why, once for all settings of which the same is true."""
    found: dict[str, list[str]] = {}
    for setting in settings:
        scenario, maker = setting.first.scenario, setting.zeros_by
        if maker is not None and any(setting.first.selected):
            words = zeros_sentence(maker, detach=scenario.detach, route=scenario.route)
            found.setdefault(words, []).append(setting.name)
    return " ".join(f"{listed(names)}: {words}" for words, names in found.items())


def on_rows(what: str, rows: Mapping[str, Sequence[bool]]) -> str:
    """Of which rows something is true in which settings."""
    found: dict[str, list[str]] = {}
    for name, chosen in rows.items():
        words = name_rows(chosen).removeprefix("rows ").removeprefix("row ")
        found.setdefault("none" if words == "no row" else words, []).append(name)
    order = sorted(found, key=lambda words: words == "none")
    if not order:
        return ""
    if len(rows) == 1:
        return f"{what}: {order[0]}."
    if len(found) > 2 * MOST:
        return f"{what}: others in each of {len(rows)} settings."
    return f"{what}: " + "; ".join(f"{words} in {listed(found[words])}" for words in order) + "."


def on_range(what: str, found: Mapping[str, float]) -> str:
    """Between which settings a share lies."""
    known = {name: value for name, value in found.items() if math.isfinite(value)}
    if not known:
        return ""
    low, high = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
    if known[low] == known[high]:
        return f"{what} is {known[low]:.2%}.".replace("%", " %")
    ends = [f"{known[name]:.2%}" + (f" ({name})" if len(name) <= LONG else "") for name in (low, high)]
    return f"{what} lies between {' and '.join(ends)}.".replace("%", " %")


def on_equals(titles: Sequence[str]) -> str:
    """Which settings are equal in every number."""
    same = [name for title in titles if " = " in (name := name_in(title))]
    if not same:
        return ""
    if sum(map(len, same)) > LONG:
        return "Equal in every number: " + ", ".join(f"{name.count(' = ') + 1} settings" for name in same) + "."
    return f"Equal in every number: {'; '.join(same)}."


def name_in(title: str) -> str:
    """A title without the number of seeds."""
    return title.partition(", n =")[0]
