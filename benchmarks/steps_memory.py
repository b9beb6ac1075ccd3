"""Peak memory and time of one meta-gradient against the number of inner steps, for both backward passes.

    python benchmarks/steps_memory.py [--filters 64] [--tasks 4] [--shot 1] [--device cpu]

Work: Conv4 on 28x28 images, 5-way, 15 query images a class, SGD with momentum, float32, random images. Each
measurement is a process of its own: on a CPU the growth of its largest resident set, on a GPU torch's peak of allocated
bytes. Prints a table and writes results/benchmarks/steps_memory.json. Time it on an idle machine.
"""

import argparse
import itertools

import torch

from msmeta import SGD, MultiStep, machine, runs
from msmeta.errors import script
from msmeta.experiments import few_shot
from msmeta.experiments.few_shot import costs
from msmeta.models import Conv4

MINUTES = 2

STEPS = (1, 2, 4, 8, 16, 32, 64)
WAY, QUERY = 5, 15


def measure(given: argparse.Namespace, steps: int, window: int, backward: str) -> dict[str, float]:
    """Bytes beyond those before the first call, and seconds of the second one."""
    device = torch.device(given.device)
    config = few_shot.preset_config("paper", "omniglot", WAY, given.shot, "multistep", query=QUERY, tasks=given.tasks)
    model = Conv4(WAY, filters=given.filters)
    problem = few_shot.episode_problem(model, costs.random_episodes(config, device))
    theta = {name: value.to(device) for name, value in model.init(0).items()}
    estimator = MultiStep(SGD(0.01, 0.9, 1e-4), steps, window, backward)
    (seconds,), memory = machine.timed(lambda: estimator(problem, theta), device, 1)
    return {"bytes": memory, "seconds": seconds}


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
        row = machine.in_fresh_process(measure, given, steps, window, backward)
        rows.append({"steps": steps, "window": window, "backward": backward, **row})
        print(f"T={steps:<3} N={window} {backward:9}{row['bytes'] / 1e6:8.0f} MB {row['seconds']:7.2f} s", flush=True)
    measurement.save("benchmarks/steps_memory.json", vars(given), rows, torch.device(given.device))


if __name__ == "__main__":
    script(main)
