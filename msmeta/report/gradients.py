"""How near each estimator comes to the exact meta-gradient, and what it costs (benchmarks/meta_gradients.py)."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure

from msmeta.report.style import BLIND_SAFE, Result, markdown, plain_ticks, stored_benchmark

GRADIENT_PROBLEMS = {"quadratic": "quadratic", "sine": "sine regression", "omniglot": "Omniglot, Conv4"}
_INNER = {"with momentum": "-", "without": ":"}  # how a line is drawn for each inner optimiser
_OTHERS = ("first-order", "Reptile", "implicit", "finite differences", "Gaussian smoothing", "evolution strategies")


def meta_gradients() -> dict[str, Result]:
    """Committed results of benchmarks/meta_gradients.py, by problem. Raises UserError where one was not run."""
    return {
        problem: stored_benchmark(f"meta-gradients/{problem}.json", f"meta_gradients.py {problem}")
        for problem in GRADIENT_PROBLEMS
    }


def steps_memory() -> Result:
    """The committed result of benchmarks/steps_memory.py. Raises UserError where it was not run."""
    return stored_benchmark("benchmarks/steps_memory.json", "steps_memory.py")


def gradients_by_window(results: dict[str, Result]) -> Figure:
    """Cosine and ratio of lengths of the windows' meta-gradient to the exact one, over N, one column a problem."""
    figure, axes = plt.subplots(2, len(results), figsize=(8.5, 6.6), sharex=True, layout="constrained", squeeze=False)
    for column, (problem, result) in zip(axes.T, results.items(), strict=True):
        steps, rows = result["config"]["steps"], result["metrics"]
        stages = list(dict.fromkeys(row["stage"] for row in rows))
        colours = sns.color_palette("viridis", len(stages))
        for stage, colour in zip(stages, colours, strict=True):
            for inner, line in _INNER.items():
                own = {r["estimator"]: r for r in rows if (r["stage"], r["momentum"]) == (stage, inner)}
                uniform = [own[_windows(n, steps)] for n in range(1, steps + 1)]
                for axis, value in zip(column, ("cosine", "norm_ratio"), strict=True):
                    middle, spread = ([row.get(k) for row in uniform] for k in (value, f"{value}_ci95"))
                    style = {"color": colour, "linestyle": line, "marker": "o", "markersize": 3}
                    axis.errorbar(range(1, steps + 1), middle, spread, elinewidth=0.8, **style)
            column[1].plot([], [], color=colour, label=stage)
        column[0].set_title(GRADIENT_PROBLEMS[problem], fontsize="medium")
        column[0].set_ylim(-0.35, 1.05)
        column[1].set(xlabel="window N (steps)", yscale="log", xticks=range(1, steps + 1))
        plain_ticks(column[1].yaxis, [0.5, 1, 2, 4, 10, 20, 40, 100, 200, 400])
        column[1].legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.25))
        for axis in column:
            axis.grid(alpha=0.3)
    for inner, line in _INNER.items():
        axes[0][0].plot([], [], color="grey", linestyle=line, label=inner)
    axes[0][0].legend(frameon=False, fontsize="small", loc="lower left")
    axes[0][0].set_ylabel("cosine with exact")
    axes[1][0].set_ylabel("length / exact length")
    plt.close(figure)
    return figure


def gradients_by_cost(results: dict[str, Result]) -> Figure:
    """Cosine of every estimator against its time, and for Omniglot its memory: last stage, inner SGD with momentum."""
    panels = [(problem, "seconds") for problem in results] + [("omniglot", "bytes")]
    figure, axes = plt.subplots(1, len(panels), figsize=(10, 4.2), sharey=True, layout="constrained")
    for axis, (problem, cost) in zip(axes, panels, strict=True):
        result = results[problem]
        last = [row["stage"] for row in result["metrics"] if "(N" not in row["stage"]][-1]
        rows = [r for r in result["metrics"] if (r["stage"], r["momentum"]) == (last, "with momentum")]
        exact = next(row for row in rows if row["estimator"] == _windows(1, result["config"]["steps"]))
        for label, names, style in _estimator_styles(result["config"]["steps"]):
            own = [row for row in rows if row["estimator"] in names and "cosine" in row]
            x, y = [row[cost] / exact[cost] for row in own], [row["cosine"] for row in own]
            axis.errorbar(x, y, [row["cosine_ci95"] for row in own], elinewidth=0.8, label=label, **style)
        what = "time" if cost == "seconds" else "memory"
        axis.set(xscale="log", xlabel=f"{what} / exact {what}")
        plain_ticks(axis.xaxis, [1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16] if cost == "seconds" else [0.4, 0.6, 0.8, 1])
        axis.set_title(GRADIENT_PROBLEMS[problem], fontsize="medium")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("cosine with exact")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize="small", ncols=5, loc="outside lower center")
    plt.close(figure)
    return figure


def gradients_by_partition(result: Result) -> Figure:
    """Cosine of non-uniform partitions beside the uniform one of as many windows, one panel a stage."""
    groups = {4: ["2,2,2,2", "1,1,2,4", "4,2,1,1", "1,1,1,5", "5,1,1,1"], 2: ["4,4", "2,6", "6,2", "1,7", "7,1"]}
    stages = list(dict.fromkeys(row["stage"] for row in result["metrics"]))
    figure, axes = plt.subplots(1, len(stages), figsize=(9, 3.8), sharey=True, layout="constrained", squeeze=False)
    labels = [partition for group in groups.values() for partition in group]
    for axis, stage in zip(axes[0], stages, strict=True):
        for inner, offset, colour in zip(_INNER, (-0.12, 0.12), (BLIND_SAFE[0], BLIND_SAFE[1]), strict=True):
            own = {r["estimator"]: r for r in result["metrics"] if (r["stage"], r["momentum"]) == (stage, inner)}
            rows = [own[f"windows {label}"] for label in labels]
            places = [i + offset for i in range(len(labels))]
            spread = [row.get("cosine_ci95") for row in rows]
            axis.errorbar(
                [row.get("cosine") for row in rows],
                places,
                xerr=spread,
                fmt="o",
                markersize=4,
                color=colour,
                label=inner,
            )
        axis.axhline(len(groups[4]) - 0.5, color="grey", linewidth=0.8)
        axis.set_yticks(range(len(labels)), [f"({label.replace(',', ', ')})" for label in labels])
        axis.set(xlabel="cosine with exact", xlim=(-0.15, 1.05))
        axis.set_title(stage.replace(" (", "\n("), fontsize="medium")
        axis.grid(alpha=0.3)
    axes[0][0].invert_yaxis()
    handles = axes[0][0].get_legend_handles_labels()
    figure.legend(*handles, frameon=False, fontsize="small", ncols=2, loc="outside lower center")
    plt.close(figure)
    return figure


def gradients_table(result: Result) -> str:
    """Every estimator at every stage of one problem, in Markdown."""
    rows = [
        [
            row["estimator"], row["stage"], row["momentum"],
            *(f"{row[k]:.3g} ±{row[k + '_ci95']:.1g}" if k in row else "diverged" for k in ("cosine", "norm_ratio")),
            f"{1000 * row['seconds']:.3g}" if "seconds" in row else "-",
            f"{row['bytes'] / 1e6:.0f}" if "bytes" in row else "-",
        ]
        for row in result["metrics"]
    ]  # fmt: skip
    head = ["Estimator", "Stage", "Inner SGD", "Cosine", "Length ratio", "Time (ms)", "Memory (MB)"]
    return markdown(head, rows)


def memory_over_steps(result: Result) -> Figure:
    """Peak memory against the number of inner steps, for both backward passes (benchmarks/steps_memory.py)."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for i, (backward, window) in enumerate([("autograd", 1), ("autograd", 4), ("adjoint", 1), ("adjoint", 4)]):
        rows = [r for r in result["metrics"] if (r["backward"], r["window"]) == (backward, window)]
        steps = [row["steps"] for row in rows]
        style = {"marker": "os^v"[i], "markersize": 4, "color": BLIND_SAFE[i], "label": f"{backward}, N = {window}"}
        axes[0].plot(steps, [row["bytes"] / 1e6 for row in rows], **style)
        axes[1].plot(steps, [row["seconds"] for row in rows], **style)
    axes[0].set(xscale="log", yscale="log", xlabel="inner steps T", ylabel="memory (MB)")
    axes[1].set(xscale="log", yscale="log", xlabel="inner steps T", ylabel="time (s)")
    for axis in axes:
        plain_ticks(axis.xaxis, [1, 2, 4, 8, 16, 32, 64])
        plain_ticks(axis.yaxis, [0.125, 0.25, 0.5, 1, 2, 4, 100, 150, 200, 300, 400, 600, 800, 1200, 1600])
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False, fontsize="small")
    plt.close(figure)
    return figure


def _windows(n: int, steps: int) -> str:
    """The name of uniform windows of n, with a shorter last one where n does not divide the steps."""
    lengths = [n] * (steps // n) + ([steps % n] if steps % n else [])
    return f"windows {','.join(map(str, lengths))}"


def _estimator_styles(steps: int) -> list[tuple[str, list[str], dict[str, Any]]]:
    """(label, names of the estimators, how they are drawn): windows as one line over N, the others as points."""
    line = {"marker": "o", "markersize": 5, "color": BLIND_SAFE[0], "linewidth": 1}
    point = {"linestyle": "none", "markersize": 6}
    styles = [("windows, N = 1, 2, 4, 8", [_windows(n, steps) for n in (1, 2, 4, 8)], line)]
    styles.append(("exact, adjoint", ["exact, adjoint"], {"marker": "*", "color": BLIND_SAFE[7], **point}))
    for i, name in enumerate(_OTHERS):
        styles.append((name, [name], {"marker": "sD^vPX"[i], "color": BLIND_SAFE[(3, 1, 2, 4, 5, 6)[i]], **point}))
    return styles
