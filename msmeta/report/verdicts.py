"""The verdict on each claim of the paper, from all committed results: the front page's table, and pages' answers."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd

from msmeta.report import few_shot, transfer, transfer_figures, transfer_time, transfer_words
from msmeta.report.claims import Finding, Summary, counted, reported_cell
from msmeta.report.frame import many, on_cpu
from msmeta.report.html import Cell, Rows, interval, link, quiet, verdict
from msmeta.report.html import lines as stacked
from msmeta.report.style import Result, find_benchmark
from msmeta.report.tables import p_text
from msmeta.statistics import Bounds, Difference, Verdict, holm, paired


@dataclass(frozen=True)
class Line:
    """A claim in the paper's words, where a page tests it.

    reported, measured: percent, or a difference in points. over: what the measured value is of, and how many seeds or
    rounds. bounds: between which it would hold. said: beside the verdict. brief: what the value is of, and over how
    many, in a few words.
    """

    words: str
    page: str
    reported: str
    measured: Cell
    over: str
    bounds: str
    verdict: Verdict
    said: str = ""
    brief: str = ""


def lines() -> list[Line]:
    """All claims that are tested by measurements, in the paper's order: Section 3, then 5.1, then 5.2."""
    runs = {number: transfer.committed(optimizer=name) for number, name in transfer.OPTIMIZERS.items()}
    of_transfer = itertools.chain.from_iterable(transfer.findings(number, own) for number, own in runs.items())
    still = [number for number, own in runs.items() if "Multi-step" in transfer_words.still(own)]
    tables = {number: few_shot_findings(number) for number in few_shot.PAPER_DATA}
    return [
        change(),
        transfer_saving(),
        few_shot_time(),
        few_shot_seconds(),
        few_shot_memory(),
        *(_with_still(own, still) for own in _by_words(each for each in of_transfer if each.claim.printed)),
        *(of_findings(own) for found in tables.values() for own in _by_words(found)),
    ]


def few_shot_findings(number: int) -> list[Finding]:
    """At equal iterations, as the paper compares; of the paper's data set alone, corrected as on the table's page."""
    found = few_shot.committed()
    pages = {4: ["omniglot"], 5: ["miniimagenet", "cifar-fs"]}
    of_page = found[found["dataset"].isin(pages[number])]
    own = next(iter(few_shot.findings(number, of_page).values()))
    return [each for each in own if each.claim.where["dataset"] == few_shot.PAPER_DATA[number]]


def _by_words(found: Iterable[Finding]) -> list[list[Finding]]:
    groups: dict[str, list[Finding]] = {}
    for each in found:
        groups.setdefault(each.claim.words, []).append(each)
    return list(groups.values())


def of_findings(found: Sequence[Finding]) -> Line:
    """The verdict on all of them, and of those that have it the finding farthest from the claim."""
    summary, worst = Summary(found), Summary(found).worst
    page, words = f"table_{worst.table}", worst.claim.words
    reported = "" if worst.reported is None else reported_cell(worst)
    alike = sum(each.verdict is worst.verdict for each in found)
    over = f"{worst.name}, {worst.place}{f', farthest of {alike}' if alike > 1 else ''}"
    said = summary.counts if len({each.verdict for each in found}) > 1 else ""
    bounds = f"{worst.claim.bounds} points"
    if worst.difference is None:
        return Line(words, page, reported, quiet("not run"), over, bounds, summary.verdict, said)
    measured = interval(worst.difference.mean, worst.difference.half, "+.2f")
    seeds = f"points, {many(worst.seeds, 'seed')}"
    return Line(words, page, reported, measured, f"{over}; {worst.over}", bounds, summary.verdict, said, seeds)


def _with_still(found: Sequence[Finding], still: Sequence[int]) -> Line:
    """As `of_findings`, which says of which tables' windows θ has hardly moved."""
    line = of_findings(found)
    if line.words != transfer.COMPETITIVE or not still:
        return line
    said = f"θ has hardly moved in {' and '.join(f'Table {number}' for number in still)}"
    return replace(line, said=f"{line.said}; {said}" if line.said else said)


def _share(
    words: str,
    page: str,
    reported: str,
    over: str,
    found: Difference | None,
    bounds: Bounds,
    unit: str,
    what: str = "less time",
    p: float | None = None,
) -> Line:
    """A claim on a share in percent, of `what` in a word. p: corrected for others."""
    asked = f"{bounds} %"
    if found is None:
        return Line(words, page, reported, quiet("not run"), over, asked, Verdict.NOT_RUN)
    p, number = found.p(bounds) if p is None else p, interval(found.mean, found.half, ".0f")
    count = many(found.count, unit)
    text = f"{found.mean:.0f} %" if found.half is None else f"{number} %"
    shown = Cell(text, number.html.replace("</span>", " %</span>"))
    tested = found.verdict(bounds, p), "" if p is None else p_text(p)
    return Line(words, page, reported, shown, f"{over}; {count}", asked, *tested, f"{what}, {count}")


def saved(base: Sequence[float], ours: Sequence[float]) -> Difference | None:
    """Share of the base's time or memory that ours saves, in percent: a value each for rounds of a measurement."""
    shares = {i: [100 * (1 - b / a)] for i, (a, b) in enumerate(zip(base, ours, strict=True))}
    return paired(shares, {i: [0.0] for i in shares})


def transfer_saving(side: int = 224, optimizer: str = "sgd") -> Line:
    """The claim on time of meta-transfer learning: the paper's is on images of 224 pixels, with SGD."""
    result = transfer_time.measured()
    pair = result and transfer_time.exact_and_window(result, side, optimizer)
    found = saved(*(row["seconds_all"] for row in pair)) if pair else None
    words = "reduce the training time for meta-transfer learning by 35%"
    rounded = Bounds(34.5)  # as the paper's own 34.5 % is
    return _share(words, "table_1", "35 %", f"time of an epoch, {side}x{side}", found, rounded, "round")


_TIME = "for few-shot learning by up to 50%"


def few_shot_time() -> Line:
    """The claim on time of few-shot learning, as it is trained on a processor."""
    result = find_benchmark("benchmarks/few_shot_step")
    found = result and saved(*(result["metrics"][f"msmeta {window}"]["seconds_all"] for window in (1, 4)))
    return _share(
        _TIME, "speed", "50 %", _compared(result, 5, 1), found, Bounds(50), "round", f"less time{_on(result)}"
    )


def few_shot_memory(way: int = 5, shot: int = 1) -> Line:
    """The claim on memory, of which the paper prints no number."""
    words = "significantly reducing memory footprints"
    return _of_costs("bytes", "less memory", words, "", Bounds(0), way, shot)


def few_shot_seconds() -> Line:
    """The same by the measurement of memory, on a GPU where there is one."""
    return _of_costs("seconds", "less time", _TIME, "50 %", Bounds(50), 5, 1)


def _compared(result: Result | None, way: int, shot: int) -> str:
    """What a measurement compares, and on which device."""
    on = f", {result['provenance']['device']}" if result else ""
    return f"Multi-step (4) against MAML, {way}-way {shot}-shot{on}"


def _on(result: Result | None) -> str:
    """The kind of its device, in words that follow on others."""
    return "" if result is None else " on a processor" if on_cpu(result["provenance"]) else " on a GPU"


def _of_costs(name: str, what: str, words: str, reported: str, bounds: Bounds, way: int, shot: int) -> Line:
    """A claim on the share that a window saves of time or memory, which have this name there."""
    result = find_benchmark("benchmarks/few_shot_costs")
    found = result and saved(*(_rounds(result, name, window, way, shot) for window in (1, 4)))
    over = _compared(result, way, shot)
    return _share(words, "figure_2", reported, over, found, bounds, "round", f"{what}{_on(result)}")


def _rounds(result: Result, what: str, window: int, way: int, shot: int) -> list[float]:
    wanted = {"estimator": "multistep", "window": window, "way": way, "shot": shot, "steps": 8}
    row = next(row for row in result["metrics"] if wanted.items() <= row.items())
    return row.get(f"{what}_all", [row[what]])  # which early results lack


def changes() -> list[Line]:
    """The claim that the gradient stops changing, read as: its change falls by nine tenths, from the first tenth of the
    training to the last. A line for each inner optimiser, the farthest from the claim first, or one where none was run.
    """
    runs = transfer_figures.change_runs(transfer.committed(dataset="cifar-100"))
    found = {name: _fallen(own) for name, own in runs.groupby("setting", sort=False)}
    known = {name: each for name, each in found.items() if each}
    claim = partial(_share, "the difference diminishes to zero quickly", "figure_1", "", what="less change")
    over, bounds = "fall of the gradient's change while the rate is annealed", Bounds(90)
    if not known:
        return [claim(over, None, bounds, "seed")]
    corrected = dict(zip(known, holm([each.p(bounds) for each in known.values()]), strict=True))
    return [
        claim(f"{over}, CIFAR-100, {name}", known[name], bounds, "seed", p=corrected[name])
        for name in sorted(known, key=lambda name: known[name].mean)
    ]


def change() -> Line:
    """The same for all optimisers in one line: it holds where it does for each."""
    first, *others = changes()
    kinds = [line.verdict for line in (first, *others)]
    if len(set(kinds)) == 1:
        return first
    return replace(first, said=counted(kinds))


def _fallen(runs: pd.DataFrame) -> Difference | None:
    tenths = transfer_figures.change_by_tenth(runs)
    return saved(list(tenths.loc[1]), list(tenths.loc[10])) if {1, 10} <= set(tenths.index) else None


def table(details: bool = True) -> Rows:
    """The verdicts, each with a link to the page that tests the claim. details: what was compared, over what, and how
    the claim is read."""
    rows = []
    for line in lines():
        claim = link(f"“{line.words}”", line.page)
        measured = line.measured if details or not line.brief else stacked(line.measured, quiet(line.brief))
        numbers = [line.reported or quiet("–"), measured]
        rows.append(
            [
                claim,
                *([f"{line.over}; held if {line.bounds}"] if details else []),
                *numbers,
                verdict(line.verdict, line.said),
            ]
        )
    heads = ["The paper's claim", *(["What is compared"] if details else []), "Paper", "Measured", "Verdict"]
    return Rows("", heads, [("", rows)], ["Paper", "Measured"])
