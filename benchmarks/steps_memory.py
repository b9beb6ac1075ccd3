"""Peak memory and time of one meta-gradient against the number of inner steps, for both backward passes.

    python benchmarks/steps_memory.py [--filters 64] [--tasks 4] [--shot 1] [--device cpu]

Work: Conv4 on 28x28 images, 5-way, 15 query images a class, SGD with momentum, float32, random images. Each
measurement is a process of its own: on a CPU the growth of its largest resident set, on a GPU torch's peak of allocated
bytes. Prints a table and writes results/benchmarks/steps_memory.json. Time it on an idle machine.
"""

import argparse
import json
import subprocess
import sys
import time

import torch

from msmeta import SGD, MultiStep, machine, runs
from msmeta.data import Episodes
from msmeta.experiments import few_shot
from msmeta.models import Conv4

STEPS = (1, 2, 4, 8, 16, 32, 64)
WAY, QUERY = 5, 15


def measure(args: argparse.Namespace, steps: int, window: int, backward: str) -> dict[str, float]:
    """Bytes beyond those before the first call, and seconds of the second one."""
    device = torch.device(args.device)
    generator, labels = torch.Generator().manual_seed(0), torch.arange(WAY, device=device)
    images = [torch.rand(args.tasks, WAY * n, 1, 28, 28, generator=generator).to(device) for n in (args.shot, QUERY)]
    answers = [labels.repeat_interleave(n).repeat(args.tasks, 1) for n in (args.shot, QUERY)]
    problem_of = few_shot.episode_problem
    model = Conv4(WAY, filters=args.filters)
    theta = {name: value.to(device) for name, value in model.init(0).items()}
    problem = problem_of(model, Episodes(images[0], answers[0], images[1], answers[1]))
    estimator = MultiStep(SGD(0.01, 0.9, 1e-4), steps, window, backward)
    machine.reset_peak_memory(device)
    before = machine.peak_memory(device)
    for _ in range(2):
        start = time.perf_counter()
        estimator(problem, theta).loss.item()
        seconds = time.perf_counter() - start
    return {"bytes": machine.peak_memory(device) - before, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--filters", type=int, default=64)
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--shot", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one", nargs=3, metavar=("STEPS", "WINDOW", "BACKWARD"), help="measure in this process")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args, int(args.one[0]), int(args.one[1]), args.one[2])))
        return
    rows = []
    for window in (1, 4):
        for backward in ("autograd", "adjoint"):
            for steps in STEPS:
                if steps % window == 0:
                    rows.append({"steps": steps, "window": window, "backward": backward})
                    one = ["--one", str(steps), str(window), backward]
                    command = [sys.executable, __file__, *sys.argv[1:], *one]
                    child = subprocess.run(command, capture_output=True, text=True, check=True)
                    rows[-1] |= json.loads(child.stdout)
                    row = rows[-1]
                    print(
                        f"T={steps:<3} N={window} {backward:9}{row['bytes'] / 1e6:8.0f} MB {row['seconds']:7.2f} s",
                        flush=True,
                    )
    result = {
        "config": {name: value for name, value in vars(args).items() if name != "one"},
        "metrics": rows,
        "provenance": runs.provenance(torch.device(args.device)),
    }
    path = runs.save_measurement("benchmarks/steps_memory.json", result)
    print(f"result: {path}")


if __name__ == "__main__":
    main()
