"""A few-shot task at test time: its inner loss, and the query images' logits under batch norm's statistics.

φ is the same whatever these are: the inner steps take the support images' own, as in training.
"""

from __future__ import annotations

import torch
from torch import Tensor

from msmeta.bilevel import Bilevel, Params, detach
from msmeta.data import Episodes
from msmeta.dynamics import partition
from msmeta.estimators.implicit import Proximal
from msmeta.experiments.few_shot.config import FewShotConfig
from msmeta.experiments.few_shot.step import episode_problem
from msmeta.models import Conv4


def inner_problem(config: FewShotConfig, model: Conv4, theta: Params, episodes: Episodes) -> Bilevel:
    """The tasks with the inner loss that the config's estimator adapts by."""
    problem, estimator = episode_problem(model, episodes, inner_shot=config.inner_shot), config.build_estimator(None)
    if isinstance(estimator, Proximal):
        return estimator.regularised(problem, detach(problem.init(theta)))
    return problem


def windows_at_test(
    config: FewShotConfig, window: int | tuple[int, ...] | None = None, steps: int | None = None
) -> tuple[int, ...]:
    """The inner steps of test time: `steps`, else the config's, in these windows.

    window: of the config's `steps`, where no other number is given; None for a gradient at each of `test_steps`.
    """
    usual = config.steps if window is not None else config.test_steps or config.steps
    return partition(steps or usual, window or 1)


@torch.no_grad()
def query_logits(model: Conv4, phi: Params, episodes: Episodes, norm: str, running: Params | None = None) -> Tensor:
    """Logits (tasks, n, way) of the query images.

    norm: whose mean and variance batch norm takes: `transductive`, those of all query images of the task; `support`,
    those of its support images at the same φ; `running`, those given, (1, filters) for each block. Only with the last
    two is an image's answer a function of that image alone.
    """
    if norm == "transductive":
        return model(phi, episodes.query_x)
    tasks = len(episodes)
    if norm == "support":
        known = support_statistics(model, phi, episodes.support_x)
    else:
        known = {name: value.expand(tasks, -1).contiguous() for name, value in running.items()}
    return model(phi, episodes.query_x, known, training=False)


@torch.no_grad()
def support_statistics(model: Conv4, phi: Params, support_x: Tensor) -> Params:
    """Mean and unbiased variance (tasks, filters) of each block's channels over a task's support images."""
    found = model.statistics(len(support_x), phi["head.bias"])
    model(phi, support_x, found)
    return found


def with_way(theta: Params, way: int) -> Params:
    """θ for tasks of another way: of the head's rows, which stand for no class in particular, the first ones; rows that
    it has not begin as their mean."""
    trained = len(theta["head.bias"])
    if way == trained:
        return theta

    def rows(value: Tensor) -> Tensor:
        return torch.cat([value[:way], value.mean(0, keepdim=True).expand(max(0, way - trained), *value.shape[1:])])

    return {name: rows(value) if name.startswith("head.") else value for name, value in theta.items()}
