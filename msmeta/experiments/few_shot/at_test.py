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
    return partition(usual if steps is None else steps, 1 if window is None else window)


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
    """θ for tasks of another way: all rows of the head, which stand for no class in particular, begin as the mean of
    the trained ones (Ye & Chao, 2022); those of the way that it was trained for stay as they are."""
    if way == len(theta["head.bias"]):
        return theta
    means = {name: value.mean(0, keepdim=True) for name, value in theta.items() if name.startswith("head.")}
    return theta | {name: value.expand(way, *value.shape[1:]).clone() for name, value in means.items()}
