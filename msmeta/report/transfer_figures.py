"""Figures 1 and 4a, learning curves of meta-transfer, and what the meta-networks learn."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from msmeta.errors import ConfigError
from msmeta.experiments.transfer import TransferConfig, label, preset_config
from msmeta.report.style import COLOURS, MARKERS, markdown
from msmeta.report.tables import accuracy_text, cells, difference_text, mean_text, seeds_of
from msmeta.report.transfer import difference, pairs_off

_TENTHS = (1, 2, 3, 5, 7, 10)
"""Parts of the training for which the change of the gradient is listed."""


def change_runs(found: pd.DataFrame) -> pd.DataFrame:
    """The Baseline runs of the `paper` preset where there are any, else of the `cpu` preset."""
    own = found.loc[[config == baseline(config) for config in found["config"]]]
    of_paper = own[own["preset"] == "paper"]
    return own if of_paper.empty else of_paper


def baseline(config: TransferConfig) -> TransferConfig:
    """The Baseline of the same data set, inner optimiser, preset and seed."""
    return preset_config(config.preset, config.dataset, "multistep", config.optimizer, seed=config.seed)


def gradient_change_figure(found: pd.DataFrame) -> Figure:
    """Figure 1: change of the transfer loss's gradient from the first to the second transfer step, over training.

    One panel an inner optimiser, one thin line a seed and a thick one for their mean. Raises ConfigError for a run that
    has no two gradients of the transfer loss.
    """
    if any(None in log["gradient_change"] for log in found["log"]):
        raise ConfigError("the change of the gradient needs two transfer steps with a gradient each: steps=2 or more")
    groups = _by_optimizer(found)
    figure, axes = plt.subplots(1, len(groups), figsize=(4.5 * len(groups), 3.4), layout="constrained", squeeze=False)
    for axis, (title, own) in zip(axes[0], groups.items(), strict=True):
        curves = [log["gradient_change"] for log in own["log"]]
        iterations = own["log"].iloc[0]["iteration"]
        colour = COLOURS["Baseline"]
        for curve in curves:
            axis.plot(iterations, curve, color=colour, linewidth=0.7, alpha=0.6)
        axis.plot(iterations, np.mean(curves, axis=0), color=colour, linewidth=2, label=f"mean of {len(curves)}")
        axis.set_title(title, fontsize="medium")
        axis.set(xlabel="iteration", ylabel="‖g₂ - g₁‖ / ‖g₂‖", ylim=(0, None))
        axis.grid(alpha=0.3)
        if len(curves) > 1:
            axis.legend(frameon=False, fontsize="small")
    plt.close(figure)
    return figure


def gradient_change_table(found: pd.DataFrame) -> str:
    """Means over parts of the training, and the learning rate there, in Markdown."""
    rows = []
    for title, own in _by_optimizer(found).items():
        parts = [[_in_tenth(run, tenth) for run in own.itertuples()] for tenth in _TENTHS]
        rows.append([title, f"{len(own)}", *(mean_text(part, 3) for part in parts)])
        rates = [_rate(own["epochs"].iloc[0], tenth) for tenth in _TENTHS]
        rows.append([f"{title}: η / η₀ (Eq. 55)", "", *(f"{rate:.3f}" for rate in rates)])
    return markdown(["Runs", "seeds", *(f"tenth {tenth} of 10" for tenth in _TENTHS)], rows)


def gradient_change_words(found: pd.DataFrame) -> str:
    """The last tenth of the training beside the first, and the largest, in words: one line an inner optimiser."""
    lines = []
    for title, own in _by_optimizer(found).items():
        tenths = [[_in_tenth(run, tenth) for run in own.itertuples()] for tenth in range(1, 11)]
        first, last, means = tenths[0], tenths[-1], [statistics.mean(tenth) for tenth in tenths]
        ratios = [b / a for a, b in zip(first, last, strict=True)]
        lines.append(
            f"- {title}: the change **{_trend(ratios)}**, from {mean_text(first, 3)} in "
            f"the first tenth of the training to {mean_text(last, 3)} in the last, {mean_text(ratios)} times as much "
            f"(n = {len(own)}). It is largest, {max(means):.3f}, in tenth {1 + means.index(max(means))} of 10."
        )
    return "\n".join(lines)


def _by_optimizer(found: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {
        f"{own['title'].iloc[0]}, {own['setting'].iloc[0]}": own for _, own in found.groupby("optimizer", sort=False)
    }


def _in_tenth(run: Any, tenth: int) -> float:
    """Mean of the logged changes that end in this tenth of the iterations, or the nearest of them."""
    log, total = run.log, run.iterations
    low, high = ((tenth - 1) * total / 10, tenth * total / 10)
    pairs = list(zip(log["iteration"], log["gradient_change"], strict=True))
    inside = [change for iteration, change in pairs if low < iteration <= high]
    return statistics.mean(inside) if inside else min(pairs, key=lambda pair: abs(pair[0] - high))[1]


def _rate(epochs: int, tenth: int) -> float:
    """Eq. 55 in the epoch at the middle of a tenth."""
    epoch = math.floor(epochs * (tenth - 0.5) / 10)
    return (1 + math.cos(math.pi * epoch / epochs)) / 2


def _trend(ratios: Sequence[float]) -> str:
    if all(ratio < 1 for ratio in ratios):
        return "falls"
    return "rises" if all(ratio > 1 for ratio in ratios) else "falls with some seeds, rises with others"


def transfer_curves(found: pd.DataFrame, title: str) -> Figure:
    """Validation accuracy against epochs, as far as all rows reach, and against training time: one line a row.

    Points are means over seeds, bars standard deviations.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
    for seeds in cells(found):
        curves, name = list(seeds["curve"]), seeds["row"].iloc[0]
        accuracy, seconds = ([curve[column] for curve in curves] for column in ("accuracy", "seconds"))
        spread = np.std(accuracy, axis=0, ddof=1) if len(seeds) > 1 else None
        every = -(-len(curves[0]["epoch"]) // 12)
        style = transfer_line(seeds["label"].iloc[0]) | {"linestyle": "-" if _usual(seeds) else "--"}
        style |= {"markevery": every, "errorevery": every}
        for axis, x in zip(axes, (curves[0]["epoch"], np.mean(seconds, axis=0)), strict=True):
            label = name if axis is axes[0] else None
            axis.errorbar(x, np.mean(accuracy, axis=0), spread, elinewidth=0.7, label=label, **style)
    common = min(found["epochs"])
    axes[0].set(xlabel="epochs", ylabel="validation accuracy (%)", xlim=(0, 1.05 * common))
    axes[1].set(xlabel="training time (s)", xlim=(0, None))
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.legend(frameon=False, fontsize="small", ncols=4, loc="outside lower center")
    figure.suptitle(title, fontsize="medium")
    plt.close(figure)
    return figure


def transfer_line(method: str) -> dict[str, Any]:
    """How a method of Section 5.1 is drawn."""
    return {"color": COLOURS.get(method), "marker": MARKERS.get(method), "markersize": 5, "linewidth": 1.5}


def transfer_comparison(found: pd.DataFrame) -> str:
    """Rows of one data set, optimiser and preset beside the Baseline, at equal epochs and at equal time, in Markdown.

    Equal time is when the last look of Multi-step with the same seed was taken: the best look up to then counts.
    """
    lines = []
    ends = {
        run.seed: run.curve["seconds"][-1]
        for run in found.itertuples()
        if run.config == replace(baseline(run.config), window=2)
    }
    for seeds in cells(found):
        config = seeds["config"].iloc[0]
        within = [_best_by(run.curve, ends[run.seed]) for run in seeds.itertuples() if run.seed in ends]
        reached = [accuracy for accuracy in within if accuracy is not None]
        lines.append(
            [
                seeds["row"].iloc[0],
                len(seeds),
                config.epochs,
                mean_text(seeds["train_seconds"], 0),
                mean_text(1000 * seeds["seconds_per_iteration"], 0),
                accuracy_text(seeds),
                _less(found, seeds, baseline(config)),
                mean_text(seeds["validation_accuracy"]),
                mean_text(reached) if reached else "-",
            ]
        )
    head = [
        "Method", "seeds", "epochs", "training (s)", "ms an iteration", "test accuracy (%)",
        "less the Baseline's (points)", "validation accuracy (%)", "in Multi-step's time (%)",
    ]  # fmt: skip
    return markdown(head, lines)


def _best_by(curve: dict[str, list[float]], seconds: float) -> float | None:
    """The best look at the validation images within a time; None where there was no look yet."""
    looks = zip(curve["seconds"], curve["accuracy"], strict=True)
    return max((accuracy for at, accuracy in looks if at <= seconds), default=None)


def _less(found: pd.DataFrame, seeds: pd.DataFrame, base: TransferConfig) -> str:
    """The accuracy of these runs less that of the base, in points."""
    own = seeds["cell"].iloc[0] == replace(base, seed=0)
    return "-" if own else difference_text(difference(seeds, seeds_of(found, base)))


def meta_movement_table(found: pd.DataFrame) -> str:
    """How far the meta-networks of each row are from their start, and the weights λ of the pairs, in Markdown."""
    lines = []
    for seeds in cells(found[found["estimator"] != "scratch"]):
        weights = mean_pair_weights(seeds)
        lines.append(
            [
                seeds["row"].iloc[0],
                len(seeds),
                *(mean_text([each[kind] for each in seeds["meta_movement"]]) for kind in ("what", "where")),
                mean_text([float(np.mean(pairs)) for pairs in seeds["pair_weights"]]),
                f"{weights.min():.2f} to {weights.max():.2f}",
                f"{mean_text([pairs_off(pairs) for pairs in seeds['pair_weights']], 1)} of {weights.size}",
                accuracy_text(seeds),
            ]
        )
    head = [
        "Method", "seeds", "‖θ - θ₀‖, what", "‖θ - θ₀‖, where", "λ, mean over pairs", "smallest and largest pair",
        "pairs that are off", "test accuracy (%)",
    ]  # fmt: skip
    return markdown(head, lines)


def pair_weights_figure(found: pd.DataFrame) -> Figure:
    """Heat map of λ for each pair of a source and a target feature, a mean over seeds, one panel a row; white is 1."""
    rows = {seeds["row"].iloc[0]: seeds for seeds in cells(found[found["estimator"] != "scratch"])}
    weights = {name: mean_pair_weights(seeds) for name, seeds in rows.items()}
    norm = TwoSlopeNorm(1.0, 0.0, max(2.0, *(values.max() for values in weights.values())))
    figure, axes = plt.subplots(1, len(rows), figsize=(3.6 * len(rows) + 1, 3.4), layout="constrained", squeeze=False)
    for axis, (name, values) in zip(axes[0], weights.items(), strict=True):
        last = axis is axes[0][-1]
        sns.heatmap(
            values, ax=axis, cmap="vlag", norm=norm, annot=True, fmt=".2f", cbar=last,
            xticklabels=range(1, values.shape[1] + 1), yticklabels=range(1, values.shape[0] + 1),
        )  # fmt: skip
        axis.set_title(f"{name} ({len(rows[name])} seed{'s' if len(rows[name]) > 1 else ''})", fontsize="medium")
        axis.set(xlabel="source feature", ylabel="target feature")
        axis.tick_params(axis="y", labelrotation=0)
    plt.close(figure)
    return figure


def mean_pair_weights(seeds: pd.DataFrame) -> np.ndarray:
    """λ of each pair, a mean over runs: (targets, sources)."""
    return np.mean(list(seeds["pair_weights"]), axis=0)


def accuracy_by_steps(found: pd.DataFrame, title: str) -> Figure:
    """Figure 4a: test accuracy against T for each method; mean and standard deviation over seeds, seeds as dots."""
    figure, axis = plt.subplots(figsize=(6.5, 4), layout="constrained")
    rows = [seeds for seeds in cells(found) if _usual(seeds)]
    draw_by_steps(axis, {s["label"].iloc[0]: (s["steps"].iloc[0], list(s["accuracy"])) for s in rows})
    axis.set(ylabel="test accuracy (%)")
    axis.set_title(title, fontsize="medium")
    figure.legend(frameon=False, fontsize="small", ncols=4, loc="outside lower center")
    plt.close(figure)
    return figure


def draw_by_steps(axis: Axes, values: dict[str, tuple[int, Sequence[float]]]) -> None:
    """Each method's values at its T: the exact ones joined by a line, the estimates beside them, Scratch as a level."""
    exact = sorted((steps, statistics.mean(own)) for name, (steps, own) in values.items() if _exact(name))
    axis.plot([steps for steps, _ in exact], [mean for _, mean in exact], color=COLOURS["Baseline"], linewidth=1)
    for name, (steps, own) in values.items():
        spread = statistics.stdev(own) if len(own) > 1 else 0.0
        colour = COLOURS.get(name)
        if name == "Scratch":
            axis.axhline(statistics.mean(own), color=colour, linestyle="--", linewidth=1, label=name)
            continue
        x = steps + (0 if _exact(name) else -0.14 if name == "First-order" else 0.14)
        if len(own) > 1:
            axis.plot([x + 0.04] * len(own), own, linestyle="none", marker=".", markersize=3, color=colour)
        style = {"marker": MARKERS.get(name, "o"), "markersize": 7, "linestyle": "none", "elinewidth": 1}
        axis.errorbar([x], [statistics.mean(own)], [spread], color=colour, label=name, **style)
    axis.set(xlabel="transfer steps T", xticks=sorted({steps for steps, _ in values.values()}))
    axis.grid(alpha=0.3)


def _exact(name: str) -> bool:
    return name == "Baseline" or (name.endswith("-step") and name != "Multi-step")


def accuracy_by_steps_table(found: pd.DataFrame) -> str:
    """The numbers of Figure 4a, each beside the Baseline's and an estimate beside its own exact method, in Markdown."""
    lines = []
    for seeds in (seeds for seeds in cells(found) if _usual(seeds)):
        config = seeds["config"].iloc[0]
        exact = _stands_for(config)
        other = f"{label(exact)}: {difference_text(difference(seeds, seeds_of(found, exact)))}" if exact else "-"
        lines.append(
            [
                seeds["row"].iloc[0],
                "-" if config.estimator == "scratch" else f"{config.steps} / {config.window}",
                len(seeds),
                accuracy_text(seeds),
                _less(found, seeds, baseline(config)),
                other,
                mean_text(1000 * seeds["seconds_per_iteration"], 0),
            ]
        )
    head = [
        "Method", "T / N", "seeds", "test accuracy (%)", "less the Baseline's (points)",
        "less that of what it stands for (points)", "ms an iteration of these runs",
    ]  # fmt: skip
    return markdown(head, lines)


def _usual(seeds: pd.DataFrame) -> bool:
    """Whether runs have the epochs of their preset."""
    config = seeds["config"].iloc[0]
    return config.epochs == baseline(config).epochs


def _stands_for(config: TransferConfig) -> TransferConfig | None:
    """What an estimate is an estimate of: a window's exact method, and a long step's two steps in a window."""
    if config.transfer_rate != 1:
        return replace(config, steps=2, window=2, transfer_rate=1.0)
    return replace(config, window=1) if config.window != 1 else None
