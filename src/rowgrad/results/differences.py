"""What one setting changes: paired tests over pairs of runs that agree in everything else, as a table."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import chain
from typing import TYPE_CHECKING

from rowgrad.results.paired import Paired, compare_pairs, corrected, finite
from rowgrad.results.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rowgrad.results.paired import Pairs


def differences_table(
    title: str,
    difference: str,
    pairs: Mapping[tuple[str, str], Pairs],
    show: Callable[[str], Callable[..., str]],
    untested: str = "",
) -> Table:
    """A line for each setting and metric.

    Args:
        title: of the table.
        difference: what is subtracted from what.
        pairs: by setting and metric; an empty list if it is ambiguous which runs are a pair.
        show: how a metric is printed.
        untested: a metric that is not tested; it is left out where it is 0 in all runs.
    """
    body: list[list[str]] = []
    tests: list[float | None] = []
    for (setting, metric), some in pairs.items():
        if not some and not (body and body[-1][0] == setting):
            body.append([setting, "–", "0", "not paired: two runs agree in seed and setting", "–", "–"])
            tests.append(None)
        paired = compare_pairs(some, metric)
        if paired is None or (metric == untested and not any(finite([*chain(*some)], metric))):
            continue
        tests.append(None if metric == untested else paired.p)
        body.append([setting, metric, *_effect(paired, show(metric)), _p(tests[-1])])
    header = ["setting", "metric", "pairs", "difference", "95 % interval", "p"]
    many = ""
    if (count := sum(p is not None for p in tests)) > 1:
        header.append(f"p of {count} tests")
        for line, p in zip(body, corrected(tests), strict=True):
            line.append(_p(p))
        many = f" The last column is corrected for the {count} tests (Benjamini and Hochberg 1995)."
    needs = "" if find_spec("scipy") else " Without scipy there are no intervals: pip install scipy."
    caption = (
        f"{difference}, paired over seeds. Interval and p: paired t-test (scipy.stats.ttest_rel, two-sided); – if there"
        f" are fewer than two pairs, or if the differences do not vary.{many} Differences of shares are in percentage"
        f" points.{needs}"
    )
    return Table(title, header, body, caption)


def _p(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"


def _effect(paired: Paired, show: Callable[..., str]) -> list[str]:
    """Pairs, difference and interval."""
    mean = show(paired.mean, "+").replace("%", "pp") if paired.mean else "0 in every pair" if paired.p is None else "0"
    if paired.low is None or paired.high is None:
        return [str(paired.count), mean, "–"]
    return [
        str(paired.count),
        mean,
        f"{show(paired.low, '+').removesuffix(' %')} … {show(paired.high, '+').replace('%', 'pp')}",
    ]
