"""Time and memory of one MAML meta-iteration, beside a plain autograd loop, higher and TorchOpt in the same run.

    python benchmarks/few_shot_step.py [--filters 64] [--tasks 32] [--rounds 3] [--chunk 8]

Work: Conv4 on 28x28 images, 5-way 1-shot, T = 8 inner steps of plain SGD, 15 query images a class, float32, random
images (the time does not depend on them). "Plain" is what a reader would write first: one task after another, torch's
own layers, `torch.autograd.grad(..., create_graph=True)`. higher and TorchOpt, which know no windows, are used as their
own examples of MAML use them; `pip install -e '.[bench]'` has them, and without them their rows are left out. Before
anything is timed, all codes have to agree on the meta-gradient in float64.

Each measurement is a process of its own, so that peak memory (largest resident set) is its own; methods take turns in
rounds, so that a drift of the machine's speed falls on all of them. The floor is the larger of the operations at the
speed of a large matrix product and of the bytes at the speed of a copy, both measured in the same run. Prints medians
and writes results/benchmarks/few_shot_step.json.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msmeta import SGD, FirstOrder, MultiStep, data, machine, runs
from msmeta.bilevel import Params
from msmeta.data import Episodes
from msmeta.errors import UserError, script
from msmeta.experiments import few_shot
from msmeta.experiments.distributed import World
from msmeta.experiments.few_shot import costs
from msmeta.experiments.few_shot.experiment import FewShot
from msmeta.experiments.training import Training
from msmeta.models import Conv4

MINUTES = 5

WAY, STEPS, LR = 5, 8, 0.04
PEERS = ("higher", "torchopt")
"""Other people's codes, of the extra `bench`."""
AGREEMENT = 1e-10
"""Relative difference in float64 beyond which nothing is timed."""


def plain_network(params, x):
    for block in "1234":
        x = F.conv2d(x, params[f"conv{block}.weight"], stride=2, padding=1)
        x = F.batch_norm(x, None, None, params[f"norm{block}.weight"], params[f"norm{block}.bias"], training=True)
        x = F.relu(x)
    return F.linear(x.mean((2, 3)), params["head.weight"], params["head.bias"])


def plain(theta: Params, batch: Episodes, window: int | None, chunk: int) -> list[Tensor]:
    """One task after another; `window` None is first-order."""

    def adapted_loss(x, y, query_x, query_y):
        phi = theta
        for _ in range(0, STEPS, window or 1):
            loss = F.cross_entropy(plain_network(phi, x), y)
            grads = torch.autograd.grad(loss, list(phi.values()), create_graph=window is not None)
            phi = {
                name: value - (window or 1) * LR * grad for (name, value), grad in zip(phi.items(), grads, strict=True)
            }
        return F.cross_entropy(plain_network(phi, query_x), query_y)

    return summed(list(theta.values()), batch, adapted_loss)


def summed(theta: list[Tensor], batch: Episodes, adapted_loss: Callable[..., Tensor]) -> list[Tensor]:
    """The mean loss's gradient: each task's is taken before the next one begins, and added up."""
    total = None
    for task in zip(batch.support_x, batch.support_y, batch.query_x, batch.query_y, strict=True):
        grads = torch.autograd.grad(adapted_loss(*task) / len(batch), theta)
        total = grads if total is None else [a + b for a, b in zip(total, grads, strict=True)]
    return total


def with_higher(theta: Params, batch: Episodes, window: int | None, chunk: int) -> list[Tensor]:
    import higher

    network = module(theta)
    optimizer = torch.optim.SGD(network.parameters(), LR)

    def adapted_loss(x, y, query_x, query_y):
        with higher.innerloop_ctx(network, optimizer, copy_initial_weights=False) as (adapted, steps):
            for _ in range(STEPS):
                steps.step(F.cross_entropy(adapted(x), y))
            return F.cross_entropy(adapted(query_x), query_y)

    return summed(list(network.parameters()), batch, adapted_loss)


def with_torchopt(theta: Params, batch: Episodes, window: int | None, chunk: int) -> list[Tensor]:
    import torchopt

    network = module(theta)
    start, optimizer = list(network.parameters()), torchopt.MetaSGD(network, LR)
    before = [torchopt.extract_state_dict(part, by="reference") for part in (network, optimizer)]

    def adapted_loss(x, y, query_x, query_y):
        for part, state in zip((network, optimizer), before, strict=True):
            torchopt.recover_state_dict(part, state)
        for _ in range(STEPS):
            optimizer.step(F.cross_entropy(network(x), y))
        return F.cross_entropy(network(query_x), query_y)

    return summed(start, batch, adapted_loss)


def module(theta: Params) -> nn.Module:
    """Conv4 of torch's own modules, as others' codes want it."""
    layers, channels = [], 1
    filters = len(theta["norm1.weight"])
    for _ in "1234":
        norm = nn.BatchNorm2d(filters, track_running_stats=False)
        layers += [nn.Conv2d(channels, filters, 3, stride=2, padding=1, bias=False), norm, nn.ReLU()]
        channels = filters
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(filters, WAY))
    network.to(theta["head.bias"].dtype).load_state_dict(dict(zip(network.state_dict(), theta.values(), strict=True)))
    return network


def with_msmeta(theta: Params, batch: Episodes, window: int | None, chunk: int) -> list[Tensor]:
    estimator = FirstOrder(SGD(LR), STEPS) if window is None else MultiStep(SGD(LR), STEPS, window)
    model = Conv4(WAY, filters=len(theta["norm1.weight"]))
    return list(few_shot.meta_gradient(estimator, model, theta, batch, chunk)[1].values())


CODES = {"plain": plain, "higher": with_higher, "torchopt": with_torchopt, "msmeta": with_msmeta}
METHODS = {
    f"{code} {window or 'first-order'}": (code, window)
    for window in (1, 2, 4, 8, None)
    for code in CODES
    if window == 1 or code not in PEERS
}
"""By its name in the result: whose code, and the window; None is first-order."""


def installed() -> dict[str, str]:
    """The versions of the peers that are here."""
    found = {}
    for peer in PEERS:
        try:
            found[peer] = version(peer)
        except PackageNotFoundError:
            print(f"{peer} is not installed, and not timed: pip install -e '.[bench]'")
    return found


def cell(window: int | None, filters: int, tasks: int) -> costs.Cell:
    estimator = "first-order" if window is None else "multistep"
    return costs.Cell(estimator, window or 1, WAY, 1, STEPS, filters, tasks)


def call(
    name: str, filters: int, tasks: int, chunk: int | None, dtype: torch.dtype = torch.float32
) -> Callable[[], list[Tensor]]:
    """The meta-iteration of a method, which gives the meta-gradient."""
    code, window = METHODS[name]
    config, cpu = cell(window, filters, tasks).config(), torch.device("cpu")
    batch, chunk = costs.random_episodes(config, cpu).to(dtype), chunk or few_shot.task_chunk(config, cpu)
    theta = {name: value.to(dtype).requires_grad_() for name, value in Conv4(WAY, filters=filters).init(0).items()}
    return lambda: CODES[code](theta, batch, window, chunk)


def check_agreement(names: list[str]) -> None:
    """Raises UserError where a code's meta-gradient is not that of the plain loop, in float64 on small work."""
    found = {name: torch.cat([g.flatten() for g in call(name, 8, 3, 2, torch.float64)()]) for name in names}
    for name, grad in found.items():
        exact = found[f"plain {METHODS[name][1] or 'first-order'}"]
        if (apart := ((grad - exact).norm() / exact.norm()).item()) > AGREEMENT:
            raise UserError(f"the meta-gradient of {name} is {apart:.1e} away from the plain loop's: nothing is timed")


def measure(name: str, filters: int, tasks: int, chunk: int | None) -> dict[str, float]:
    """Fastest of three meta-iterations after a warm-up (s), and memory (bytes) beyond that before the first."""
    machine.keep_freed_memory()  # for all codes alike
    code, window = METHODS[name]
    if code == "msmeta":
        return measure_training(window, filters, tasks, chunk)
    times, memory = machine.timed(call(name, filters, tasks, chunk), torch.device("cpu"), 3)
    return {"seconds": min(times), "bytes": memory}


def measure_training(window: int | None, filters: int, tasks: int, chunk: int | None) -> dict[str, float]:
    """The same of msmeta as it trains: with sampling, the step of θ, and a worker a core, whose memory counts."""
    changes = {"lr": LR, "momentum": 0.0, "weight_decay": 0.0, "task_chunk": chunk}
    config, cpu = replace(cell(window, filters, tasks).config(), **changes), torch.device("cpu")
    images, workers = data.noise(config.dataset, WAY, 1 + config.query), torch.get_num_threads()
    training, done = FewShot(config, cpu, World(), workers=workers, images=images), Training({}, {}, {})
    training.begin(0, None)
    training.team.wait()
    times, memory = machine.timed(lambda: training.block(done), cpu, 3)
    with training.team.ready():
        others = training.team.call("unshared_memory")[1:]
    return {"seconds": min(times), "bytes": memory + sum(others)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--filters", type=int, default=64)
    parser.add_argument("--tasks", type=int, default=32)
    parser.add_argument("--chunk", type=int, help="tasks that msmeta processes together; else its own choice")
    parser.add_argument("--rounds", type=int, default=3)
    measurement = runs.Measurement.begin(parser)
    args = measurement.options
    peers, cpu = installed(), torch.device("cpu")
    names = [name for name, (code, _) in METHODS.items() if code not in PEERS or code in peers]
    check_agreement(names)
    medians = dict(
        zip(names, machine.in_turns(measure, names, args.rounds, args.filters, args.tasks, args.chunk), strict=True)
    )
    speed, base = machine.speed(cpu), medians["plain 1"]["seconds"]
    print(f"{'method':20} {'s/iteration':>12} {'ratio':>6} {'x floor':>8} {'memory (MB)':>12}")
    for name, row in medians.items():
        row["floor_seconds"] = costs.floor_seconds(cell(METHODS[name][1], args.filters, args.tasks), speed)
        seconds, above = row["seconds"], row["seconds"] / row["floor_seconds"]
        print(f"{name:20} {seconds:12.3f} {seconds / base:6.2f} {above:8.2f} {row['bytes'] / 1e6:12.0f}")
    measurement.save("benchmarks/few_shot_step.json", vars(args), medians, cpu, machine=speed, peers=peers)


if __name__ == "__main__":
    script(main)
