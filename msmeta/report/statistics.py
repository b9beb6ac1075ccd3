"""Intervals and tests: no other module knows one. All are two-sided, at 95 %, by Student's t."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import special  # stats would take most of a second to import, in every process


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


def plus_minus(mean: float, half: float | None, form: str = ".2f") -> str:
    """A mean and the half-width of its interval, or that there is none. form: of the mean; the half-width has its
    digits."""
    return f"{mean:{form}} (no interval)" if half is None else f"{mean:{form}} ±{half:{form.lstrip('+')}}"


@dataclass(frozen=True)
class Difference:
    """A mean difference and the half-width of its 95 % confidence interval, None where there is none.

    p: that the mean is the bound; None with a single seed, whose spread over episodes says nothing of other seeds.
    count: of the seeds that the interval is over or, with a single seed, of its episodes.
    """

    mean: float
    half: float | None
    count: int
    bound: float
    p: float | None = None

    @property
    def verdict(self) -> str | None:
        """Whether the mean is more than the bound: `holds`, `does not hold` or `undecided`; None with a single seed."""
        if self.p is None:
            return None
        return "undecided" if self.p >= 0.05 else "holds" if self.mean > self.bound else "does not hold"


def paired(
    ours: Mapping[int, Sequence[float]], theirs: Mapping[int, Sequence[float]], bound: float = 0.0
) -> Difference | None:
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
        return Difference(*mean_ci(differences[0]), len(differences[0]), bound)
    means = [statistics.fmean(each) for each in differences]
    (mean, half), error = mean_ci(means), statistics.stdev(means) / len(means) ** 0.5
    p = 2 * float(special.stdtr(len(means) - 1, -abs(mean - bound) / error)) if error else float(mean == bound)
    return Difference(mean, half, len(means), bound, p)
