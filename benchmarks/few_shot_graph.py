"""Time of a whole meta-iteration as it is trained on a GPU: sampling, meta-gradient and Adam, in one CUDA graph.

    python benchmarks/few_shot_graph.py [--device cuda] [--way 5] [--shot 1] [--steps 8] [--tasks 32] [--filters 64]

Omniglot's full protocol on glyphs, since the time does not depend on the images, for every method that can be
captured and every precision. Each row: median over blocks of 25 iterations, peak memory, distance from the floor (see
few_shot_step.py; with matrix products in the row's precision), and how far the meta-gradient of the first meta-batch is
from float32's. Writes results/benchmarks/few_shot_graph-cuda.json. On a CPU, for a check, there is no graph.
"""

import argparse
import statistics
import time
from dataclasses import replace

import torch

from msmeta import data, machine, runs
from msmeta.bilevel import Params, task_dot
from msmeta.data import EpisodeSampler
from msmeta.errors import script
from msmeta.experiments import few_shot
from msmeta.experiments.distributed import World
from msmeta.experiments.few_shot import costs
from msmeta.experiments.few_shot.config import META_OPTIMIZERS
from msmeta.experiments.few_shot.step import GraphedStepper
from msmeta.models.layers import PRECISIONS

MINUTES = 3

METHODS = (("multistep", 1), ("multistep", 2), ("multistep", 4), ("multistep", 8), ("first-order", 1))
"""Estimator and window."""


def measure(cell: costs.Cell, precision: str, images: data.Images, device: torch.device, blocks: int) -> dict:
    config = replace(cell.config(), precision=precision)
    machine.set_precision(precision)
    model = few_shot.network(config)
    theta = {name: torch.nn.Parameter(value.to(device)) for name, value in model.init(0).items()}
    optimizer = META_OPTIMIZERS["adam"](list(theta.values()), config.meta_lr, device.type == "cuda")
    sampler = EpisodeSampler(images, "train", config.way, config.shot, config.query, 0)
    agreement = difference(first_gradient(config, theta, images, sampler, precision),
                           first_gradient(config, theta, images, sampler, "float32"))  # fmt: skip
    machine.set_precision(precision)
    machine.reset_peak_memory(device)
    steps = GraphedStepper(config, model, theta, optimizer, sampler, config.tasks, World())
    steps.run(0, steps.block, 1.0)
    times = []
    for block in range(1, blocks + 1):
        start = time.perf_counter()
        steps.run(block * steps.block, steps.block, 1.0)
        times.append((time.perf_counter() - start) / steps.block)
    return {"estimator": cell.estimator, "window": cell.window, "precision": precision,
            "seconds": statistics.median(times), "bytes": machine.peak_memory(device), **agreement}  # fmt: skip


def first_gradient(config, theta: Params, images: data.Images, sampler: EpisodeSampler, precision: str) -> Params:
    machine.set_precision(precision)
    model = few_shot.network(replace(config, precision=precision))
    episodes = sampler.sample(0, config.tasks)
    return few_shot.meta_gradient(config.build_estimator(None), model, theta, episodes, config.tasks)[1]


def difference(found: Params, exact: Params) -> dict[str, float]:
    """Cosine with the exact meta-gradient, and length of the difference as a share of its length."""
    length = task_dot(exact, exact, 0).sqrt()
    apart = {name: found[name] - exact[name] for name in exact}
    cosine = task_dot(found, exact, 0) / (length * task_dot(found, found, 0).sqrt())
    return {"cosine": cosine.item(), "relative_difference": (task_dot(apart, apart, 0).sqrt() / length).item()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    for name, default in (("way", 5), ("shot", 1), ("steps", 8), ("tasks", 32), ("filters", 64), ("blocks", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    measurement = runs.Measurement.begin(parser)
    args = measurement.options
    device, rows, speeds = machine.choose_device(args.device), [], {}
    images = data.load("glyphs", device=device)
    for precision in PRECISIONS:
        machine.set_precision(precision)
        speeds[precision] = machine.speed(device, torch.bfloat16 if precision == "bf16" else torch.float32)
        for method in METHODS:
            cell = costs.Cell(*method, args.way, args.shot, args.steps, args.filters, args.tasks)
            row = measure(cell, precision, images, device, args.blocks)
            row["floor_seconds"] = costs.floor_seconds(cell, speeds[precision])
            rows.append(row)
            print(
                f"{cell.label:15} {precision:8} {1000 * row['seconds']:8.2f} ms, "
                f"{row['seconds'] / row['floor_seconds']:5.1f} x the floor, {row['bytes'] / 1e6:6.0f} MB, "
                f"cosine with float32 {row['cosine']:.6f}",
                flush=True,
            )
    measurement.save("benchmarks/few_shot_graph.json", vars(args), rows, device, machine=speeds)


if __name__ == "__main__":
    script(main)
