"""How near estimators come to the exact meta-gradient for how many Hessian-vector products.

    python benchmarks/products.py quadratic|sine|omniglot --steps 8|16|64 [--seeds 6]

The problems of meta_gradients.py, with T inner steps and parameters as initialised and after some iterations of exact
MAML, for an inner SGD with and without momentum. Each seed has its own initialisation, its own training and its own
tasks. Writes, for each estimator, gradients and products counted, and the cosine and the ratio of lengths of each seed,
to results/meta-gradients/PROBLEM-T.json; no times, so that other work on the machine does no harm.
"""

import argparse
import statistics
from typing import Any

import torch
from meta_gradients import DYNAMICS, PROBLEMS, TASKS, stages

from msmeta import (
    SGD,
    Binomial,
    EvolutionStrategies,
    FiniteDifference,
    FirstOrder,
    GaussianSmoothing,
    Implicit,
    LazyHessian,
    MultiStep,
    Perturbed,
    Truncated,
    compare,
    machine,
    runs,
)
from msmeta.comparison import Estimator
from msmeta.errors import script

MINUTES = 30

TRAINED = {"quadratic": (0,), "sine": (0, 300), "omniglot": (0, 200)}
"""Meta-iterations after which it is measured. Of bowls the meta-gradient's error does not depend on θ."""


def estimators(dynamics: SGD, steps: int) -> list[tuple[dict[str, Any], Estimator]]:
    """Each with its settings; exact back-propagation, the reference, comes first."""
    powers = [2**i for i in range(1, steps.bit_length())]  # 2, 4 ... T
    growing = (1, *(n // 2 for n in powers))  # 1, 1, 2, 4 ... T/2
    found: list[tuple[dict[str, Any], Estimator]] = []
    for window in ((1,) * steps, *((n,) * (steps // n) for n in powers), growing, growing[::-1]):
        found.append(({"estimator": "multistep", "window": window}, MultiStep(dynamics, steps, window)))
    for n in powers:
        lazy = LazyHessian(dynamics, steps, n)
        found.append(({"estimator": "lazy-hessian", "window": (n,) * (steps // n)}, lazy))
        found.append(({"estimator": "truncated", "depth": n // 2}, Truncated(dynamics, steps, n // 2)))
    for depth in (1, 2, 4):
        found.append(({"estimator": "binomial", "depth": depth}, Binomial(dynamics, steps, depth)))
    # The pull back to θ is as strong as that of the steps: with one gradient for all they would end at the same place.
    proximal = -1 / dynamics.coefficients(steps)[1][0]
    for cg in (1, 2, 5):
        found.append(({"estimator": "implicit", "cg_steps": cg}, Implicit(dynamics, steps, proximal, cg)))
    found.append(({"estimator": "perturbed"}, Perturbed(dynamics, steps, proximal)))
    generator = torch.Generator().manual_seed(0)
    found.append(({"estimator": "first-order"}, FirstOrder(dynamics, steps)))
    found.append(({"estimator": "finite-difference"}, FiniteDifference(dynamics, steps)))
    for name, kind in (("gaussian-smoothing", GaussianSmoothing), ("evolution-strategies", EvolutionStrategies)):
        found.append(({"estimator": name}, kind(dynamics, steps, samples=8, generator=generator)))
    return found


def measure(name: str, steps: int, seeds: int) -> list[dict[str, Any]]:
    """A row for each stage, inner optimiser and estimator; the values of all seeds in it."""
    rows, exact = [], MultiStep(DYNAMICS[name][0], steps)
    trained = [list(stages(PROBLEMS[name](seed), exact, TRAINED[name])) for seed in range(seeds)]
    for at in zip(*trained, strict=True):
        iterations, thetas = at[0][0], [theta for _, _, theta, _ in at]
        for dynamics in DYNAMICS[name]:
            settings, given = zip(*estimators(dynamics, steps), strict=True)
            found = compare(
                lambda seed, at=at: at[seed][3](1), thetas, dict(zip(map(str, settings), given, strict=True))
            )
            for own, row in zip(settings, found.rows, strict=True):
                common = {"iterations": iterations, "momentum": dynamics.momentum, **own}
                if row.cosine:
                    common |= {"gradients": statistics.fmean(row.gradients), "products": statistics.fmean(row.products)}
                rows.append({**common, "cosine": list(row.cosine), "norm_ratio": list(row.norm_ratio)})
            print(f"{name}, T = {steps}, {iterations} meta-iterations, {dynamics}: done", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problem", choices=PROBLEMS)
    parser.add_argument("--steps", type=int, choices=(8, 16, 64), default=8)
    parser.add_argument("--seeds", type=int, default=6)
    measurement = runs.Measurement(parser.parse_args(), True, machine.Watch())
    given = measurement.options
    rows = measure(given.problem, given.steps, given.seeds)
    config = {**vars(given), "tasks": TASKS, "trained": TRAINED[given.problem]}
    measurement.save(f"meta-gradients/{given.problem}-{given.steps}.json", config, rows, torch.device("cpu"))


if __name__ == "__main__":
    script(main)
