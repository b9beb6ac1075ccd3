"""Figures 2 and 5: memory and time of a meta-iteration against the number of inner steps, beside the cost model."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from msmeta import runs
from msmeta.experiments.few_shot import costs
from msmeta.report import style
from msmeta.report.style import METHODS, Result, drawn, legend_below, markdown, panels, stored_benchmark, styled

Rows = list[tuple[dict[str, Any], costs.Cell]]  # what was measured, and of what
_CONSTANTS = 2  # of the model for time, and as many for memory: more cells are needed for a fit to say anything


def measured() -> Result:
    """The committed result of benchmarks/few_shot_costs.py, a GPU's where there is one. Raises UserError for none."""
    on_gpu = "benchmarks/few_shot_costs-cuda.json"
    name = on_gpu if (runs.results_root() / on_gpu).exists() else "benchmarks/few_shot_costs.json"
    return stored_benchmark(name, "few_shot_costs.py")


@styled
def figure(result: Result, settings: Sequence[tuple[int, int]] | None = None) -> Figure | str:
    """Memory above, time below, against T; one column a setting, one line a method, the cost model dotted.

    In words where one T alone was measured, which makes no curve.
    """
    metrics = result["metrics"]
    if len({row["steps"] for row in metrics}) < 2:
        return "No curve against T: only one number of inner steps was measured. The table has the numbers."
    settings = settings or list(dict.fromkeys((row["way"], row["shot"]) for row in metrics))
    figure, axes = panels(len(settings), 2, max(5.0, 2.5 * len(settings)), 6, sharex=True)
    for (memory, time), (way, shot) in zip(axes.T, settings, strict=True):
        rows, model = _rows(result, way, shot)
        for method in METHODS:
            line = [(row, cell) for row, cell in rows if cell.label == method]
            steps = [row["steps"] for row, _ in line]
            memory.plot(steps, [row["bytes"] / 1e6 for row, _ in line], label=method, **drawn(method))
            time.plot(steps, [1000 * row["seconds"] for row, _ in line], **drawn(method))
            if model:
                predicted = {"color": drawn(method)["color"], "linestyle": ":", "linewidth": 1}
                memory.plot(steps, [model.bytes(cell, row["tasks_at_once"]) / 1e6 for row, cell in line], **predicted)
                time.plot(steps, [1000 * model.seconds(cell) for _, cell in line], **predicted)
        memory.set_title(f"{way}-way {shot}-shot")
        time.set(xlabel="inner steps T", ylim=(0, None))
        memory.set_ylim(bottom=0)
    on_cpu = "cores" in result["provenance"]["device"]
    axes[0][0].set_ylabel(f"{'growth of peak resident set' if on_cpu else 'peak memory'} (MB)")
    axes[1][0].set_ylabel("time of a meta-iteration (ms)")
    legend_below(figure, axes[0][0])
    return figure


def table(result: Result, way: int, shot: int) -> str:
    """Measured against predicted for one setting at the largest T, and how far the model is off over all T."""
    (rows, model), lines = _rows(result, way, shot), []
    last = max((row["steps"] for row, _ in rows), default=0)
    for row, cell in rows:
        if row["steps"] != last:
            continue
        own, counted = [each for each in rows if each[1].label == cell.label], costs.counts(cell)
        predicted = ["-"] * 4
        if model:
            time = [abs(model.seconds(c) / r["seconds"] - 1) for r, c in own]
            memory = [abs(model.bytes(c, r["tasks_at_once"]) / r["bytes"] - 1) for r, c in own]
            off = [f"{100 * statistics.mean(each):.0f} / {100 * max(each):.0f}" for each in (time, memory)]
            bytes_ = model.bytes(cell, row["tasks_at_once"])
            predicted = [f"{1000 * model.seconds(cell):.0f}", f"{bytes_ / 1e6:.0f}", *off]
        lines.append(
            [
                cell.label, f"{counted.gradient:.0f}", f"{counted.product:.0f}", f"{counted.states}",
                f"{1000 * row['seconds']:.0f}", predicted[0], f"{row['bytes'] / 1e6:.0f}", *predicted[1:],
            ]
        )  # fmt: skip
    head = [
        "Method", "images through gradients", "through products", "states held", "time (ms)", "predicted",
        "memory (MB)", "predicted", "time off by (%), mean / most", "memory off by (%), mean / most",
    ]  # fmt: skip
    return markdown(head, lines)


def constants(result: Result, way: int, shot: int) -> str:
    """The fitted constants in words."""
    _, model = _rows(result, way, shot)
    if model is None:
        return f"{way}-way {shot}-shot: too few measurements for the cost model."
    return (
        f"{way}-way {shot}-shot: {1e6 * model.per_gradient:.0f} µs an image through a gradient, "
        f"{1e6 * model.per_product:.0f} µs through a Hessian-vector product; {model.per_held_once / 1e3:.0f} kB "
        f"an image held for one backward pass, {model.per_held_twice / 1e3:.0f} kB for two."
    )


def origin(result: Result) -> str:
    """Where and with what it was measured, in words."""
    config = result["config"]
    return f"Measured with: {style.origin(result)}; {config['filters']} filters, {config['tasks']} tasks."


def saving(result: Result, way: int, shot: int) -> str:
    """What windows of four save of MAML with eight steps, in words."""
    rows = {(cell.estimator, cell.window): row for row, cell in _rows(result, way, shot)[0] if cell.steps == 8}
    exact, windows = rows["multistep", 1], rows["multistep", 4]
    faster, smaller = (exact[name] / windows[name] for name in ("seconds", "bytes"))
    return (
        f"{way}-way {shot}-shot, T = 8: Multi-step (4) is **{faster:.2f} times as fast** as MAML and takes "
        f"1/{smaller:.2f} of its memory."
    )


def _rows(result: Result, way: int, shot: int) -> tuple[Rows, costs.CostModel | None]:
    """The rows of a setting, and the model fitted to them; None where there are no more rows than constants."""
    own = [row for row in result["metrics"] if (row["way"], row["shot"]) == (way, shot)]
    cells = [costs.Cell(**{name: row[name] for name in costs.Cell.__dataclass_fields__}) for row in own]
    return list(zip(own, cells, strict=True)), costs.fit(cells, own) if len(own) > _CONSTANTS else None
