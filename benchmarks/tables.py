"""Writes the tables of `docs/performance.md` from `benchmarks/results/*.json`."""

from __future__ import annotations

import json
import re
from typing import Any

from measure import PROJECT, RESULTS, Result, say

PAGE = PROJECT / "docs" / "performance.md"


def lines_of(content: dict[str, Any]) -> list[str]:
    """The table of a file, or the last line of a check of `gpu.py`."""
    if (check := content.get("check")) is None:
        return Result.table([Result(**result) for result in content["results"]])
    outcome = "passed" if check["passed"] else "**failed**"
    return [f"`{check['command']}`: {outcome} in {check['s']:.0f} s.", "", "```", check["said"], "```"]


def main() -> None:
    """Writes the table of each file between its two marks in the page."""
    page = PAGE.read_text(encoding="utf-8")
    for file in sorted(RESULTS.glob("*.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        facts = ", ".join(f"{name} {value}" for name, value in content["machine"].items())
        lines = [f"`{content['command']}` ({facts})", "", *lines_of(content)]
        block = "\n".join(lines).replace("\\", "\\\\")
        start, end = f"<!-- {file.stem} -->", f"<!-- /{file.stem} -->"
        page, count = re.subn(f"{start}.*?{end}", f"{start}\n{block}\n{end}", page, flags=re.DOTALL)
        say(f"{file.name}: {'written' if count else f'no place: the page has no {start}'}")
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
