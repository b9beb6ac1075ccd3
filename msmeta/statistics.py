"""Intervals and tests: no other module knows one. Intervals have 95 %; all are by Student's t."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from scipy import special  # stats would take most of a second to import, in every process

LEVEL, POWER = 0.05, 0.8


def mean_ci(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean of independent values and the half-width of its 95 % confidence interval; None for a single value, which
    has no interval."""
    if len(values) < 2:
        return statistics.fmean(values), None
    return statistics.fmean(values), half_width(statistics.stdev(values), len(values))


def half_width(deviation: float, count: int) -> float:
    """Of the 95 % confidence interval of the mean of `count` independent values, two or more, with this standard
    deviation."""
    return float(special.stdtrit(count - 1, 0.975)) * deviation / count**0.5


@dataclass(frozen=True)
class Mean:
    """A mean, the half-width of its 95 % confidence interval, None where it has none, and of how many values it is."""

    value: float
    half: float | None
    count: int


def apart(ours: Mean, theirs: Mean) -> tuple[float, float | None]:
    """Ours less theirs, which nothing pairs, and the half-width of its 95 % confidence interval (Welch, 1947).

    None where one of them has no interval.
    """
    difference = ours.value - theirs.value
    if ours.half is None or theirs.half is None:
        return difference, None
    variances = [(mean.half / float(special.stdtrit(mean.count - 1, 0.975))) ** 2 for mean in (ours, theirs)]
    if not any(variances):
        return difference, 0.0
    parts = (v**2 / (mean.count - 1) for v, mean in zip(variances, (ours, theirs), strict=True))
    freedom = sum(variances) ** 2 / sum(parts)
    return difference, float(special.stdtrit(freedom, 0.975)) * math.sqrt(sum(variances))


def plus_minus(mean: float, half: float | None, form: str = ".2f") -> str:
    """A mean and the half-width of its interval, or that there is none. form: of the mean; the half-width has its
    digits."""
    return f"{mean:{form}} (no interval)" if half is None else f"{mean:{form}} ±{half:{form.lstrip('+')}}"


@dataclass(frozen=True)
class Bounds:
    """Between which a claim has a mean difference, in points: `Bounds(0)` is more than 0, `Bounds(-1, 1)` an equality
    up to the margin 1."""

    low: float
    high: float = math.inf

    @property
    def equality(self) -> bool:
        """Whether they lie on both sides."""
        return self.high < math.inf

    def beyond(self, mean: float) -> float:
        """How far a mean lies outside; less than 0 inside."""
        return max(self.low - mean, mean - self.high)

    def __contains__(self, mean: float) -> bool:
        return self.low < mean < self.high

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}" if self.equality else f"> {self.low:g}"


class Verdict(StrEnum):
    """On a claim."""

    HELD = "held"
    FAILED = "did not hold"
    UNDECIDED = "undecided"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Difference:
    """A mean difference and the half-width of its 95 % confidence interval, None where there is none.

    count: of the seeds that the interval is over or, with a single seed, of its episodes. deviation: the standard
    deviation over seeds; None with a single one, whose spread over episodes says nothing of other seeds, so that there
    is no test.
    """

    mean: float
    half: float | None
    count: int
    deviation: float | None = None

    def p(self, bounds: Bounds) -> float | None:
        """Of the claim's contrary where the mean is within its bounds, else of the claim; None with a single seed.

        Of one bound by the two-sided test. An equality is shown by two one-sided tests, each of which must reject
        (Schuirmann, 1987): p is the larger one.
        """
        if self.deviation is None:
            return None
        if self.mean in bounds and bounds.equality:
            return max(self._tail(bounds.low), self._tail(bounds.high))
        return 2 * self._tail(bounds.high if self.mean >= bounds.high else bounds.low)

    def verdict(self, bounds: Bounds, p: float | None) -> Verdict:
        """p: as above, corrected for other claims where there are any; None leaves the claim undecided."""
        if p is None or p >= LEVEL:
            return Verdict.UNDECIDED
        return Verdict.HELD if self.mean in bounds else Verdict.FAILED

    def _tail(self, bound: float) -> float:
        """Of Student's t with the seeds' degrees of freedom, beyond the mean's distance from the bound."""
        distance = abs(self.mean - bound)
        if not self.deviation:
            return 0.0 if distance else 0.5
        return float(special.stdtr(self.count - 1, -distance * self.count**0.5 / self.deviation))


def paired(ours: Mapping[int, Sequence[float]], theirs: Mapping[int, Sequence[float]]) -> Difference | None:
    """Ours less theirs, by seed: the values of the same episodes in the same order, or a single value a seed.

    Only seeds that both have count. One: the interval is over its episodes. Several: it is over the seeds' means, with
    as many degrees of freedom as there are seeds, less one, and so is the test. None where they have no seed in common.
    Raises ValueError for unequal numbers of episodes.
    """
    differences = [
        [a - b for a, b in zip(ours[seed], theirs[seed], strict=True)] for seed in sorted(ours.keys() & theirs.keys())
    ]
    if not differences:
        return None
    if len(differences) == 1:
        return Difference(*mean_ci(differences[0]), len(differences[0]))
    means = [statistics.fmean(each) for each in differences]
    return Difference(*mean_ci(means), len(means), statistics.stdev(means))


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p-values corrected for their number, so that all verdicts together err with 5 % at the most (Holm, 1979).

    None stands for what was not tested.
    """
    order = sorted((p, i) for i, p in enumerate(values) if p is not None)
    corrected: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        corrected[i] = largest
    return corrected


def detectable(deviation: float, seeds: int, equality: bool = False) -> float:
    """The distance of a true mean difference from a bound that so many seeds, whose differences have this standard
    deviation, show with a probability of 80 % (two-sided test at 5 %, not corrected).

    equality: instead the margin up to which they show with at least this probability that methods are equal which are
    (two one-sided tests at 5 %; each of them misses half of the time that both together may miss).
    """
    level, power = (LEVEL, (1 + POWER) / 2) if equality else (LEVEL / 2, POWER)
    critical = special.stdtrit(seeds - 1, 1 - level)
    return float(special.nctdtrinc(seeds - 1, 1 - power, critical)) * deviation / seeds**0.5
