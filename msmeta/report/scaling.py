"""Time and memory of a meta-iteration against one factor at a time, beside the counted law (benchmarks/scaling.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from msmeta.experiments.few_shot import method
from msmeta.experiments.few_shot.costs import Cell
from msmeta.experiments.few_shot.plan import Rates
from msmeta.experiments.few_shot.tally import Tally
from msmeta.report.picture import COLOUR, Picture, panels, styled
from msmeta.report.style import Result, drawn, find_benchmark, plain_ticks, table_of
from msmeta.statistics import plus_minus

TARGETS = {"seconds": 0.15, "bytes": 0.10}
"""How far off the cost model may be, as a share."""
EXACT, WINDOW, FIRST_ORDER = method("multistep"), method("multistep", 8), method("first-order")
ADJOINT = f"{EXACT}, adjoint"
_FEW: dict[str, Callable[[Cell], bool]] = {
    EXACT: lambda cell: cell.estimator == "multistep" and cell.window == 1 and cell.backward == "autograd",
    WINDOW: lambda cell: cell.estimator == "multistep" and cell.window == 8,
    FIRST_ORDER: lambda cell: cell.estimator == "first-order",
}
SERIES: dict[str, dict[str, Callable[[Cell], bool]]] = {
    "steps": {
        EXACT: _FEW[EXACT],
        ADJOINT: lambda cell: cell.backward == "adjoint",
        "N = T / 2": lambda cell: cell.estimator == "multistep" and 2 * cell.window == cell.steps,
        "N = T": lambda cell: (
            cell.estimator == "multistep" and cell.window == cell.steps and cell.backward != "adjoint"
        ),
        FIRST_ORDER: _FEW[FIRST_ORDER],
    },
    "window": {
        "autograd": lambda cell: cell.backward == "autograd",
        "adjoint": lambda cell: cell.backward == "adjoint",
    },
}
"""Lines by the factor that is turned, and which cells they have; of other factors those of `_FEW`."""
AXES = {
    "steps": "inner steps T",
    "window": "window N, T = 64",
    "tasks": "tasks",
    "task_chunk": "tasks at once, of 16",
    "way": "way",
    "shot": "shot",
    "filters": "filters",
    "size": "image side (px)",
    "photographs": "photographs' side (px)",
}
STYLES = {name: drawn(name) for name in (EXACT, WINDOW, FIRST_ORDER)} | {
    "autograd": drawn(EXACT),
    ADJOINT: {"color": COLOUR["teal"], "marker": "X"},
    "adjoint": {"color": COLOUR["teal"], "marker": "X"},
    "N = T / 2": {"color": COLOUR["blue"], "marker": "p"},
    "N = T": drawn(WINDOW),
}

_TICKS = ([base * 10**power for power in range(5) for base in (1, 2, 5)],) * 2


@dataclass(frozen=True)
class Line:
    """A method's points against a factor, and what the cost model has for them: seconds and bytes."""

    label: str
    values: list[float]
    measured: dict[str, list[float]]
    counted: dict[str, list[float]]


def stored() -> Result | None:
    """The measurement, None where it was not run."""
    return find_benchmark("benchmarks/scaling")


def lines(result: Result, factor: str) -> list[Line]:
    """In order of the factor's values."""
    rates, found = Rates(**result["rates"]), []
    turned = ((row, {value for own, value in row["turned"] if own == factor}) for row in result["metrics"])
    rows = sorted(((value, row) for row, values in turned for value in values), key=lambda pair: pair[0])
    for label, belongs in SERIES.get(factor, _FEW).items():
        own = [(value, row) for value, row in rows if belongs(Cell.of(row))]
        predicted = [predict(rates, row) for _, row in own]
        found.append(
            Line(
                label,
                [value for value, _ in own],
                {name: [row[name] for _, row in own] for name in TARGETS},
                {name: [each[name] for each in predicted] for name in TARGETS},
            )
        )
    return found


def predict(rates: Rates, row: dict[str, Any]) -> dict[str, float]:
    """Seconds and bytes of a stored point."""
    counted = Tally(**row["tally"])
    return {"seconds": rates.seconds(counted), "bytes": rates.growth(counted)}


@styled
def figure(result: Result, factors: Sequence[str]) -> Picture:
    """Time and memory, one row a factor, all axes logarithmic; the cost model's line is thin."""
    drawing, axes = panels(2, len(factors), interactive=True)
    for row, factor in zip(axes, factors, strict=True):
        for line in lines(result, factor):
            for axis, quantity, unit in zip(row, TARGETS, (1e-3, 1e6), strict=True):
                style = STYLES[line.label]
                axis.loglog(
                    line.values, np.divide(line.measured[quantity], unit), label=line.label, linestyle="", **style
                )
                axis.loglog(line.values, np.divide(line.counted[quantity], unit), color=style["color"], linewidth=0.8)
        values = sorted({value for line in lines(result, factor) for value in line.values})[-7:]
        for axis, what, places in zip(
            row, ("time of a meta-iteration (ms)", "growth of the process (MB)"), _TICKS, strict=True
        ):
            axis.set(xlabel=AXES[factor], ylabel=what)
            plain_ticks(axis.xaxis, values)
            plain_ticks(axis.yaxis, places)
    return drawing.label_lines()


def slopes(result: Result) -> str:
    """Log-log slopes of time and memory in each factor, measured and counted, in Markdown."""
    rows = []
    for factor, words in AXES.items():
        for line in (line for line in lines(result, factor) if len(line.values) > 1):
            cells = [f"{words} | {line.label}"]
            for quantity in TARGETS:
                measured, counted = (found[quantity] for found in (line.measured, line.counted))
                cells += [slope_text(line.values, measured), f"{slope(line.values, counted)[0]:.2f}"]
                cells += [f"{slope(line.values[-2:], measured[-2:])[0]:.2f}"]
            rows.append(" | ".join(cells))
    return table_of(
        "Against | Method | time, slope | counted | at the end | memory, slope | counted | at the end", rows
    )


def slope(values: Sequence[float], found: Sequence[float]) -> tuple[float, float | None]:
    """Of a line through the logarithms, and the half-width of its 95 % interval where there are more than two."""
    x, y, count = np.log(values), np.log(found), len(values)
    if count == 2:
        return float((y[1] - y[0]) / (x[1] - x[0])), None
    fitted = stats.linregress(x, y)
    return float(fitted.slope), float(stats.t.ppf(0.975, count - 2) * fitted.stderr)


def slope_text(values: Sequence[float], found: Sequence[float]) -> str:
    """The same in words."""
    return plus_minus(*slope(values, found))


def errors(result: Result) -> str:
    """How far the cost model is off the points that it was not fitted to, in Markdown."""
    rows = []
    for quantity, target in TARGETS.items():
        for part, own in (("fitted to", True), ("checked on", False)):
            off = np.array([each for _, each in _off(result, quantity, own)])
            share = np.mean(np.abs(off) <= target)
            rows.append(
                f"{'time' if quantity == 'seconds' else 'memory'}, points it was {part} | {len(off)} | "
                f"{100 * np.abs(off).mean():.1f} | {100 * np.quantile(np.abs(off), 0.9):.1f} | "
                f"{100 * off.min():+.0f} to {100 * off.max():+.0f} | {100 * target:.0f} | {100 * share:.0f}"
            )
    return table_of(
        "Cost model | points | off by, mean (%) | nine in ten within (%) | least and most (%) | target (%) | "
        "within the target (% of points)",
        rows,
    )


def worst(result: Result, quantity: str, count: int = 6) -> str:
    """The points that the cost model is farthest off, in Markdown."""
    found = sorted(_off(result, quantity, False), key=lambda pair: -abs(pair[1]))[:count]
    rows = []
    for row, off in found:
        cell, unit = Cell.of(row), 1e-3 if quantity == "seconds" else 1e6
        label = cell.label + (", adjoint" if cell.backward == "adjoint" else "")
        pictures = f"{cell.size} px" + (", photographs" if cell.photographs else "")
        rows.append(
            f"{label} | {cell.steps} | {cell.way}-way {cell.shot}-shot | {cell.filters} | {cell.tasks} / "
            f"{cell.config().task_chunk} | {pictures} | {row[quantity] / unit:.0f} | {100 * off:+.0f}"
        )
    unit = "time (ms)" if quantity == "seconds" else "memory (MB)"
    return table_of(f"Method | T | tasks are | filters | tasks / at once | images | {unit} | predicted off (%)", rows)


def longest(result: Result) -> str:
    """At the largest T, which the rates were not fitted to: memory and time of a few ways, measured and predicted."""
    steps = max(Cell.of(row).steps for row in result["metrics"])
    rows, rates = [], Rates(**result["rates"])
    for row in result["metrics"]:
        cell = Cell.of(row)
        if cell.steps == steps and (cell.window, cell.backward) in ((1, "autograd"), (1, "adjoint"), (8, "autograd")):
            predicted = predict(rates, row)
            cells = [f"{cell.label}, {cell.backward}"]
            for name, unit in (("bytes", 1e6), ("seconds", 1e-3)):
                off = predicted[name] / row[name] - 1
                cells += [f"{row[name] / unit:.0f}", f"{predicted[name] / unit:.0f}", f"{100 * off:+.0f}"]
            rows.append(" | ".join(cells))
    return table_of("Method | memory (MB) | predicted | off (%) | time (ms) | predicted | off (%)", rows)


def _off(result: Result, quantity: str, fitted: bool) -> list[tuple[dict[str, Any], float]]:
    rates = Rates(**result["rates"])
    rows = [row for row in result["metrics"] if row["fitted"] == fitted]
    return [(row, predict(rates, row)[quantity] / row[quantity] - 1) for row in rows]


def rates_in_words(result: Result) -> str:
    """The fitted rates."""
    rates = Rates(**result["rates"])

    def speed(seconds: float, unit: str) -> str:
        return f"{1 / seconds / 1e9:.0f} {unit} a second" if seconds else f"no time for {unit}"

    return (
        f"{speed(rates.per_flop, 'GFLOP')}, {speed(rates.per_convolved, 'GB')} that convolutions read and write, "
        f"{speed(rates.per_moved, 'GB')} that other kernels do, {1e6 * rates.per_convolution:.0f} µs a convolution and "
        f"{1e6 * rates.per_kernel:.1f} µs another kernel; {rates.per_held:.2f} bytes a byte of tensors, "
        f"{rates.per_widest:.2f} bytes a byte of the largest convolution, and {rates.process / 1e6:.0f} MB a process."
    )


def scatter(result: Result) -> float:
    """By what factor the growth of processes differs, at the most, among points whose counted bytes are the same."""
    same: dict[tuple[float, float], list[float]] = {}
    for row in result["metrics"]:
        same.setdefault((row["tally"]["held"], row["tally"]["widest"]), []).append(row["bytes"])
    return max(max(own) / min(own) for own in same.values())
