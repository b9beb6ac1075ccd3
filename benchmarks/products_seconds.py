"""What the estimators of products.py take in time and memory.

    python benchmarks/products_seconds.py quadratic|sine|omniglot [--steps 8 16 64] [--draws 3]

Problems and estimators are those of products.py, at parameters as initialised and with the first of its inner SGDs:
what a call takes depends on neither. Writes, for each T and estimator, the seconds and bytes of each draw of tasks to
results/meta-gradients/PROBLEM-seconds.json. Time it on an idle machine.
"""

import argparse
from typing import Any

import torch
from meta_gradients import DYNAMICS, PROBLEMS, TASKS
from products import estimators

from msmeta import compare, runs
from msmeta.errors import script

MINUTES = 15

STEPS = (8, 16, 64)


def rows_of(name: str, steps: int, draws: int) -> list[dict[str, Any]]:
    """A row for each estimator; one that diverges has no times."""
    settings, given = zip(*estimators(DYNAMICS[name][0], steps), strict=True)
    theta, problem = PROBLEMS[name]()
    named = dict(zip(map(str, settings), given, strict=True))
    found = compare(lambda draw: problem(1 + draw), [theta] * draws, named)
    common = {"steps": steps}
    return [
        {**common, **own, "seconds": list(row.seconds), "bytes": list(row.bytes)}
        for own, row in zip(settings, found.rows, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problem", choices=PROBLEMS)
    parser.add_argument("--steps", type=int, nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--draws", type=int, default=3)
    measurement = runs.Measurement.begin(parser)
    given, rows = measurement.options, []
    for steps in given.steps:
        rows += rows_of(given.problem, steps, given.draws)
        print(f"{given.problem}, T = {steps}: done", flush=True)
    config = {**vars(given), "steps": list(given.steps), "tasks": TASKS}
    measurement.save(f"meta-gradients/{given.problem}-seconds.json", config, rows, torch.device("cpu"))


if __name__ == "__main__":
    script(main)
