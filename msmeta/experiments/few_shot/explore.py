"""One batch of few-shot tasks under every window: what notebooks/explore_n.ipynb measures while its sliders move."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from msmeta import comparison, data, machine
from msmeta.bilevel import Params, begin
from msmeta.comparison import Estimator
from msmeta.data import Episodes, EpisodeSampler
from msmeta.dynamics import SGD, partition, walk
from msmeta.errors import ConfigError
from msmeta.estimators import FirstOrder, MultiStep
from msmeta.experiments import few_shot
from msmeta.models import Conv4

META_ITERATIONS = {"smoke": 2, "quick": 40, "cpu": 400, "paper": 400}
"""Meta-iterations of exact MAML by preset, before the network is explored."""


@dataclass(frozen=True)
class Learner:
    """A network, meta-trained for a while, and the tasks to explore.

    title: of the data set. why: a sentence on which data were used.
    """

    model: Conv4
    theta: Params
    episodes: Episodes
    title: str
    why: str


@dataclass(frozen=True)
class Setting:
    """What the sliders set; `window` divides `steps`."""

    steps: int = 8
    window: int = 4
    lr: float = 0.1
    momentum: float = 0.9
    backward: str = "autograd"


OUT_OF_MEMORY = "out of memory: lower tasks, way or shot"


@machine.memory_errors(OUT_OF_MEMORY)
def prepare(
    preset: str,
    way: int = 5,
    shot: int = 1,
    tasks: int = 4,
    meta_iterations: int | None = None,
    seed: int = 0,
    device: str = "auto",
) -> Learner:
    """Meta-trains a network by exact MAML and draws a batch of training tasks for it.

    Uses Omniglot, or glyphs where it cannot be had and in the smoke preset. Raises ConfigError for impossible settings.
    """
    if preset == "smoke":
        name, why = "glyphs", "The smoke preset always uses procedurally drawn glyphs, not Omniglot."
    else:
        name, why = data.real_or_glyphs("omniglot")
    iterations = META_ITERATIONS.get(preset, 0) if meta_iterations is None else meta_iterations
    config = few_shot.preset_config(preset, name, way, shot, "multistep", tasks=tasks, seed=seed)
    if iterations < 0:
        raise ConfigError(f"meta_iterations={iterations}: it must not be negative")
    chosen = machine.choose_device(device)
    images = data.load(name, chosen)
    sampler = EpisodeSampler(images, "train", way, shot, config.query, seed)
    model = few_shot.network(config)
    theta = {name: torch.nn.Parameter(value.to(chosen)) for name, value in model.init(seed).items()}
    optimizer, estimator = torch.optim.Adam(theta.values(), lr=3e-3), MultiStep(config.dynamics(), config.steps)
    for iteration in range(iterations):
        _, grad = few_shot.meta_gradient(estimator, model, theta, sampler.sample(iteration, tasks), tasks)
        for name, value in theta.items():
            value.grad = grad[name]
        optimizer.step()
    start = {name: value.detach() for name, value in theta.items()}
    return Learner(model, start, sampler.sample(1_000_000, tasks), images.title, why)


def divisors(steps: int) -> list[int]:
    """The windows that divide `steps`."""
    return [n for n in range(1, steps + 1) if steps % n == 0]


@machine.memory_errors(OUT_OF_MEMORY)
def compare(learner: Learner, setting: Setting, *windows: int) -> list[dict[str, Any]]:
    """A row each for exact, the setting's window or all of these, and first-order, on the same tasks.

    window: 1 for exact, None for first-order. loss, accuracy (%): of the query images after the steps. cosine, ratio,
    seconds, bytes: as `msmeta.compare`. path: (step, query loss) where each gradient is evaluated, and after the last
    step.
    """
    inner, problem = SGD(setting.lr, setting.momentum), few_shot.episode_problem(learner.model, learner.episodes)
    estimators: dict[int | None, Estimator] = {
        window: MultiStep(inner, setting.steps, window, setting.backward)
        for window in (1, *(windows or (setting.window,)))
    }
    estimators[None] = FirstOrder(inner, setting.steps)
    found = comparison.compare(problem, learner.theta, {str(key): each for key, each in estimators.items()})
    rows = []
    for window, row in zip(estimators, found.rows, strict=True):
        path, accuracy = _path(learner, replace(setting, window=window or 1))
        rows.append({
            "window": window, "loss": path[-1][1], "accuracy": accuracy, "cosine": row.cosine[0],
            "ratio": row.norm_ratio[0], "seconds": row.seconds[0], "bytes": row.bytes[0], "path": path,
        })  # fmt: skip
    return rows


def _path(learner: Learner, setting: Setting) -> tuple[list[tuple[int, float]], float]:
    """The query loss on the way, and the accuracy after the last step."""
    logits: list[Tensor] = []
    problem = few_shot.episode_problem(learner.model, learner.episodes, logits)
    states: list[Params] = []
    dynamics, windows = SGD(setting.lr, setting.momentum), partition(setting.steps, setting.window)
    _, start = begin(problem, learner.theta)
    last, _ = walk(problem, start, learner.theta, dynamics, windows, keep=lambda k, s: states.append(s.phi))
    with torch.no_grad():
        losses = [problem.outer(phi, learner.theta).item() for phi in (*states, last.phi)]
    right = logits[-1].argmax(-1) == learner.episodes.query_y
    steps = (*(k * setting.window for k in range(len(windows))), setting.steps)
    return list(zip(steps, losses, strict=True)), 100 * right.double().mean().item()
