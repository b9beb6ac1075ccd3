"""Tables 4 and 5: few-shot accuracy, the paper's beside what was measured here, and how it was measured."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from msmeta.experiments import few_shot
from msmeta.report import frame, live, paper, tables
from msmeta.report.frame import FEW_SHOT, Values
from msmeta.report.parameters import converted
from msmeta.report.style import drawn, panels, styled, table_of
from msmeta.report.tables import Columns, accuracy_text, cells, difference, listed, mean_text, of_config
from msmeta.statistics import Bounds, Difference, paired

PAPER_DATA = {4: "omniglot", 5: "miniimagenet"}
"""Data set of each of the paper's tables."""
SETTINGS = {4: ((5, 1), (5, 5), (20, 1), (20, 5)), 5: ((5, 1), (5, 5))}
"""Way and shot of their columns."""
OTHERS = ("first-order", "implicit", "reptile")
FO_MAML, IMAML = {"estimator": "first-order"}, {"estimator": "implicit"}


def multi_step(window: int | tuple[int, ...]) -> Values:
    """The multi-step method; with window 1 it is MAML."""
    return {"estimator": "multistep", "window": window}


MAML = multi_step(1)


def methods(windows: Sequence[int] = (1, 2, 4, 8), others: Sequence[str] = OTHERS) -> list[Values]:
    """One multi-step method for each window, and the other estimators. Raises ConfigError."""
    words = "a list of whole numbers, or of lists of them for windows that differ"
    windows = converted("windows", windows, list[int | tuple[int, ...]], [1, 4], words)
    others = converted("others", others, list[str], list(OTHERS))
    return [*map(multi_step, windows), *({"estimator": other} for other in others)]


train = partial(live.train, FEW_SHOT)
"""Trains live runs (`live.train`), on glyphs where the data set cannot be had."""
committed = partial(frame.committed, FEW_SHOT)
"""Committed runs (`frame.committed`)."""


def measured_table(number: int, dataset: str) -> str:
    """Table 4 or 5 as measured on a data set, in Markdown: the `paper` preset's result, else the `cpu` preset's."""
    return tables.measured_table(FEW_SHOT, number, committed(dataset=dataset), methods(), places(number, dataset))


def places(number: int, dataset: str) -> list[Values]:
    """The columns of Table 4 or 5, on a data set."""
    return [{"dataset": dataset, "way": way, "shot": shot} for way, shot in SETTINGS[number]]


def comparison(found: pd.DataFrame) -> str:
    """Methods of one preset and data set against MAML, at equal training time and at equal iterations, in Markdown.

    Differences are paired over the common test episodes, and over seeds where there are several. Equal iterations are
    the last point of the learning curves that both MAML and the method have reached.
    """
    rows = []
    for seeds in cells(found):
        run = seeds.iloc[0]
        maml = frame.where(found, **MAML, setting=run["setting"]).drop(seeds.index, errors="ignore")
        less, (later, iterations) = difference(seeds, maml), equal_iterations(seeds, maml)
        rows.append(
            f"{run['setting']} | {run['label']} | {listed(seeds['seed'])} | {listed(seeds['iterations'])} | "
            f"{accuracy_text(seeds)} | {tables.difference_text(less)} | {tables.difference_text(later)} | "
            f"{iterations or '-'}"
        )
    return table_of(
        "Setting | Method | seeds | iterations | at equal time (%) | less MAML's (points) | "
        "at equal iterations, less MAML's (points) | these iterations",
        rows,
    )


def equal_iterations(ours: pd.DataFrame, theirs: pd.DataFrame) -> tuple[Difference | None, str]:
    """`tables.difference` after equally many meta-iterations, and how many; None where a seed has no such point."""
    curves = [{run.seed: _points(run) for run in each.itertuples()} for each in (ours, theirs)]
    seeds = curves[0].keys() & curves[1].keys()
    at = {seed: max(curves[0][seed].keys() & curves[1][seed].keys(), default=None) for seed in seeds}
    if None in at.values():
        return None, ""
    values = [{seed: own[seed][at[seed]] for seed in seeds} for own in curves]
    return paired(*values), listed(sorted(at.values()))


def _points(run: Any) -> dict[int, list[float]]:
    """Accuracy (%) on each test episode at the points of the learning curve, by their iterations."""
    percent = [[100 * count / run.answers_per_episode for count in right] for right in run.curve["right_answers"]]
    return dict(zip(run.curve["iteration"], percent, strict=True))


def claims(number: int, found: pd.DataFrame, only: tuple[Values, Values, tuple[int, int]] | None = None) -> str:
    """Each claim on Table 4 or 5: what the paper's table gives, and ours at equal time and at equal iterations.

    found: runs on one data set. only: (method, base, (way, shot)) of the lines to show.
    """
    dataset = next(iter(found["dataset"]), PAPER_DATA[number])
    own = [
        tables.Claim(words, method, base, {"dataset": dataset, "way": way, "shot": shot}, bounds)
        for words, method, base, settings, bounds in _CLAIMS[number]
        for way, shot in settings
        if only in (None, (method, base, (way, shot)))
    ]
    tests = {"Ours, equal iterations": _at_equal_iterations, "Ours, equal time": tables.at_the_end}
    return tables.claims_table(FEW_SHOT, number, found, own, few_shot.setting, tests)


def _at_equal_iterations(ours: pd.DataFrame, theirs: pd.DataFrame) -> tuple[Difference | None, str]:
    if ours.empty:
        return None, ""
    found, at = equal_iterations(ours, theirs)
    return found, f" (at {at})" if at else ": too few iterations to compare"


_CLAIMS = {
    4: [
        *(("margin under 0.4 %", multi_step(n), MAML, SETTINGS[4], Bounds(-0.4, 0.4)) for n in (2, 4)),
        ("margin under 0.4 %", multi_step(8), MAML, SETTINGS[4][:2], Bounds(-0.4, 0.4)),
        ("at most 1.56 %", multi_step(8), MAML, SETTINGS[4][2:], Bounds(-1.56, 1.56)),
        *(("over 5 % more than FO-MAML", multi_step(n), FO_MAML, [(20, 1)], Bounds(5)) for n in (2, 4, 8)),
        ("competitive with iMAML", multi_step(4), IMAML, SETTINGS[4], Bounds(-1)),
    ],
    5: [
        *(("retains performance, N up to 4", multi_step(n), MAML, SETTINGS[5], Bounds(-0.4, 0.4)) for n in (2, 4)),
        ("outperforms first-order", multi_step(4), FO_MAML, SETTINGS[5], Bounds(0)),
        ("N = 8 drops by 2.59 %", MAML, multi_step(8), [(5, 5)], Bounds(0)),
    ],
}
"""The paper's words, `method` less `base`, the settings in which it lies between these points."""


def commands(preset: str, number: int, dataset: str) -> str:
    """The commands that would fill the cells that this preset has not run, as a code block; empty if there are none."""
    values = [place | method for place in places(number, dataset) for method in methods()]
    return tables.commands(FEW_SHOT, preset, committed(dataset=dataset), values, [0])


def tuning_table(dataset: str = "omniglot") -> str:
    """How the inner and the meta rate of the `cpu` preset were chosen: accuracy on classes held out for it."""
    heads = {
        "Setting": "{setting}",
        "Method": of_config(
            lambda c: few_shot.label(c) + (f", λ = {c.proximal:g}" if c.estimator == "implicit" else "")
        ),
        "Iterations": lambda own: listed(sorted(own["iterations"])),
        "Meta rate": "{meta_lr:g}",
    }
    return tables.tuning_table(FEW_SHOT, ["setting", "label", "proximal"], heads, dataset=dataset)


def live_table(found: pd.DataFrame, number: int) -> str:
    """Live runs beside the paper's cell of the same method, where it is of the same data set, in Markdown."""
    own = {"Iterations/s": lambda seeds: mean_text(seeds["meta_iterations_per_second"], 1)}
    return tables.live_table(
        found, lambda c: paper.cell(number, vars(c)) if c.dataset == PAPER_DATA[number] else None, own
    )


_CONDITIONS: Columns = {
    "filters, image size if shrunk": of_config(
        lambda c: f"{c.filters}" + (f" at {c.image_size}x{c.image_size}" if c.image_size else "")
    ),
    "tasks": "{tasks}",
    "steps in training / at test": of_config(lambda c: f"{c.steps} / {c.test_steps or c.steps}"),
    "inner optimiser, lr / momentum / weight decay": "{optimizer} {lr:g} / {momentum:g} / {weight_decay:g}",
    "meta optimiser, lr": "{meta_optimizer} {meta_lr:g}",
    "tested": lambda seeds: listed(seeds["selected_iteration"]) if seeds["select_every"].iloc[0] else "the last",
    "with training's windows (%)": lambda seeds: (
        accuracy_text(seeds, "windowed_accuracy")
        if seeds["estimator"].iloc[0] == "multistep" and seeds["window"].iloc[0] != 1
        else "-"
    ),
}
conditions = partial(tables.conditions, own=_CONDITIONS)
"""What the runs of each row were run with (`tables.conditions`)."""


@styled
def learning_curves(found: pd.DataFrame, title: str) -> Figure | str:
    """Test accuracy against meta-iterations and against training time, one line a method (seeds apart).

    In words where no run has a point before its end, which makes no curve.
    """
    if not any(curve["iteration"] for curve in found["curve"]):
        return f"{title}: no curve, for no run was looked at before its end. The table has their accuracies."
    figure, axes = panels(2, sharey=True)
    (by_iteration, by_time), lines = axes[0], {}
    for run in found.itertuples():
        accuracy, style = [*run.curve["accuracy"], run.accuracy], drawn(run.label)
        by_iteration.plot([*run.curve["iteration"], run.iterations], accuracy, **style)
        (lines[run.label],) = by_time.plot([*run.curve["seconds"], run.train_seconds], accuracy, **style)
    by_iteration.set(xscale="log", xlabel="meta-iterations", ylabel="test accuracy (%)")
    by_iteration.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    by_iteration.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    by_iteration.xaxis.set_minor_formatter(NullFormatter())
    by_time.set(xlabel="training time (s)")
    figure.legend(lines.values(), lines, ncols=4, loc="outside lower center")
    figure.suptitle(title)
    return figure


def readme_picture(path: str) -> None:
    """Saves the learning curves of the committed runs of Omniglot 20-way 1-shot; README shows them."""
    found = committed(dataset="omniglot", way=20, shot=1)
    presets = " and ".join(sorted(set(found["preset"])))
    learning_curves(found, f"Omniglot 20-way 1-shot, preset {presets}").savefig(path, dpi=120)
