"""Means over seeds, and the paired t-test of runs with and without detach; both in words."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rowgrad.results.logged import LoggedRun

    Pairs = Sequence[tuple[Any, Any]]  # of runs: with what is compared, and without

CONFIDENCE = 0.95
FLOAT32 = 2.0**-23  # metrics are measured in 32 bits: the last digit of a number, relative to the number


@dataclass(frozen=True)
class Paired:
    """The mean difference of n pairs; interval and p are None where no test can be made.

    Attributes:
        mean: mean of the differences.
        count: n.
        low: lower end of the 95 % interval of the mean.
        high: upper end.
        p: two-sided p-value.
    """

    mean: float
    count: int
    low: float | None = None
    high: float | None = None
    p: float | None = None

    def sentence(self, what: str) -> str:
        """What the pairs show of a share. A change is claimed only if the interval excludes 0, or if all pairs agree.

        Args:
            what: the share, as in "the test accuracy".
        """
        pairs = f"{self.count} pairs" if self.count != 1 else "one pair"
        if self.low is None or self.high is None:
            if not self.mean:
                return f"{what} is the same in {pairs}"
            if self.count == 1:
                one = f"{points(self.mean)} points in one pair, too few to show a change"
                return f"{what} with detach minus without is {one}"
            return f"{what} changes by {points(self.mean)} points in each of {pairs}"
        interval = f"{points(self.mean)} points (95 % interval {points(self.low)} to {points(self.high)}, {pairs})"
        if self.low <= 0 <= self.high:
            return f"no change of {what} was shown: {interval}"
        return f"{what} changes by {interval}"


def decimals(value: float, sign: str = "") -> str:
    """A number with four decimals."""
    return f"{value:{sign}.4f}"


def points(value: float, sign: str = "+") -> str:
    """A difference of shares in percentage points, without the unit."""
    return f"{100 * value:{sign}.2f}"


def finite(runs: Sequence[LoggedRun], metric: str) -> list[float]:
    """A metric of some runs; missing and non-finite values are left out."""
    found = (run.metrics.get(metric) for run in runs)
    return [value for value in found if isinstance(value, int | float) and math.isfinite(value)]


def corrected(tests: Sequence[float | None]) -> list[float | None]:
    """Corrects p-values for their number (Benjamini and Hochberg 1995); None stays None."""
    from scipy import stats

    known = iter(stats.false_discovery_control([p for p in tests if p is not None]))
    return [None if p is None else float(next(known)) for p in tests]


def spread(numbers: Sequence[float], show: Callable[..., str]) -> str:
    """Mean ± sample standard deviation; the mean alone for one number."""
    if not numbers:
        return "–"
    mean = show(statistics.mean(numbers))
    return mean if len(numbers) == 1 else f"{mean.removesuffix(' %')} ± {show(statistics.stdev(numbers))}"


def compare_pairs(pairs: Pairs, metric: str) -> Paired | None:
    """The difference that detach makes to a metric, over the pairs of which both runs have it; None if none has."""
    both = [values for pair in pairs if len(values := finite(pair, metric)) == len(pair)]
    return compare(*zip(*both, strict=True)) if both else None


def compare(treated: Sequence[float], control: Sequence[float]) -> Paired:
    """Paired t-test (Student 1908; `scipy.stats.ttest_rel`) of treated − control.

    Interval and p are None for fewer than two pairs, and for differences without spread, which have no t-test; and
    without scipy.
    """
    differences = [a - b for a, b in zip(treated, control, strict=True)]
    mean = statistics.mean(differences)
    largest = max(abs(value) for value in (*treated, *control))
    # Rounding moves a float32 by half of its last digit, so two equal differences are at most two digits apart.
    if len(differences) < 2 or max(differences) - min(differences) <= 2 * FLOAT32 * largest:  # noqa: PLR2004
        return Paired(mean, len(differences))
    try:
        from scipy import stats
    except ImportError:  # not needed by the recorder
        return Paired(mean, len(differences))
    result = stats.ttest_rel(treated, control)
    interval = result.confidence_interval(CONFIDENCE)
    return Paired(mean, len(differences), float(interval.low), float(interval.high), float(result.pvalue))
