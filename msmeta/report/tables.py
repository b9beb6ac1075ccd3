"""What the tables of few-shot learning and of meta-transfer have in common: cells, columns and commands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import pandas as pd

from msmeta import data, runs
from msmeta.report import paper
from msmeta.report.frame import Experiment, Values, commit_in_words, device_in_words, where
from msmeta.report.html import Rows, interval, lines, quiet
from msmeta.report.style import markdown
from msmeta.statistics import Bounds, Difference, Mean, apart, mean_ci, paired, plus_minus

Column = str | Callable[[pd.DataFrame], Any]
"""Of the runs of a row: a template of what they have in common, such as `{optimizer} {lr:g}`, or a function."""
Columns = dict[str, Column]
"""What stands in each column, by its head."""


def table(groups: Iterable[pd.DataFrame], columns: Columns) -> str:
    """A row a group of runs, in Markdown."""
    return markdown(list(columns), ([_value(column, own) for column in columns.values()] for own in groups))


def _value(column: Column, own: pd.DataFrame) -> Any:
    return column.format(**own.iloc[0]) if isinstance(column, str) else column(own)


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


def side_by_side(
    experiment: Experiment,
    number: int,
    found: pd.DataFrame,
    methods: Sequence[Values],
    places: Sequence[Values],
    of: str = "",
) -> Rows:
    """Table `number` of the paper beside ours: a group of rows for each of the places, which are its columns.

    A row that the paper lacks, as one with other epochs than the preset's, is there where it was run.

    Ours is the `paper` preset's mean over seeds, else the `cpu` preset's, or "not run"; the difference is ours less the
    paper's. The paper's highest mean of a place is bold, and ours where all were trained for as many iterations.
    of: title of a data set that the paper's table is not of: there is no number of the paper's then.
    """
    groups = []
    for title, place in zip(paper.table(number).columns, places, strict=True):
        configs = [experiment.module.preset_config("paper", **place, **method) for method in methods]
        own = [of_best_preset(experiment, found, place, [method])[0] for method in methods]
        theirs = [not of and not experiment.other_epochs(config) for config in configs]
        reported = [
            paper.cells(number, vars(config)) if own else [] for config, own in zip(configs, theirs, strict=True)
        ]
        ran = [seeds for seeds in own if len(seeds)]
        alike = len({count for seeds in ran for count in seeds["iterations"]}) == 1
        highest = max(seeds["accuracy"].mean() for seeds in ran) if alike else None
        top = max((cell.value for cells in reported for cell in cells if not cell.quoted), default=None)
        names = map(experiment.row, configs)
        rows = [
            _beside(name, seeds, cells, highest, top)
            for name, seeds, cells in zip(names, own, reported, strict=True)
            if len(seeds) or cells or of
        ]
        groups.append((f"{of}, {title}" if of else title, rows))
    heads = ["Method", "Paper (%)", "Measured (%)", "Difference", "Preset", "Seeds", "Iterations"]
    caption = f"{of}, which the paper does not have." if of else f"{paper.table(number).caption} † quoted by the paper."
    less = "" if of else _LESS + ("." if paper.table(number).of_models else _OF_EPISODES)
    caption = f"{caption} {_MEASURED}{less}"
    return Rows(caption, heads, groups, [*heads[1:4], heads[-1]], "" if of else f"table-{number}")


_MEASURED = (
    "Measured: ± is the 95 % interval of the mean (Student's t), over seeds where there are several, else over test "
    "episodes, which say nothing of other seeds. Bold: the highest, of ours where all had as many iterations."
)
_LESS = " Difference: measured less the paper's, with Welch's 95 % interval"
_OF_EPISODES = "; the paper's ± is over test episodes of one network, and how its networks would differ is not in it."


def _beside(
    name: str, seeds: pd.DataFrame, reported: Sequence[paper.Cell], highest: float | None, top: float | None
) -> list[str]:
    """The row of a method."""
    printed = lines(
        *(interval(cell.value, cell.spread, best=cell.value == top) for cell in reported if not cell.quoted),
        *(quiet(f"{cell} †") for cell in reported if cell.quoted),
    )
    ours = measured_mean(seeds)
    if ours is None:
        return [name, printed, quiet("not run"), *[quiet("–")] * 4]
    less = interval(*apart(ours, reported[0].mean), "+.2f") if reported else quiet("–")
    best = interval(ours.value, ours.half, best=ours.value == highest)
    return [name, printed, best, less, seeds["preset"].iloc[0], str(len(seeds)), listed(seeds["iterations"])]


def measured_mean(seeds: pd.DataFrame) -> Mean | None:
    """Mean accuracy (%) of runs of one config over their seeds; of a single run over its test episodes."""
    if len(seeds) == 1:
        accuracies = seeds["accuracies"].iloc[0]
        return Mean(seeds["accuracy"].iloc[0], mean_ci(accuracies)[1], len(accuracies))
    return Mean(*mean_ci(list(seeds["accuracy"])), len(seeds)) if len(seeds) else None


def difference(ours: pd.DataFrame, theirs: pd.DataFrame) -> Difference | None:
    """Test accuracy of our runs less that of theirs, in points: paired over seeds and their episodes."""
    return paired(*(dict(zip(side["seed"], side["accuracies"], strict=True)) for side in (ours, theirs)))


def at_the_end(ours: pd.DataFrame, theirs: pd.DataFrame) -> tuple[Difference | None, str]:
    """`claims.Test` of the final accuracies."""
    return difference(ours, theirs), ""


def difference_text(found: Difference | None) -> str:
    """A difference with its interval and, over several seeds, the p-value of its being zero."""
    if found is None:
        return "-"
    p = found.p(Bounds(0))
    return plus_minus(found.mean, found.half, "+.2f") + ("" if p is None else f", {p_text(p)}")


def p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def listed(values: Iterable[Any]) -> str:
    """Values that differ, each once."""
    return ", ".join(dict.fromkeys(f"{value:,}" if isinstance(value, int) else str(value) for value in values))


def conditions(found: pd.DataFrame, settings: Columns, outcomes: Columns) -> str:
    """What each row was run with, in Markdown: all that is known to move accuracy by points.

    A setting that all rows share, as far as they have it (else "-"), stands in a sentence before them; so does on what
    they were made, of which the line of provenance lists what differs. settings, outcomes: columns of the experiment,
    of the runs of one config.
    """
    settings = {
        "data": "{title}",
        "preset": "{preset}",
        "seeds": lambda seeds: listed(seeds["seed"]),
        **settings,
        "iterations": lambda seeds: listed(seeds["iterations"]),
    }
    made = {
        "device": lambda seeds: listed(map(device_in_words, seeds.to_dict("records"))),
        "torch": lambda seeds: listed(seeds["torch"]),
        "commit": lambda seeds: commit_in_words(*seeds.to_dict("records")),
    }
    rows, shared, differing = cells(found), [], {}
    for head, column in (settings | made).items():
        distinct = {_value(column, seeds) for seeds in rows} - {"-"}
        if len(distinct) == 1:
            shared.append(f"{head} {distinct.pop()}")
        elif distinct and head in settings:
            differing[head] = column
    columns = {
        "Run": "{setting}, {row}",
        **differing,
        **outcomes,
        "training (s)": lambda seeds: by_device(seeds, lambda own: mean_text(own["train_seconds"], 0)),
        "accuracy (%)": accuracy_text,
    }
    sentence = f"In all rows: {'; '.join(shared)}.\n\n" if shared else ""
    return sentence + table(rows, columns)


def by_device(seeds: pd.DataFrame, say: Callable[[pd.DataFrame], str]) -> str:
    """What is said of runs: of each device's by themselves where there are several, since times do not compare."""
    said = {device: say(own) for device, own in seeds.groupby("device", sort=False)}
    return "; ".join(f"{text} ({device})" if len(said) > 1 else text for device, text in said.items())


def live_table(found: pd.DataFrame, reported: Callable[[Any], Any], own: Columns) -> str:
    """Live runs beside the paper's numbers, in Markdown. reported: the paper's number for a config, or None. own:
    columns of the experiment."""
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
            lines.setdefault(each["dataset"], [prepare_command(each["dataset"])]).append(command)
    return "\n".join(["```bash", *chain(*lines.values()), "```"]) if lines else ""


def prepare_command(name: str) -> str:
    """The command that prepares a data set, whether it can be downloaded or has to be given."""
    raw_files = data.find(data.find(name).view_of or name).raw_files
    return f"msmeta data prepare {name}" + ("" if raw_files else " --from DIR")
