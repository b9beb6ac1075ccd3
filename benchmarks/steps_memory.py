"""Memory and time of a meta-iteration against the number of inner steps, for both backward passes.

    python benchmarks/steps_memory.py [--filters 64] [--tasks 4] [--shot 1] [--device cpu]

Work: Conv4 on 28x28 images, 5-way, 15 query images a class, all tasks at once, float32, random images; measured as
Figures 2 and 5 (`msmeta.experiments.few_shot.costs`). Prints a table and writes results/benchmarks/steps_memory.json.
Run it on an idle machine.
"""

import argparse
import itertools
from dataclasses import asdict

from msmeta import machine, runs
from msmeta.errors import script
from msmeta.experiments.few_shot import costs

MINUTES = 2

STEPS = (1, 2, 4, 8, 16, 32, 64)
WAY = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--filters", type=int, default=64)
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--shot", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    measurement = runs.Measurement.begin(parser)
    given, rows = measurement.options, []
    for window, backward, steps in itertools.product((1, 4), ("autograd", "adjoint"), STEPS):
        if steps % window:
            continue
        size = {"filters": given.filters, "tasks": given.tasks, "task_chunk": given.tasks}
        cell = costs.Cell("multistep", window, WAY, given.shot, steps, **size, backward=backward)
        row = costs.measure(cell, given.device)
        rows.append({**asdict(cell), **row})
        print(f"T={steps:<3} N={window} {backward:9}{row['bytes'] / 1e6:8.0f} MB {row['seconds']:7.2f} s", flush=True)
    device = machine.choose_device(given.device)
    measurement.save("benchmarks/steps_memory.json", vars(given), rows, device)


if __name__ == "__main__":
    script(main)
