"""Runs -> a page that explains itself, and its figures for a paper."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from markupsafe import escape

from rowgrad.results import plots
from rowgrad.results.analysis import call_analyses
from rowgrad.results.figure_files import svg
from rowgrad.results.page import PAGE, Shown, Text, count, make_page
from rowgrad.results.plots import SIZES, Plot, in_parts
from rowgrad.results.sentences import answer_runs
from rowgrad.results.tables import compare_groups, compare_runs
from rowgrad.scenario.settings import STATE, state_words
from rowgrad.watch import figures, wording
from rowgrad.watch.quantities import ARRIVES, LAYER_GRAD, REACHES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from rowgrad.results.runs import RunGroup, RunSet
    from rowgrad.results.table import Table

Known = TypeVar("Known")

CUT = (
    "A row is cut where gradient arrives at the network's input in it and none of it reaches the row; the cut fraction"
    " is the share of the squared input gradient in such rows, averaged over the steps."
)
VERSIONS = ("rowgrad", "torch", "lightning")  # on the page
OF_ANY_RUN = ("row_profiles", "learning_curves", "learnt_rows")  # figures that are of no experiment
CURVES = ("train/loss", "train/acc", "val/loss", "val/acc")
MOST = 24  # settings that are drawn
WALL, GRID = 4, 8  # settings in one figure of heatmaps, and in one of θ; more would be higher than a screen


def write_report(
    runs: RunSet,
    folder: Path,
    answers: Sequence[Table] = (),
    sentences: Sequence[str] | None = None,
) -> Path:
    """Writes `report.html`, the page of some runs.

    Args:
        runs: at least one.
        folder: it is made.
        answers: tables before the heatmaps.
        sentences: at the beginning; `answer_runs(runs)` if None.

    Returns:
        The page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / PAGE
    make_page(shown_runs(runs), describe_runs(runs, answers, sentences)).save(page)
    return page


def shown_runs(runs: RunSet) -> list[Shown]:
    """The runs as they are named on a page."""
    return [Shown(*one) for one in zip(runs.runs, runs.run_names(), runs.group_names(), strict=True)]


def describe_runs(
    runs: RunSet,
    answers: Sequence[Table] | None = None,
    sentences: Sequence[str] | None = None,
    *,
    brief: bool = False,
) -> Text:
    """What a page says of some runs around their heatmaps.

    Args:
        runs: at least one.
        answers: tables; those of the experiments' analyses if None.
        sentences: at the beginning; `answer_runs(runs)` if None.
        brief: whether of the figures only the experiments' own are shown.
    """
    facts, groups = runs.runs[0].summary, runs.groups()
    versions = [f"{name} {facts[name]}" for name in VERSIONS if name in facts]
    device = f" on {facts['device']}" if "device" in facts else ""
    drawn = draw(runs)
    return Text(
        title="What reaches the rows",
        lead=f"{', '.join([f'{count(len(runs.runs))}{device}', *versions])}. {CUT}",
        sentences=answer_runs(runs) if sentences is None else sentences,
        settings=[compare_groups(groups).condensed()],
        runs=[compare_runs(runs).condensed()] if len(groups) < len(runs.runs) else [],
        answers=[*chain(*call_analyses("tables", runs))] if answers is None else answers,
        verdicts=[plot for name, plot in drawn.items() if is_interactive(name)],
        figures=[_section(name, plot) for name, plot in drawn.items() if not is_interactive(name, brief=brief)],
    )


def is_interactive(name: str, *, brief: bool = False) -> bool:
    """Whether the page's heatmaps show what a figure shows, or in brief, much of it."""
    return name.startswith(("heatmaps", "layers", *(OF_ANY_RUN if brief else ())))


def _section(name: str, plot: Plot) -> dict[str, Any]:
    """What the page shows of a figure, on wide and on narrow screens."""
    svgs = {}
    for size in SIZES:
        label = f'<svg role="img" aria-label="{escape(plot.caption)}" '
        picture = svg(plot.on(size), f"{name}{size.suffix}")
        inline = picture[picture.index("<svg") :].replace(figures.INK, "currentColor")
        svgs[size.suffix.removeprefix("_") or "page"] = inline.replace("<svg ", label, 1)
    return {"title": name.replace("_", " ").capitalize(), "plot": plot, "svgs": svgs}


# ---- which figures some runs have, what each shows, and how to read it


def draw(runs: RunSet) -> dict[str, Plot]:
    """The figures of some runs (at least one) by their names."""
    groups = runs.groups()
    kinds = {
        "heatmaps": _heatmaps(groups),
        "row_profiles": _row_profiles(groups),
        "learning_curves": _learning_curves(groups),
        "learnt_rows": _learnt_rows(groups),
        "layers": _layers(groups),
    }
    found = {f"{name}_{n}" if n > 1 else name: plot for name, some in kinds.items() for n, plot in enumerate(some, 1)}
    for more in call_analyses("figures", runs):
        found |= more
    return found


def _left_out(groups: Sequence[RunGroup]) -> str:
    return f" {MOST} of {len(groups)} settings are shown." if len(groups) > MOST else ""


def _over_seeds(groups: Sequence[RunGroup], what: str) -> str:
    return f" {what}." if any(len(group.runs) > 1 for group in groups) else ""


def _heatmaps(groups: Sequence[RunGroup]) -> list[Plot]:
    recorded = [group for group in groups if group.recorded]
    shown = recorded[:MOST]
    if not shown:
        return []
    scale = figures.log_scale([g.norms[q] for g in shown for q in (REACHES, ARRIVES) if q in g.norms])
    words = (
        "Every row at every step, all settings on one colour scale. Grey is exactly zero: no gradient reaches the row."
        " On the right, what arrives at the network's input all the same."
    )
    words += _over_seeds(shown, "Norms are means over seeds; grey is zero in every one of them") + _left_out(recorded)

    def plot(some: Sequence[RunGroup]) -> Plot:
        wall = {g.title: (g.steps, g.norms, g.first.selected) for g in some if g.steps is not None}
        how = f" {words}" if some[0] is shown[0] else ""
        return Plot(
            heatmap_verdict(some),
            f"{causes_of_zeros(some)}{how}".strip(),
            lambda size: plots.compared_heatmaps(wall, scale, size),
        )

    return [plot(some) for some in in_parts(shown, WALL)]


def _row_profiles(groups: Sequence[RunGroup]) -> list[Plot]:
    known = {
        group: {
            quantity: torch.stack([run.norms[quantity].double().mean(0) for run in group.recorded])
            for quantity in (REACHES, ARRIVES)
            if quantity in group.norms
        }
        for group in groups[:MOST]
    }
    known = {group: norms for group, norms in known.items() if norms}
    if not known:
        return []
    profiles = merge_equal(known)
    zeros = {group.name: (norms[REACHES] == 0).all(0).tolist() for group, norms in known.items() if REACHES in norms}
    words = "Each row's norm, averaged over the steps."
    words += _over_seeds(groups, "Bands are one standard deviation over seeds") + _left_out(groups)
    verdict = f"{wording.rows_in_settings('Rows that get exactly 0', zeros)} {equal_settings(profiles)}".strip()
    return [Plot(verdict, words, lambda size: plots.row_profiles(profiles, size))]


def _learning_curves(groups: Sequence[RunGroup]) -> list[Plot]:
    known = {group: group.curves(CURVES) for group in groups[:MOST]}
    curves = merge_equal(known)
    last = {group.name: float(tags["val/acc"][1][:, -1].mean()) for group, tags in known.items() if "val/acc" in tags}
    words = "Training batches, averaged over neighbouring steps; dots are the validation images."
    words += _over_seeds(groups, "Lines are means over seeds, bands and bars one standard deviation")
    ends = wording.range_in_settings("At the end, the validation accuracy", last)
    verdict = f"{ends} {equal_settings(curves)}".strip()
    return [Plot(verdict, words + _left_out(groups), lambda size: plots.learning_curves(curves, size))]


def _learnt_rows(groups: Sequence[RunGroup]) -> list[Plot]:
    known = [group for group in groups if group.thetas]
    words = "θ, what the rows have learnt to add to every image. A row that was always cut has stayed at zero."
    words += _over_seeds(known, "Shown is the mean of θ over seeds") + _left_out(known)

    def plot(some: Sequence[RunGroup]) -> Plot:
        thetas = {one.title: (torch.stack(one.thetas).mean(0), one.first.selected) for one in some}
        still = {one.name: (torch.stack(one.thetas) == 0).all(-1).all(1).all(0).tolist() for one in some}
        verdict = wording.rows_in_settings("Rows whose θ is exactly 0", still)
        return Plot(verdict, words, lambda size: plots.compared_theta(thetas, size))

    return [plot(some) for some in in_parts(known[:MOST], GRID)]


def _layers(groups: Sequence[RunGroup]) -> list[Plot]:
    known = [group for group in groups if group.steps is not None and LAYER_GRAD in group.norms]
    shown = known[:MOST]
    if not shown:
        return []
    scale = figures.log_scale([group.norms[LAYER_GRAD] for group in shown])
    words = "Norms of the gradient of each layer's parameters, and of all together, on one colour scale."
    words += _over_seeds(shown, "Norms are means over seeds") + _left_out(known)

    def plot(some: Sequence[RunGroup]) -> Plot:
        wall = {
            g.title: (g.steps, g.norms[LAYER_GRAD], g.first.labels(LAYER_GRAD)) for g in some if g.steps is not None
        }
        faintest = {g.name: wording.faintest_layer(g.norms[LAYER_GRAD], g.first.labels(LAYER_GRAD)) for g in some}
        verdict = " ".join(f"{seen} ({name})." if len(groups) > 1 else f"{seen}." for name, seen in faintest.items())
        return Plot(verdict, words, lambda size: plots.compared_layers(wall, scale, size))

    return [plot(some) for some in in_parts(shown, WALL)]


# ---- verdicts


def heatmap_verdict(groups: Sequence[RunGroup]) -> str:
    """What stops how much gradient in which settings, and in which nothing is cut."""
    by_cause: dict[str, list[RunGroup]] = {}
    state: dict[str, list[str]] = {}
    whole: list[str] = []
    for group in groups:
        if group.first.detaches_state:
            part = state_words(group.first.scenario.state)
            end = "" if group.is_cut else ", and no row gets exactly 0,"
            state.setdefault(f"detach cuts the {part} between rows{end}", []).append(group.name)
        elif group.is_cut and group.first.scenario.route != STATE:
            by_cause.setdefault(wording.name_causes(group.zeros or []), []).append(group)
        elif group.is_cut is not None:
            whole.append(group.name)
    parts = [f"{_stop(causes)} {_shares(some)}" for causes, some in sorted(by_cause.items())]
    parts += [f"{words} in {wording.listed(names)}" for words, names in state.items()]
    if whole:
        parts.append(f"nothing is cut in {wording.listed(whole)}")
    return wording.sentence("; ".join(parts))


def _stop(causes: str) -> str:
    """Subject and verb of what stops gradient, from `wording.name_causes`."""
    if not causes:
        return "an unrecorded cause stops"
    several, pause = "; " in causes, "," * ("," in causes)
    return f"{causes.replace('; ', ' and ')}{pause} {'together stop' if several else 'stops'}"


def _shares(groups: Sequence[RunGroup]) -> str:
    """Shares of the squared gradient, each with the settings in which it is stopped."""
    shares = {group.name: wording.percent(group.stopped) for group in groups}
    (first, names), *rest = wording.names_by_words(shares).items()
    words = [f"{first} of the squared gradient in {wording.listed(names)}"]
    return ", ".join([*words, *(f"{share} in {wording.listed(names)}" for share, names in rest)])


def causes_of_zeros(groups: Sequence[RunGroup]) -> str:
    """What makes the zeros and why, once for all settings with the same answer."""
    known = {g.name: wording.zeros_sentence(g.zeros, g.first.scenario) for g in groups if g.zeros is not None}
    by_words = wording.names_by_words(known)
    return " ".join(f"{wording.listed(names)}: {words}" for words, names in by_words.items() if words)


def merge_equal(known: Mapping[RunGroup, Known]) -> dict[str, Known]:
    """Numbers of some settings by title; settings with equal numbers share an entry, `visualize = baseline`."""
    merged: list[tuple[list[RunGroup], Known]] = []
    for group, numbers in known.items():
        equal = next((groups for groups, others in merged if _are_equal(numbers, others)), None)
        if equal is None:
            merged.append(([group], numbers))
        else:
            equal.append(group)
    return {
        " = ".join([*(group.name for group in groups[:-1]), groups[-1].title]): numbers for groups, numbers in merged
    }


def _are_equal(one: Any, other: Any) -> bool:
    """Whether arrays, or lists, tuples and mappings of them, have the same numbers."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_are_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_are_equal, one, other))
    return np.array_equal(one, other, equal_nan=True)


def equal_settings(titles: Iterable[str]) -> str:
    """Which settings are equal in every number, as a sentence."""
    same = [title.partition(", n =")[0] for title in titles if " = " in title.partition(", n =")[0]]
    return f"Equal in every number: {'; '.join(same)}." if same else ""
