"""What the tables of few-shot learning and of meta-transfer have in common: cells, columns, claims and commands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import pandas as pd

from msmeta import data, runs
from msmeta.report import paper
from msmeta.report.frame import Experiment, Values, commit_in_words, where
from msmeta.report.style import markdown
from msmeta.statistics import Bounds, Difference, detectable, holm, mean_ci, paired, plus_minus

Column = str | Callable[[pd.DataFrame], Any]
"""Of the runs of a row: a template of what they have in common, such as `{optimizer} {lr:g}`, or a function."""
Columns = dict[str, Column]
"""What stands in each column, by its head."""

PLUS_MINUS = (
    "\n\n± is a 95 % confidence interval of the mean (Student's t): over seeds where there are several; where there is "
    "one, over its test episodes, which say nothing of other seeds."
)


def table(groups: Iterable[pd.DataFrame], columns: Columns) -> str:
    """A row a group of runs, in Markdown."""
    rows = [
        [column.format(**own.iloc[0]) if isinstance(column, str) else column(own) for column in columns.values()]
        for own in groups
    ]
    return markdown(list(columns), rows)


def of_config(text: Callable[[Any], Any]) -> Column:
    """A column made from the config that runs have in common."""
    return lambda seeds: text(seeds["config"].iloc[0])


def cells(found: pd.DataFrame) -> list[pd.DataFrame]:
    """Runs that differ in their seeds alone, together."""
    return [seeds for _, seeds in found.groupby("cell", sort=False)]


def seeds_of(found: pd.DataFrame, config: Any) -> pd.DataFrame:
    """The runs of a config, whatever their seed."""
    wanted = replace(config, seed=0)
    return found.loc[[cell == wanted for cell in found["cell"]]]


def of_best_preset(
    experiment: Experiment, found: pd.DataFrame, place: Values, methods: Iterable[Values]
) -> list[pd.DataFrame]:
    """Runs of each method in a place, all of one preset: `paper` where it has run them all, else `cpu`; else none."""
    found = where(found, **place)
    for preset in reversed(runs.COMMITTED_PRESETS):
        if preset in set(found["preset"]):
            configs = [experiment.module.preset_config(preset, **place, **method) for method in methods]
            own = [seeds_of(found, config) for config in configs]
            if all(map(len, own)):
                return own
    return [found.iloc[:0] for _ in methods]


def mean_text(values: Iterable[float], digits: int = 2) -> str:
    """Mean over seeds and the half-width of its interval; the value alone where there is one."""
    mean, half = mean_ci(list(values))
    return f"{mean:.{digits}f}" if half is None else plus_minus(mean, half, f".{digits}f")


def accuracy_text(seeds: pd.DataFrame, name: str = "accuracy") -> str:
    """Mean accuracy (%) over seeds with its interval; of a single run, that over its test episodes if there is one."""
    if len(seeds) > 1 or f"{name}_ci95" not in seeds:
        return mean_text(seeds[name])
    return plus_minus(seeds[name].iloc[0], seeds[f"{name}_ci95"].iloc[0])


def measured_table(
    experiment: Experiment, number: int, found: pd.DataFrame, methods: Iterable[Values], places: Sequence[Values]
) -> str:
    """Our Table `number`, in Markdown: each cell is the `paper` preset's mean over seeds, else the `cpu` preset's, or
    "not run". methods, places: of the rows and of the columns."""
    rows = []
    for method in methods:
        name = experiment.row(experiment.module.preset_config("paper", **places[0], **method))
        rows.append([name, *(_measured(*of_best_preset(experiment, found, place, [method])) for place in places)])
    return markdown(["Method", *paper.table(number).columns], rows) + PLUS_MINUS


def _measured(seeds: pd.DataFrame) -> str:
    if seeds.empty:
        return "not run"
    return f"{accuracy_text(seeds)} ({seeds['preset'].iloc[0]}, {len(seeds)} seed{'s' if len(seeds) > 1 else ''})"


def difference(ours: pd.DataFrame, theirs: pd.DataFrame) -> Difference | None:
    """Test accuracy of our runs less that of theirs, in points: paired over seeds and their episodes."""
    return paired(*(dict(zip(side["seed"], side["accuracies"], strict=True)) for side in (ours, theirs)))


def at_the_end(ours: pd.DataFrame, theirs: pd.DataFrame) -> tuple[Difference | None, str]:
    """`Test` of the final accuracies."""
    return difference(ours, theirs), ""


def difference_text(found: Difference | None) -> str:
    """A difference with its interval and, over several seeds, the p-value of its being zero."""
    if found is None:
        return "-"
    p = found.p(Bounds(0))
    return plus_minus(found.mean, found.half, "+.2f") + ("" if p is None else f", {_p_text(p)}")


def _tested_text(found: Difference | None, bounds: Bounds, p: float | None) -> str:
    """A difference, what its interval is over and, over several seeds, the verdict on the claim. p: corrected."""
    if found is None:
        return "not run"
    text = plus_minus(found.mean, found.half, "+.2f")
    if p is None:
        return text if found.half is None else f"{text} over {found.count} episodes"
    return f"{text}, n = {found.count}, {_p_text(p)}: {found.verdict(bounds, p)}"


def _p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


@dataclass(frozen=True)
class Claim:
    """In `where`, `method` less `base` lies within `bounds`; each of them fields of a config.

    printed: whether the paper says so; else it is ours.
    """

    words: str
    method: Values
    base: Values
    where: Values
    bounds: Bounds
    printed: bool = True


Test = Callable[[pd.DataFrame, pd.DataFrame], tuple[Difference | None, str]]
"""The difference of the runs of a method and those of its base, and what is said beside it."""


def claims_table(
    experiment: Experiment,
    number: int,
    found: pd.DataFrame,
    claims: Sequence[Claim],
    place: Callable[[Any], str],
    tests: dict[str, Test],
    shown: Callable[[Claim], bool] = lambda claim: True,
) -> str:
    """Claims on Table `number`, in Markdown: all of a page's, of which some may be shown on another.

    Both sides are runs of one preset, `paper` where it has run both. place: `where` in words, of a config. tests: by
    the heads of their columns, whose p-values are corrected for the number of claims that are tested, shown or not.
    """
    sides = [of_best_preset(experiment, found, claim.where, (claim.method, claim.base)) for claim in claims]
    tested = [[test(*own) for own in sides] for test in tests.values()]
    columns = [_verdicts(claims, column) for column in tested]
    columns.append([
        _power_text(claim.bounds, [less for less, _ in own])
        for claim, *own in zip(claims, *tested, strict=True)
    ])  # fmt: skip
    rows = []
    for claim, *own in (row for row in zip(claims, *columns, strict=True) if shown(row[0])):
        methods = claim.method, claim.base
        configs = [experiment.module.preset_config("paper", **claim.where, **method) for method in methods]
        reported = [paper.cell(number, vars(config)) if claim.printed else None for config in configs]
        rows.append(
            [
                claim.words,
                f"{' less '.join(map(experiment.row, configs))}, {place(configs[0])}",
                claim.bounds,
                f"{reported[0].value - reported[1].value:+.2f}" if all(reported) else "-",
                *own,
            ]
        )
    heads = ["The paper's words", "Difference (points)", "Claim", "Paper", *tests, "3 / 5 seeds would show (points)"]
    return markdown(heads, rows)


def _verdicts(claims: Sequence[Claim], tested: Sequence[tuple[Difference | None, str]]) -> list[str]:
    """What is found of each claim, corrected for their number."""
    corrected = holm([less and less.p(claim.bounds) for claim, (less, _) in zip(claims, tested, strict=True)])
    return [
        _tested_text(less, claim.bounds, p) + said
        for claim, (less, said), p in zip(claims, tested, corrected, strict=True)
    ]


def _power_text(bounds: Bounds, found: Iterable[Difference | None]) -> str:
    """What 3 and 5 seeds would show (`statistics.detectable`), by the first deviation over seeds that is known."""
    deviation = next((less.deviation for less in found if less and less.deviation), None)
    if deviation is None:
        return "-"
    return " / ".join(f"{detectable(deviation, seeds, bounds.equality):.2f}" for seeds in (3, 5))


def listed(values: Iterable[Any]) -> str:
    """Values that differ, each once."""
    return ", ".join(dict.fromkeys(f"{value:,}" if isinstance(value, int) else str(value) for value in values))


def conditions(found: pd.DataFrame, own: Columns) -> str:
    """What each row was run with, in Markdown: all that is known to move accuracy by points. own: columns of the
    experiment, of the runs of one config."""
    columns = {
        "Run": "{title}, {setting}, {row}",
        "preset": "{preset}",
        "seeds": lambda seeds: listed(seeds["seed"]),
        **own,
        "iterations": lambda seeds: listed(seeds["iterations"]),
        "training (s)": lambda seeds: mean_text(seeds["train_seconds"], 0),
        "accuracy (%)": accuracy_text,
        "device": lambda seeds: listed(f"{run.device}, {run.threads} threads" for run in seeds.itertuples()),
        "code": lambda seeds: listed(
            f"torch {run['torch']}, {commit_in_words(run)}" for run in seeds.to_dict("records")
        ),
    }
    return table(cells(found), columns)


def live_table(found: pd.DataFrame, reported: Callable[[Any], Any], own: Columns) -> str:
    """Live runs beside the paper's numbers, in Markdown. reported: the paper's number for a config, or None. own: as
    in `conditions`."""
    columns = {
        "Setting": "{title}, {setting}",
        "Method": "{row}",
        "seeds": lambda seeds: listed(seeds["seed"]),
        "Live run (%)": accuracy_text,
        "Paper (%)": of_config(lambda config: reported(config) or "-"),
        "Iterations": lambda seeds: listed(seeds["iterations"]),
        "Training (s)": lambda seeds: mean_text(seeds["train_seconds"], 0),
        **own,
    }
    return table(cells(found), columns)


def commands(
    experiment: Experiment, preset: str, found: pd.DataFrame, values: Iterable[Values], seeds: Sequence[int]
) -> str:
    """The commands that would run what this preset has not run of these, as a code block; empty if that is nothing."""
    lines: dict[str, list[str]] = {}  # by the data set, which is prepared first
    for each in values:
        done = set(seeds_of(found, experiment.module.preset_config(preset, **each))["seed"])
        missing = [seed for seed in seeds if seed not in done]
        flags = (f"--{name.replace('_', '-')} {value}" for name, value in (each | {"preset": preset}).items())
        command = f"msmeta train {experiment.kind} {' '.join(flags)}"
        if missing != [0]:
            command = f"for seed in {' '.join(map(str, missing))}; do {command} --seed $seed; done"
        if missing:
            lines.setdefault(each["dataset"], [_prepare(each["dataset"])]).append(command)
    return "\n".join(["```bash", *chain(*lines.values()), "```"]) if lines else ""


def _prepare(name: str) -> str:
    raw_files = data.find(data.find(name).view_of or name).raw_files
    return f"msmeta data prepare {name}" + ("" if raw_files else " --from DIR")
