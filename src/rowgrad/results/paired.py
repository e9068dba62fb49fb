"""Numbers over seeds: in words, and with and without detach, tested in pairs."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rowgrad.watch.quantities import COSINE, RATIO

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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


def percent(value: float, sign: str = "") -> str:
    """A share in percent."""
    return f"{value:{sign}.2%}".replace("%", " %")


def decimals(value: float, sign: str = "") -> str:
    """A number with four decimals."""
    return f"{value:{sign}.4f}"


METRICS: dict[str, Callable[..., str]] = {
    "val/acc": percent,
    "test/acc": percent,
    "test/acc_operated": percent,
    "test/loss": decimals,
    "cut_fraction": percent,
    COSINE: decimals,
    RATIO: decimals,
}


def corrected(tests: Sequence[float | None]) -> list[float | None]:
    """p-values of several tests at once (Benjamini and Hochberg 1995), those that there are."""
    from scipy import stats

    known = iter(stats.false_discovery_control([p for p in tests if p is not None]))
    return [None if p is None else float(next(known)) for p in tests]


def spread(numbers: Sequence[float], show: Callable[..., str]) -> str:
    """Mean ± sample standard deviation; the mean alone for one number."""
    if not numbers:
        return "–"
    mean = show(statistics.mean(numbers))
    return mean if len(numbers) == 1 else f"{mean.removesuffix(' %')} ± {show(statistics.stdev(numbers))}"


def compare(treated: Sequence[float], control: Sequence[float]) -> Paired:
    """Paired t-test (Student 1908; `scipy.stats.ttest_rel`) of treated − control.

    There is no test of fewer than two pairs, nor of differences without any spread: the interval and p are None.
    """
    from scipy import stats

    differences = [a - b for a, b in zip(treated, control, strict=True)]
    mean = statistics.mean(differences)
    largest = max(abs(value) for value in (*treated, *control))
    # Rounding moves a float32 by half of its last digit, a difference of two by one, and two differences apart by two.
    if len(differences) < 2 or max(differences) - min(differences) <= 2 * FLOAT32 * largest:  # noqa: PLR2004
        return Paired(mean, len(differences))
    result = stats.ttest_rel(treated, control)
    interval = result.confidence_interval(CONFIDENCE)
    return Paired(mean, len(differences), float(interval.low), float(interval.high), float(result.pvalue))
