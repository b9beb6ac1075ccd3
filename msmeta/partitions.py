"""Which lengths of K windows come nearest to the exact meta-gradient, on a problem of the user's own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor

from msmeta.bilevel import Bilevel, DynamicsLike, Params
from msmeta.comparison import Problem, cases, cosine, device_of, flat, interval, mean_ci, table
from msmeta.dynamics import whole
from msmeta.errors import ConfigError, UserError
from msmeta.estimators import MultiStep
from msmeta.modules import random_numbers

Windows = tuple[int, ...]
SHOWN = 5
"""Rows of the best in a table."""


@dataclass(frozen=True)
class Ranked:
    """A partition and, for each case, the cosine of its meta-gradient with the exact one and the ratio of lengths."""

    windows: Windows
    cosine: tuple[float, ...]
    norm_ratio: tuple[float, ...]


@dataclass(frozen=True)
class Partitions:
    """What `best_partition` found. ranked: those that were tried and did not fail, the best one first, by the mean
    cosine. even: lengths that differ by one at the most. tried, total: how many, of how many there are."""

    ranked: tuple[Ranked, ...]
    even: Windows
    tried: int
    total: int

    @property
    def best(self) -> Windows:
        """To be given as `window`."""
        return self.ranked[0].windows

    def to_markdown(self) -> str:
        """The best of them and the even one, with 95 % intervals over the cases, and how they were searched."""
        places = {entry.windows: place for place, entry in enumerate(self.ranked, 1)}
        rows = []
        for entry in [*self.ranked[:SHOWN], *(entry for entry in self.ranked[SHOWN:] if entry.windows == self.even)]:
            name = f"{entry.windows}{' (even)' if entry.windows == self.even else ''}"
            cells = interval(entry.cosine, digits=3), interval(entry.norm_ratio)
            rows.append(" | ".join([str(places[entry.windows]), name, *cells]))
        some = f"{self.tried:,} of {self.total:,}, by a greedy search from the even one"
        tried = f"all {self.total:,}" if self.tried == self.total else some
        notes = [f"Partitions tried: {tried}. Cases: {len(self.ranked[0].cosine)}."]
        if self.even not in places:
            notes.append(f"The even one, {self.even}, fails.")
        elif self.best != self.even:
            own = self.ranked[places[self.even] - 1].cosine
            gain = [a - b for a, b in zip(self.ranked[0].cosine, own, strict=True)]
            notes.append(f"Cosine of the best less that of the even one, case by case: {interval(gain, digits=3)}.")
        return table("Place | Windows | Cosine | Norm ratio", rows, notes)

    __str__ = _repr_markdown_ = to_markdown


def best_partition(
    problem: Problem,
    thetas: Params | Iterable[Params],
    dynamics: DynamicsLike,
    steps: int,
    windows: int,
    most: int = 200,
) -> Partitions:
    """The partitions of T = `steps` into `windows` = K, by the mean cosine of their meta-gradients with the exact one.

    Returns a `Partitions`, to print, whose `best` is to be given as `window`.

    problem, thetas: as for `compare`. All C(T-1, K-1) partitions are tried where there are no more than `most`; else a
    greedy search starts at the even one, moves the border of two windows where that gains most, by half a window at
    first, and ends where no move by a step gains: a local optimum. The best of many is best by luck too: `compare` it
    with the even one on other draws.

    Costs K gradients and products for each partition and case, and T for the exact one. Raises ConfigError for K > T
    and as `MultiStep` does, DivergedError where the exact steps diverge, and the first one's error where all partitions
    fail.
    """
    windows, most = whole(windows, "windows", 1), whole(most, "most", 1)
    steps, given, found = MultiStep(dynamics, steps).steps, list(cases(problem, thetas)), {}
    if windows > steps:
        raise ConfigError(f"windows={windows}: there are only steps={steps} to share among them")

    def gradients(partition: Windows) -> list[Tensor]:
        estimator = MultiStep(dynamics, steps, partition)
        return [_gradient(estimator, drawn, theta, i) for i, (drawn, theta) in enumerate(given, 1)]

    exact = gradients((1,) * steps)

    def score(partition: Windows) -> float:
        if partition not in found:
            found[partition] = _ranked(partition, gradients, exact)
        return mean_ci(found[partition].cosine)[0] if isinstance(found[partition], Ranked) else -math.inf

    even, total = _even(steps, windows), math.comb(steps - 1, windows - 1)
    if total <= most:
        for partition in _all(steps, windows):
            score(partition)
    else:
        _climb(even, score)
    ranked = sorted(
        (entry for entry in found.values() if isinstance(entry, Ranked)), key=lambda entry: -score(entry.windows)
    )
    if not ranked:
        first = next(iter(found.values()))
        raise type(first)(f"all {len(found)} partitions that were tried fail, the first one so: {first}") from first
    return Partitions(tuple(ranked), even, len(found), total)


def _gradient(estimator: MultiStep, problem: Bilevel, theta: Params, seed: int) -> Tensor:
    with random_numbers(seed, device_of(theta)):
        return flat(estimator(problem, theta), theta)


def _ranked(windows: Windows, gradients: Callable[[Windows], list[Tensor]], exact: list[Tensor]) -> Ranked | UserError:
    """The failure where a case diverges, or has no meta-gradient with a direction."""
    try:
        pairs = list(zip(gradients(windows), exact, strict=True))
        cosines = tuple(cosine(*pair) for pair in pairs)
    except UserError as error:
        return error
    return Ranked(windows, cosines, tuple((ours.norm() / theirs.norm()).item() for ours, theirs in pairs))


def _even(steps: int, windows: int) -> Windows:
    each, rest = divmod(steps, windows)
    return (each + 1,) * rest + (each,) * (windows - rest)


def _all(steps: int, windows: int) -> Iterator[Windows]:
    for borders in itertools.combinations(range(1, steps), windows - 1):
        yield tuple(b - a for a, b in itertools.pairwise((0, *borders, steps)))


def _climb(start: Windows, score: Callable[[Windows], float]) -> None:
    best, stride = start, max(1, max(start) // 2)
    while stride:
        better = max(_moved(best, stride), key=score, default=best)
        if score(better) > score(best):
            best = better
        else:
            stride //= 2


def _moved(windows: Windows, stride: int) -> Iterator[Windows]:
    """Each border between two windows moved by so many steps, where both keep one."""
    for i, move in itertools.product(range(len(windows) - 1), (stride, -stride)):
        pair = windows[i] + move, windows[i + 1] - move
        if min(pair) >= 1:
            yield (*windows[:i], *pair, *windows[i + 2 :])
