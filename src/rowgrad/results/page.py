"""Runs -> one interactive page: the tab *Rows* with the runs' numbers inside, for a file, a mail, or a notebook."""

from __future__ import annotations

import base64
import hashlib
import html
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING, Any

from rowgrad.board import embedding
from rowgrad.board.reading import Numbers, described, rows_told
from rowgrad.config import as_typed
from rowgrad.errors import NotInstalledError
from rowgrad.files import shown as shown_path
from rowgrad.files import write_whole
from rowgrad.watch.quantities import ARRIVES, REACHES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rowgrad.results.logged import LoggedRun
    from rowgrad.results.table import Table

PAGE = "report.html"
MOST = 3_000_000  # numbers on a page, about 5 MB
# Only what is in the page: its script by its checksum, its styles, and pictures in data: addresses.
POLICY = (
    "default-src 'none'; script-src '{}'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
)
LINE, CONTROLS = 160, 150  # pixels of a run, and of what is above, in a notebook
HIGHEST = 900


@dataclass
class Text:
    """What a page says around the heatmaps.

    Attributes:
        title: of the page.
        lead: a paragraph.
        sentences: the answers, first of all.
        settings: tables of settings, without what is equal in all of them, and that in words.
        runs: the same of single runs.
        answers: further tables.
        verdicts: what the heatmaps show, with an explanation.
        figures: figures below the heatmaps: title, plot, and the SVGs of all sizes.
    """

    title: str
    lead: str
    sentences: Sequence[str] = ()
    settings: list[tuple[Table, str]] = field(default_factory=list)
    runs: list[tuple[Table, str]] = field(default_factory=list)
    answers: Sequence[Table] = ()
    verdicts: Sequence[Any] = ()
    figures: Sequence[Mapping[str, Any]] = ()

    def followed_by(self, other: Text) -> Text:
        """Both texts, under the title of the first."""
        lists = ("sentences", "settings", "runs", "answers", "verdicts", "figures")
        joined: dict[str, Any] = {name: [*getattr(self, name), *getattr(other, name)] for name in lists}
        return Text(self.title, f"{self.lead} {other.lead}", **joined)


@dataclass(frozen=True)
class Shown:
    """A run on a page.

    Attributes:
        run: the run.
        name: its name there, which no other run has.
        group: the name of its setting; runs of one setting differ in their seed alone.
    """

    run: LoggedRun
    name: str
    group: str


class Page:
    """An interactive page of runs, as text. A notebook shows it in its cell.

    Args:
        text: HTML.
        lines: the number of runs, which decides how high a notebook's frame is at first.
    """

    def __init__(self, text: str, lines: int) -> None:
        self.text, self.lines = text, lines

    def __repr__(self) -> str:
        return f"<page of {count(self.lines)}, {len(self.text) / 1e6:.1f} MB: save(path) writes it>"

    def _repr_html_(self) -> str:
        """A frame with the page as its text; it becomes as high as the page."""
        height = min(CONTROLS + LINE * self.lines, HIGHEST)
        style = f"width:100%;height:{height}px;border:0"
        return f'<iframe srcdoc="{html.escape(self.text)}" style="{style}" title="rowgrad"></iframe>'

    def save(self, path: str | Path) -> None:
        """Writes it to a file, which any browser opens without a network."""
        from pathlib import Path

        write_whole(Path(path), self.text)


def count(runs: int) -> str:
    """`1 run`, `2 runs`."""
    return f"{runs} run{'s' * (runs != 1)}"


def make_page(runs: Sequence[Shown], text: Text | None = None, steps: int | None = None) -> Page:
    """Makes the page of some runs.

    Args:
        runs: at least one.
        text: what is said around the heatmaps; None for the heatmaps alone.
        steps: the most steps of a run; by default all, or as many as make `MOST` numbers.

    Raises:
        UserError: a file of a run cannot be read, or jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError:
        raise NotInstalledError("a page needs a package that is not installed: pip install jinja2") from None

    script = embedding.script()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    templates = jinja2.Environment(loader=jinja2.PackageLoader("rowgrad.results", "."), autoescape=True)
    content = templates.get_template("page.html.jinja").render(
        policy=POLICY.format(f"sha256-{digest}"),
        title=runs[0].name if len(runs) == 1 else count(len(runs)),
        style=embedding.style(),
        text=text,
        folders=[(one.name, shown_path(one.run.path)) for one in runs],
        data=embedding.as_json(_data(runs, steps)),
        script=script,
    )
    return Page(content, len(runs))


def _data(runs: Sequence[Shown], steps: int | None) -> dict[str, Any]:
    """What the page's modules read: the answer that TensorBoard's server would give, and all numbers."""
    every = {one.name: one.run.all_numbers() for one in runs}
    size = sum(numbers.values.size for quantities in every.values() for numbers in quantities.values())
    thinned = {
        name: {quantity: _thinned(numbers, steps, ceil(size / MOST)) for quantity, numbers in quantities.items()}
        for name, quantities in every.items()
    }
    is_whole = all(len(thinned[run][q].steps) == len(n.steps) for run, qs in every.items() for q, n in qs.items())
    told = [_described(one, thinned[one.name]) for one in runs]
    answer = {
        "runs": told,
        "quantities": described(told),
        "pair": [REACHES, ARRIVES],
        "kept": 0,
        "now": 0,
        "start": {"mean": len({one.group for one in runs}) < len(runs)},
        "note": "" if is_whole else "A sample of the recorded steps, at equal distances.",
    }
    return {"answer": answer, "norms": {name: embedding.pack(quantities) for name, quantities in thinned.items()}}


def _thinned(numbers: Numbers, steps: int | None, every: int) -> Numbers:
    every = every if steps is None else ceil(len(numbers.steps) / steps)
    return Numbers(numbers.steps[::every], numbers.values[::every])


def _described(shown: Shown, quantities: Mapping[str, Numbers]) -> dict[str, Any]:
    """A run as the tab's server describes it."""
    run = shown.run
    facts = {
        "sentence": shown.group if shown.group != shown.name else "",
        "settings": {key: as_typed(value) for key, value in run.settings.items()},
    }
    facts |= run.facts | {"alike": shown.group, "group": shown.group, "status": run.status, "quantities": run.told}
    return {
        "name": shown.name,
        "quantities": {
            name: rows_told(name, n.values.shape[1], int(n.steps[-1]), run.labels(name), run.told)
            for name, n in quantities.items()
        },
        "facts": facts,
        "ended": True,
        "newest": 0,
        "started": None,
        "accuracy": score_of(run.metrics),
    }


def score_of(metrics: Mapping[str, float]) -> tuple[str, float] | None:
    """The metric that is shown with a run: an accuracy rather than a loss, of the test rather than of training."""
    for kind in ("acc", "loss"):
        for stage in ("test", "val", "train", ""):
            found = next((name for name in metrics if kind in name.lower() and stage in name.lower()), None)
            if found is not None:
                return found, metrics[found]
    return None
