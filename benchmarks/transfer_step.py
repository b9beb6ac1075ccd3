"""Time and memory of one iteration of meta-transfer (Algorithm 1), by method, T and inner optimiser.

    python benchmarks/transfer_step.py [--device cpu|cuda] [--rounds 3] [--settings 32x32 224x224] [--batch N]

Work: ResNet-32 -> VGG-9 at 32x32, batch 128, 100 classes, and ResNet-34 -> ResNet-18 at 224x224, 200 classes, batch 64
on a GPU and 8 on a CPU; random images and weights, on which the time does not depend. "Replayed reverse" is how the
algorithm was published, as derived anew in tests/experiments/transfer/test_step.py: states are kept on the way, each
step is run again on the way back and differentiated by φ and θ, and the source network is run anew for each transfer
loss; at 32x32 its layers are torch's own. Each measurement is a process of its own, so that peak memory is its own;
methods take turns in rounds, so that a drift of the machine's speed falls on all of them. The floor counts passes: a
gradient of the target network is one forward and backward pass (as timed in the same process), a Hessian-vector
product two, the product of the first window, which needs no Hessian, two thirds, and the source network runs forward
once. Prints medians and writes results/benchmarks/transfer_step.json. Run it on an idle machine.
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from msmeta import machine, runs
from msmeta.bilevel import Params, State
from msmeta.errors import script
from msmeta.experiments.transfer import (
    TransferConfig,
    TransferProblem,
    label,
    preset_config,
    sources,
    transfer_iteration,
)
from msmeta.experiments.transfer.config import TARGETS
from msmeta.models.l2t import L2T
from msmeta.models.vgg9 import VGG9

MINUTES = 45


@dataclass(frozen=True)
class Setting:
    """Data set whose protocol is used, source model, classes, side of the images, and batch by device."""

    dataset: str
    source: str
    way: int
    side: int
    batch: dict[str, int]


SETTINGS = {
    "32x32": Setting("cifar-100", "random-resnet32", 100, 32, {"cpu": 128, "cuda": 128}),
    "224x224": Setting("bird", "random-resnet34", 200, 224, {"cpu": 8, "cuda": 64}),
}
SCRATCH = {"estimator": "scratch"}
CHANGES = {
    "sgd": [SCRATCH, {"steps": 2, "window": 1}, {"steps": 2, "window": 2}, {"steps": 2, "estimator": "first-order"},
            {"steps": 2, "window": 1, "precision": "bf16"}, {"steps": 2, "window": 2, "precision": "bf16"}],
    "adam": [SCRATCH, {"steps": 0}, {"steps": 1}, {"steps": 2, "window": 1}, {"steps": 2, "window": 2},
             {"steps": 3, "window": 1}, {"steps": 3, "window": 3}],
}  # fmt: skip
"""What differs from the preset, of each row by optimizer."""


@dataclass(frozen=True)
class Row:
    """One row of the result. changes: what differs from the preset. replayed: whether as the method was published."""

    setting: str
    optimizer: str
    changes: dict
    replayed: bool = False

    def config(self) -> TransferConfig:
        own = SETTINGS[self.setting]
        changes = {"estimator": "multistep", "optimizer": self.optimizer, "source": own.source} | self.changes
        return preset_config("paper", own.dataset, **changes)


def rows_of(setting: str, width: float) -> list[Row]:
    """width: factor on VGG-9's channels."""
    common = {"width": width} if SETTINGS[setting].side == 32 else {}
    rows = [Row(setting, optimizer, common | changes) for optimizer, own in CHANGES.items() for changes in own]
    return [*rows, Row(setting, "sgd", common | {"steps": 2, "window": 1}, replayed=True)]


class PlainVGG9(VGG9):
    """Of torch's own layers alone."""

    def __call__(self, params, x, statistics=None, training=True):
        features = []
        for number, block in enumerate(self.blocks):
            for name in (f"block{number}.{layer}" for layer in range(len(block))):
                known = (statistics[f"{name}.mean"], statistics[f"{name}.variance"]) if statistics else (None, None)
                x = F.conv2d(x, params[f"{name}.weight"], None, 1, 1)
                x = F.relu(F.batch_norm(x, *known, params[f"{name}.scale"], params[f"{name}.shift"], training))
            features.append(x)
            x = F.max_pool2d(x, 2)
        return F.linear(x.flatten(1), params["head.weight"], params["head.bias"]), features


class PlainL2T(L2T):
    """Its feature matching as well."""

    def distances(self, phi, source, features):
        matched = (F.conv2d(f, phi[f"match{t}.weight"], phi[f"match{t}.bias"]) for t, f in enumerate(features))
        return [(m - s).square().mean((2, 3)) for m, s in zip(matched, source.resized, strict=True)]


def iteration(row: Row, device: torch.device, batch: int) -> tuple[Callable[[], object], ...]:
    """(the iteration, one forward and backward pass of the target, the source's forward pass), each to be called."""
    chosen, own = row.config(), SETTINGS[row.setting]
    plain, source = row.replayed and own.side == 32, sources.load(chosen.source, device)
    target = PlainVGG9(own.way, chosen.width) if plain else TARGETS[chosen.target](chosen, own.way)
    l2t = (PlainL2T if plain else L2T)(source.channels, target.channels)
    phi, statistics, theta = (
        {name: value.to(device) for name, value in part.items()}
        for part in (target.init()[0] | l2t.init_matching(), target.init()[1], l2t.init_meta())
    )
    x, y = torch.randn(batch, 3, own.side, own.side, device=device), torch.arange(batch, device=device) % own.way
    dynamics, state, sizes = chosen.dynamics(0), State(phi), target.sizes(own.side)

    def problem() -> TransferProblem:
        return TransferProblem(target, l2t, x, y, l2t.source_batch(source.features(x), sizes))

    def run() -> None:
        if row.replayed:
            replayed_reverse(problem, state, theta, dynamics, chosen.steps, statistics)
        elif chosen.estimator == "scratch":
            transfer_iteration(TransferProblem(target, None, x, y, None), state, {}, dynamics, statistics=statistics)
        else:
            transfer_iteration(
                problem(), state, theta, dynamics, chosen.steps, chosen.window, statistics,
                first_order=chosen.estimator == "first-order", transfer_rate=chosen.transfer_rate,
            )  # fmt: skip

    def one_pass() -> None:
        leaf = {name: value.detach().requires_grad_() for name, value in phi.items() if not name.startswith("match")}
        torch.autograd.grad(F.cross_entropy(target(leaf, x)[0], y), list(leaf.values()))

    return run, one_pass, lambda: source.features(x)


def replayed_reverse(problem, state: State, theta: Params, dynamics, steps: int, statistics: Params) -> Params:
    """Algorithm 1's meta-gradient with the states kept and each step run again on the way back (SGD)."""
    eta, mu, omega = dynamics.lr, dynamics.momentum, dynamics.weight_decay
    losses = [lambda phi, theta: problem().transfer(phi, theta)] * steps
    losses.append(lambda phi, theta: problem().classification(phi))
    state = _step(lambda phi: problem().total(phi, theta, statistics), state, dynamics)
    kept = []
    for loss in losses:
        kept.append(state.phi)
        state = _step(lambda phi, loss=loss: loss(phi, theta), state, dynamics)
    phi = {name: value.detach().requires_grad_() for name, value in state.phi.items()}
    alpha = _grads(problem().classification(phi), phi)
    beta = {name: torch.zeros_like(value) for name, value in phi.items()}
    total = {name: torch.zeros_like(value) for name, value in theta.items()}
    for loss, start in zip(reversed(losses), reversed(kept), strict=True):
        phi = {name: value.detach().requires_grad_() for name, value in start.items()}
        meta = {name: value.detach().requires_grad_() for name, value in theta.items()}
        gamma = {name: beta[name] - eta * alpha[name] for name in phi}
        inner = sum((gamma[name] * g).sum() for name, g in _grads(loss(phi, meta), phi, create_graph=True).items())
        pulled = _grads(inner, phi | meta)
        total = {name: total[name] + pulled[name] for name in total}
        alpha, beta = (
            {k: (1 - eta * omega) * alpha[k] + omega * beta[k] + pulled[k] for k in phi},
            {k: mu * beta[k] - eta * mu * alpha[k] for k in phi},
        )
    return total


def _step(loss, state: State, dynamics) -> State:
    phi = {name: value.detach().requires_grad_() for name, value in state.phi.items()}
    grads = _grads(loss(phi), phi)
    with torch.no_grad():
        return dynamics.window(state, grads, 1)


def _grads(loss, params: Params, create_graph: bool = False) -> Params:
    grads = torch.autograd.grad(loss, list(params.values()), create_graph=create_graph, allow_unused=True)
    return {
        name: torch.zeros_like(value) if grad is None else grad
        for (name, value), grad in zip(params.items(), grads, strict=True)
    }


def passes(row: Row) -> tuple[float, int]:
    """Forward and backward passes of the target network, and forward passes of the source, that a row cannot spare."""
    chosen = row.config()
    windows, scratch = chosen.steps // chosen.window, chosen.estimator == "scratch"
    if row.replayed:
        return 3 + chosen.steps + 3 * (chosen.steps + 1), 2 * chosen.steps + 1
    if scratch or not chosen.steps:
        return 1.0, 0 if scratch else 1
    if chosen.estimator == "first-order":
        return windows + 3.0, 1
    return windows + 3 + 2 * windows + 2 / 3, 1


def measure(row: Row, device: torch.device, batches: dict[str, int], repeats: int) -> dict[str, float]:
    """Median of `repeats` iterations after a warm-up (s), memory (bytes) beyond that before the first, and floor."""
    machine.keep_freed_memory()
    calls = iteration(row, device, batches[row.setting])
    (seconds, memory), own, source = (machine.timed(call, device, repeats) for call in calls)
    own_passes, source_passes = passes(row)
    floor = own_passes * statistics.median(own[0]) + source_passes * statistics.median(source[0])
    return {"seconds": statistics.median(seconds), "bytes": memory, "floor_seconds": floor}


def show(rows: list[Row], metrics: list[dict]) -> None:
    print("setting   optimizer method             precision s/iteration  x floor  memory (MB)")
    for row, found in zip(rows, metrics, strict=True):
        name = "Replayed reverse" if row.replayed else label(row.config())
        labels = f"{row.setting:9} {row.optimizer:9} {name:18} {found['precision']:9}"
        above = found["seconds"] / found["floor_seconds"]
        print(f"{labels} {found['seconds']:11.3f} {above:8.2f} {found['bytes'] / 1e6:12.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument(
        "--batch", type=int, help="images of a minibatch; else the protocol's, or 8 of 224x224 on a CPU"
    )
    parser.add_argument("--width", type=float, default=1.0, help="factor on VGG-9's channels, at 32x32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=2, help="iterations timed in each process")
    measurement = runs.Measurement.begin(parser)
    args = measurement.options
    device = machine.choose_device(args.device)
    rows = [row for setting in args.settings for row in rows_of(setting, args.width)]
    batches = {name: args.batch or setting.batch[args.device] for name, setting in SETTINGS.items()}
    measured = machine.in_turns(measure, rows, args.rounds, device, batches, args.repeats)
    metrics = []
    for row, found in zip(rows, measured, strict=True):
        chosen = row.config()
        metrics.append({
            "side": SETTINGS[row.setting].side, "optimizer": row.optimizer, "estimator": chosen.estimator,
            "replayed": row.replayed, "steps": chosen.steps, "window": chosen.window, "precision": chosen.precision,
            "batch": batches[row.setting], **found,
        })  # fmt: skip
    show(rows, metrics)
    measurement.save("benchmarks/transfer_step.json", vars(args), metrics, device)


if __name__ == "__main__":
    script(main)
