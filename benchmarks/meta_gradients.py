"""How near each estimator's meta-gradient comes to the exact one, and what it costs in time and memory.

    python benchmarks/meta_gradients.py quadratic|sine|omniglot [--batches 16]

For each stage of meta-training (parameters as initialised, after some iterations of exact MAML, and of windows of 4)
and for an inner SGD with and without momentum, every estimator gets the same batches of tasks. Writes, for each of
them, mean and standard deviation of the cosine with the exact meta-gradient and of the ratio of lengths, the median
time of a call, and for Omniglot the growth of the largest resident set of a process of its own, to
results/meta-gradients/PROBLEM.json. Time it on an idle machine. Omniglot must have been prepared
(`msmeta data prepare omniglot`).
"""

import argparse
import math
import statistics
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from msmeta import (
    SGD,
    Bilevel,
    Binomial,
    EvolutionStrategies,
    FiniteDifference,
    FirstOrder,
    GaussianSmoothing,
    Implicit,
    LazyHessian,
    MetaGradient,
    MultiStep,
    Perturbed,
    Reptile,
    Truncated,
    compare,
    data,
    machine,
    runs,
)
from msmeta.bilevel import Params
from msmeta.comparison import Row
from msmeta.data import EpisodeSampler
from msmeta.errors import script
from msmeta.experiments import few_shot
from msmeta.experiments.few_shot.costs import uniform
from msmeta.models import Conv4

MINUTES = 40

STEPS, TASKS = 8, 8
APART = 1_000_000  # the numbers of one seed's batches from those of the next
# N = 1 ... 8, with a shorter last window where N does not divide T; then others of as many windows as N = 2, 4 and 8.
UNIFORM = [uniform(STEPS, n) for n in range(1, STEPS + 1)]
OTHERS = [(1, 1, 2, 4), (4, 2, 1, 1), (1, 1, 1, 5), (5, 1, 1, 1), (1, 7), (2, 6), (6, 2), (7, 1)]
Start = tuple[Params, Callable[[int], Bilevel]]
"""θ as initialised, and the problem of the batch of a number."""
Stage = tuple[int, int, Params, Callable[[int], Bilevel]]
"""Meta-iterations before it, the window that they were made with, θ, and the problem of the batch of a number."""
Key = tuple[str, tuple[int, ...] | None, int | None]  # an estimator, and its partition or its depth where it has one


def estimators(dynamics: SGD) -> dict[Key, Callable[[Bilevel, Params], MetaGradient]]:
    """Exact back-propagation, the reference, comes first."""
    generator = torch.Generator().manual_seed(0)
    found: dict[Key, Callable[[Bilevel, Params], MetaGradient]] = {
        ("multistep", window, None): MultiStep(dynamics, STEPS, window) for window in UNIFORM + OTHERS
    }
    found |= {("lazy-hessian", uniform(STEPS, n), None): LazyHessian(dynamics, STEPS, n) for n in (2, 4, 8)}
    found |= {("truncated", None, depth): Truncated(dynamics, STEPS, depth) for depth in (1, 2, 4)}
    found |= {("binomial", None, depth): Binomial(dynamics, STEPS, depth) for depth in (1, 2)}
    others = {
        "adjoint": MultiStep(dynamics, STEPS, 1, "adjoint"),
        "first-order": FirstOrder(dynamics, STEPS),
        "reptile": Reptile(dynamics, STEPS),
        "implicit": Implicit(dynamics, STEPS, proximal=2.0, cg_steps=5),
        "perturbed": Perturbed(dynamics, STEPS, proximal=2.0),
        "finite-difference": FiniteDifference(dynamics, STEPS),
        "gaussian-smoothing": GaussianSmoothing(dynamics, STEPS, samples=8, generator=generator),
        "evolution-strategies": EvolutionStrategies(dynamics, STEPS, samples=8, generator=generator),
    }
    return found | {(name, None, None): estimator for name, estimator in others.items()}


def quadratic(seed: int = 0) -> Start:
    """Bowls in 100 dimensions with their lowest points around 0; inner and outer loss share the curvature."""
    size = 100
    theta = {"x": torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))}
    rates = torch.logspace(-2, 0, size, dtype=torch.float64)

    def problem(batch: int) -> Bilevel:
        generator = torch.Generator().manual_seed(seed * APART + batch)
        basis, _ = torch.linalg.qr(torch.randn(TASKS, size, size, dtype=torch.float64, generator=generator))
        hessian = basis @ (rates[:, None] * basis.transpose(1, 2))
        support, query = torch.randn(2, TASKS, size, dtype=torch.float64, generator=generator)
        query = support + 0.3 * query

        def losses(x: Tensor, lowest: Tensor) -> Tensor:
            return torch.einsum("ti,tij,tj->t", x - lowest, hessian, x - lowest) / 2

        return Bilevel(
            init=lambda theta: {"x": theta["x"].expand(TASKS, size)},
            inner=lambda phi, theta, t: losses(phi["x"], support).sum(),
            outer=lambda phi, theta: losses(phi["x"], query).mean(),
            tasks=TASKS,
        )

    return theta, problem


def sine(seed: int = 0) -> Start:
    """Regression of sine curves of random amplitude and phase by a network of two hidden layers (Finn et al., 2017)."""
    sizes = (1, 40, 40, 1)
    generator = torch.Generator().manual_seed(seed)
    theta = {}
    for i in range(3):
        theta[f"w{i}"] = torch.randn(sizes[i], sizes[i + 1], generator=generator) / math.sqrt(sizes[i])
        theta[f"b{i}"] = torch.zeros(sizes[i + 1])

    def network(phi: Params, x: Tensor) -> Tensor:
        for i in range(3):
            x = x @ phi[f"w{i}"] + phi[f"b{i}"][:, None]
            x = x.relu() if i < 2 else x
        return x

    def problem(batch: int) -> Bilevel:
        generator = torch.Generator().manual_seed(seed * APART + 1000 + batch)
        amplitude, phase = (torch.rand(TASKS, 1, 1, generator=generator) for _ in range(2))
        x = 10 * torch.rand(2, TASKS, 10, 1, generator=generator) - 5
        y = (0.1 + 4.9 * amplitude) * torch.sin(x + math.pi * phase)
        return Bilevel(
            init=lambda theta: {name: value.expand(TASKS, *value.shape) for name, value in theta.items()},
            inner=lambda phi, theta, t: (network(phi, x[0]) - y[0]).square().mean((1, 2)).sum(),
            outer=lambda phi, theta: (network(phi, x[1]) - y[1]).square().mean(),
            tasks=TASKS,
        )

    return theta, problem


def omniglot(seed: int = 0) -> Start:
    """5-way 1-shot tasks and the network of the `cpu` preset."""
    config = few_shot.preset_config("cpu", "omniglot", 5, 1, "multistep")
    sampler = EpisodeSampler(data.load("omniglot"), "train", 5, 1, 15, seed=1 + seed)
    model = Conv4(5, filters=config.filters)

    def problem(batch: int) -> Bilevel:
        return few_shot.episode_problem(model, sampler.sample(batch, TASKS))

    return model.init(seed), problem


def stages(start: Start, estimator: MultiStep, iterations: tuple[int, ...]) -> Iterator[Stage]:
    """Parameters after so many meta-iterations with an estimator, each on a batch that is not measured."""
    theta, problem = start
    theta = {name: torch.nn.Parameter(value) for name, value in theta.items()}
    optimizer = torch.optim.Adam(theta.values(), lr=3e-3)
    for iteration in range(max(iterations) + 1):
        if iteration in iterations:
            now = {name: value.detach().clone() for name, value in theta.items()}
            yield iteration, estimator.window, now, problem
        if iteration < max(iterations):
            grad = estimator(problem(10_000 + iteration), theta).grad
            for name, value in theta.items():
                value.grad = grad[name]
            optimizer.step()


PROBLEMS = {"quadratic": quadratic, "sine": sine, "omniglot": omniglot}
# Both inner optimisers move equally far in 8 steps of one and the same gradient, up to 10 %.
DYNAMICS = {
    "quadratic": (SGD(0.1, 0.9), SGD(0.36)),
    "sine": (SGD(0.0003, 0.9), SGD(0.001)),
    "omniglot": (SGD(0.1, 0.9, 1e-4), SGD(0.4)),
}
STAGES = {"quadratic": [(1, (0, 1000))], "sine": [(1, (0, 100, 2000))], "omniglot": [(1, (0, 50, 400)), (4, (400,))]}
"""Windows that θ is trained with, and the meta-iterations after which it is looked at."""


def stages_of(name: str) -> Iterator[Stage]:
    """Of a problem, as the results have them."""
    for window, iterations in STAGES[name]:
        yield from stages(PROBLEMS[name](), MultiStep(DYNAMICS[name][0], STEPS, window), iterations)


def rows_of(stage: Stage, dynamics: SGD, batches: int) -> list[dict]:
    """A row for each estimator: how near it comes, and how long it takes."""
    iterations, trained_window, theta, problem = stage
    named = {str(key): (key, estimator) for key, estimator in estimators(dynamics).items()}
    found = compare(lambda i: problem(1 + i), [theta] * batches, {name: each for name, (_, each) in named.items()})
    common = {"iterations": iterations, "trained_window": trained_window, "momentum": dynamics.momentum}
    return [
        {**common, "estimator": estimator, "window": window, "depth": depth, **_summary(found[name])}
        for name, ((estimator, window, depth), _) in named.items()
    ]


def _summary(row: Row) -> dict[str, float]:
    """Fewer `batches` than were drawn are those where it did not diverge."""
    if len(row.cosine) < 2:
        return {"batches": len(row.cosine)}
    return {
        "batches": len(row.cosine),
        "cosine": statistics.fmean(row.cosine), "cosine_sd": statistics.stdev(row.cosine),
        "norm_ratio": statistics.fmean(row.norm_ratio), "norm_ratio_sd": statistics.stdev(row.norm_ratio),
        "seconds": statistics.median(row.seconds),
    }  # fmt: skip


def memory(key: Key) -> int:
    """Bytes by which the largest resident set grows while one estimator does its work on Omniglot."""
    _, _, theta, problem = next(stages_of("omniglot"))
    estimator, bilevel = estimators(DYNAMICS["omniglot"][0])[key], problem(0)
    return machine.timed(lambda: estimator(bilevel, theta), torch.device("cpu"), 0)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problem", choices=PROBLEMS)
    parser.add_argument("--batches", type=int, default=16)
    measurement = runs.Measurement.begin(parser)
    args = measurement.options
    rows = []
    for stage in stages_of(args.problem):
        for dynamics in DYNAMICS[args.problem]:
            rows += rows_of(stage, dynamics, args.batches)
            print(f"{args.problem}, {stage[0]} iterations with windows of {stage[1]}, {dynamics}: done", flush=True)
    if args.problem == "omniglot":
        used = {key: machine.in_fresh_process(memory, key) for key in estimators(SGD(0.1))}
        rows = [{**row, "bytes": used[row["estimator"], row["window"], row["depth"]]} for row in rows]
    config = {"problem": args.problem, "steps": STEPS, "tasks": TASKS, "batches": args.batches}
    measurement.save(f"meta-gradients/{args.problem}.json", config, rows, torch.device("cpu"))


if __name__ == "__main__":
    script(main)
