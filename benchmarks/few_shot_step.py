"""Time and memory of one MAML meta-iteration, beside a plain autograd loop timed in the same run.

    python benchmarks/few_shot_step.py [--filters 64] [--tasks 32] [--rounds 3] [--chunk 8]

Work: Conv4 on 28x28 images, 5-way 1-shot, T = 8 inner steps of plain SGD, 15 query images a class, float32, random
images (the time does not depend on them). "Plain loop" is what a reader would write first: one task after another,
torch's own layers, `torch.autograd.grad(..., create_graph=True)`. Each measurement is a process of its own, so that
peak memory (largest resident set) is its own; methods take turns in rounds, so that a drift of the machine's speed
falls on all of them. The floor is the larger of the operations at the speed of a large matrix product and of the bytes
at the speed of a copy, both measured in the same run. Prints medians and writes results/benchmarks/few_shot_step.json.
Run it on an idle machine.
"""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F

from msmeta import SGD, FirstOrder, MultiStep, machine, runs
from msmeta.errors import script
from msmeta.experiments import few_shot
from msmeta.experiments.few_shot import costs
from msmeta.models import Conv4

MINUTES = 5

WAY, STEPS, LR = 5, 8, 0.04
METHODS = {
    f"{kind} {window or 'first-order'}": (kind, window) for window in (1, 2, 4, 8, None) for kind in ("plain", "msmeta")
}
"""By its name in the result: whose code, and the window; None is first-order."""


def plain_network(params, x):
    for block in "1234":
        x = F.conv2d(x, params[f"conv{block}.weight"], stride=2, padding=1)
        x = F.batch_norm(x, None, None, params[f"norm{block}.weight"], params[f"norm{block}.bias"], training=True)
        x = F.relu(x)
    return F.linear(x.mean((2, 3)), params["head.weight"], params["head.bias"])


def plain_meta_gradient(theta, batch, window):
    """One task after another; `window` None is first-order."""
    total = None
    for x, y, query_x, query_y in zip(batch.support_x, batch.support_y, batch.query_x, batch.query_y, strict=True):
        phi = theta
        for _ in range(0, STEPS, window or 1):
            loss = F.cross_entropy(plain_network(phi, x), y)
            grads = torch.autograd.grad(loss, list(phi.values()), create_graph=window is not None)
            phi = {
                name: value - (window or 1) * LR * grad for (name, value), grad in zip(phi.items(), grads, strict=True)
            }
        loss = F.cross_entropy(plain_network(phi, query_x), query_y) / len(batch)
        grads = torch.autograd.grad(loss, list(theta.values()))
        total = grads if total is None else [a + b for a, b in zip(total, grads, strict=True)]
    return total


def cell(window: int | None, filters: int, tasks: int) -> costs.Cell:
    estimator = "first-order" if window is None else "multistep"
    return costs.Cell(estimator, window or 1, WAY, 1, STEPS, filters, tasks)


def call(name: str, filters: int, tasks: int, chunk: int | None) -> Callable[[], object]:
    """The meta-iteration of a method."""
    kind, window = METHODS[name]
    config, model, cpu = cell(window, filters, tasks).config(), Conv4(WAY, filters=filters), torch.device("cpu")
    batch, chunk = costs.random_episodes(config, cpu), chunk or few_shot.task_chunk(config, cpu)
    theta = {key: value.requires_grad_() for key, value in model.init(0).items()}
    if kind == "plain":
        return lambda: plain_meta_gradient(theta, batch, window)
    machine.keep_freed_memory()  # as in training
    estimator = FirstOrder(SGD(LR), STEPS) if window is None else MultiStep(SGD(LR), STEPS, window)
    return lambda: few_shot.meta_gradient(estimator, model, theta, batch, chunk)


def measure(name: str, filters: int, tasks: int, chunk: int | None) -> dict[str, float]:
    """Fastest of three meta-iterations after a warm-up (s), and memory (bytes) beyond that before the first."""
    times, memory = machine.timed(call(name, filters, tasks, chunk), torch.device("cpu"), 3)
    return {"seconds": min(times), "bytes": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--filters", type=int, default=64)
    parser.add_argument("--tasks", type=int, default=32)
    parser.add_argument("--chunk", type=int, help="tasks that msmeta processes together; else its own choice")
    parser.add_argument("--rounds", type=int, default=3)
    measurement = runs.Measurement.begin(parser)
    args = measurement.options
    names, cpu = list(METHODS), torch.device("cpu")
    medians = dict(
        zip(names, machine.in_turns(measure, names, args.rounds, args.filters, args.tasks, args.chunk), strict=True)
    )
    speed, base = machine.speed(cpu), medians["plain 1"]["seconds"]
    print(f"{'method':20} {'s/iteration':>12} {'ratio':>6} {'x floor':>8} {'memory (MB)':>12}")
    for name, row in medians.items():
        row["floor_seconds"] = costs.floor_seconds(cell(METHODS[name][1], args.filters, args.tasks), speed)
        seconds, above = row["seconds"], row["seconds"] / row["floor_seconds"]
        print(f"{name:20} {seconds:12.3f} {seconds / base:6.2f} {above:8.2f} {row['bytes'] / 1e6:12.0f}")
    measurement.save("benchmarks/few_shot_step.json", vars(args), medians, cpu, machine=speed)


if __name__ == "__main__":
    script(main)
