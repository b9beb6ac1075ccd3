"""Figures 1 and 4a, learning curves of meta-transfer, and what the meta-networks learn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm

from msmeta.errors import ConfigError
from msmeta.experiments import transfer
from msmeta.report.frame import TRANSFER, many, where
from msmeta.report.picture import Picture, panels, styled
from msmeta.report.speed import seconds_per_epoch
from msmeta.report.style import COLOURS, drawn, markdown, table_of
from msmeta.report.tables import (
    accuracy_text,
    by_device,
    cells,
    difference,
    difference_text,
    mean_text,
    of_config,
    table,
)
from msmeta.report.transfer import BASELINE, MULTI_STEP, pairs_off, steps_text
from msmeta.statistics import mean_ci

_TENTHS = (1, 2, 3, 5, 7, 10)
"""Parts of the training for which the change of the gradient is listed."""
_TRENDS = {-1: "falls", 0: "stays the same", 1: "rises"}


def usual(found: pd.DataFrame) -> pd.DataFrame:
    """The runs with as many epochs as their preset has; all, where none has, since a live run may set its own."""
    own = found.loc[[not TRANSFER.other_epochs(config) for config in found["config"]]]
    return own if len(own) else found


def change_runs(found: pd.DataFrame) -> pd.DataFrame:
    """The Baseline runs of the `paper` preset where there are any, else of the `cpu` preset."""
    own = where(usual(found), **BASELINE)
    of_paper = where(own, preset="paper")
    return of_paper if len(of_paper) else own


@styled
def change_figure(found: pd.DataFrame) -> Picture | str:
    """Figure 1: change of the transfer loss's gradient from the first to the second transfer step, over training.

    One panel an inner optimiser, one thin line a seed and a thick one for their mean; in words where the log of a run
    has a single point. Raises ConfigError for a run that has no two gradients of the transfer loss.
    """
    if any(None in log["gradient_change"] for log in found["log"]):
        raise ConfigError("the change of the gradient needs two transfer steps with a gradient each: steps=2 or more")
    if found.empty or min(len(log["iteration"]) for log in found["log"]) < 2:
        return "No curve: so short a training has a single point of it, if any. The table has the numbers."
    groups, colour = list(found.groupby("setting", sort=False)), COLOURS["Baseline"]
    figure, axes = panels(len(groups))
    for axis, (setting, own) in zip(axes[0], groups, strict=True):
        iterations, curves = own["log"].iloc[0]["iteration"], [log["gradient_change"] for log in own["log"]]
        axis.plot(iterations, np.transpose(curves), color=colour, linewidth=0.7, alpha=0.6)
        label = f"mean of\n{len(curves)} seeds" if len(curves) > 1 else "1 seed"
        axis.plot(iterations, np.mean(curves, axis=0), color=colour, linewidth=2, label=label)
        axis.set(title=f"{own['title'].iloc[0]}, {setting}", xlabel="iteration", ylabel="‖g₂ - g₁‖ / ‖g₂‖")
        axis.set_ylim(bottom=0)
    return figure.label_lines()


def change_table(found: pd.DataFrame) -> str:
    """Means over tenths of the training, and the learning rate there, in Markdown."""
    columns = {"Tenth of 10": _TENTHS if len(found) else ()}
    for setting, own in found.groupby("setting", sort=False):
        title, config, tenths = f"{own['title'].iloc[0]}, {setting}", own["config"].iloc[0], change_by_tenth(own)
        means = [mean_text(tenths.loc[i], 3) if i in tenths.index else "-" for i in _TENTHS]
        rates = [config.dynamics(int(config.epochs * (i - 0.5) / 10)).lr / config.dynamics(0).lr for i in _TENTHS]
        columns[f"{title}, n = {len(own)}"] = means
        columns[f"{title}: η / η₀ (Eq. 55)"] = [f"{rate:.3f}" for rate in rates]
    return markdown(list(columns), zip(*columns.values(), strict=True))


def change_words(found: pd.DataFrame) -> str:
    """The last tenth of the training beside the first, and the largest, in words: one line an inner optimiser."""
    lines = []
    for setting, own in found.groupby("setting", sort=False):
        title, tenths = f"- {own['title'].iloc[0]}, {setting}", change_by_tenth(own)
        if not {1, 10} <= set(tenths.index):
            lines.append(f"{title}: too few points to compare the first tenth of the training with the last.")
            continue
        early, late, means = tenths.loc[1], tenths.loc[10], tenths.mean(axis=1)
        trends = {_TRENDS[sign] for sign in np.sign(late - early)}
        trend = trends.pop() if len(trends) == 1 else "falls with some seeds, not with others"
        lines.append(
            f"{title}: the change **{trend}**, from {mean_text(early, 3)} in the first tenth of the training to "
            f"{mean_text(late, 3)} in the last (n = {len(own)}). It is largest, {means.max():.3f}, in tenth "
            f"{means.idxmax()} of 10."
        )
    return "\n".join(lines)


def change_by_tenth(found: pd.DataFrame) -> pd.DataFrame:
    """The mean of the logged changes that end in each tenth of the iterations, one column a run; tenths in which a run
    has none are left out."""
    means = []
    for run in found.itertuples():
        tenth = np.ceil(10 * np.array(run.log["iteration"]) / run.iterations).astype(int)
        means.append(pd.Series(run.log["gradient_change"]).groupby(tenth).mean())
    return pd.concat(means, axis=1, join="inner")


class Clock:
    """The training time of the looks of runs: on one core of an idle machine, where that was measured for all of them;
    else their own.

    idle: whether it was measured.
    """

    def __init__(self, found: pd.DataFrame) -> None:
        self._epochs = {config: seconds_per_epoch(config) for config in found["cell"]}
        self.idle = bool(self._epochs) and None not in self._epochs.values()

    def seconds(self, run: Any) -> np.ndarray:
        """Of each look of a row."""
        return np.array(run.curve["epoch"]) * self._epochs[run.cell] if self.idle else np.array(run.curve["seconds"])


@styled
def curves(found: pd.DataFrame, title: str, idle: bool = False) -> Picture | str:
    """Validation accuracy against epochs, as far as all rows reach, and against training time: one line a row.

    Points are means over seeds, bars their 95 % confidence intervals. idle: time is that of one core of an idle
    machine, where it was measured for all of them; else it is the runs' own. In words where a run has no two looks.
    """
    if found.empty or min(len(curve["epoch"]) for curve in found["curve"]) < 2:
        return f"{title}: no curve, which takes two looks at the validation images in each run."
    figure, ((by_epoch, by_time),) = panels(2, title=title, share=True, interactive=True)
    common, clock = usual(found)["epochs"].iloc[0], Clock(found if idle else found.iloc[:0])
    for seeds in cells(found):
        row, curves = seeds.iloc[0], list(seeds["curve"])
        accuracy, spread = zip(*map(mean_ci, zip(*(curve["accuracy"] for curve in curves), strict=True)), strict=True)
        style = drawn(row["label"]) | {"linestyle": "-" if row["epochs"] == common else "--", "elinewidth": 0.7}
        style |= dict.fromkeys(("markevery", "errorevery"), -(-len(accuracy) // 12))
        bars = None if spread[0] is None else spread
        seconds = np.mean([clock.seconds(run) for run in seeds.itertuples()], axis=0)
        for axis, places in ((by_epoch, curves[0]["epoch"]), (by_time, seconds)):
            axis.errorbar(places, accuracy, bars, label=row["row"], **style)
    by_epoch.set(xlabel="epochs", ylabel="validation accuracy (%)", xlim=(0, 1.05 * common))
    by_time.set(xlabel="training time on one idle core (s)" if clock.idle else "training time (s)", xlim=(0, None))
    by_time.set_ylabel("validation accuracy (%)")
    return figure.label_lines()


def comparison(found: pd.DataFrame) -> str:
    """Rows of one data set, optimiser and preset beside the Baseline, at equal epochs and at equal time, in Markdown.

    Equal time is when the last look of Multi-step with the same seed was taken, on one core of an idle machine where
    that was measured for all of them: the best look up to then counts. By the same clock is the time of training.
    """
    baseline, best, clock = where(usual(found), **BASELINE), in_time(found), Clock(found)
    columns = {
        "Method": "{row}",
        "seeds": len,
        "epochs": "{epochs}",
        "training (s)": lambda seeds: mean_text([clock.seconds(run)[-1] for run in seeds.itertuples()], 0),
        "test accuracy (%)": accuracy_text,
        "less the Baseline's (points)": lambda seeds: _less(seeds, baseline),
        "validation accuracy (%)": lambda seeds: accuracy_text(seeds, "validation_accuracy"),
        "in Multi-step's time (%)": lambda seeds: mean_text(own) if (own := best(seeds)) else "-",
    }
    return table(cells(found), columns)


def in_time(found: pd.DataFrame) -> Callable[[pd.DataFrame], list[float]]:
    """Of runs of a row, the best validation accuracies until Multi-step with the same seed has finished."""
    clock = Clock(found)
    ends = {run.seed: clock.seconds(run)[-1] for run in where(usual(found), **MULTI_STEP).itertuples()}

    def best(seeds: pd.DataFrame) -> list[float]:
        accuracies = []
        for run in seeds[seeds["seed"].isin(ends)].itertuples():
            inside = clock.seconds(run) <= ends[run.seed] * (1 + 1e-9)
            accuracies += [float(np.array(run.curve["accuracy"])[inside].max())] if inside.any() else []
        return accuracies

    return best


def _less(seeds: pd.DataFrame, base: pd.DataFrame) -> str:
    """Differences of test accuracy in points, paired over seeds; nothing for the base itself."""
    return "-" if seeds.index.isin(base.index).any() else difference_text(difference(seeds, base))


def movement_table(found: pd.DataFrame) -> str:
    """How far the meta-networks of each row are from their start, and the weights λ of the pairs, in Markdown."""
    rows = []
    for seeds in cells(found[found["estimator"] != "scratch"]):
        what, where_ = (mean_text(moved[name] for moved in seeds["meta_movement"]) for name in ("what", "where"))
        weights, pairs = seeds["pair_weights"], _pairs(seeds)
        rows.append(
            f"{seeds['row'].iloc[0]} | {len(seeds)} | {what} | {where_} | {mean_text(map(np.mean, weights))} | "
            f"{pairs.min():.2f} to {pairs.max():.2f} | {mean_text(map(pairs_off, weights), 1)} of {pairs.size} | "
            f"{accuracy_text(seeds)}"
        )
    return table_of(
        "Method | seeds | ‖θ - θ₀‖, what | ‖θ - θ₀‖, where | λ, mean over pairs | smallest and largest pair | "
        "pairs that are off | test accuracy (%)",
        rows,
    )


def _pairs(seeds: pd.DataFrame) -> np.ndarray:
    """λ of each pair, a mean over runs: (targets, sources)."""
    return np.mean(list(seeds["pair_weights"]), axis=0)


@styled
def pairs_figure(found: pd.DataFrame) -> Picture | str:
    """Heat map of λ for each pair of a source and a target feature, a mean over seeds, one panel a row; white is 1.

    In words where no run transfers.
    """
    rows = [(seeds, _pairs(seeds)) for seeds in cells(found[found["estimator"] != "scratch"])]
    if not rows:
        return "No pairs: none of these runs transfers."
    norm = TwoSlopeNorm(1.0, 0.0, max(2.0, *(weights.max() for _, weights in rows)))
    figure, axes = panels(len(rows))
    for axis, (seeds, weights) in zip(axes[0], rows, strict=True):
        targets, sources = (range(1, count + 1) for count in weights.shape)
        sns.heatmap(
            weights, ax=axis, cmap="vlag", norm=norm, annot=True, fmt=".2f", cbar=False,
            xticklabels=sources, yticklabels=targets,
        )  # fmt: skip
        axis.grid(False)
        axis.set_title(f"λ, {seeds['row'].iloc[0]} ({many(len(seeds), 'seed')})")
        axis.set(xlabel="source feature", ylabel="target feature")
        axis.tick_params(axis="y", labelrotation=0)
    return figure


@styled
def accuracy_by_steps(found: pd.DataFrame, title: str) -> Picture | str:
    """Figure 4a: test accuracy against T for each method; mean and 95 % interval over seeds, seeds as dots.

    In words where all have one T. Rows with other epochs than the preset's are left out.
    """
    points = [(seeds["cell"].iloc[0], list(seeds["accuracy"])) for seeds in cells(usual(found))]
    if not several_steps(points):
        return f"{title}: no figure against T, for all runs have the same. The table has the accuracies."
    figure, ((axis,),) = panels(1)
    draw_by_steps(axis, points)
    axis.set(ylabel="test accuracy (%)", title=title)
    return figure.label_lines()


Points = list[tuple[transfer.TransferConfig, list[float]]]  # the values of each method


def several_steps(points: Points) -> bool:
    """Whether there is anything to draw against T."""
    return len({config.steps for config, _ in points if config.estimator != "scratch"}) > 1


def draw_by_steps(axis: Axes, points: Points) -> None:
    """Each method's values at its T: the exact ones joined by a line, the estimates beside them, Scratch as a level."""
    exact = sorted((config.steps, mean_ci(own)[0]) for config, own in points if _exact(config))
    axis.plot([steps for steps, _ in exact], [mean for _, mean in exact], color=COLOURS["Baseline"], linewidth=1)
    for config, own in points:
        (mean, half), style = mean_ci(own), drawn(transfer.label(config))
        if config.estimator == "scratch":
            axis.axhline(mean, color=style["color"], linestyle="--", linewidth=1, label=transfer.label(config))
            continue
        x = config.steps + (0 if _exact(config) else -0.14 if config.estimator == "first-order" else 0.14)
        if len(own) > 1:
            axis.plot([x + 0.04] * len(own), own, linestyle="none", marker=".", markersize=3, color=style["color"])
        style |= {"markersize": 7, "linestyle": "none", "elinewidth": 1, "label": transfer.label(config)}
        axis.errorbar([x], [mean], [half or 0.0], **style)
    axis.set(xlabel="transfer steps T", xticks=sorted({c.steps for c, _ in points if c.estimator != "scratch"}))


def _exact(config: transfer.TransferConfig) -> bool:
    return (config.estimator, config.window, config.transfer_rate) == ("multistep", 1, 1)


def _stands_for(config: transfer.TransferConfig) -> transfer.TransferConfig | None:
    """The config whose steps an estimate replaces: exact ones for a window, a window for a multiple of the rate."""
    steps = config.steps * config.transfer_rate
    if config.transfer_rate != 1:
        window = int(steps)
        return replace(config, steps=window, window=window, transfer_rate=1.0) if window == steps else None
    return replace(config, window=1) if config.window != 1 else None


def accuracy_by_steps_table(found: pd.DataFrame) -> str:
    """The numbers of Figure 4a, each beside the Baseline's and an estimate beside its own exact method, in Markdown."""
    found = usual(found)
    baseline = where(found, **BASELINE)

    def stands_for(seeds: pd.DataFrame) -> str:
        other = _stands_for(seeds["cell"].iloc[0])
        if other is None:
            return "-"
        alike = where(found, **{name: getattr(other, name) for name in (*TRANSFER.required, *TRANSFER.optional)})
        return f"{transfer.label(other)}: {_less(seeds, alike)}"  # whose rates may be its own

    columns = {
        "Method": "{row}",
        "T / N": of_config(steps_text),
        "seeds": len,
        "test accuracy (%)": accuracy_text,
        "less the Baseline's (points)": lambda seeds: _less(seeds, baseline),
        "less that of what it stands for (points)": stands_for,
        "ms an iteration of these runs": lambda seeds: by_device(seeds, _milliseconds),
    }
    return table(cells(found), columns)


def _milliseconds(seeds: pd.DataFrame) -> str:
    return f"{1000 * seeds['seconds_per_iteration'].median():.0f}"
