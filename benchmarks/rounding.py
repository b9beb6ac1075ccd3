"""How far float32's rounding takes a meta-gradient, and a whole training, from float64's.

    python benchmarks/rounding.py [--dataset omniglot] [--way 20] [--windows 1 4 8] [--iterations 150] [--seeds 3]

One shot, the network and the rates of the `cpu` preset. For each window: trainings that begin with the same θ and see
the same tasks, in float32 and in float64, and the accuracy (%) of both on classes held out for it; then, at the first
float32 training's θ, the relative error of float32's meta-gradient on `--batches` of tasks that it has not seen.
Writes results/benchmarks/rounding.json; nothing is timed, so the machine may have other work.
"""

import argparse
import statistics

import torch
from few_shot_graph import difference

from msmeta import data, runs
from msmeta.bilevel import Params
from msmeta.data import EpisodeSampler
from msmeta.errors import script
from msmeta.experiments import few_shot
from msmeta.experiments.few_shot import FewShotConfig
from msmeta.experiments.few_shot.again import fitting
from msmeta.workers import Team

MINUTES = 20
EPISODES = 200


class BothTypes:
    """Meta-gradients, trainings and accuracies in float32 and in float64, for one config."""

    def __init__(self, config: FewShotConfig, images: data.Images) -> None:
        self.config, self.images = config, fitting(config, images)
        self.model = few_shot.network(config)
        self.sampler = EpisodeSampler(self.images, "tune", config.way, config.shot, config.query, config.seed)
        self.estimator = config.build_estimator(None)
        self.chunk = few_shot.task_chunk(config, torch.device("cpu"))
        self.team = Team(few_shot.Work(config, self.model, self.images, self.chunk))

    def gradient(self, theta: Params, batch: int) -> Params:
        """The meta-gradient on a batch of training tasks, in θ's type."""
        kind = next(iter(theta.values())).dtype
        episodes = self.sampler.sample(batch, self.config.tasks).to(kind)
        return few_shot.meta_gradient(self.estimator, self.model, theta, episodes, self.chunk)[1]

    def trained(self, kind: torch.dtype, iterations: int) -> Params:
        """θ in float32 after so many meta-iterations in this type."""
        theta = {name: torch.nn.Parameter(v.to(kind)) for name, v in self.model.init(self.config.seed).items()}
        optimizer = torch.optim.Adam(theta.values(), lr=self.config.meta_lr)
        for iteration in range(iterations):
            for name, grad in self.gradient(theta, iteration).items():
                theta[name].grad = grad
            optimizer.step()
        return {name: value.detach().float() for name, value in theta.items()}

    def accuracy(self, theta: Params) -> float:
        """On held-out classes, in %."""
        right = few_shot.evaluate(self.team, theta, EPISODES)
        return 100 * statistics.fmean(right) / (self.config.way * self.config.query)

    def error(self, theta: Params, batch: int) -> float:
        """Of the meta-gradient in float32, relative to the length of float64's."""
        wide = self.gradient({name: value.double() for name, value in theta.items()}, batch)
        narrow = {name: value.double() for name, value in self.gradient(theta, batch).items()}
        return difference(narrow, wide)["relative_difference"]


def measure(window: int, given: argparse.Namespace, images: data.Images) -> dict:
    """The row of one window."""
    accuracies: dict[str, list[float]] = {"float32": [], "float64": []}
    for seed in range(given.seeds):
        named = ("cpu", given.dataset, given.way, 1, "multistep", window)
        config = few_shot.preset_config(*named, seed=seed, evaluate_on="validation")
        both = BothTypes(config, images)
        narrow = both.trained(torch.float32, given.iterations)
        accuracies["float32"].append(both.accuracy(narrow))
        accuracies["float64"].append(both.accuracy(both.trained(torch.float64, given.iterations)))
        if seed == 0:
            errors = [both.error(narrow, given.iterations + batch) for batch in range(given.batches)]
    row = {"window": window, "accuracies": accuracies, "errors": errors}
    print(f"N={window}: {accuracies}, error {statistics.median(errors):.1e}, at most {max(errors):.1e}", flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="omniglot")
    parser.add_argument("--way", type=int, default=20)
    parser.add_argument("--windows", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--iterations", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=20)
    given = parser.parse_args()
    images = data.load(given.dataset, torch.device("cpu"))
    rows = [measure(window, given, images) for window in given.windows]
    runs.save_measurement("benchmarks/rounding.json", vars(given), rows, torch.device("cpu"))


if __name__ == "__main__":
    script(main)
