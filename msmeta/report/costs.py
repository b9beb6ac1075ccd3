"""Figures 2 and 5: memory and time of a meta-iteration against the number of inner steps, beside the cost model."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from msmeta import runs
from msmeta.experiments.few_shot import costs
from msmeta.report.style import COLOURS, MARKERS, METHODS, Result, markdown, stored_benchmark


def few_shot_costs() -> Result:
    """The committed result of benchmarks/few_shot_costs.py, a GPU's where there is one. Raises UserError for none."""
    on_gpu = "benchmarks/few_shot_costs-cuda.json"
    name = on_gpu if (runs.results_root() / on_gpu).exists() else "benchmarks/few_shot_costs.json"
    return stored_benchmark(name, "few_shot_costs.py")


def cost_figure(result: Result, settings: Sequence[tuple[int, int]] | None = None) -> Figure:
    """Memory above, time below, against T; one column a setting, one line a method, the cost model dotted."""
    rows = result["metrics"]
    settings = settings or list(dict.fromkeys((row["way"], row["shot"]) for row in rows))
    width = 3.6 if len(settings) == 1 else 2.5
    figure, axes = plt.subplots(
        2, len(settings), figsize=(max(5.0, width * len(settings)), 6), sharex=True, layout="constrained", squeeze=False
    )
    device = result["provenance"]["device"]
    memory = "peak memory" if "cores" not in device else "growth of peak resident set"
    for column, (way, shot) in zip(axes.T, settings, strict=True):
        own = [row for row in rows if (row["way"], row["shot"]) == (way, shot)]
        model = costs.fit([_cell(row) for row in own], own)
        for method in METHODS:
            line = [row for row in own if row["method"] == method]
            steps = [row["steps"] for row in line]
            style = {"color": COLOURS[method], "marker": MARKERS[method], "markersize": 4, "linewidth": 1.5}
            column[0].plot(steps, [row["bytes"] / 1e6 for row in line], label=method, **style)
            column[1].plot(steps, [1000 * row["seconds"] for row in line], **style)
            cells = [_cell(row) for row in line]
            predicted = [model.bytes(cell, row["tasks_at_once"]) / 1e6 for cell, row in zip(cells, line, strict=True)]
            column[0].plot(steps, predicted, ":", color=COLOURS[method], linewidth=1)
            column[1].plot(steps, [1000 * model.seconds(c) for c in cells], ":", color=COLOURS[method], linewidth=1)
        column[0].set_title(f"{way}-way {shot}-shot", fontsize="medium")
        column[1].set(xlabel="inner steps T")
        for axis in column:
            axis.set_ylim(bottom=0)
            axis.grid(alpha=0.3)
    axes[0][0].set_ylabel(f"{memory} (MB)")
    axes[1][0].set_ylabel("time of a meta-iteration (ms)")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize="small", ncols=4, loc="outside lower center")
    plt.close(figure)
    return figure


def cost_table(result: Result, way: int, shot: int) -> str:
    """Measured against predicted for one setting at the largest T, and how far the model is off over all T."""
    own = [row for row in result["metrics"] if (row["way"], row["shot"]) == (way, shot)]
    model, last = costs.fit([_cell(row) for row in own], own), max(row["steps"] for row in own)
    rows = []
    for method in [m for m in METHODS if any(row["method"] == m for row in own)]:
        line = [row for row in own if row["method"] == method]
        row = next(row for row in line if row["steps"] == last)
        cell = _cell(row)
        counted = costs.counts(cell)
        errors = [
            [abs(model.seconds(_cell(r)) / r["seconds"] - 1) for r in line],
            [abs(model.bytes(_cell(r), r["tasks_at_once"]) / r["bytes"] - 1) for r in line],
        ]
        rows.append(
            [
                method, f"{counted.gradient:.0f}", f"{counted.product:.0f}", f"{counted.states}",
                f"{1000 * row['seconds']:.0f}", f"{1000 * model.seconds(cell):.0f}",
                f"{row['bytes'] / 1e6:.0f}", f"{model.bytes(cell, row['tasks_at_once']) / 1e6:.0f}",
                *(f"{100 * statistics.mean(each):.0f} / {100 * max(each):.0f}" for each in errors),
            ]
        )  # fmt: skip
    head = [
        "Method", "images through gradients", "through products", "states held", "time (ms)", "predicted",
        "memory (MB)", "predicted", "time off by (%), mean / most", "memory off by (%), mean / most",
    ]  # fmt: skip
    return markdown(head, rows)


def cost_constants(result: Result, way: int, shot: int) -> str:
    """The fitted constants in words."""
    own = [row for row in result["metrics"] if (row["way"], row["shot"]) == (way, shot)]
    model = costs.fit([_cell(row) for row in own], own)
    return (
        f"{way}-way {shot}-shot: {1e6 * model.per_gradient:.0f} µs an image through a gradient, "
        f"{1e6 * model.per_product:.0f} µs through a Hessian-vector product; {model.per_held_once / 1e3:.0f} kB "
        f"an image held for one backward pass, {model.per_held_twice / 1e3:.0f} kB for two."
    )


def speed_ratio(result: Result, method: str, way: int, shot: int, steps: int) -> tuple[float, float]:
    """(time, memory) of MAML as multiples of the method's, at this T."""
    cells = {row["method"]: row for row in result["metrics"]
             if (row["way"], row["shot"], row["steps"]) == (way, shot, steps)}  # fmt: skip
    return tuple(cells["MAML"][column] / cells[method][column] for column in ("seconds", "bytes"))


def _cell(row: dict[str, Any]) -> costs.Cell:
    return costs.Cell(**{name: row[name] for name in ("method", "way", "shot", "steps", "filters", "tasks")})
