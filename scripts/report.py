"""Shows runs side by side on one page that any browser opens: `python scripts/report.py RUN…`.

A run is a folder with a `row_gradients.csv`, of this project or of any logger, as `lightning_logs/version_0`.
"""

import argparse
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path

from rowgrad.errors import UserError, run_script
from rowgrad.folders import RunFolder


def main() -> None:
    """Reads the runs and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run's folder, or a folder of runs")
    parser.add_argument("--format", choices=("html", "md"), default="html", help="md: the table alone, printed")
    parser.add_argument(
        "--out", type=Path, help="the page, or its folder (default: report/ in the runs' common folder)"
    )
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="writes figures for a paper, PNG and SVG, there")
    parser.add_argument("--steps", type=int, metavar="N", help="the most steps of a run (default: as many as fit 5 MB)")
    parser.add_argument("--brief", action="store_true", help="of the figures, only those of experiments of their own")
    words = "averages also over these settings: KEY[,KEY] (default: over the seed)"
    parser.add_argument("--group-by", type=lambda keys: keys.split(","), default=[], metavar="KEY", help=words)
    arguments = parser.parse_args()
    if arguments.steps is not None and arguments.steps < 1:
        raise UserError(f"--steps {arguments.steps} is not a whole number of 1 or more.")
    from rowgrad.results.opening import open_runs  # late, so that --help and typing mistakes answer at once
    from rowgrad.results.page import PAGE, count, make_page
    from rowgrad.results.show import Both

    with _status("reading and drawing"):
        runs, without = open_runs(arguments.runs)
        both = Both(runs, arguments.group_by)
        if arguments.format == "md":
            print("\n".join(table.markdown() for table in both.tables()), end="")
            return
        common = Path(os.path.commonpath([path.absolute() for path in arguments.runs]))
        out = arguments.out or RunFolder(common).report
        if arguments.out is None and out.is_symlink():
            raise UserError(f"{out} is a link, and nothing is written through it. --out names another place.")
        page = out if out.suffix == ".html" else out / PAGE
        page.parent.mkdir(parents=True, exist_ok=True)
        make_page(both.shown(), both.text(brief=arguments.brief), arguments.steps).save(page)
        files = both.write_figures(arguments.figures) if arguments.figures else 0
    for path in without:
        print(f"{path}: left out, because there is no run in it.", file=sys.stderr)
    for run in runs:
        for words in run.troubles:
            print(words, file=sys.stderr)
    print(f"{count(len(runs))}: {page}" + (f", {files} figures: {arguments.figures}" if files else ""))


def _status(words: str) -> AbstractContextManager[object]:
    """Shows that something goes on, if rich is installed."""
    if find_spec("rich") is None:
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(words)


if __name__ == "__main__":
    run_script("report", main, pipeline=False)
