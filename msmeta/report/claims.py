"""The paper's claims on differences of accuracy: what is found of each, and whether it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from msmeta.report import paper
from msmeta.report.frame import Experiment, Values, many
from msmeta.report.html import MARKS, Cell, Rows, interval, quiet, verdict
from msmeta.report.tables import of_best_preset, p_text
from msmeta.statistics import Bounds, Difference, Verdict, detectable, holm


@dataclass(frozen=True)
class Claim:
    """In `where`, `method` less `base` lies within `bounds`; each of them fields of a config.

    words: the paper's. printed: whether the paper says so; else it is ours. most: whether it does of most cases alone.
    """

    words: str
    method: Values
    base: Values
    where: Values
    bounds: Bounds
    printed: bool = True
    most: bool = False


@dataclass(frozen=True)
class Finding:
    """What is found of a claim on Table `table`.

    p: corrected for the paper's other claims of the page; of a claim of ours, for our others. said: at which points of
    the runs, or why there is no difference.
    seeds: that both sides have. name, place: methods and `where` in words. reported: the paper's own difference.
    """

    claim: Claim
    table: int
    difference: Difference | None
    p: float | None
    said: str
    seeds: int
    name: str
    place: str
    reported: float | None

    @property
    def verdict(self) -> Verdict:
        """A verdict on a method needs several seeds."""
        return Verdict.NOT_RUN if self.difference is None else self.difference.verdict(self.claim.bounds, self.p)

    @property
    def missed(self) -> bool:
        """Whether the paper's own difference, as it is printed, lies outside of the bounds."""
        return self.reported is not None and self.claim.bounds.beyond(round(self.reported, 2)) > 0

    @property
    def over(self) -> str:
        """What the difference is over: how many seeds, of a single one how many episodes, and at which points."""
        count = self.difference and self.difference.count
        episodes = f"{count} episodes" if self.seeds == 1 and count > 1 else ""
        return ", ".join(filter(None, [many(self.seeds, "seed"), episodes, self.said]))

    @property
    def cell(self) -> Cell:
        """Difference, verdict on what the paper claims where there is one, and what both are over."""
        return cell(self.difference, self.claim.bounds if self.claim.printed else None, self.p, self.said)


def cell(difference: Difference | None, bounds: Bounds | None, p: float | None, said: str = "") -> Cell:
    """A difference, whether it lies within bounds, where there is a test, and what both are over. said: besides."""
    if difference is None:
        return quiet(f"{Verdict.NOT_RUN}{said and f': {said}'}")
    number = interval(difference.mean, difference.half, "+.2f")
    found = None if p is None or bounds is None else verdict(difference.verdict(bounds, p))
    count = f"{difference.count} episodes" if p is None else f"n = {difference.count}, {p_text(p)}"
    over = ", ".join(filter(None, ["" if difference.half is None else count, said]))
    text = ", ".join(filter(None, [number, found, over]))
    return Cell(text, f"{number.html} {found.html if found else ''}<br>{quiet(over).html}")


Test = Callable[[pd.DataFrame, pd.DataFrame], tuple[Difference | None, str]]
"""The difference of the runs of a method and those of its base, and at which points of them."""


def find(
    experiment: Experiment,
    number: int,
    found: pd.DataFrame,
    claims: Sequence[Claim],
    place: Callable[[Any], str],
    test: Test,
) -> list[Finding]:
    """What is found of all claims of a page on Table `number`, whose p-values are corrected for their number: for that
    of the paper's, and apart for that of ours.

    Both sides are runs of one preset, `paper` where it has run both. place: `where` in words, of a config.
    """
    sides = [of_best_preset(experiment, found, claim.where, (claim.method, claim.base)) for claim in claims]
    tested = [test(*own) if all(map(len, own)) else (None, "") for own in sides]
    values = [less and less.p(claim.bounds) for claim, (less, _) in zip(claims, tested, strict=True)]
    ours = holm([None if claim.printed else p for claim, p in zip(claims, values, strict=True)])
    theirs = holm([p if claim.printed else None for claim, p in zip(claims, values, strict=True)])
    corrected = [own if claim.printed else p for claim, own, p in zip(claims, theirs, ours, strict=True)]
    made = []
    for claim, own, (less, said), p in zip(claims, sides, tested, corrected, strict=True):
        methods = claim.method, claim.base
        configs = [experiment.module.preset_config("paper", **claim.where, **method) for method in methods]
        cells = [paper.cell(number, vars(config)) if claim.printed else None for config in configs]
        reported = cells[0].value - cells[1].value if all(cells) else None
        seeds = len(set.intersection(*(set(side.get("seed", ())) for side in own)))
        name = " less ".join(map(experiment.row, configs))
        made.append(Finding(claim, number, less, p, said, seeds, name, place(configs[0]), reported))
    return made


def table(tests: dict[str, list[Finding]], caption: str, shown: Callable[[Claim], bool] = lambda claim: True) -> Rows:
    """Claims in groups of the paper's words: of each its difference and ours.

    tests: findings by the heads of their columns. shown: some of a page's claims may be shown on another page.
    """
    groups: dict[str, list[list[str]]] = {}
    for first, *others in zip(*tests.values(), strict=True):
        if shown(first.claim):
            own = [first, *others]
            reported = quiet("–") if first.reported is None else reported_cell(first)
            row = [
                f"{first.name}, {first.place}",
                reported,
                *(each.cell for each in own),
                _power(first.claim.bounds, own),
            ]
            groups.setdefault(
                f"“{first.claim.words}”: {first.claim.bounds} points" if first.claim.printed else first.claim.words, []
            ).append(row)
    heads = ["Difference (points)", "Paper", *tests, "3 / 5 seeds would show"]
    return Rows(caption, heads, list(groups.items()), [heads[1]])


def reported_cell(found: Finding) -> Cell:
    """The paper's own difference, and whether it lies outside of what its claim is read as."""
    text, missed = f"{found.reported:+.2f}", quiet("outside")
    return Cell(f"{text}, {missed}", f"{text}<br>{missed.html}") if found.missed else Cell(text)


def _power(bounds: Bounds, found: Iterable[Finding]) -> str:
    """What 3 and 5 seeds would show (`statistics.detectable`), by the first deviation over seeds that is known."""
    deviations = (each.difference.deviation for each in found if each.difference)
    deviation = next(filter(None, deviations), None)
    if deviation is None:
        return quiet("–")
    return " / ".join(f"{detectable(deviation, seeds, bounds.equality):.2f}" for seeds in (3, 5))


@dataclass(frozen=True)
class Summary:
    """Of several findings on one claim: the verdict on all of them, and the one that shows it best."""

    findings: Sequence[Finding]

    @property
    def verdict(self) -> Verdict:
        """Held where all have to hold and do, or more than half of a claim on most cases; did not hold where so many
        failed that this cannot be."""
        found = [each.verdict for each in self.findings]
        needed = len(found) // 2 + 1 if all(each.claim.most for each in self.findings) else len(found)
        if found.count(Verdict.HELD) >= needed:
            return Verdict.HELD
        if found.count(Verdict.FAILED) > len(found) - needed:
            return Verdict.FAILED
        return Verdict.NOT_RUN if set(found) == {Verdict.NOT_RUN} else Verdict.UNDECIDED

    @property
    def worst(self) -> Finding:
        """Of those that have the verdict on all, that which lies farthest outside of its bounds, or nearest to them."""
        run = [each for each in self.findings if each.difference]
        run = [each for each in run if each.verdict is self.verdict] or run
        return max(run, key=lambda each: each.claim.bounds.beyond(each.difference.mean)) if run else self.findings[0]

    @property
    def counts(self) -> str:
        """How many of the findings have which verdict, in words."""
        return counted([each.verdict for each in self.findings])


def counted(found: Sequence[Verdict]) -> str:
    """How many of each there are, in words."""
    return ", ".join(f"{found.count(kind)} {kind}" for kind in MARKS if kind in found)
