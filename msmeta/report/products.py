"""How near each estimator comes for how many Hessian-vector products (benchmarks/products.py)."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from statistics import fmean, median
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from msmeta import runs, statistics
from msmeta.dynamics import partition
from msmeta.experiments import sweep
from msmeta.experiments.few_shot import FewShotConfig
from msmeta.report import tables, tuning
from msmeta.report.few_shot_time import points
from msmeta.report.frame import FEW_SHOT, stored
from msmeta.report.gradients import GRADIENT_PROBLEMS, OTHERS
from msmeta.report.picture import COLOUR, Picture, panels, styled
from msmeta.report.style import Result, find_benchmark, plain_ticks, table_of

Row = dict[str, Any]
Place = tuple[str, int, int, float]  # problem, inner steps T, meta-iterations before, inner momentum

STEPS = (8, 16, 64)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "windows": ("windows", {"marker": "o", "color": COLOUR["blue"]}),
    "growing": ("growing windows", {"marker": "$+$", "color": COLOUR["green"]}),
    "falling": ("falling windows", {"marker": "$-$", "color": COLOUR["olive"]}),
    **{name: style for name, style in OTHERS.items() if name not in ("adjoint", "reptile")},
}
"""What is drawn as a line over the products: their names, and how."""


def measured() -> tuple[dict[tuple[str, int], Result], str]:
    """Committed results by problem and inner steps, and in words what was not run and what lacks an estimator that
    others have, with the commands; empty where nothing is missing."""
    places = list(itertools.product(GRADIENT_PROBLEMS, STEPS))
    found = {place: find_benchmark(f"meta-gradients/{place[0]}-{place[1]}") for place in places}
    told = [f"`{_command(p, t)}`" for (p, t), result in found.items() if not result]
    told = [f"Not run: {', '.join(told)}."] if told else []
    found = {place: result for place, result in found.items() if result}
    own = {place: {family(row) for row in result["metrics"]} for place, result in found.items()}
    for (problem, steps), families in own.items():
        if lacking := [FAMILIES[key][0] for key in FAMILIES if key in set().union(*own.values()) - families]:
            command = f"{_command(problem, steps)} --seeds {found[problem, steps]['config']['seeds']}"
            where = f"{GRADIENT_PROBLEMS[problem]}, T = {steps}"
            told.append(f"{where} was measured before {', '.join(lacking)} could be: `{command}` has it.")
    return found, " ".join(told)


def _command(problem: str, steps: int) -> str:
    return f"python benchmarks/products.py {problem} --steps {steps}"


def family(row: Row) -> str:
    """Of a row: its estimator, with the partitions of windows apart."""
    windows = row.get("window")
    if row["estimator"] != "multistep":
        return row["estimator"]
    return "windows" if len(set(windows)) == 1 else "growing" if windows[0] == 1 else "falling"


Times = dict[tuple[str, int], dict[tuple[str, ...], float]]
"""By problem and T, and by estimator with its settings: seconds as a multiple of exact back-propagation's."""


def timed() -> tuple[dict[str, Result], str]:
    """What benchmarks/products_seconds.py stored, by problem; and in words what was not run, with the commands."""
    found = {name: find_benchmark(f"meta-gradients/{name}-seconds") for name in GRADIENT_PROBLEMS}
    told = [f"`msmeta bench products_seconds {name}`" for name, result in found.items() if not result]
    return {name: result for name, result in found.items() if result}, f"Not run: {', '.join(told)}." if told else ""


def times(results: Mapping[str, Result]) -> Times:
    """Medians over draws of tasks, by problem."""
    found: Times = {}
    for problem, row in ((name, row) for name, result in results.items() for row in result["metrics"]):
        if row["seconds"]:
            found.setdefault((problem, row["steps"]), {})[settings(row)] = median(row["seconds"])
    for (_, steps), own in found.items():
        exact = own[settings({"estimator": "multistep", "window": [1] * steps})]
        own.update((key, seconds / exact) for key, seconds in own.items())
    return found


def settings(row: Row) -> tuple[str, ...]:
    """An estimator and what was set of it."""
    return tuple(str(row.get(name)) for name in ("estimator", "window", "depth", "cg_steps"))


@styled
def by_products(
    results: Mapping[tuple[str, int], Result], momentum: float, column: str = "cosine", taken: Times | None = None
) -> Picture:
    """Cosine with the exact meta-gradient, or the ratio of lengths (`norm_ratio`), over Hessian-vector products; or
    over the time that calls have `taken`, where they were timed.

    A panel for each problem, stage of meta-training and T; bars are 95 % intervals over seeds.
    """
    if taken is not None:
        results = {place: result for place, result in results.items() if place in taken}
    stages = {(problem, row["iterations"]) for (problem, _), result in results.items() for row in result["metrics"]}
    stages = sorted(stages, key=lambda stage: (list(GRADIENT_PROBLEMS).index(stage[0]), stage[1]))
    present = {family(row) for result in results.values() for row in result["metrics"]}
    places = [(*stage, steps) for stage in stages for steps in STEPS if (stage[0], steps) in results]
    figure, axes = panels(1, len(places), interactive=column == "cosine", height=3.1)
    for axis, (problem, iterations, steps) in zip(axes.flat, places, strict=True):
        rows = _costed(rows_at(results, (problem, steps, iterations, momentum)), taken and taken[problem, steps])
        for key, (name, style) in ((key, FAMILIES[key]) for key in FAMILIES if key in present):
            own = sorted((row for row in rows if family(row) == key), key=lambda row: row["cost"])
            means = [statistics.mean_ci(row[column]) for row in own]
            bars = {"markersize": 5, "elinewidth": 0.8, "linewidth": 1, "label": name, **style}
            values, halves = ([pair[i] or 0 for pair in means] for i in range(2))
            axis.errorbar([row["cost"] for row in own], values, halves, **bars)
        _ticks(axis, steps, timed=taken is not None)
        axis.set_title(f"{GRADIENT_PROBLEMS[problem]}, T = {steps}" + (f", {iterations} it." if iterations else ""))
        exact = steps if taken is None else 1
        axis.axvline(exact, color="grey", linewidth=0.8, linestyle=":")
        axis.set(ylim=(-0.75, 1.05)) if column == "cosine" else axis.set(yscale="log", ylim=(0.05, 200))
        axis.set(xlabel="Hessian-vector products" if taken is None else "time / exact time")
        axis.set_ylabel("cosine with exact" if column == "cosine" else "length / exact length")
    return figure.label_lines()


def _costed(rows: list[Row], taken: dict[tuple[str, ...], float] | None) -> list[Row]:
    """Those that have cosines, with what they cost: products, or the time that was measured of them."""
    costs = [row.get("products") if taken is None else taken.get(settings(row)) for row in rows]
    return [{**row, "cost": cost} for row, cost in zip(rows, costs, strict=True) if row["cosine"] and cost is not None]


def _ticks(axis: Axes, steps: int, timed: bool) -> None:
    if timed:
        axis.set_xscale("log")
        plain_ticks(axis.xaxis, [1 / 4, 1, 4] if steps < 64 else [1 / 16, 1, 16])
        return
    axis.set_xscale("symlog", linthresh=1, linscale=0.5)
    ticks = [0, *(2**i for i in range(0, 9, 1 if steps < 64 else 2))]
    axis.set_xticks(ticks, map(str, ticks))
    axis.set_xticks([], minor=True)
    axis.set(xlim=(-0.3, 5 * steps))


def rows_at(results: Mapping[tuple[str, int], Result], place: Place) -> list[Row]:
    problem, steps, *own = place
    return [row for row in results[problem, steps]["metrics"] if [row["iterations"], row["momentum"]] == own]


def equal_products(results: Mapping[tuple[str, int], Result]) -> list[tuple[Place, int, dict[str, Row]]]:
    """Places where windows and truncation take the same number of products, that number, and the rows that do."""
    found = []
    for (problem, steps), result in results.items():
        stages = dict.fromkeys((row["iterations"], row["momentum"]) for row in result["metrics"])
        for stage, products in itertools.product(stages, (steps // 8, steps // 4, steps // 2)):
            rows = rows_at(results, (problem, steps, *stage))
            at = {family(row): row for row in rows if row.get("products") == products and row["cosine"]}
            if {"windows", "truncated"} <= at.keys():
                found.append(((problem, steps, *stage), products, at))
    return found


def ahead(places: Collection[Mapping[str, Row]], other: str = "truncated") -> int:
    """In how many of these places, rows by family, windows have the higher mean cosine."""
    return sum(fmean(rows["windows"]["cosine"]) > fmean(rows[other]["cosine"]) for rows in places)


def nearer(ours: Row, theirs: Row, seeds: int) -> statistics.Difference | None:
    """Difference of cosines, by seeds; None where one of them diverged for some, which rows do not name."""
    if not len(ours["cosine"]) == len(theirs["cosine"]) == seeds:
        return None
    return statistics.paired(*({i: [c] for i, c in enumerate(row["cosine"])} for row in (ours, theirs)))


def table(results: Mapping[tuple[str, int], Result]) -> str:
    """Windows against truncation at equal products, in Markdown: cosines, their difference, and a verdict (Holm)."""
    found = equal_products(results)
    differences = [
        nearer(at["windows"], at["truncated"], results[problem, steps]["config"]["seeds"])
        for (problem, steps, *_), _, at in found
    ]
    tested = statistics.holm([d and d.p(statistics.Bounds(0)) for d in differences])
    rows = []
    for ((problem, steps, iterations, momentum), products, at), difference, p in zip(
        found, differences, tested, strict=True
    ):
        cosines = [
            statistics.plus_minus(*statistics.mean_ci(at[name]["cosine"])) if name in at else "-"
            for name in ("windows", "lazy-hessian", "truncated")
        ]
        verdict = difference and difference.verdict(statistics.Bounds(0), p)
        winner = {statistics.Verdict.HELD: "windows", statistics.Verdict.FAILED: "truncated"}.get(verdict, "undecided")
        place = [GRADIENT_PROBLEMS[problem], steps, iterations, momentum, products]
        rows.append(" | ".join(map(str, [*place, *cosines, winner])))
    head = "Problem | T | Iterations | μ | Products | Windows | Lazy Hessian | Truncated | Nearer"
    return table_of(head, rows)


def trained() -> str:
    """Accuracies after trainings with as many products (results/sweeps/products.yaml), in Markdown: those on test
    classes, then the inner rates that were tried before; and in words what is not run, with the command."""
    command, path = "`msmeta sweep results/sweeps/products.yaml`", runs.results_root() / "sweeps" / "products.yaml"
    parts = sweep.read_parts(path).values() if path.exists() else ([], [])
    tried, final = (_made(part, f"few-shot{kind}") for part, kind in zip(parts, ("-tuning", ""), strict=True))
    asked = sum(map(len, parts))
    missing = asked - len(tried) - len(final)
    told = [f"{missing} of its {asked} runs are not run: {command}."] if missing else []
    if final.empty and tried.empty:
        return f"Not run: {command}."
    shown = []
    if not final.empty:
        windows = final[final["estimator"] == "multistep"]
        columns = {
            "Method": "{label}", "products": tables.of_config(_products), "inner rate": "{lr:g}",
            "meta-iterations": "{iterations:,}", "seeds": lambda seeds: tables.listed(seeds["seed"]),
            "accuracy (%)": tables.accuracy_text,
            "less windows (points)": lambda seeds: (
                "-"
                if seeds["estimator"].iloc[0] == "multistep"
                else tables.difference_text(tables.difference(seeds, windows))
            ),
        }  # fmt: skip
        shown.append(
            f"{final['title'].iloc[0]}, {final['setting'].iloc[0]}.\n\n{tables.table(tables.cells(final), columns)}"
        )
    if not tried.empty:
        grids = [tuning.Grid.of(own, points) for _, own in tried.groupby("label", sort=False)]
        shown.append(f"On held-out classes:\n\n{tuning.table(FEW_SHOT, grids, 'iterations')}")
    return "\n\n".join([*shown, *told])


def _made(part: list[FewShotConfig], kind: str) -> pd.DataFrame:
    """The runs of a part of a sweep that are stored."""
    found, asked = stored(FEW_SHOT, kind), set(map(tuning.key_of, part))
    return found.loc[[tuning.key_of(config) in asked for config in found["config"]]]


def _products(config: FewShotConfig) -> int:
    """Hessian-vector products of a task and meta-iteration."""
    return config.depth if config.estimator == "truncated" else len(partition(config.steps, config.window))
