"""How near each estimator comes to the exact meta-gradient, and what it costs (benchmarks/meta_gradients.py)."""

from __future__ import annotations

from typing import Any

from msmeta import statistics
from msmeta.experiments.few_shot.costs import uniform
from msmeta.report.picture import COLOUR, Picture, panels, styled
from msmeta.report.style import COLOURS, Result, drawn, plain_ticks, stored_benchmark, table_of

Row = dict[str, Any]
Stage = tuple[int, int]  # meta-iterations before, and the window that they were made with

GRADIENT_PROBLEMS = {"quadratic": "quadratic", "sine": "sine regression", "omniglot": "Omniglot, Conv4"}
_MOMENTUM = {0.9: ("with momentum", "-"), 0.0: ("without", ":")}
"""Of the inner SGD: its name, and how a line is drawn."""
_STAGE_COLOURS = [COLOUR[name] for name in ("blue", "pink", "green", "brown")]
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "adjoint": ("exact, adjoint", {"marker": "*", "color": COLOURS["MAML"]}),
    "lazy-hessian": ("lazy Hessian", {"marker": "<", "color": COLOUR["rust"]}),
    "truncated": ("truncated", {"marker": ">", "color": COLOUR["purple"]}),
    "binomial": ("binomial", {"marker": "d", "color": COLOUR["teal"]}),
    "first-order": ("first-order", drawn("FO-MAML") | {"marker": "s"}),
    "reptile": ("Reptile", drawn("Reptile") | {"marker": "D"}),
    "perturbed": ("FO-B-MAML", {"marker": "h", "color": COLOUR["ink"]}),
    "implicit": ("implicit", drawn("iMAML") | {"marker": "^"}),
    "finite-difference": ("finite differences", {"marker": "v", "color": COLOUR["grey"]}),
    "gaussian-smoothing": ("Gaussian smoothing", {"marker": "P", "color": COLOUR["green"]}),
    "evolution-strategies": ("evolution strategies", {"marker": "X", "color": COLOUR["grey"]}),
}
"""The estimators beside windows: their names, and how they are drawn."""


def measured() -> dict[str, Result]:
    """Committed results of benchmarks/meta_gradients.py, by problem. Raises UserError where one was not run."""
    return {
        problem: stored_benchmark(f"meta-gradients/{problem}", f"benchmarks/meta_gradients.py {problem}")
        for problem in GRADIENT_PROBLEMS
    }


@styled
def by_window(results: dict[str, Result]) -> Picture:
    """Cosine and ratio of lengths of the windows' meta-gradient to the exact one, over N, one row a problem."""
    figure, axes = panels(2, len(results))
    for (cosine, ratio), (problem, result) in zip(axes, results.items(), strict=True):
        steps, stages = result["config"]["steps"], _stages(result)
        numbers = range(1, steps + 1)
        for stage, colour in zip(stages, _STAGE_COLOURS, strict=False):
            for momentum, (name, line) in _MOMENTUM.items():
                rows = [_windows(result, stage, momentum)[uniform(steps, n)] for n in numbers]
                style = {"color": colour, "linestyle": line, "marker": "o", "markersize": 3, "elinewidth": 0.8}
                style["label"] = f"{_stage_name(stage, short=True)}, {name}"
                for axis, column in ((cosine, "cosine"), (ratio, "norm_ratio")):
                    halves = [half_width(row, column) for row in rows]
                    axis.errorbar(numbers, [row.get(column) for row in rows], halves, **style)
        for axis in (cosine, ratio):
            axis.set(title=GRADIENT_PROBLEMS[problem], xlabel="window N (steps)", xticks=numbers)
        cosine.set(ylabel="cosine with exact", ylim=(-0.35, 1.05))
        ratio.set(ylabel="length / exact length", yscale="log")
        plain_ticks(ratio.yaxis, [0.5, 1, 2, 4, 10, 20, 40, 100, 200, 400])
    return figure.label_lines()


@styled
def by_cost(results: dict[str, Result]) -> Picture:
    """Cosine of every estimator against its time, and for Omniglot its memory: last stage, inner SGD with momentum."""
    shown = [(problem, "seconds", "time") for problem in results] + [("omniglot", "bytes", "memory")]
    figure, axes = panels(len(shown), share=True, interactive=True, height=3.2)
    for axis, (problem, cost, what) in zip(axes.flat, shown, strict=True):
        result, steps = results[problem], results[problem]["config"]["steps"]
        last = max(stage for stage in _stages(result) if stage[1] == 1)
        windows, others = _windows(result, last, 0.9), _rows(result, last, 0.9)
        exact = windows[uniform(steps, 1)][cost]
        groups = [("windows", [windows[uniform(steps, n)] for n in (1, 2, 4, 8)],
                   {"marker": "o", "markersize": 5, "color": COLOUR["blue"], "linewidth": 1})]  # fmt: skip
        for key, (name, style) in OTHERS.items():
            own = [row for row in others if row["estimator"] == key and "cosine" in row]
            if any(row["estimator"] == key for row in others):
                groups.append((name, own, {"linestyle": "none", "markersize": 6, **style}))
        for name, own, style in groups:
            x, y = [row[cost] / exact for row in own], [row["cosine"] for row in own]
            axis.errorbar(x, y, [half_width(row, "cosine") for row in own], elinewidth=0.8, label=name, **style)
        axis.set(xscale="log", xlabel=f"{what} / exact {what}", title=GRADIENT_PROBLEMS[problem])
        axis.set_ylabel("cosine with exact")
        plain_ticks(axis.xaxis, [1 / 4, 1 / 2, 1, 2, 4, 8, 16] if cost == "seconds" else [0.4, 0.6, 0.8, 1])
    return figure.label_lines()


@styled
def by_partition(result: Result) -> Picture:
    """Cosine of non-uniform partitions beside the uniform one of as many windows, one panel a stage."""
    four = [(2, 2, 2, 2), (1, 1, 2, 4), (4, 2, 1, 1), (1, 1, 1, 5), (5, 1, 1, 1)]
    partitions, stages = [*four, (4, 4), (2, 6), (6, 2), (1, 7), (7, 1)], _stages(result)
    figure, axes = panels(len(stages))
    for axis, stage in zip(axes[0], stages, strict=True):
        for (momentum, (name, _)), offset, colour in zip(
            _MOMENTUM.items(), (-0.12, 0.12), (COLOUR["blue"], COLOUR["pink"]), strict=True
        ):
            rows = [_windows(result, stage, momentum)[partition] for partition in partitions]
            x, spread = [row.get("cosine") for row in rows], [half_width(row, "cosine") for row in rows]
            axis.errorbar(x, [i + offset for i in range(len(rows))], xerr=spread, fmt="o", color=colour, label=name)
        axis.axhline(len(four) - 0.5, color="grey", linewidth=0.8)
        axis.set_yticks(range(len(partitions)), map(str, partitions))
        axis.set(xlabel="cosine with exact", xlim=(-0.15, 1.05), title=_stage_name(stage))
        axis.invert_yaxis()
        axis.legend(ncols=2, loc="lower left", bbox_to_anchor=(-0.4, 1.08))
    return figure


def table(result: Result) -> str:
    """Every estimator at every stage of one problem, in Markdown."""
    rows = []
    for row in result["metrics"]:
        windows, depth = ",".join(map(str, row["window"] or ())), row.get("depth")
        cosine, ratio = (
            f"{row[name]:.3g} ±{half_width(row, name):.1g}" if name in row else "diverged"
            for name in ("cosine", "norm_ratio")
        )
        time = f"{1000 * row['seconds']:.3g}" if "seconds" in row else "-"
        memory = f"{row['bytes'] / 1e6:.0f}" if "bytes" in row else "-"
        name = "windows" if row["estimator"] == "multistep" else OTHERS[row["estimator"]][0]
        name = " ".join([name, *filter(None, [windows, depth and f"depth {depth}"])])
        stage, momentum = _stage_name(_stage(row)), _MOMENTUM[row["momentum"]][0]
        rows.append(f"{name} | {stage} | {momentum} | {cosine} | {ratio} | {time} | {memory}")
    return table_of("Estimator | Stage | Inner SGD | Cosine | Length ratio | Time (ms) | Memory (MB)", rows)


@styled
def memory_over_steps(result: Result) -> Picture:
    """Peak memory against the number of inner steps, for both backward passes (benchmarks/steps_memory.py)."""
    figure, ((memory, time),) = panels(2, interactive=True)
    for backward, line, markers in (("autograd", "-", "os"), ("adjoint", "--", "^v")):
        for window, method, marker in zip((1, 4), ("MAML", "Multi-step (4)"), markers, strict=True):
            rows = [r for r in result["metrics"] if (r["backward"], r["window"]) == (backward, window)]
            steps, style = [row["steps"] for row in rows], drawn(method) | {"linestyle": line, "marker": marker}
            style["label"] = f"{backward}, N = {window}"
            memory.plot(steps, [row["bytes"] / 1e6 for row in rows], **style)
            time.plot(steps, [row["seconds"] for row in rows], **style)
    for axis, quantity in ((memory, "memory (MB)"), (time, "time (s)")):
        axis.set(xscale="log", yscale="log", xlabel="inner steps T", ylabel=quantity)
        plain_ticks(axis.xaxis, [1, 2, 4, 8, 16, 32, 64])
        plain_ticks(axis.yaxis, [0.125, 0.25, 0.5, 1, 2, 4, 100, 150, 200, 300, 400, 600, 800, 1200, 1600])
    return figure.label_lines()


def _stage(row: Row) -> Stage:
    return row["iterations"], row["trained_window"]


def _stages(result: Result) -> list[Stage]:
    return list(dict.fromkeys(map(_stage, result["metrics"])))


def _stage_name(stage: Stage, short: bool = False) -> str:
    iterations, window = stage
    how = "exact" if window == 1 else f"N = {window}"
    if not iterations:
        return "start" if short else "as initialised"
    return f"{iterations} ({how})" if short else f"after {iterations} iterations ({how})"


def _rows(result: Result, stage: Stage, momentum: float) -> list[Row]:
    return [row for row in result["metrics"] if (_stage(row), row["momentum"]) == (stage, momentum)]


def _windows(result: Result, stage: Stage, momentum: float) -> dict[tuple[int, ...], Row]:
    """The rows of windows by their lengths."""
    return {tuple(row["window"]): row for row in _rows(result, stage, momentum) if row["estimator"] == "multistep"}


def half_width(row: Row, name: str) -> float | None:
    """Half-width of the 95 % confidence interval of the mean over batches; None where there are too few."""
    return statistics.half_width(row[f"{name}_sd"], row["batches"]) if name in row else None
