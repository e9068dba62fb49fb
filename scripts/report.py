"""Shows runs side by side: `python scripts/report.py RUN…` writes a page and figures, `--format md` a table."""

import argparse
import os
from pathlib import Path

from rich.console import Console

from rowgrad.errors import report_plainly


def main() -> None:
    """Reads the runs and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run's folder, or a folder of runs")
    parser.add_argument("--format", choices=("html", "md"), default="html", help="md: the table alone, printed")
    parser.add_argument("--out", type=Path, help="where the page goes (default: report/ in the runs' common folder)")
    arguments = parser.parse_args()

    from rowgrad import report  # late, so that --help and typing mistakes answer at once
    from rowgrad.runs import find_runs, read_run
    from rowgrad.tables import markdown

    console = Console(stderr=True)
    with console.status("reading") as status:
        folders = find_runs(arguments.runs)
        runs = [read_run(folder) for folder in folders]
        if arguments.format == "md":
            print(markdown(report.table(runs)), end="")
            return
        common = Path(os.path.commonpath([path.absolute() for path in arguments.runs]))
        page = report.write(runs, arguments.out or common / "report", lambda what: status.update(f"drawing {what}"))
    print(f"{len(runs)} runs: {page}")


if __name__ == "__main__":
    report_plainly("report")
    main()
