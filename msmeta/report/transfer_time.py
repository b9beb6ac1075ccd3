"""Table 1 and Figures 3 and 4b: time of meta-transfer (benchmarks/transfer_step.py), and what a window saves of it."""

from __future__ import annotations

import itertools
import statistics
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from msmeta import data, runs
from msmeta.experiments import transfer
from msmeta.report import paper, style
from msmeta.report.frame import TRANSFER, where
from msmeta.report.style import COLOURS, Result, legend_below, markdown, panels, stored_benchmark, styled
from msmeta.report.tables import cells, first, listed, table
from msmeta.report.transfer import DATASETS
from msmeta.report.transfer_figures import draw_by_steps, several_steps, steps_text, usual

Row = dict[str, Any]

PAPER_EPOCHS = transfer.preset_config("paper", "bird", "multistep").epochs
SIZES = {224: "bird", 32: "cifar-100"}
"""Sides of the images, and the data set whose epoch is given for each."""
BASELINE = {"estimator": "multistep", "steps": 2, "window": 1, "replayed": False}
MULTI_STEP, REPLAYED = BASELINE | {"window": 2}, BASELINE | {"replayed": True}
_NOT_RUN = "Not run: `python benchmarks/transfer_step.py`, on an idle machine or one with a GPU."


def measured() -> Result | None:
    """The stored result of benchmarks/transfer_step.py, a GPU's where there is one; None where it was not run."""
    for name in ("benchmarks/transfer_step-cuda.json", "benchmarks/transfer_step.json"):
        if (runs.results_root() / name).exists():
            return stored_benchmark(name, "transfer_step.py")
    return None


def origin(result: Result | None) -> str:
    """Where it was measured, in words; nothing where it was not."""
    return f"Measured with: {style.origin(result)}." if result else ""


def paper_table() -> str:
    """The paper's Table 1, in Markdown."""
    rows = []
    for method, cells_ in paper.table(1).cells.items():
        seconds, hours, ratio = cells_.values()
        rows.append([method, f"{seconds.value:g} ±{seconds.spread:g}", f"{hours.value:g}", f"{ratio.value:.2f}"])
    return markdown(["Method", "Seconds an epoch", "Hours for 200 epochs", "Ratio"], rows)


def times_table(result: Result | None, side: int, optimizer: str) -> str:
    """Every method at one size of images and with one inner optimiser, in Markdown; or that it was not run.

    An epoch is extrapolated from the time of an iteration: as many of the paper's minibatches as the training images
    give, of Bird (224x224) or CIFAR-100 (32x32).
    """
    own, dataset = _rows(result, side, optimizer), SIZES[side]
    base = _find(own, **BASELINE)
    if base is None:
        return _NOT_RUN
    columns = {
        "Method": lambda row: _name(row) if row["precision"] == "float32" else f"{_name(row)}, {row['precision']}",
        "T / N": lambda row: steps_text(_config(row)),
        "images of a minibatch": lambda row: row["batch"],
        "ms an iteration": lambda row: f"{1000 * row['seconds']:.0f}{_spread(row)}",
        f"seconds an epoch of {data.DATASETS[dataset].title}": lambda row: f"{epoch_seconds(row, dataset):.1f}",
        f"hours for {PAPER_EPOCHS} epochs": lambda row: f"{epoch_seconds(row, dataset) * PAPER_EPOCHS / 3600:.1f}",
        "ratio to the Baseline": lambda row: f"{row['seconds'] / base['seconds']:.2f}",
        "times the floor": lambda row: f"{row['seconds'] / row['floor_seconds']:.1f}",
        "memory (MB)": lambda row: f"{row['bytes'] / 1e6:.0f}",
    }
    order = [(row["replayed"], TRANSFER.order(_config(row)), row["precision"] != "float32") for row in own]
    return table([row for _, row in sorted(zip(order, own, strict=True), key=lambda pair: pair[0])], columns)


def _rows(result: Result | None, side: int, optimizer: str) -> list[Row]:
    metrics = result["metrics"] if result else []
    return [row for row in metrics if (row["side"], row["optimizer"]) == (side, optimizer)]


def _find(rows: list[Row], **wanted: Any) -> Row | None:
    """The row in float32 with these values; None where it was not measured."""
    wanted |= {"precision": "float32"}
    return next((row for row in rows if all(row[name] == value for name, value in wanted.items())), None)


def _pair(result: Result | None, side: int, optimizer: str, base: Row = BASELINE) -> tuple[Row, Row] | None:
    """The rows of the Baseline, or another base, and of Multi-step; None where one was not measured."""
    rows = _rows(result, side, optimizer)
    found = _find(rows, **base), _find(rows, **MULTI_STEP)
    return None if None in found else found


def _config(row: Row) -> transfer.TransferConfig:
    own = {name: row[name] for name in ("estimator", "optimizer", "steps", "window")}
    return transfer.preset_config("paper", SIZES[row["side"]], **own)


def _name(row: Row) -> str:
    return "Replayed reverse" if row["replayed"] else transfer.label(_config(row))


def epoch_seconds(row: Row, dataset: str) -> float:
    """Time of an epoch of the paper's protocol, extrapolated from an iteration's."""
    batch = transfer.preset_config("paper", dataset, "multistep").batch
    return row["seconds"] * (data.TABLE_6[dataset]["train"] // batch) * batch / row["batch"]


def _deviation(row: Row) -> float:
    """Standard deviation over the rounds of the measurement, as a share of the time; 0 for a single round."""
    return statistics.stdev(row["seconds_all"]) / row["seconds"] if len(row["seconds_all"]) > 1 else 0.0


def _spread(row: Row) -> str:
    return f" ±{1000 * row['seconds'] * _deviation(row):.0f}" if len(row["seconds_all"]) > 1 else ""


def _saved(base: Row, ours: Row) -> float:
    """Share of the base's time that ours saves, in percent."""
    return 100 * (1 - ours["seconds"] / base["seconds"])


def _paper_saved() -> float:
    return 100 * (1 - paper.table(1).cells["Multi-step"]["ratio"].value)


def saved_table(result: Result | None) -> str:
    """What Multi-step saves for each size of images and inner optimiser, in Markdown; or that it was not run.

    In brackets: least and most over the rounds, in each of which both methods were timed.
    """
    if result is None:
        return _NOT_RUN
    rows = []
    for side, optimizer in dict.fromkeys((row["side"], row["optimizer"]) for row in result["metrics"]):
        found = [_saved_text(_pair(result, side, optimizer, base)) for base in (BASELINE, REPLAYED)]
        reported = f"{_paper_saved():.0f} %" if (side, optimizer) == (224, "sgd") else "-"
        rows.append([f"{side}x{side}", {"sgd": "SGD", "adam": "Adam"}[optimizer], *found, reported])
    head = ["Images", "Inner optimiser", "saved of the Baseline", "saved of Replayed reverse", "the paper's Table 1"]
    return markdown(head, rows)


def _saved_text(pair: tuple[Row, Row] | None) -> str:
    if pair is None:
        return "-"
    shares = [100 * (1 - b / a) for a, b in zip(*(row["seconds_all"] for row in pair), strict=False)]
    over_rounds = f" ({min(shares):.0f} to {max(shares):.0f})" if len(shares) > 1 else ""
    return f"{_saved(*pair):.0f} %{over_rounds}"


@styled
def epoch_bars(result: Result | None, optimizer: str = "adam") -> Figure | str:
    """Figure 3: seconds of an epoch of each data set, Baseline beside Multi-step, with the share that is saved.

    Bars have the standard deviation over rounds. In words where it was not run.
    """
    found = {side: pair for side in reversed(SIZES) if (pair := _pair(result, side, optimizer))}
    if not found:
        return _NOT_RUN
    groups = [[name for name in DATASETS if data.DATASETS[name].side == side] for side in found]
    figure, axes = panels(len(groups), height=3.8, width_ratios=list(map(len, groups)))
    for axis, (side, pair), names in zip(axes[0], found.items(), groups, strict=True):
        for offset, method, row in zip((-0.2, 0.2), ("Baseline", "Multi-step"), pair, strict=True):
            heights = [epoch_seconds(row, name) for name in names]
            places, errors = [i + offset for i in range(len(names))], [_deviation(row) * height for height in heights]
            axis.bar(places, heights, 0.38, yerr=errors, color=COLOURS[method], ecolor="black", label=method)
        for i, name in enumerate(names):
            at = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center"}
            axis.annotate(f"{-_saved(*pair):+.0f} %", (i, epoch_seconds(pair[0], name)), **at)
        axis.set_xticks(range(len(names)), [data.DATASETS[name].title for name in names])
        axis.set_title(f"{side}x{side} images")
        axis.margins(y=0.15)
        axis.grid(False, axis="x")
    axes[0][0].set_ylabel("seconds an epoch")
    legend_below(figure, axes[0][0])
    return figure


def epoch_table(result: Result | None, optimizer: str = "adam") -> str:
    """The numbers of Figure 3, in Markdown; or that it was not run."""
    if result is None:
        return _NOT_RUN
    rows = []
    for name in DATASETS:
        side, pair = data.DATASETS[name].side, _pair(result, data.DATASETS[name].side, optimizer)
        images, batch = data.TABLE_6[name]["train"], transfer.preset_config("paper", name, "multistep").batch
        found = (
            [*(f"{epoch_seconds(row, name):.1f}" for row in pair), f"{_saved(*pair):.0f} %"]
            if pair
            else ["not run"] * 3
        )
        reported = f"{_paper_saved():.0f} % (Table 1, SGD)" if name == "bird" else "not printed"
        line = [data.DATASETS[name].title, f"{side}x{side}", f"{images:,}", f"{images // batch:,} of {batch}"]
        rows.append([*line, *found, reported])
    head = [
        "Data", "images", "for training", "minibatches an epoch", "Baseline (s)", "Multi-step (s)", "saved",
        "saved in the paper",
    ]  # fmt: skip
    return markdown(head, rows)


@styled
def by_steps(result: Result | None, optimizer: str = "adam") -> Figure | str:
    """Figure 4b: time of an iteration against T for each method, one panel a size of images; in words where it was not
    run for several T."""
    found = {}
    for side in SIZES:
        own = [row for row in _rows(result, side, optimizer) if row["precision"] == "float32" and not row["replayed"]]
        points = sorted(
            ((_config(row), [1000 * row["seconds"]]) for row in own), key=lambda each: TRANSFER.order(each[0])
        )
        if several_steps(points):
            found[side] = points, own[0]["batch"]
    if not found:
        return "No figure against T: one T alone was timed." if result else _NOT_RUN
    figure, axes = panels(len(found), width=4.6 * len(found), height=4)
    for axis, (side, (points, batch)) in zip(axes[0], found.items(), strict=True):
        draw_by_steps(axis, points)
        axis.set(title=f"{side}x{side}, minibatches of {batch}", ylabel="ms an iteration", ylim=(0, None))
    legend_below(figure, axes[0][0])
    return figure


def steps_cost(result: Result | None, optimizer: str = "adam") -> str:
    """What each further transfer step adds to the time of an exact iteration, in Markdown; or that it was not run."""
    if result is None:
        return _NOT_RUN
    rows = []
    for side in SIZES:
        exact = [_find(_rows(result, side, optimizer), **BASELINE | {"steps": steps}) for steps in range(4)]
        if None not in exact:
            milliseconds = [1000 * row["seconds"] for row in exact]
            added = [f"{b - a:+.0f}" for a, b in itertools.pairwise(milliseconds)]
            rows.append([f"{side}x{side}", f"{milliseconds[0]:.0f}", *added])
    return markdown(["Images", "T = 0 (ms)", "the first step adds", "the second", "the third"], rows)


def run_times_table(found: pd.DataFrame) -> str:
    """Time of whole runs with one T, of each data set, optimiser and preset, in Markdown.

    The time of reading images is in it, that of evaluation is not.
    """
    columns = {
        "Setting": lambda seeds: f"{seeds['title'].iloc[0]}, {seeds['setting'].iloc[0]}",
        "preset": first("preset"),
        "Method": first("row"),
        "seeds": len,
        "ms an iteration": lambda seeds: f"{1000 * seeds['seconds_per_iteration'].mean():.0f}",
        "s an epoch": lambda seeds: f"{seeds['seconds_per_epoch'].mean():.1f}",
        "ratio to exact": lambda seeds: _ratio(seeds, found),
        "device": lambda seeds: listed(f"{run.device}, {run.threads} threads" for run in seeds.itertuples()),
    }
    return table(cells(usual(found)), columns)


def _ratio(seeds: pd.DataFrame, found: pd.DataFrame) -> str:
    """Of an epoch's time to that of the exact method of the same data, optimiser and preset."""
    own = {name: seeds[name].iloc[0] for name in ("dataset", "optimizer", "preset")}
    exact = where(usual(found), estimator="multistep", window=1, **own)
    return f"{seeds['seconds_per_epoch'].mean() / exact['seconds_per_epoch'].mean():.2f}" if len(exact) else "-"
