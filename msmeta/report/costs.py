"""Figures 2 and 5: memory and time of a meta-iteration against the number of inner steps, beside the cost model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from msmeta.experiments.few_shot import costs
from msmeta.report.frame import on_cpu
from msmeta.report.picture import Picture, panels, styled
from msmeta.report.style import METHODS, Result, drawn, table_of
from msmeta.statistics import mean_ci

_CONSTANTS = 2  # of the model for time, and as many for memory: more cells are needed for a fit to say anything


@styled
def figure(result: Result, settings: Sequence[tuple[int, int]] | None = None) -> Picture | str:
    """Memory and time against T: a row a setting, a line a method, the cost model dotted. Bars are as wide as 95 %
    intervals over rounds, of which early results have none.

    In words where one T alone was measured, which makes no curve.
    """
    metrics = result["metrics"]
    if len({row["steps"] for row in metrics}) < 2:
        return "No curve against T: only one number of inner steps was measured. The table has the numbers."
    settings = settings or list(dict.fromkeys((row["way"], row["shot"]) for row in metrics))
    figure, axes = panels(2, len(settings), interactive=True)
    for row, (way, shot) in zip(axes, settings, strict=True):
        found, model = _measured(result, way, shot)
        for axis, quantity in zip(row, ("memory", "time"), strict=True):
            for method in METHODS:
                own = found[found["method"] == method]
                bars = {"yerr": own[f"{quantity} half"], "elinewidth": 0.8, "label": method}
                axis.errorbar(own["steps"], own[quantity], **bars, **drawn(method))
                if model:
                    dotted = {"color": drawn(method)["color"], "linestyle": ":", "linewidth": 1}
                    axis.plot(own["steps"], own[f"predicted {quantity}"], **dotted)
            axis.set(title=f"{way}-way {shot}-shot", xlabel="inner steps T", ylim=(0, None))
        row[0].set_ylabel(f"{'growth of peak resident set' if on_cpu(result['provenance']) else 'peak memory'} (MB)")
        row[1].set_ylabel("time of a meta-iteration (ms)")
    return figure.label_lines()


def table(result: Result, way: int, shot: int) -> str:
    """Measured against predicted for one setting at the largest T, and how far the model is off over all T."""
    rows = []
    for method, own in _measured(result, way, shot)[0].groupby("method", sort=False):
        last = own.iloc[-1]
        time, memory = (
            "-" if math.isnan(last[f"predicted {name}"]) else f"{last[f'predicted {name}']:.0f}"
            for name in ("time", "memory")
        )
        rows.append(
            f"{method} | {last['gradient']:.0f} | {last['product']:.0f} | {last['states']:.0f} | {last['time']:.0f} | "
            f"{time} | {last['memory']:.0f} | {memory} | {_off(own, 'time')} | {_off(own, 'memory')}"
        )
    return table_of(
        "Method | images through gradients | through products | states held | time (ms) | predicted | memory (MB) | "
        "predicted | time off by (%), mean / most | memory off by (%), mean / most",
        rows,
    )


def _off(rows: pd.DataFrame, quantity: str) -> str:
    """How far the model is off what was measured; memory that did not grow has no share to be off by."""
    off = 100 * (rows[f"predicted {quantity}"] / rows[quantity].where(rows[quantity] > 0) - 1).abs()
    return "-" if off.isna().all() else f"{off.mean():.0f} / {off.max():.0f}"


def constants(result: Result, way: int, shot: int) -> str:
    """The fitted constants in words."""
    _, model = _measured(result, way, shot)
    if model is None:
        return f"{way}-way {shot}-shot: too few measurements for the cost model."
    return (
        f"{way}-way {shot}-shot: {1e6 * model.per_gradient:.0f} µs an image through a gradient, "
        f"{1e6 * model.per_product:.0f} µs through a Hessian-vector product; {model.per_held_once / 1e3:.0f} kB "
        f"an image held for one backward pass, {model.per_held_twice / 1e3:.0f} kB for two."
    )


def saving(result: Result, way: int, shot: int) -> str:
    """What windows of four save of MAML with eight steps, in words."""
    found, _ = _measured(result, way, shot)
    at = found[found["steps"] == 8].set_index("method")
    faster, smaller = (at.loc["MAML", name] / at.loc["Multi-step (4)", name] for name in ("time", "memory"))
    return (
        f"{way}-way {shot}-shot, T = 8: Multi-step (4) is **{faster:.2f} times as fast** as MAML and takes "
        f"1/{smaller:.2f} of its memory."
    )


def _half(rounds: Sequence[float]) -> float:
    """The half-width of the 95 % interval of their mean; 0 where that is not known."""
    return (mean_ci(rounds)[1] or 0.0) if rounds else 0.0


def _measured(result: Result, way: int, shot: int) -> tuple[pd.DataFrame, costs.CostModel | None]:
    """The cells of a setting by T, measured, predicted (ms and MB) and counted; and the model that is fitted to them,
    None where there are no more cells than constants."""
    own = [row for row in result["metrics"] if (row["way"], row["shot"]) == (way, shot)]
    cells = [costs.Cell.of(row) for row in own]
    model = costs.fit(cells, own) if len(own) > _CONSTANTS else None
    columns = {
        "method": [cell.label for cell in cells],
        "steps": [cell.steps for cell in cells],
        "time": [1000 * row["seconds"] for row in own],
        "memory": [row["bytes"] / 1e6 for row in own],
        "time half": [1000 * _half(row.get("seconds_all", [])) for row in own],
        "memory half": [_half(row.get("bytes_all", [])) / 1e6 for row in own],
        "predicted time": [1000 * model.seconds(cell) if model else math.nan for cell in cells],
        "predicted memory": [
            model.bytes(cell, row["tasks_at_once"]) / 1e6 if model else math.nan
            for cell, row in zip(cells, own, strict=True)
        ],
        **{name: [getattr(costs.counts(cell), name) for cell in cells] for name in ("gradient", "product", "states")},
    }
    return pd.DataFrame(columns).sort_values("steps", kind="stable"), model
