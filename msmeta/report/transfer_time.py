"""Table 1 and Figures 3 and 4b: time of meta-transfer (benchmarks/transfer_step.py), and what a window saves of it."""

from __future__ import annotations

import itertools
import statistics
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from msmeta import data, runs
from msmeta.experiments.transfer import preset_config
from msmeta.report import paper
from msmeta.report.style import COLOURS, TRANSFER_METHODS, Result, markdown, stored_benchmark
from msmeta.report.tables import cells
from msmeta.report.transfer import DATASETS
from msmeta.report.transfer_figures import draw_by_steps

place_of = TRANSFER_METHODS.index
PAPER_EPOCHS = preset_config("paper", "cifar-100", "multistep").epochs
SETTINGS = {"224x224": "bird", "32x32": "cifar-100"}
"""Sizes of images, and the data set whose epoch is given for each."""
_NOT_RUN = "Not run: `python benchmarks/transfer_step.py`, on an idle machine or one with a GPU."


def transfer_times() -> Result | None:
    """The stored result of benchmarks/transfer_step.py, a GPU's where there is one; None where it was not run."""
    for name in ("benchmarks/transfer_step-cuda.json", "benchmarks/transfer_step.json"):
        if (runs.results_root() / name).exists():
            return stored_benchmark(name, "transfer_step.py")
    return None


def paper_times_table() -> str:
    """The paper's Table 1, in Markdown."""
    lines = []
    for method, row in paper.table(1).cells.items():
        seconds, hours, ratio = row.values()
        lines.append([method, f"{seconds.value:g} ±{seconds.spread:g}", f"{hours.value:g}", f"{ratio.value:.2f}"])
    return markdown(["Method", "Seconds an epoch", "Hours for 200 epochs", "Ratio"], lines)


def transfer_times_table(result: Result | None, setting: str, optimizer: str) -> str:
    """Every method at one size of images and with one inner optimiser, in Markdown; or that it was not run.

    An epoch is extrapolated from the time of an iteration: as many of the paper's minibatches as the training images
    give, of Bird (224x224) or CIFAR-100 (32x32).
    """
    own = [row for row in (result or {"metrics": []})["metrics"]
           if (row["setting"], row["optimizer"]) == (setting, optimizer)]  # fmt: skip
    if not own:
        return _NOT_RUN
    dataset, lines = SETTINGS[setting], []
    base = times(result, setting, optimizer)["Baseline"]
    for row in sorted(own, key=lambda row: (place_of(row["method"]), row["precision"] != "float32")):
        epoch = epoch_seconds(row, dataset)
        lines.append(
            [
                row["method"] if row["precision"] == "float32" else f"{row['method']}, {row['precision']}",
                "-" if row["method"] == "Scratch" else f"{row['steps']} / {row['window']}",
                row["batch"],
                f"{1000 * row['seconds']:.0f}{_spread(row, 1000)}",
                f"{epoch:.1f}",
                f"{epoch * PAPER_EPOCHS / 3600:.1f}",
                f"{row['seconds'] / base['seconds']:.2f}",
                f"{row['seconds'] / row['floor_seconds']:.1f}",
                f"{row['bytes'] / 1e6:.0f}",
            ]
        )
    title = data.LABELLED[dataset].title
    head = [
        "Method", "T / N", "images of a minibatch", "ms an iteration", f"seconds an epoch of {title}",
        f"hours for {PAPER_EPOCHS} epochs", "ratio to the Baseline", "times the floor", "memory (MB)",
    ]  # fmt: skip
    return markdown(head, lines)


def times(result: Result, setting: str, optimizer: str) -> dict[str, dict[str, Any]]:
    """Rows of the benchmark in float32, by method."""
    wanted = (setting, optimizer, "float32")
    own = [row for row in result["metrics"] if (row["setting"], row["optimizer"], row["precision"]) == wanted]
    return {row["method"]: row for row in own}


def epoch_seconds(row: dict[str, Any], dataset: str) -> float:
    """Time of an epoch of the paper's protocol, extrapolated from an iteration's."""
    batch = preset_config("paper", dataset, "multistep").batch
    return row["seconds"] * (data.TABLE_6[dataset]["train"] // batch) * batch / row["batch"]


def _spread(row: dict[str, Any], scale: float) -> str:
    """Standard deviation over the rounds of the measurement."""
    return f" ±{scale * statistics.stdev(row['seconds_all']):.0f}" if len(row["seconds_all"]) > 1 else ""


def saved(result: Result, setting: str, optimizer: str, base: str = "Baseline") -> float:
    """Share of the base's time that Multi-step saves."""
    found = times(result, setting, optimizer)
    return 1 - found["Multi-step"]["seconds"] / found[base]["seconds"]


def saved_table(result: Result | None) -> str:
    """What Multi-step saves for each size of images and inner optimiser, in Markdown; or that it was not run.

    In brackets: least and most over the rounds, in each of which both methods were timed.
    """
    if result is None:
        return _NOT_RUN
    lines = []
    for setting, optimizer in dict.fromkeys((row["setting"], row["optimizer"]) for row in result["metrics"]):
        found = times(result, setting, optimizer)
        cells = [_saved_text(found, base) if base in found else "-" for base in ("Baseline", "Replayed reverse")]
        reported = f"{100 * _paper_saved():.0f} %" if (setting, optimizer) == ("224x224", "sgd") else "-"
        lines.append([setting, {"sgd": "SGD", "adam": "Adam"}[optimizer], *cells, reported])
    head = ["Images", "Inner optimiser", "saved of the Baseline", "saved of Replayed reverse", "the paper's Table 1"]
    return markdown(head, lines)


def _saved_text(found: dict[str, dict[str, Any]], base: str) -> str:
    ours, theirs = found["Multi-step"], found[base]
    shares = [100 * (1 - a / b) for a, b in zip(ours["seconds_all"], theirs["seconds_all"], strict=False)]
    return f"{100 * (1 - ours['seconds'] / theirs['seconds']):.0f} % ({min(shares):.0f} to {max(shares):.0f})"


def _paper_saved() -> float:
    """The share saved in the paper's Table 1."""
    return 1 - paper.table(1).cells["Multi-step"]["ratio"].value


def epoch_bars(result: Result, optimizer: str = "adam") -> Figure:
    """Figure 3: seconds of an epoch of each data set, Baseline beside Multi-step, with the share that is saved."""
    settings = [setting for setting in reversed(SETTINGS) if times(result, setting, optimizer)]
    groups = {setting: [n for n in DATASETS if _setting(n) == setting] for setting in settings}
    figure, axes = plt.subplots(
        1, len(groups), figsize=(9, 3.8), width_ratios=[len(names) for names in groups.values()], layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for axis, (setting, names) in zip(axes[0], groups.items(), strict=True):
        found = times(result, setting, optimizer)
        for offset, method in zip((-0.2, 0.2), ("Baseline", "Multi-step"), strict=True):
            row = found[method]
            heights = [epoch_seconds(row, name) for name in names]
            spread = statistics.stdev(row["seconds_all"]) / row["seconds"] if len(row["seconds_all"]) > 1 else 0.0
            errors = [spread * height for height in heights]
            style = {"color": COLOURS[method], "label": method if axis is axes[0][0] else None, "ecolor": "black"}
            axis.bar([i + offset for i in range(len(names))], heights, 0.38, yerr=errors, **style)
        for i, name in enumerate(names):
            share = f"{-100 * saved(result, setting, optimizer):+.0f} %"
            axis.annotate(
                share, (i, epoch_seconds(found["Baseline"], name)), (0, 6), textcoords="offset points", ha="center"
            )
        axis.set_xticks(range(len(names)), [data.LABELLED[name].title for name in names])
        axis.set_title(f"{setting} images", fontsize="medium")
        axis.margins(y=0.15)
        axis.grid(axis="y", alpha=0.3)
    axes[0][0].set_ylabel("seconds an epoch")
    figure.legend(frameon=False, fontsize="small", ncols=2, loc="outside lower center")
    plt.close(figure)
    return figure


def epoch_table(result: Result | None, optimizer: str = "adam") -> str:
    """The numbers of Figure 3, in Markdown; or that it was not run."""
    if result is None:
        return _NOT_RUN
    lines = []
    for name in DATASETS:
        found = times(result, _setting(name), optimizer)
        images, batch = data.TABLE_6[name]["train"], preset_config("paper", name, "multistep").batch
        seconds = [f"{epoch_seconds(found[m], name):.1f}" for m in ("Baseline", "Multi-step") if m in found]
        share = f"{100 * saved(result, _setting(name), optimizer):.0f} %" if found else "not run"
        lines.append(
            [
                data.LABELLED[name].title,
                _setting(name),
                f"{images:,}",
                f"{images // batch:,} of {batch}",
                *(seconds or ["not run", "not run"]),
                share,
                f"{100 * _paper_saved():.0f} % (Table 1, SGD)" if name == "bird" else "not printed",
            ]
        )
    head = [
        "Data", "images", "for training", "minibatches an epoch", "Baseline (s)", "Multi-step (s)", "saved",
        "saved in the paper",
    ]  # fmt: skip
    return markdown(head, lines)


def _setting(dataset: str) -> str:
    side = data.LABELLED[dataset].side
    return f"{side}x{side}"


def time_by_steps(result: Result, optimizer: str = "adam") -> Figure:
    """Figure 4b: time of an iteration against T for each method, one panel a size of images."""
    settings = [s for s in SETTINGS if times(result, s, optimizer)]
    figure, axes = plt.subplots(1, len(settings), figsize=(4.6 * len(settings), 4), layout="constrained", squeeze=False)
    for axis, setting in zip(axes[0], settings, strict=True):
        found = times(result, setting, optimizer)
        ordered = sorted((m for m in found if m != "Replayed reverse"), key=place_of)
        draw_by_steps(axis, {m: (found[m]["steps"], [1000 * found[m]["seconds"]]) for m in ordered})
        batch = found["Baseline"]["batch"]
        axis.set_title(f"{setting}, minibatches of {batch}", fontsize="medium")
        axis.set(ylabel="ms an iteration", ylim=(0, None))
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize="small", ncols=4, loc="outside lower center")
    plt.close(figure)
    return figure


def steps_cost(result: Result | None, optimizer: str = "adam") -> str:
    """What each further transfer step adds to the time of an exact iteration, in Markdown; or that it was not run."""
    if result is None:
        return _NOT_RUN
    exact = ("0-step", "1-step", "Baseline", "3-step")
    lines = []
    for setting in SETTINGS:
        found = times(result, setting, optimizer)
        if all(method in found for method in exact):
            milliseconds = [1000 * found[method]["seconds"] for method in exact]
            added = [f"{b - a:+.0f}" for a, b in itertools.pairwise(milliseconds)]
            lines.append([setting, f"{milliseconds[0]:.0f}", *added])
    return markdown(["Images", "T = 0 (ms)", "the first step adds", "the second", "the third"], lines)


def run_times_table(found: pd.DataFrame) -> str:
    """Time of whole runs of one optimiser: Baseline and Multi-step of each data set and preset, in Markdown.

    The time of reading images is in it, that of evaluation is not.
    """
    lines = []
    for _, own in found.groupby(["title", "preset"], sort=False):
        rows = [seeds for seeds in cells(own) if seeds["label"].iloc[0] in ("Scratch", "Baseline", "Multi-step")]
        rows = [seeds for seeds in rows if seeds["row"].iloc[0] == seeds["label"].iloc[0]]
        base = [seeds["seconds_per_epoch"].mean() for seeds in rows if seeds["label"].iloc[0] == "Baseline"]
        for seeds in rows:
            run, seconds = seeds.iloc[0], seeds["seconds_per_epoch"].mean()
            lines.append(
                [
                    f"{run['title']}, {run['setting']}", run["preset"], run["label"], len(seeds),
                    f"{1000 * seeds['seconds_per_iteration'].mean():.0f}", f"{seconds:.1f}",
                    f"{seconds / base[0]:.2f}" if base else "-", f"{run['device']}, {run['threads']} threads",
                ]
            )  # fmt: skip
    head = ["Setting", "preset", "Method", "seeds", "ms an iteration", "s an epoch", "ratio to the Baseline", "device"]
    return markdown(head, lines)
