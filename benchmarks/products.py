"""How near estimators come to the exact meta-gradient for how many Hessian-vector products.

    python benchmarks/products.py quadratic|sine|omniglot --steps 8|16|64 [--seeds 6]

The problems of meta_gradients.py, with T inner steps and parameters as initialised and after some iterations of exact
MAML, for an inner SGD with and without momentum. Each seed has its own initialisation, its own training and its own
tasks. Writes, for each estimator, gradients and products counted, and the cosine and the ratio of lengths of each seed,
to results/meta-gradients/PROBLEM-T.json; no times, so that other work on the machine does no harm. A call that was cut
off is gone on with, by the same command at the same commit: each panel (a stage and an inner SGD) is kept.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from meta_gradients import DYNAMICS, PROBLEMS, TASKS, Stage, stages

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
    runs,
)
from msmeta.comparison import Estimator
from msmeta.errors import script

MINUTES = 30

TRAINED = {"quadratic": (0, 1000), "sine": (0, 300), "omniglot": (0, 200)}
"""Meta-iterations after which it is measured."""


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


def panel(at: Sequence[Stage], dynamics: SGD, steps: int) -> list[dict[str, Any]]:
    """A row for each estimator at one stage, which is given for each seed; the values of all seeds in it."""
    settings, given = zip(*estimators(dynamics, steps), strict=True)
    named, thetas = dict(zip(map(str, settings), given, strict=True)), [theta for _, _, theta, _ in at]
    rows = []
    for own, row in zip(settings, compare(lambda seed: at[seed][3](1), thetas, named, costs=False).rows, strict=True):
        common = {"iterations": at[0][0], "momentum": dynamics.momentum, **own}
        if row.cosine:
            common |= {"gradients": statistics.fmean(row.gradients), "products": statistics.fmean(row.products)}
        rows.append({**common, "cosine": list(row.cosine), "norm_ratio": list(row.norm_ratio)})
    return rows


def measure(config: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """The rows of all panels, which are kept at `path`; those that an earlier call has left there are not repeated."""
    name, steps = config["problem"], config["steps"]
    kept = {"config": config, "commit": runs.provenance(torch.device("cpu"))["commit"], "panels": {}}
    if path.exists() and (found := json.loads(path.read_text())) | {"panels": {}} == kept:
        kept = found
    exact = MultiStep(DYNAMICS[name][0], steps)
    trained = [stages(PROBLEMS[name](seed), exact, config["trained"]) for seed in range(config["seeds"])]
    for at in zip(*trained, strict=True):
        for dynamics in DYNAMICS[name]:
            where = f"{name}, T = {steps}, {at[0][0]} meta-iterations, {dynamics}"
            if where not in kept["panels"]:
                kept["panels"][where] = panel(at, dynamics, steps)
                runs.write_json(path, kept)
            print(f"{where}: done", flush=True)
    return [row for rows in kept["panels"].values() for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problem", choices=PROBLEMS)
    parser.add_argument("--steps", type=int, choices=(8, 16, 64), default=8)
    parser.add_argument("--seeds", type=int, default=6)
    given = parser.parse_args()
    config = {**vars(given), "tasks": TASKS, "trained": list(TRAINED[given.problem])}
    name = f"{given.problem}-{given.steps}.json"
    unfinished = runs.results_root() / "checkpoints" / f"products-{name}"
    rows = measure(config, unfinished)
    runs.save_measurement(f"meta-gradients/{name}", config, rows, torch.device("cpu"))
    unfinished.unlink()


if __name__ == "__main__":
    script(main)
