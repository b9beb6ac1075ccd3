"""A finished run's θ tested again: on the tasks of its run, or on others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from msmeta import data, machine
from msmeta.bilevel import Params
from msmeta.data import Images
from msmeta.errors import ConfigError
from msmeta.experiments.few_shot.agreement import mean_accuracy
from msmeta.experiments.few_shot.at_test import windows_at_test, with_way
from msmeta.experiments.few_shot.config import FewShotConfig
from msmeta.experiments.few_shot.step import network, task_chunk
from msmeta.experiments.few_shot.work import Work, evaluate, team_of


def reevaluate(
    trained: FewShotConfig,
    theta: Params,
    device: str = "auto",
    workers: str | int = "auto",
    window: int | tuple[int, ...] | None = None,
    **changes: Any,
) -> tuple[Images, dict[str, Any]]:
    """The images, and the metrics of a run's θ on its test episodes, or with `changes` to its config.

    changes: to `dataset`, `way`, `shot`, `query`, `test_steps`, `test_norm` or `test_episodes`. window: of the inner
    steps, `test_steps` of them where that is given here, else as many as in training; None for a gradient at each.
    Without any of these the right answers are the run's own, to the last one on the same kind of machine. Raises
    UserError in one line for data that are not here and for tasks that there cannot be.
    """
    config = replace(trained, **changes)
    windows = windows_at_test(config, window, changes.get("test_steps"))
    chosen = machine.choose_device(device)
    images = fitting(trained, data.load(config.dataset, chosen))
    model, chunk = network(replace(trained, way=config.way)), task_chunk(config, chosen)
    theta = {name: value.to(chosen) for name, value in with_way(theta, config.way).items()}
    no_memory = machine.memory_errors(f"out of memory with {chunk} tasks at a time: lower --query or --shot")
    with machine.settings(config.precision), no_memory:
        team = team_of(Work(config, model, images, chunk), workers)
        right = evaluate(team, theta, config.test_episodes, windows)
    accuracy, answers = mean_accuracy(config, right), config.way * config.query
    return images, {"accuracy": accuracy, "right_answers": right, "answers_per_episode": answers}


def fitting(trained: FewShotConfig, images: Images) -> Images:
    """The images as the trained network takes them, shrunk where they are a multiple of that."""
    model = network(trained)
    _, channels, height, _ = images.images["train"].shape
    if channels != model.channels or height % model.size:
        raise ConfigError(
            f"the network takes {model.channels}x{model.size}x{model.size} images: {images.name} has "
            f"{channels}x{height}x{height}"
        )
    return images if height == model.size else images.shrunk(model.size)
