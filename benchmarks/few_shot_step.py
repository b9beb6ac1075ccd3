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
import json
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

from msmeta import SGD, FirstOrder, MultiStep, machine, runs
from msmeta.data import Episodes
from msmeta.experiments import few_shot
from msmeta.experiments.few_shot import costs
from msmeta.models import Conv4

WAY, QUERY, STEPS, LR = 5, 15, 8, 0.04
WINDOWS = (1, 2, 4, 8)
METHODS = [f"{kind} {name}" for name in (*WINDOWS, "first-order") for kind in ("plain", "msmeta")]


def episodes(tasks: int) -> Episodes:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(WAY)
    return Episodes(
        torch.rand(tasks, WAY, 1, 28, 28, generator=generator),
        labels.repeat(tasks, 1),
        torch.rand(tasks, WAY * QUERY, 1, 28, 28, generator=generator),
        labels.repeat_interleave(QUERY).repeat(tasks, 1),
    )


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


def measure(method: str, filters: int, tasks: int, chunk: int | None, repeats: int = 3) -> dict[str, float]:
    """Fastest of `repeats` meta-iterations after a warm-up (s), and memory (bytes) beyond that before the first."""
    kind, name = method.split()
    window = None if name == "first-order" else int(name)
    model, batch, cpu = Conv4(WAY, filters=filters), episodes(tasks), torch.device("cpu")
    theta = {key: value.requires_grad_() for key, value in model.init(0).items()}
    estimator = FirstOrder(SGD(LR), STEPS) if window is None else MultiStep(SGD(LR), STEPS, window)
    if chunk is None:
        own = {"estimator": "first-order"} if window is None else {"estimator": "multistep", "window": window}
        config = few_shot.preset_config("paper", "omniglot", WAY, 1, tasks=tasks, filters=filters, **own)
        chunk = few_shot.default_chunk(config, cpu)
    machine.reset_peak_memory(cpu)
    before, times = machine.peak_memory(cpu), []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        if kind == "plain":
            plain_meta_gradient(theta, batch, window)
        else:
            few_shot.meta_gradient(estimator, model, theta, batch, chunk)
        times.append(time.perf_counter() - start)
    return {"seconds": min(times[1:]), "bytes": machine.peak_memory(cpu) - before}


def machine_speed(device: torch.device, dtype: torch.dtype = torch.float32, repeats: int = 5) -> dict[str, float]:
    """Operations a second of a large matrix product, and bytes a second of a copy (read and written)."""
    a, b = (torch.rand(2048, 2048, device=device).to(dtype) for _ in range(2))
    x, y = (torch.rand(1 << 26, device=device) for _ in range(2))
    product, copy = (min(costs.timed(call, device, repeats)) for call in (lambda: torch.mm(a, b), lambda: y.copy_(x)))
    return {"flops_per_second": 2 * 2048**3 / product, "bytes_per_second": 2 * x.nbytes / copy}


def floor_seconds(method: str, filters: int, tasks: int, speed: dict[str, float]) -> float:
    """The time that no implementation with these convolutions can go below, at this machine's speed."""
    name = method.split()[1]
    paper_name = {"1": "MAML", "first-order": "FO-MAML"}.get(name, f"Multi-step ({name})")
    flops, traffic = costs.work(costs.Cell(paper_name, WAY, 1, STEPS, filters, tasks))
    return max(flops / speed["flops_per_second"], traffic / speed["bytes_per_second"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--filters", type=int, default=64)
    parser.add_argument("--tasks", type=int, default=32)
    parser.add_argument("--chunk", type=int, help="tasks that msmeta processes together; else its own choice")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=METHODS, help="measure one method in this process and print JSON")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.filters, args.tasks, args.chunk)))
        return
    chosen = {"filters": args.filters, "tasks": args.tasks, "chunk": args.chunk}
    options = [f"--{name}={value}" for name, value in chosen.items() if value is not None]
    found: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
    for _ in range(args.rounds):
        for method, rows in found.items():
            child = subprocess.run(
                [sys.executable, __file__, *options, "--one", method], capture_output=True, text=True, check=True
            )
            rows.append(json.loads(child.stdout))
    medians: dict[str, dict[str, float]] = {
        method: {column: statistics.median(row[column] for row in rows) for column in ("seconds", "bytes")}
        for method, rows in found.items()
    }
    speed, base = machine_speed(torch.device("cpu")), medians["plain 1"]["seconds"]
    print(f"{'method':20} {'s/iteration':>12} {'ratio':>6} {'x floor':>8} {'memory (MB)':>12}")
    for method, row in medians.items():
        row["floor_seconds"] = floor_seconds(method, args.filters, args.tasks, speed)
        seconds, above = row["seconds"], row["seconds"] / row["floor_seconds"]
        print(f"{method:20} {seconds:12.3f} {seconds / base:6.2f} {above:8.2f} {row['bytes'] / 1e6:12.0f}")
    result = {
        "machine": speed,
        "config": vars(args),
        "metrics": medians,
        "runs": found,
        "provenance": runs.provenance(torch.device("cpu")),
    }
    path = runs.save_measurement("benchmarks/few_shot_step.json", result)
    print(f"result: {path}")


if __name__ == "__main__":
    main()
