"""Shows runs side by side: `python scripts/report.py RUN…` writes a page and figures, `--format md` a table."""

import argparse
import os
import sys
from pathlib import Path

from rowgrad.errors import run_script
from rowgrad.folders import RunFolder, find_run_folders


def main() -> None:
    """Reads the runs and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run's folder, or a folder of runs")
    parser.add_argument("--format", choices=("html", "md"), default="html", help="md: the table alone, printed")
    parser.add_argument("--out", type=Path, help="where the page goes (default: report/ in the runs' common folder)")
    arguments = parser.parse_args()
    folders = find_run_folders(arguments.runs)

    from rich.console import Console

    from rowgrad.results.report import write_report  # late, so that --help and typing mistakes answer at once
    from rowgrad.results.run import open_run
    from rowgrad.results.runs import RunSet
    from rowgrad.results.tables import compare_runs

    with Console(stderr=True).status("reading and drawing"):
        runs = RunSet([open_run(folder) for folder in folders])
        if arguments.format == "md":
            print(compare_runs(runs).markdown(), end="")
            return
        common = Path(os.path.commonpath([path.absolute() for path in arguments.runs]))
        out = arguments.out or RunFolder(common).report
        page = write_report(runs, out)
    for run in runs.runs:
        if run.theta is None and run.folder.checkpoints:
            print(f"{run.folder}: no checkpoint can be read, so its θ is not shown.", file=sys.stderr)
    print(f"{len(folders)} run{'s' if len(folders) > 1 else ''}: {page}")


if __name__ == "__main__":
    run_script("report", main)
