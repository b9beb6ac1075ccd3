"""Figures 1 and 4a, learning curves of meta-transfer, and what the meta-networks learn."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from msmeta.errors import ConfigError
from msmeta.report.style import COLOURS, MARKERS, Result, markdown
from msmeta.report.transfer import (
    accuracies,
    mean_text,
    p_text,
    paired_accuracies,
    pairs_off,
    row_name,
    t_test,
    transfer_rows,
)

_TENTHS = (1, 2, 3, 5, 7, 10)
"""Parts of the training for which the change of the gradient is listed."""


def change_runs(results: Sequence[Result]) -> list[Result]:
    """The Baseline runs of the `paper` preset where there are any, else of the `cpu` preset."""
    own = [result for result in results if row_name(result) == "Baseline"]
    return [r for r in own if r["config"]["preset"] == "paper"] or own


def gradient_change_figure(results: Sequence[Result]) -> Figure:
    """Figure 1: change of the transfer loss's gradient from the first to the second transfer step, over training.

    One panel an inner optimiser, one thin line a seed and a thick one for their mean. Raises ConfigError for a run that
    has no two gradients of the transfer loss.
    """
    if any(None in result["log"]["gradient_change"] for result in results):
        raise ConfigError("the change of the gradient needs two transfer steps with a gradient each: steps=2 or more")
    groups = _by_optimizer(results)
    figure, axes = plt.subplots(1, len(groups), figsize=(4.5 * len(groups), 3.4), layout="constrained", squeeze=False)
    for axis, (setting, own) in zip(axes[0], groups.items(), strict=True):
        curves = [result["log"]["gradient_change"] for result in own]
        iterations = own[0]["log"]["iteration"]
        colour = COLOURS["Baseline"]
        for curve in curves:
            axis.plot(iterations, curve, color=colour, linewidth=0.7, alpha=0.6)
        axis.plot(iterations, np.mean(curves, axis=0), color=colour, linewidth=2, label=f"mean of {len(curves)}")
        axis.set_title(f"{own[0]['data']['title']}, {setting}", fontsize="medium")
        axis.set(xlabel="iteration", ylabel="‖g₂ - g₁‖ / ‖g₂‖", ylim=(0, None))
        axis.grid(alpha=0.3)
        if len(curves) > 1:
            axis.legend(frameon=False, fontsize="small")
    plt.close(figure)
    return figure


def gradient_change_table(results: Sequence[Result]) -> str:
    """Means over parts of the training, and the learning rate there, in Markdown."""
    rows = []
    for setting, own in _by_optimizer(results).items():
        parts = [[_in_tenth(result, tenth) for result in own] for tenth in _TENTHS]
        title = f"{own[0]['data']['title']}, {setting}"
        rows.append([title, f"{len(own)}", *(mean_text(part, 3) for part in parts)])
        rates = [_rate(own[0]["config"]["epochs"], tenth) for tenth in _TENTHS]
        rows.append([f"{title}: η / η₀ (Eq. 55)", "", *(f"{rate:.3f}" for rate in rates)])
    return markdown(["Runs", "seeds", *(f"tenth {tenth} of 10" for tenth in _TENTHS)], rows)


def gradient_change_words(results: Sequence[Result]) -> str:
    """The last tenth of the training beside the first, and the largest, in words: one line an inner optimiser."""
    lines = []
    for setting, own in _by_optimizer(results).items():
        tenths = [[_in_tenth(result, tenth) for result in own] for tenth in range(1, 11)]
        first, last, means = tenths[0], tenths[-1], [statistics.mean(tenth) for tenth in tenths]
        ratios = [b / a for a, b in zip(first, last, strict=True)]
        lines.append(
            f"- {own[0]['data']['title']}, {setting}: the change **{_trend(ratios)}**, from {mean_text(first, 3)} in "
            f"the first tenth of the training to {mean_text(last, 3)} in the last, {mean_text(ratios)} times as much "
            f"(n = {len(own)}). It is largest, {max(means):.3f}, in tenth {1 + means.index(max(means))} of 10."
        )
    return "\n".join(lines)


def _by_optimizer(results: Sequence[Result]) -> dict[str, list[Result]]:
    groups: dict[str, list[Result]] = {}
    for result in sorted(results, key=lambda r: (r["config"]["optimizer"] != "sgd", r["config"]["seed"])):
        groups.setdefault(result["setting"], []).append(result)
    return groups


def _in_tenth(result: Result, tenth: int) -> float:
    """Mean of the logged changes that end in this tenth of the iterations, or the nearest of them."""
    log, total = result["log"], result["metrics"]["iterations"]
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


def transfer_curves(results: Sequence[Result], title: str) -> Figure:
    """Validation accuracy against epochs, as far as all rows reach, and against training time: one line a row.

    Points are means over seeds, bars standard deviations.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
    rows = transfer_rows(results)
    for name, seeds in rows.items():
        curves = [result["curve"] for result in seeds]
        accuracy, seconds = ([curve[column] for curve in curves] for column in ("accuracy", "seconds"))
        spread = np.std(accuracy, axis=0, ddof=1) if len(seeds) > 1 else None
        every = -(-len(curves[0]["epoch"]) // 12)
        style = transfer_line(seeds[0]["method"]) | {"linestyle": "--" if "epochs" in name else "-"}
        style |= {"markevery": every, "errorevery": every}
        for axis, x in zip(axes, (curves[0]["epoch"], np.mean(seconds, axis=0)), strict=True):
            label = name if axis is axes[0] else None
            axis.errorbar(x, np.mean(accuracy, axis=0), spread, elinewidth=0.7, label=label, **style)
    common = min(seeds[0]["config"]["epochs"] for seeds in rows.values())
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


def transfer_comparison(results: Sequence[Result]) -> str:
    """Rows of one data set, optimiser and preset beside the Baseline, at equal epochs and at equal time, in Markdown.

    Equal time is when the last look of Multi-step with the same seed was taken: the best look up to then counts.
    """
    rows = transfer_rows(results)
    ends = {r["config"]["seed"]: r["curve"]["seconds"][-1] for r in rows.get("Multi-step", [])}
    lines = []
    for name, seeds in rows.items():
        differences = [] if name == "Baseline" else paired_accuracies(rows, name, "Baseline")
        within = [_best_by(r, ends[r["config"]["seed"]]) for r in seeds if r["config"]["seed"] in ends]
        reached = [accuracy for accuracy in within if accuracy is not None]
        lines.append(
            [
                name,
                len(seeds),
                seeds[0]["config"]["epochs"],
                mean_text([result["provenance"]["train_seconds"] for result in seeds], 0),
                mean_text([1000 * result["metrics"]["seconds_per_iteration"] for result in seeds], 0),
                mean_text(accuracies(seeds)),
                _difference(differences),
                mean_text([result["metrics"]["validation_accuracy"] for result in seeds]),
                mean_text(reached) if reached else "-",
            ]
        )
    head = [
        "Method", "seeds", "epochs", "training (s)", "ms an iteration", "test accuracy (%)",
        "less the Baseline's (points)", "validation accuracy (%)", "in Multi-step's time (%)",
    ]  # fmt: skip
    return markdown(head, lines)


def _best_by(result: Result, seconds: float) -> float | None:
    """The best look at the validation images within a time; None where there was no look yet."""
    curve = result["curve"]
    looks = zip(curve["seconds"], curve["accuracy"], strict=True)
    return max((accuracy for at, accuracy in looks if at <= seconds), default=None)


def _difference(differences: Sequence[float]) -> str:
    if len(differences) < 2:
        return f"{differences[0]:+.2f}" if differences else "-"
    mean, spread = statistics.mean(differences), statistics.stdev(differences)
    return f"{mean:+.2f} ±{spread:.2f}, {p_text(t_test(differences, 0))}"


def meta_movement_table(results: Sequence[Result]) -> str:
    """How far the meta-networks of each row are from their start, and the weights λ of the pairs, in Markdown."""
    lines = []
    for name, seeds in transfer_rows([r for r in results if "meta_movement" in r["metrics"]]).items():
        weights = mean_pair_weights(seeds)
        lines.append(
            [
                name,
                len(seeds),
                *(mean_text([r["metrics"]["meta_movement"][kind] for r in seeds]) for kind in ("what", "where")),
                mean_text([np.mean(r["metrics"]["pair_weights"]) for r in seeds]),
                f"{weights.min():.2f} to {weights.max():.2f}",
                f"{mean_text([pairs_off(r) for r in seeds], 1)} of {weights.size}",
                mean_text(accuracies(seeds)),
            ]
        )
    head = [
        "Method", "seeds", "‖θ - θ₀‖, what", "‖θ - θ₀‖, where", "λ, mean over pairs", "smallest and largest pair",
        "pairs that are off", "test accuracy (%)",
    ]  # fmt: skip
    return markdown(head, lines)


def pair_weights_figure(results: Sequence[Result]) -> Figure:
    """Heat map of λ for each pair of a source and a target feature, a mean over seeds, one panel a row; white is 1."""
    rows = transfer_rows([result for result in results if result["source"]])
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


def mean_pair_weights(seeds: Sequence[Result]) -> np.ndarray:
    """λ of each pair, a mean over runs: (targets, sources)."""
    return np.mean([result["metrics"]["pair_weights"] for result in seeds], axis=0)


def accuracy_by_steps(results: Sequence[Result], title: str) -> Figure:
    """Figure 4a: test accuracy against T for each method; mean and standard deviation over seeds, seeds as dots."""
    rows = {name: seeds for name, seeds in transfer_rows(results).items() if "epochs" not in name}
    figure, axis = plt.subplots(figsize=(6.5, 4), layout="constrained")
    draw_by_steps(axis, {name: (seeds[0]["config"]["steps"], accuracies(seeds)) for name, seeds in rows.items()})
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


def accuracy_by_steps_table(results: Sequence[Result]) -> str:
    """The numbers of Figure 4a, each beside the Baseline's and an estimate beside its own exact method, in Markdown."""
    rows = {name: seeds for name, seeds in transfer_rows(results).items() if "epochs" not in name}
    exact = {"Multi-step": "Baseline", "3-step Est. (3)": "3-step", "1-step, 2·lr": "Multi-step"}
    lines = []
    for name, seeds in rows.items():
        config, other = seeds[0]["config"], exact.get(name)
        lines.append(
            [
                name,
                f"{config['steps']} / {config['window']}" if seeds[0]["source"] else "-",
                len(seeds),
                mean_text(accuracies(seeds)),
                "-" if name == "Baseline" else _difference(paired_accuracies(rows, name, "Baseline")),
                f"{other}: {_difference(paired_accuracies(rows, name, other))}" if other else "-",
                mean_text([1000 * result["metrics"]["seconds_per_iteration"] for result in seeds], 0),
            ]
        )
    head = [
        "Method", "T / N", "seeds", "test accuracy (%)", "less the Baseline's (points)",
        "less that of what it stands for (points)", "ms an iteration of these runs",
    ]  # fmt: skip
    return markdown(head, lines)
