"""Time and memory of a meta-iteration against one factor at a time, and the rates of the cost model on this machine.

    python benchmarks/scaling.py [--rounds 1] [--filters 32] [--tasks 4]

Work: Conv4 on 28x28 drawings, 5-way 1-shot, T = 8, 15 query images a class, all tasks at once, float32, random images;
from there one factor after another is turned. Each measurement is one thread of a process of its own that has done tiny
meta-iterations before, so that what it grows by is not the libraries' code; the points take turns in rounds. Every
third point with T < 64 is for the fit of the rates, the others check it (`msmeta.experiments.few_shot.plan`). Prints
log-log slopes and how far the fit is off, and writes results/benchmarks/scaling.json. Run it on an idle machine.
"""

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import torch

from msmeta import machine, runs
from msmeta.errors import script
from msmeta.experiments.few_shot import plan
from msmeta.experiments.few_shot.costs import Cell, call, warm_up
from msmeta.experiments.few_shot.tally import Tally, of_meta_batch

MINUTES = 5
CPU = torch.device("cpu")
EXACT, ADJOINT, WINDOW, FIRST_ORDER = (
    {"estimator": estimator, "window": window, "backward": backward}
    for estimator, window, backward in (
        ("multistep", 1, "autograd"), ("multistep", 1, "adjoint"), ("multistep", 8, "autograd"),
        ("first-order", 1, "autograd"),
    )
)  # fmt: skip
STEPS = (1, 2, 4, 8, 16, 32, 64)
LONG = 1.0  # seconds from which on a measurement is timed once

FACTORS = {
    "tasks": (1, 2, 4, 8, 16, 32, 128),
    "task_chunk": (1, 2, 4, 8, 16),
    "way": (2, 5, 10, 20),
    "shot": (1, 2, 5, 10),
    "filters": (16, 32, 64, 128),
    "size": (28, 56, 84),
}
"""What is turned for exact, windowed and first-order meta-gradients alike."""
SIDES = (21, 42, 84)  # of photographs


def points(base: Cell) -> Iterator[tuple[str, int, Cell]]:
    """The factor that is turned, its value and the cell."""
    for steps in STEPS:
        at = replace(base, steps=steps)
        for method in (EXACT, ADJOINT, FIRST_ORDER, {"window": steps}):
            yield "steps", steps, replace(at, **method)
        if steps > 1:
            yield "steps", steps, replace(at, window=steps // 2)
    for window in STEPS:
        for backward in ("autograd", "adjoint"):
            yield "window", window, replace(base, steps=STEPS[-1], window=window, backward=backward)
    for method in (EXACT, WINDOW, FIRST_ORDER):
        for factor, values in FACTORS.items():
            for value in values:
                more = {"tasks": 4 * base.tasks} if factor == "task_chunk" else {}
                yield factor, value, replace(base, **method, **more, **{factor: value})
        for size in SIDES:
            yield "photographs", size, replace(base, **method, size=size, photographs=True, tasks=2, task_chunk=1)


def measure(cell: Cell) -> dict[str, float]:
    """Seconds of the fastest of a few meta-iterations, bytes by which the process grew, and bytes before."""
    torch.set_num_threads(1)
    for method in (EXACT, ADJOINT, FIRST_ORDER):
        warm_up(replace(cell, **method), CPU)
    iteration = call(cell, CPU)
    process = machine.peak_memory(CPU)
    times, grown = machine.timed(iteration, CPU, 1)
    if times[0] < LONG:
        more, again = machine.timed(iteration, CPU, 2)
        times, grown = times + more, grown + again
    return {"seconds": min(times), "bytes": grown, "process": process}


def main() -> None:
    from msmeta import report  # here, since its libraries are no part of a measured process

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--filters", type=int, default=32)
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    measurement = runs.Measurement.begin(parser)
    given = measurement.options
    base = Cell("multistep", 1, 5, 1, 8, given.filters, given.tasks, task_chunk=given.tasks)
    turned: dict[Cell, list[tuple[str, int]]] = {}
    for factor, value, cell in points(base):
        turned.setdefault(cell, []).append((factor, value))
    cells = list(turned)
    measured = machine.in_turns(measure, cells, given.rounds)
    tallies = [of_meta_batch(cell.config(), cell.model(), cell.config().task_chunk, cell.backward) for cell in cells]
    rows = [
        {
            "turned": turned[cell],
            **asdict(cell),
            **row,
            "tally": asdict(counted),
            "fitted": i % 3 == 0 and cell.steps < STEPS[-1],
        }
        for i, (cell, row, counted) in enumerate(zip(cells, measured, tallies, strict=True))
    ]
    result = {"config": vars(given), "rates": asdict(rates(rows)), "metrics": rows}
    print(report.scaling.slopes(result))
    print(report.scaling.errors(result))
    measurement.save(plan.MEASUREMENT, result["config"], rows, CPU, rates=result["rates"])


def rates(rows: list[dict[str, Any]]) -> plan.Rates:
    """Fitted to the rows that are for it; how much more than predicted the others took."""
    own = [row for row in rows if row["fitted"]]
    tallies, process = [Tally(**row["tally"]) for row in own], statistics.median(row["process"] for row in rows)
    found = plan.fit(tallies, *([row[name] for row in own] for name in ("seconds", "bytes")), process)
    above = [row["bytes"] / found.growth(Tally(**row["tally"])) - 1 for row in rows if not row["fitted"]]
    return replace(found, off=max(above))


if __name__ == "__main__":
    script(main)
