"""What the estimators of products.py take in time and memory, with T = 8, 16 and 64 inner steps.

    python benchmarks/products_seconds.py [--draws 3]

Problems and estimators are those of products.py, at parameters as initialised and with the first of its inner SGDs:
what a call takes depends on neither. Writes, for each estimator, the seconds and bytes of each draw of tasks to
results/meta-gradients/seconds.json. Time it on an idle machine.
"""

import argparse
from typing import Any

import torch
from meta_gradients import DYNAMICS, PROBLEMS
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
    common = {"problem": name, "steps": steps}
    return [
        {**common, **own, "seconds": list(row.seconds), "bytes": list(row.bytes)}
        for own, row in zip(settings, found.rows, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=3)
    measurement = runs.Measurement.begin(parser)
    rows = []
    for name in PROBLEMS:
        for steps in STEPS:
            rows += rows_of(name, steps, measurement.options.draws)
            print(f"{name}, T = {steps}: done", flush=True)
    config = {"steps": list(STEPS), "draws": measurement.options.draws}
    measurement.save("meta-gradients/seconds.json", config, rows, torch.device("cpu"))


if __name__ == "__main__":
    script(main)
