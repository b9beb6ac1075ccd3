"""Table 1 and Figures 3 and 4b: time of meta-transfer (benchmarks/transfer_step.py), and what a window saves of it."""

from __future__ import annotations

import functools
import itertools
import statistics
from collections.abc import Callable
from typing import Any

import pandas as pd

from msmeta import data
from msmeta.experiments import transfer
from msmeta.report import paper
from msmeta.report.frame import TRANSFER, device_in_words, where
from msmeta.report.html import Rows, interval, quiet
from msmeta.report.picture import COLOUR, Picture, panels, styled
from msmeta.report.style import COLOURS, Result, find_benchmark, markdown, table_of
from msmeta.report.tables import cells, listed
from msmeta.report.transfer import DATASETS, steps_text
from msmeta.report.transfer_figures import draw_by_steps, several_steps, usual

Row = dict[str, Any]

PAPER_EPOCHS = transfer.preset_config("paper", "bird", "multistep").epochs
SIZES = {224: "bird", 32: "cifar-100"}
"""Sides of the images, and the data set whose epoch is given for each."""
_NOT_RUN = "Not run: `python benchmarks/transfer_step.py`, on an idle machine or one with a GPU."


def measured() -> Result | None:
    """The stored result of benchmarks/transfer_step.py; None where it was not run."""
    return find_benchmark("benchmarks/transfer_step")


def _of_benchmark(shown: Callable[..., Any]) -> Callable[..., Any]:
    """What a function shows of the result; where there is none, that it was not run."""

    @functools.wraps(shown)
    def show(result: Result | None, *args: Any) -> Any:
        return shown(result, *args) if result and result["metrics"] else _NOT_RUN

    return show


def side_by_side() -> Rows:
    """The paper's Table 1 beside ours, of iterations on random images of Bird's size (`times_table`)."""
    result, rows = measured(), []
    pair = result and exact_and_window(result, 224, "sgd")
    for (method, reported), ours in zip(paper.table(1).cells.items(), pair or (None, None), strict=True):
        elapse, total, ratio = reported.values()
        shown = [quiet("not run"), *[quiet("–")] * 3]
        if ours:
            seconds, own = epoch_seconds(ours, "bird"), ours["seconds"] / pair[0]["seconds"]
            spread = _deviation(ours) / ours["seconds"] * seconds or None
            hours = f"{seconds * PAPER_EPOCHS / 3600:.0f}"
            measured_seconds = interval(seconds, spread, ".0f") if spread else f"{seconds:.0f}"
            shown = [measured_seconds, hours, f"{own:.2f}", f"{own - ratio.value:+.2f}"]
        printed = interval(elapse.value, elapse.spread, ".1f"), f"{total.value:g}", f"{ratio.value:.2f}"
        rows.append([method, *(each for both in zip(printed, shown[:3], strict=True) for each in both), shown[3]])
    numbers = ["Elapse (s)", "measured", "Total (h)", "measured", "Ratio", "measured", "Difference"]
    said = "Measured: extrapolated from an iteration on a CPU; ± is the standard deviation over rounds, if several."
    return Rows(f"{paper.table(1).caption} {said}", ["Method", *numbers], [("", rows)], numbers, "table-1")


@_of_benchmark
def times_table(result: Result, side: int, optimizer: str) -> str:
    """Every method at one size of images and with one inner optimiser, in Markdown.

    An epoch is extrapolated from the time of an iteration: as many of the paper's minibatches as the training images
    give, of Bird (224x224) or CIFAR-100 (32x32).
    """
    dataset, base = SIZES[side], _find(result, side, optimizer)
    if base is None:
        return _NOT_RUN
    own = [row for row in result["metrics"] if (row["side"], row["optimizer"]) == (side, optimizer)]
    own.sort(key=lambda row: (row["replayed"], TRANSFER.order(_config(row)), row["precision"] != "float32"))
    rows = []
    for row in own:
        spread = f" ±{1000 * _deviation(row):.0f}" if len(row["seconds_all"]) > 1 else ""
        epoch, steps = epoch_seconds(row, dataset), steps_text(_config(row))
        rows.append(
            f"{_name(row)} | {steps} | {row['batch']} | {1000 * row['seconds']:.0f}{spread} | {epoch:.1f} | "
            f"{epoch * PAPER_EPOCHS / 3600:.1f} | {row['seconds'] / base['seconds']:.2f} | "
            f"{row['seconds'] / row['floor_seconds']:.1f} | {row['bytes'] / 1e6:.0f}"
        )
    return table_of(
        "Method | T / N | images of a minibatch | ms an iteration | "
        f"seconds an epoch of {data.DATASETS[dataset].title} | hours for {PAPER_EPOCHS} epochs | "
        "ratio to the Baseline | times the floor | memory (MB)",
        rows,
    )


def _find(
    result: Result, side: int, optimizer: str, steps: int = 2, window: int = 1, replayed: bool = False
) -> Row | None:
    """A row in float32, by default the Baseline's; None where it was not measured."""
    wanted = {"side": side, "optimizer": optimizer, "steps": steps, "window": window, "replayed": replayed}
    wanted |= {"estimator": "multistep", "precision": "float32"}
    return next((row for row in result["metrics"] if wanted.items() <= row.items()), None)


def exact_and_window(result: Result, side: int, optimizer: str, replayed: bool = False) -> tuple[Row, Row] | None:
    """The rows of the Baseline, also as it was published, and of Multi-step; None where one was not measured."""
    base, ours = _find(result, side, optimizer, replayed=replayed), _find(result, side, optimizer, window=2)
    return (base, ours) if base and ours else None


def _config(row: Row) -> transfer.TransferConfig:
    own = {name: row[name] for name in ("estimator", "optimizer", "steps", "window")}
    return transfer.preset_config("paper", SIZES[row["side"]], **own)


def _name(row: Row) -> str:
    name = "Replayed reverse" if row["replayed"] else transfer.label(_config(row))
    return name if row["precision"] == "float32" else f"{name}, {row['precision']}"


def epoch_seconds(row: Row, dataset: str) -> float:
    """Time of an epoch of the paper's protocol, extrapolated from an iteration's."""
    batch = transfer.preset_config("paper", dataset, "multistep").batch
    return row["seconds"] * (data.TABLE_6[dataset]["train"] // batch) * batch / row["batch"]


def _deviation(row: Row) -> float:
    """Standard deviation over the rounds of the measurement (s); 0 for a single round."""
    return statistics.stdev(row["seconds_all"]) if len(row["seconds_all"]) > 1 else 0.0


def _saved(base: Row, ours: Row) -> float:
    """Share of the base's time that ours saves, in percent."""
    return 100 * (1 - ours["seconds"] / base["seconds"])


def _paper_saved() -> float:
    return 100 * (1 - paper.table(1).cells["Multi-step"]["ratio"].value)


@_of_benchmark
def saved_table(result: Result) -> str:
    """What Multi-step saves for each size of images and inner optimiser, in Markdown.

    In brackets: least and most over the rounds, in each of which both methods were timed.
    """
    rows = []
    for side, optimizer in dict.fromkeys((row["side"], row["optimizer"]) for row in result["metrics"]):
        saved = [_saved_text(exact_and_window(result, side, optimizer, replayed)) for replayed in (False, True)]
        reported = f"{_paper_saved():.0f} %" if (side, optimizer) == (224, "sgd") else "-"
        rows.append([f"{side}x{side}", {"sgd": "SGD", "adam": "Adam"}[optimizer], *saved, reported])
    head = ["Images", "Inner optimiser", "saved of the Baseline", "saved of Replayed reverse", "the paper's Table 1"]
    return markdown(head, rows)


def _saved_text(pair: tuple[Row, Row] | None) -> str:
    if pair is None:
        return "-"
    shares = [100 * (1 - b / a) for a, b in zip(*(row["seconds_all"] for row in pair), strict=False)]
    over_rounds = f" ({min(shares):.0f} to {max(shares):.0f})" if len(shares) > 1 else ""
    return f"{_saved(*pair):.0f} %{over_rounds}"


@_of_benchmark
@styled
def epoch_bars(result: Result) -> Picture | str:
    """Figure 3: seconds of an epoch of each data set with Adam, Baseline beside Multi-step, and the share saved.

    Bars have the standard deviation over rounds.
    """
    found = {side: pair for side in reversed(SIZES) if (pair := exact_and_window(result, side, "adam"))}
    if not found:
        return _NOT_RUN
    groups = [[name for name in DATASETS if data.DATASETS[name].side == side] for side in found]
    figure, axes = panels(len(groups))
    for axis, (side, pair), names in zip(axes[0], found.items(), groups, strict=True):
        for offset, method, row in zip((-0.2, 0.2), ("Baseline", "Multi-step"), pair, strict=True):
            heights = [epoch_seconds(row, name) for name in names]
            errors = [_deviation(row) / row["seconds"] * height for height in heights]
            places = [i + offset for i in range(len(names))]
            axis.bar(places, heights, 0.38, yerr=errors, color=COLOURS[method], ecolor=COLOUR["grey"], label=method)
        for i, name in enumerate(names):
            at = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center"}
            axis.annotate(f"{-_saved(*pair):+.0f} %", (i, epoch_seconds(pair[0], name)), **at)
        axis.set_xticks(range(len(names)), [data.DATASETS[name].title for name in names])
        axis.set_title(f"{side}x{side} images")
        axis.margins(y=0.15)
        axis.legend(ncols=2, loc="lower left", bbox_to_anchor=(-0.1, 1.1))
        axis.grid(False, axis="x")
        axis.set_ylabel("seconds an epoch")
    return figure


@_of_benchmark
def epoch_table(result: Result) -> str:
    """The numbers of Figure 3, in Markdown."""
    rows = []
    for name in DATASETS:
        side, pair = data.DATASETS[name].side, exact_and_window(result, data.DATASETS[name].side, "adam")
        images, batch = data.TABLE_6[name]["train"], transfer.preset_config("paper", name, "multistep").batch
        found = "not run | not run | not run"
        if pair:
            base, ours = (f"{epoch_seconds(row, name):.1f}" for row in pair)
            found = f"{base} | {ours} | {_saved(*pair):.0f} %"
        reported = f"{_paper_saved():.0f} % (Table 1, SGD)" if name == "bird" else "not printed"
        minibatches = f"{images:,} | {images // batch:,} of {batch}"
        rows.append(f"{data.DATASETS[name].title} | {side}x{side} | {minibatches} | {found} | {reported}")
    return table_of(
        "Data | images | for training | minibatches an epoch | Baseline (s) | Multi-step (s) | saved | "
        "saved in the paper",
        rows,
    )


@_of_benchmark
@styled
def by_steps(result: Result) -> Picture | str:
    """Figure 4b: time of an iteration with Adam against T for each method, one panel a size of images; in words where
    it was not run for several T."""
    found = {}
    for row in result["metrics"]:
        if (row["optimizer"], row["precision"], row["replayed"]) == ("adam", "float32", False):
            place = f"{row['side']}x{row['side']}, minibatches of {row['batch']}"
            found.setdefault((-row["side"], place), []).append((_config(row), [1000 * row["seconds"]]))
    found = {title: points for (_, title), points in sorted(found.items()) if several_steps(points)}
    if not found:
        return "No figure against T: one T alone was timed."
    figure, axes = panels(len(found))
    for axis, (title, points) in zip(axes[0], found.items(), strict=True):
        draw_by_steps(axis, sorted(points, key=lambda each: TRANSFER.order(each[0])))
        axis.set(title=title, ylabel="ms an iteration", ylim=(0, None))
    return figure.label_lines()


@_of_benchmark
def steps_cost(result: Result) -> str:
    """What each further transfer step adds to the time of an exact iteration with Adam, in Markdown."""
    rows = []
    for side in SIZES:
        exact = [_find(result, side, "adam", steps) for steps in range(4)]
        if None not in exact:
            milliseconds = [1000 * row["seconds"] for row in exact]
            added = [f"{b - a:+.0f}" for a, b in itertools.pairwise(milliseconds)]
            rows.append([f"{side}x{side}", f"{milliseconds[0]:.0f}", *added])
    return markdown(["Images", "T = 0 (ms)", "the first step adds", "the second", "the third"], rows)


def run_times_table(found: pd.DataFrame) -> str:
    """Time of whole runs of each data set, optimiser, preset and device, beside exact ones with as many steps, in
    Markdown.

    Of seeds the median. The time of reading images is in it, that of evaluation is not. Without steps it stands beside
    the most.
    """
    found, rows = usual(found), []
    by_device = (own for cell in cells(found) for _, own in cell.groupby("device", sort=False))
    for seeds in by_device:
        one = seeds.iloc[0]
        same = where(found, **{name: one[name] for name in ("dataset", "optimizer", "preset", "device")})
        steps = one["steps"] or same["steps"].max()
        exact = where(same, estimator="multistep", window=1, steps=steps)["seconds_per_epoch"]
        epoch, iteration = seeds["seconds_per_epoch"].median(), seeds["seconds_per_iteration"].median()
        ratio = f"{epoch / exact.median():.2f}" if len(exact) else "-"
        device = listed(map(device_in_words, seeds.to_dict("records")))
        rows.append(
            f"{one['title']}, {one['setting']} | {one['preset']} | {one['row']} | {len(seeds)} | "
            f"{1000 * iteration:.0f} | {epoch:.1f} | {ratio} | {device}"
        )
    return table_of("Setting | preset | Method | seeds | ms an iteration | s an epoch | ratio to exact | device", rows)
