"""How settings were chosen on data held out for it: which were tried, which did best, and from where on."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from statistics import fmean
from typing import Any

import pandas as pd

from msmeta import runs
from msmeta.experiments import sweep
from msmeta.report.frame import Experiment, stored
from msmeta.report.picture import COLOUR, Picture, panels, styled
from msmeta.report.style import drawn, markdown, plain_ticks
from msmeta.statistics import mean_ci, paired, plus_minus

Points = dict[int, list[float]]
"""Accuracies (%) on the same episodes, or a single one, by the iterations or epochs after which they were had."""
LENGTH = {
    "preset", "evaluate_on", "log_every", "task_chunk", "iterations", "train_seconds", "test_episodes",
    "curve_episodes", "curve_every", "select_every",
}  # fmt: skip
"""Fields in which runs may differ that are compared: after as many iterations, on as many episodes."""
WORDS = {
    "lr": "inner rate", "meta_lr": "meta rate", "proximal": "λ", "damping": "δ", "steps": "T", "cg_steps": "CG steps",
    "test_steps": "T at test", "inner_shot": "images of a class and step",
}  # fmt: skip
"""Fields that were turned, as the tables have them; others by their own names."""
ASIDE = ("protocol", "transfer_strength")
"""Sweeps on held-out data that choose no setting of a method."""
CHOICES = {"momentum", "weight_decay", "optimizer", "meta_optimizer", "meta_schedule", "seed"}
"""Fields that are with or without rather than more or less: their values have no edge."""


@dataclass
class Grid:
    """The runs of one method in one place, from which its settings were chosen.

    found: a row a run; of runs that differ in their length alone the one that has the point at which they are compared.
    turned: the fields in which they differ. points: of each run. at: after how many iterations (or epochs) they are
    compared: the last that most of them have a point at, so that no run is ahead for being longer.
    """

    found: pd.DataFrame
    turned: list[str]
    points: list[Points]
    at: int

    @classmethod
    def of(cls, found: pd.DataFrame, points: Callable[[Any], Points]) -> Grid:
        """points: of a row."""
        own = [points(run) for run in found.itertuples()]
        counts = Counter(at for each in own for at in each)
        at = max(counts, key=lambda at: (counts[at], at), default=0)
        kept: dict[tuple[Any, ...], int] = {}
        for i, values in enumerate(map(_values, found["config"])):
            if values not in kept or (at in own[i], len(own[i])) > (at in own[kept[values]], len(own[kept[values]])):
                kept[values] = i
        names, rows = _settings(found["config"].iloc[0]), sorted(kept.values())
        turned = [name for name, values in zip(names, zip(*kept, strict=True), strict=True) if len(set(values)) > 1]
        return cls(found.iloc[rows], turned, [own[i] for i in rows], at)

    @property
    def configs(self) -> list[Any]:
        """Of each run."""
        return list(self.found["config"])

    def best(self, at: int | None = None) -> int | None:
        """Which run is best, where most are compared or after so many iterations; None where none has a point."""
        own = self.accuracies(self.at if at is None else at)
        return max(own, key=lambda run: fmean(own[run]), default=None)

    def accuracies(self, at: int) -> dict[int, list[float]]:
        """Of the runs that have such a point, on the episodes that all of them were tested on."""
        own = {run: points[at] for run, points in enumerate(self.points) if at in points}
        count = min(map(len, own.values()), default=0)
        return {run: values[:count] for run, values in own.items()}

    def told_apart(self, one: int, other: int, at: int) -> bool:
        """Whether two runs differ by more than the 95 % interval of their paired difference over episodes."""
        own = self.accuracies(at)
        apart = paired({0: own[one]}, {0: own[other]})
        return apart.half is None or abs(apart.mean) > apart.half

    def along(self, name: str) -> list[Any]:
        """The values of a field that were tried beside the best run's, the other fields being as it has them; all that
        were tried where that is none but its own."""
        best, others = self.configs[self.best()], [other for other in self.turned if other != name]
        line = {getattr(c, name) for c in self.configs if all(getattr(c, o) == getattr(best, o) for o in others)}
        return sorted(line if len(line) > 1 else {getattr(config, name) for config in self.configs}, key=_order)

    def edges(self) -> list[str]:
        """The fields of which nothing was tried beyond the best run's value, though it could have been."""
        best, found = self.configs[self.best()], []
        for name in (name for name in self.turned if name not in CHOICES):
            (low, *_, high), value = self.along(name), getattr(best, name)
            if value == high or (value == low and value):
                found.append(name)
        return found

    def values(self, run: int, names: Iterable[str] | None = None) -> str:
        """The turned fields of a run in words."""
        config = self.configs[run]
        return ", ".join(f"{WORDS.get(name, name)} {_shown(getattr(config, name))}" for name in names or self.turned)


def _settings(config: Any) -> list[str]:
    return [field.name for field in fields(config) if field.name not in LENGTH]


def _values(config: Any) -> tuple[Any, ...]:
    return tuple(getattr(config, name) for name in _settings(config))


def _order(value: Any) -> tuple[bool, Any]:
    return value is not None, value if value is not None else 0


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def grids(
    experiment: Experiment, place: Callable[[Any], tuple[Any, ...]], points: Callable[[Any], Points], **wanted: Any
) -> list[Grid]:
    """All that was tuned, less what sweeps `ASIDE` alone ask for. place: of a row, what runs of a grid share."""
    found = stored(experiment, f"{experiment.kind}-tuning", **wanted)
    elsewhere = _asked() - _asked(but=ASIDE)
    found = found.loc[[key_of(config) not in elsewhere for config in found["config"]]]
    keys = pd.Series([place(run) for run in found.itertuples()], index=found.index, dtype=object)
    return [Grid.of(own, points) for _, own in found.groupby(keys, sort=False)]


def runs_of(found: list[Grid]) -> pd.DataFrame:
    """A row a run of all grids."""
    return pd.concat([grid.found for grid in found]) if found else pd.DataFrame()


def of_sweep(experiment: Experiment, name: str, points: Callable[[Any], Points]) -> tuple[Grid | None, str]:
    """The runs of `results/sweeps/NAME.yaml` that were made, and in words what is missing, with the command."""
    asked, command = _asked(name), f"`msmeta sweep results/sweeps/{name}.yaml`"
    found = stored(experiment, f"{experiment.kind}-tuning")
    found = found.loc[[key_of(config) in asked for config in found["config"]]]
    if found.empty:
        return None, f"Not run: {command}."
    missing = len(asked) - len(found)
    return Grid.of(found, points), f"{missing} of its {len(asked)} runs are not run: {command}." if missing else ""


def _asked(name: str = "*", but: tuple[str, ...] = ()) -> set[tuple[Any, ...]]:
    """The runs that the sweep files of this name ask for, other than these."""
    paths = sorted((runs.results_root() / "sweeps").glob(f"{name}.yaml"))
    return {key_of(config) for path in paths if path.stem not in but for config in sweep.read_spec(path)}


def key_of(config: Any) -> tuple[Any, ...]:
    """Of which run it is: a preset may since have other points of the curve, or another number of episodes."""
    length = getattr(config, "iterations", None) or config.epochs
    return type(config), length, config.evaluate_on, *_values(config)


def table(experiment: Experiment, found: list[Grid], unit: str, note: Callable[[Any], str] = lambda run: "") -> str:
    """What was tried for each method in one place, in Markdown: accuracy (%) with its interval over episodes.

    A row for each choice of what else was turned, with a line an inner rate; the preset's own choice is bold. The row
    of the best run names it, and says of which fields nothing was tried beyond it. note: what is said beside the
    accuracy of a run.
    """
    rows = []
    for grid in found:
        others, best = [name for name in grid.turned if name != "lr"], grid.best()
        lines: dict[str, dict[float, int]] = {}
        for i, config in sorted(
            enumerate(grid.configs), key=lambda pair: [_order(getattr(pair[1], n)) for n in others]
        ):
            lines.setdefault(grid.values(i, others) if others else "", {})[config.lr] = i
        for words, line in lines.items():
            said = "-"
            if best in line.values():
                edges = " and ".join(WORDS.get(name, name) for name in grid.edges())
                where = f"at the edge of {edges}" if edges else "inside"
                said = f"{grid.values(best)}: {where}" if grid.turned else "nothing was turned"
            shown = [f"{rate:g}: {_accuracy(experiment, grid, line[rate], note)}" for rate in sorted(line)]
            rows.append([grid.found["label"].iloc[0], words or "-", f"{grid.at:,}", "<br>".join(shown), said])
    heads = ["Method", "also turned", unit, "inner rate: accuracy (%)", "best, and where in its grid"]
    return markdown(heads, rows)


def _accuracy(experiment: Experiment, grid: Grid, i: int, note: Callable[[Any], str]) -> str:
    if grid.at not in grid.points[i]:
        return f"no point there, but at {max(grid.points[i]):,}"
    config, run = grid.configs[i], grid.found.iloc[i]
    given = (*experiment.required, *experiment.optional, "seed")
    own = experiment.preset(config, tuple(name for name in given if name not in grid.turned))
    mean, half = mean_ci(grid.points[i][grid.at])
    text = f"{mean:.2f}" if len(grid.points[i][grid.at]) == 1 else plus_minus(mean, half)
    bold = "**" if _values(config) == _values(own) else ""
    return f"{bold}{text}{bold}{note(run)}"


def stability(found: list[Grid], unit: str) -> str:
    """Which choice is best along the learning curves, in Markdown: whether a shorter or longer run would have chosen
    another.

    ≈: the choice of the last point cannot be told from it there, by the 95 % interval of their paired difference over
    episodes. The last column: from which point on the choice is that of the last, or cannot be told from it.
    """
    rows = []
    for grid in (grid for grid in found if len(grid.found) > 1 and grid.at):
        last, best, since = grid.best(), [], None
        for at in _common(grid):
            own = grid.best(at)
            alike = own == last or not grid.told_apart(own, last, at)
            best.append((at, grid.values(own) + ("" if own == last else " ≈" if alike else "")))
            since = (since or at) if alike else None
        spans = [(words, [at for at, _ in own]) for words, own in itertools.groupby(best, key=lambda each: each[1])]
        shown = [f"{_span(points)}: {words}" for words, points in spans]
        rows.append([grid.found["label"].iloc[0], "<br>".join(shown), f"{since:,}"])
    return markdown(["Method", f"best, by {unit}", "unchanged from"], rows)


def _span(points: list[int]) -> str:
    return f"{points[0]:,}" if len(points) == 1 else f"{points[0]:,} to {points[-1]:,}"


def _common(grid: Grid) -> list[int]:
    """Up to where its runs are compared, the points that all of those have that are."""
    own = [set(points) for points in grid.points if grid.at in points]
    return sorted(at for at in set.intersection(*own) if at <= grid.at) if own else []


def profile(grid: Grid, told: dict[str, Callable[[Any], str]]) -> str:
    """What each field that was turned does, in Markdown: for each of its values the best run that has it. told: what
    else is said of this run, by the heads of the columns."""
    rows = []
    for name in grid.turned:
        for value in sorted({getattr(config, name) for config in grid.configs}, key=_order):
            having = [i for i, config in enumerate(grid.configs) if getattr(config, name) == value]
            having = [i for i in having if grid.at in grid.points[i]]
            if having:
                best = max(having, key=lambda i: fmean(grid.points[i][grid.at]))
                others = [other for other in grid.turned if other != name]
                own = [say(grid.found.iloc[best]) for say in told.values()]
                beside = grid.values(best, others) if others else "-"
                accuracy = plus_minus(*mean_ci(grid.points[best][grid.at]))
                rows.append([f"{WORDS.get(name, name)} {_shown(value)}", len(having), accuracy, beside, *own])
    return markdown(["turned", "runs", f"best after {grid.at:,} (%)", "with", *told], rows)


@styled
def figure(found: list[Grid], title: str, unit: str) -> Picture | str:
    """Accuracy of each run on the data held out, one panel a method, up to where its runs are compared; the best run is
    named, and drawn in the method's colour. In words where no method has several runs with a curve."""
    found = [grid for grid in found if len(grid.found) > 1 and len(_common(grid)) > 1]
    if not found:
        return f"{title}: no curves of several runs of a method."
    drawing, axes = panels(len(found), title=title)
    for axis, grid in zip(axes.flat, found, strict=True):
        label = grid.found["label"].iloc[0]
        for i in sorted(range(len(grid.points)), key=lambda i: i == grid.best()):
            own = {at: fmean(values) for at, values in sorted(grid.points[i].items()) if at <= grid.at}
            best = {"color": drawn(label)["color"], "linewidth": 2.5, "label": grid.values(i)}
            usual = {"color": COLOUR["grey"], "linewidth": 0.8, "alpha": 0.6}
            axis.plot(list(own), list(own.values()), **(best if i == grid.best() else usual))
        axis.set(
            title=f"{label}\n{grid.values(grid.best())}", xlabel=unit, xscale="log", ylabel="held-out accuracy (%)"
        )
        plain_ticks(axis.xaxis, _common(grid)[:: -(len(_common(grid)) // -6)])
    return drawing
