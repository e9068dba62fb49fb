"""Runs -> a page that explains itself, figures for a paper, a table for a README."""

from __future__ import annotations

import html
import io
import statistics
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import torch
from omegaconf import OmegaConf

from rowgrad import figures
from rowgrad.files import write_whole
from rowgrad.rows import name_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

    from rowgrad.runs import Run
    from rowgrad.tables import Table

CURVES = ("train/loss", "train/acc", "val/loss", "val/acc")
MOST_HEATMAPS = 24
# Keys that may differ between runs of one group: they do not change what is trained.
APART = ("seed", "resume", "data.root", "callbacks", "hydra", "model.checkpoint")
STYLE: Any = {  # matplotlib's names are no plain text to a type checker
    "svg.fonttype": "none",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"),
        figures.INK,
    ),
}


def flat(config: Any) -> dict[str, Any]:
    """A config's values by their full keys."""
    pairs: dict[str, Any] = {}

    def walk(prefix: str, node: Any) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                walk(f"{prefix}{key}.", value)
        else:
            pairs[prefix[:-1]] = node

    walk("", OmegaConf.to_container(config, resolve=True))
    return pairs


def group_names(runs: Sequence[Run]) -> list[str]:
    """A name for each run: its scenario, and what else tells it from other runs of that scenario; never its seed.

    What a scenario or a camera is made of is told only where others of the same name differ in it.
    """
    configs = [flat(run.config) for run in runs]
    names = []
    for config in configs:
        alike = [other for other in configs if other.get("scenario.name") == config.get("scenario.name")]
        cameras = [other for other in alike if other.get("corruption.name") == config.get("corruption.name")]
        telling = [
            f"{key.removeprefix('scenario.').removesuffix('.name')}={_word(value)}"
            for key, value in config.items()
            if not key.startswith(APART)
            and any(
                other.get(key) != value
                for other in (cameras if key.startswith("corruption.") and key != "corruption.name" else alike)
            )
        ]
        names.append(", ".join([str(config.get("scenario.name")), *telling]))
    return names


def run_names(runs: Sequence[Run]) -> list[str]:
    """A name for each run, its seed included where one name stands for several runs; repetitions are numbered."""
    groups, names = group_names(runs), []
    for group, run in zip(groups, runs, strict=True):
        name = f"{group}, seed {run.config.seed}" if groups.count(group) > 1 else group
        again = sum(earlier == name or earlier.startswith(f"{name} (") for earlier in names)
        names.append(f"{name} ({again + 1})" if again else name)
    return names


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool | None) else str(value)


def _percent(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}%}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _cut(run: Run) -> str:
    counts = run.cut_counts
    if counts is None:
        return "not recorded"
    always = name_rows((counts == len(run.steps)).tolist()).removeprefix("rows ").removeprefix("row ")
    sometimes = int(((counts > 0) & (counts < len(run.steps))).sum())
    always = "none" if always == "no row" else always
    return always + (f" ({sometimes} more at some)" if sometimes else "")


COLUMNS: dict[str, Callable[[Run], str]] = {
    "scenario": lambda run: str(run.config.scenario.name),
    "selected": lambda run: name_rows(run.selected).removeprefix("rows ").removeprefix("row "),
    "detach": lambda run: _word(run.config.scenario.detach) if any(run.selected) else "–",
    "seed": lambda run: str(run.config.seed),
    "data": lambda run: str(run.summary.get("data", run.config.data.name)),
    "status": lambda run: run.status,
    "test accuracy": lambda run: _percent(run.summary.get("test/acc"), 2),
    "rows changed in every image": lambda run: _percent(run.summary.get("test/acc_operated"), 2),
    "test loss": lambda run: _number(run.summary.get("test/loss")),
    "rows cut at every step": _cut,
    "cut fraction": lambda run: _percent(run.cut_fraction, 1),
    "steps": lambda run: str(run.summary.get("train/steps", "")),
    "seconds": lambda run: f"{run.summary['train/seconds']:.1f}" if "train/seconds" in run.summary else "",
}


def table(runs: Sequence[Run]) -> list[list[str]]:
    """The runs as rows of text, the columns' names first."""
    return [
        ["run", *COLUMNS],
        *(
            [name, *(column(run) for column in COLUMNS.values())]
            for name, run in zip(run_names(runs), runs, strict=True)
        ),
    ]


def draw(runs: Sequence[Run], progress: Callable[[str], None] = lambda _: None) -> dict[str, tuple[str, Figure]]:
    """The figures of some runs by their names, each with a sentence that says how to read it.

    Args:
        runs: at least one.
        progress: is told what is being drawn.
    """
    groups, names = group_names(runs), run_names(runs)
    members = {
        group: [run for g, run in zip(groups, runs, strict=True) if g == group] for group in dict.fromkeys(groups)
    }
    drawn: dict[str, tuple[str, Figure]] = {}
    recorded = {name: run for name, run in zip(names, runs, strict=True) if len(run.steps)}
    if recorded:
        progress("heatmaps")
        shown = dict(list(recorded.items())[:MOST_HEATMAPS])
        words = (
            "Every row at every step, all runs on one colour scale. Grey is exactly zero: no gradient reaches the row."
            " On the right, what arrives at the network's input all the same."
        )
        if len(shown) < len(recorded):
            words += f" The first {len(shown)} of {len(recorded)} runs."
        wall = {name: (run.steps, run.norms, run.selected) for name, run in shown.items()}
        drawn["heatmaps"] = words, figures.compared_heatmaps(wall)
        progress("row profiles")
        profiles = {
            group: {
                quantity: torch.stack([run.norms[quantity].mean(0) for run in some])
                for quantity in ("row_grad_norm", "input_grad_norm")
                if all(quantity in run.norms for run in some)
            }
            for group, some in members.items()
        }
        words = "Each row's norm, averaged over the steps; the band is one standard deviation over seeds."
        drawn["row_profiles"] = words, figures.row_profiles(profiles)
    progress("learning curves")
    curves: dict[str, dict[str, list[Any]]] = {group: {} for group in members}
    for group, run in zip(groups, runs, strict=True):
        for tag, curve in run.curves(CURVES).items():
            curves[group].setdefault(tag, []).append(curve)
    words = "Training batches, averaged over neighbouring steps, one line a run; dots are the validation images."
    drawn["learning_curves"] = words, figures.learning_curves(curves)
    drawn |= _repairs(names, runs) | _atlas(runs)
    thetas = {n: (run.rows, run.selected) for n, run in zip(names, runs, strict=True) if run.rows is not None}
    if thetas:
        progress("learnt rows")
        few = dict(list(thetas.items())[:MOST_HEATMAPS])
        words = "θ, what the rows have learnt to add to every image. A row that was always cut has stayed at zero."
        drawn["learnt_rows"] = words, figures.compared_rows(few)
    return drawn


def _repairs(names: Sequence[str], runs: Sequence[Run]) -> dict[str, tuple[str, Figure]]:
    """The broken cameras, and what the rows have made of them: one run of each group."""
    cameras = {}
    for name, run in zip(names, runs, strict=True):
        damage = run.damage
        if damage is not None and run.rows is not None and run.config.seed == runs[0].config.seed:
            cameras[name] = damage, run.rows.mean(1), run.selected, run.summary.get("test/acc", float("nan"))
    words = (
        "Grey: what the camera adds to each row. θ is drawn beside it, averaged over the row, and what is left of the"
        f" damage; above it, the test accuracy. Runs with seed {runs[0].config.seed}."
    )
    few = dict(list(cameras.items())[:MOST_HEATMAPS])
    return {"repair": (words, figures.repairs(few))} if cameras else {}


def _atlas(runs: Sequence[Run]) -> dict[str, tuple[str, Figure]]:
    """What each row carries, where every row was cut alone, beside runs in which none was, with the same seeds."""
    done = [run for run in runs if "test/acc" in run.summary]
    whole = {run.config.seed: run for run in done if not any(run.selected)}
    alone = {(run.selected.index(True), run.config.seed): run for run in done if sum(run.selected) == 1}
    height = len(runs[0].selected)
    if not whole or alone.keys() != {(row, seed) for row in range(height) for seed in whole}:
        return {}
    lost = [[whole[s].summary["test/acc"] - alone[r, s].summary["test/acc"] for r in range(height)] for s in whole]
    shares = [[alone[row, seed].cut_fraction or 0.0 for row in range(height)] for seed in whole]
    words = (
        "Each row alone was cut, with noise in its place: what accuracy that cost against the runs with all rows, and"
        f" which share of the gradient it stopped. Bars end at the mean of {len(whole)} seeds, whiskers are a standard"
        f" deviation. {_atlas_in_numbers(lost, shares)}"
    )
    return {"row_atlas": (words, figures.row_atlas(torch.tensor(lost), torch.tensor(shares), runs[0].mean_digit()))}


def _atlas_in_numbers(lost: Sequence[Sequence[float]], shares: Sequence[Sequence[float]]) -> str:
    """What the bars say together: lost accuracy and stopped shares, a list of rows for each seed."""
    from scipy import stats

    mean_lost, mean_share = ([statistics.mean(row) for row in zip(*table, strict=True)] for table in (lost, shares))
    words = f"On average, a row costs {100 * statistics.mean(mean_lost):.2f} percentage points"
    if len(lost) > 1:  # an interval needs a spread
        low, high = stats.ttest_1samp([statistics.mean(row) for row in lost], 0).confidence_interval(0.95)
        words += f" (95 % interval over seeds {100 * low:+.2f} to {100 * high:+.2f})"
    if min(mean_share) == max(mean_share):
        return f"{words}."  # nothing to compare: no gradient was stopped, or the same in every row
    rank = float(stats.spearmanr(mean_lost, mean_share).statistic)
    low, high = stats.bootstrap(
        (mean_lost, mean_share), lambda a, b: stats.spearmanr(a, b).statistic,
        paired=True, vectorized=False, n_resamples=2000, rng=0,
    ).confidence_interval  # fmt: skip
    agreement = f"lost accuracy and share agree in rank with ρ = {rank:.2f} ({low:.2f} to {high:.2f},"
    return f"{words}; {agreement} Spearman, bootstrap over rows)."


def write(
    runs: Sequence[Run],
    folder: Path,
    progress: Callable[[str], None] = lambda _: None,
    answers: Sequence[Table] = (),
) -> Path:
    """Writes `report.html`, and each figure as PNG and SVG in `figures/`.

    Args:
        runs: at least one.
        folder: where to; it is made.
        progress: is told what is being drawn.
        answers: tables that come before the figures.

    Returns:
        The page.
    """
    pictures = folder / "figures"
    pictures.mkdir(parents=True, exist_ok=True)
    sections = [
        _section(answer.title, answer.caption, _html_table([answer.header, *answer.rows])) for answer in answers
    ]
    with mpl.rc_context(STYLE):
        for name, (words, figure) in draw(runs, progress).items():
            (pictures / f"{name}.png").write_bytes(figures.png(figure, dpi=150))
            picture = svg(figure, name)
            (pictures / f"{name}.svg").write_text(picture, encoding="utf-8")
            sections.append(_section(name.replace("_", " ").capitalize(), words, _inline(picture, words)))
    page = folder / "report.html"
    write_whole(page, _page(runs, sections))
    return page


def svg(figure: Figure, salt: str) -> str:
    """The figure as SVG text; the same figure gives the same text."""
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": salt}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()


def _section(title: str, words: str, content: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2><p>{html.escape(words)}</p>{content}</section>"


def _inline(picture: str, words: str) -> str:
    inline = picture[picture.index("<svg") :].replace(figures.INK, "currentColor")
    label = html.escape(words, quote=True)
    return "<figure>" + inline.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1) + "</figure>"


def _html_table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    cells = "\n".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in body)
    return f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>\n{cells}\n</tbody></table></div>'


def _page(runs: Sequence[Run], sections: Sequence[str]) -> str:
    folders = "".join(
        f"<li><b>{html.escape(name)}</b>: <code>{html.escape(str(run.folder))}</code></li>"
        for name, run in zip(run_names(runs), runs, strict=True)
    )
    facts = runs[0].summary
    made = ", ".join(f"{name} {facts[name]}" for name in ("rowgrad", "torch", "lightning") if name in facts)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>rowgrad: {len(runs)} run{"s" if len(runs) > 1 else ""}</title>
<style>{STYLESHEET}</style></head><body>
<h1>What reaches the rows</h1>
<p>{len(runs)} run{"s" if len(runs) > 1 else ""} on {html.escape(str(facts.get("device", "?")))}, {html.escape(made)}.
A row is <b>cut</b> where gradient arrives at the network's input in it and none of it reaches the row; the cut fraction
is the share of the squared input gradient in such rows, averaged over the steps.</p>
{_html_table(table(runs))}
{"".join(sections)}
<section><h2>Folders</h2><ul>{folders}</ul></section>
</body></html>
"""


STYLESHEET = """
:root { color-scheme: light dark; --line: #8886; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
       color: light-dark(#1f2328, #e6e8eb); background: light-dark(#fff, #14171b); }
h1 { font-size: 1.7rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .8rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: left; vertical-align: top; }
figure { margin: 0; } svg { max-width: 100%; height: auto; }
"""
