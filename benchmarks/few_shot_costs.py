"""Figures 2 and 5: time and memory of a meta-iteration of every method, at 1 to 8 inner steps, in all four settings.

    python benchmarks/few_shot_costs.py [--device cuda] [--filters 64] [--tasks 2] [--rounds 3]

Writes results/benchmarks/few_shot_costs.json (on a GPU few_shot_costs-cuda.json). Run it on an idle machine; on a CPU
each cell is a process of its own (`msmeta.experiments.few_shot.costs`).
"""

import argparse

from msmeta import machine, runs
from msmeta.errors import script
from msmeta.experiments.few_shot import costs

MINUTES = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--filters", type=int, default=64)
    parser.add_argument("--tasks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    measurement = runs.Measurement.begin(parser)
    given = measurement.options
    result = costs.live("paper", None, None, None, given.device, given.filters, given.tasks, given.rounds)
    device = machine.choose_device(given.device)
    measurement.save("benchmarks/few_shot_costs.json", result["config"], result["metrics"], device)


if __name__ == "__main__":
    script(main)
