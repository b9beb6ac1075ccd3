"""Few-shot learning (Section 5.2 and Appendix F): meta-training, model selection, evaluation.

MAML and its relatives meta-learn the initial parameters θ = φ₁ of a network from batches of small classification
tasks. One meta-iteration adapts the network to the support images of each task by T inner steps, and moves θ by the
meta-gradient of the query images' loss.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from msmeta import data, runs
from msmeta.bilevel import Params
from msmeta.data import Images
from msmeta.errors import ConfigError, DivergedError
from msmeta.experiments import resume, training
from msmeta.experiments.distributed import World
from msmeta.experiments.few_shot.agreement import mean_accuracy
from msmeta.experiments.few_shot.at_test import windows_at_test
from msmeta.experiments.few_shot.config import ESTIMATORS, META_OPTIMIZERS, META_SCHEDULES, FewShotConfig
from msmeta.experiments.few_shot.step import network, stepper, task_chunk
from msmeta.experiments.few_shot.work import Work, evaluate, team_of
from msmeta.experiments.training import Row, Training


def run(config: FewShotConfig, root: Path | None = None, of: dict[str, Any] | None = None) -> runs.Run:
    """The place of this config's result and checkpoint; of: a result, whose data is meant, not what is here.

    Raises DataError where its data set is not here.
    """
    name = (
        f"{config.dataset}-{config.way}w{config.shot}s-{config.estimator}-{config.window_text}-{config.preset}-"
        f"s{config.seed}"
    )
    return training.place("few-shot", name, config, root, found=of and runs.hash_of(of, "data"))


class FewShot:
    """A meta-training (`training.Experiment`), whose processes, and their workers, share the tasks of each meta-batch.

    An iteration is a meta-iteration: it gives the query images' mean loss and accuracy (%), and what its estimator
    tells of itself. The learning curve has the accuracy on `evaluate_on`; the θ that does best on the validation
    classes is the one tested, where there is a selection. workers: as `team_of` has them. images: instead of the data
    set's, for a timing.
    """

    place = staticmethod(run)
    curve = ("iteration", "seconds", "accuracy", "right_answers")
    source = None

    def __init__(
        self,
        config: FewShotConfig,
        device: torch.device,
        world: World,
        workers: str | int = "auto",
        images: Images | None = None,
    ) -> None:
        if world.size > config.tasks:
            raise ConfigError(f"{world.size} processes for {config.tasks} tasks: each needs at least one")
        images = images or data.load(config.dataset, device)
        self.images = images if config.image_size is None else images.shrunk(config.image_size)
        self.config, self.device, self.world = config, device, world
        self.model, self.chunk = network(config), task_chunk(config, device)
        self.workers = workers
        self.logged = ("loss", "accuracy", *ESTIMATORS[config.estimator].told)
        self.selection = ("iteration", "seconds", "accuracy") if config.select_every else ()
        self.out_of_memory = (
            f"out of memory with {self.chunk} tasks at a time: lower --task-chunk, --filters or --query"
        )

    @property
    def how(self) -> dict[str, Any]:
        """workers_memory_bytes: of the workers beside this process, at the most, without what they share."""
        others = []
        if self.team.most > 1:
            with self.team.ready():
                _, *others = self.team.call("unshared_memory")
        return {"task_chunk": self.chunk, "workers": self.team.most, "workers_memory_bytes": sum(others)}

    def begin(self, iteration: int, state: dict[str, Any] | None) -> None:
        config, start = self.config, self.model.init(self.config.seed) if state is None else state["theta"]
        self.theta = {name: torch.nn.Parameter(value.to(self.device)) for name, value in start.items()}
        on_gpu = self.device.type == "cuda"
        self.optimizer = META_OPTIMIZERS[config.meta_optimizer](list(self.theta.values()), config.meta_lr, on_gpu)
        if state is not None:
            resume.give(self.optimizer, state["optimizer"])
        work = Work(config, self.model, self.images, self.chunk, self.world)
        self.team = team_of(work, self.workers)
        self.steps = stepper(config, self.device)(
            config,
            self.model,
            self.theta,
            self.optimizer,
            work.sampler,
            self.chunk,
            self.world,
            self.team if self.team.size > 1 else None,
        )

    def state(self) -> dict[str, Any]:
        theta = {name: value.detach() for name, value in self.theta.items()}
        return {"theta": theta, "optimizer": resume.tensors_of(self.optimizer)}

    def expected(self) -> tuple[dict[str, Any], Params]:
        theta = self.model.init(self.config.seed)
        moments = resume.adam_like(theta.values()) if self.config.meta_optimizer == "adam" else {}
        return {"theta": theta, "optimizer": moments}, theta

    def fraction(self, done: Training) -> float:
        by_time = done.seconds / self.config.train_seconds if self.config.train_seconds else 0.0
        return max(done.iteration / self.config.iterations, by_time)

    def block(self, done: Training) -> list[Row]:
        """As many meta-iterations as the stepper does at once, up to the next look at them."""
        config, at = self.config, done.iteration
        multiples = [(at // n + 1) * n for n in (config.log_every, config.select_every) if n]
        until = min(config.iterations, next_point(config, at), *multiples)
        lr = config.meta_lr * META_SCHEDULES[config.meta_schedule](self.fraction(done))
        found = self.steps.run(at, min(self.steps.block, until - at), lr)
        return [(loss, 100 * accuracy, *told) for loss, accuracy, *told in found]

    def look(self, done: Training) -> None:
        config = self.config
        if next_point(config, done.iteration - 1) == done.iteration:
            right = evaluate(self.team, self.theta, config.curve_episodes)
            training.add_point(done.curve, (done.iteration, done.seconds, mean_accuracy(config, right), right))
        if config.select_every and (done.iteration % config.select_every == 0 or self.fraction(done) >= 1):
            right = evaluate(self.team, self.theta, config.curve_episodes, split="validation")
            accuracy = mean_accuracy(config, right)
            if accuracy > max(done.selection["accuracy"], default=-1.0):
                done.best = {name: value.detach().cpu().clone() for name, value in self.theta.items()}
            training.add_point(done.selection, (done.iteration, done.seconds, accuracy))

    def accuracy(self, done: Training, row: Row) -> float | None:
        return row[1]

    def metrics(self, done: Training) -> dict[str, Any]:
        """Accuracy with a gradient at each test step and, for windows, also with the windows of training.

        Of the θ that did best on the validation classes where there is a selection, else of the last.
        """
        config, theta, selected = self.config, self.tested(done), {}
        if done.best is not None:
            looks = done.selection
            at = looks["accuracy"].index(max(looks["accuracy"]))
            selected = {"selected_iteration": looks["iteration"][at], "validation_accuracy": looks["accuracy"][at]}
        right = evaluate(self.team, theta, config.test_episodes)
        metrics = {
            "iterations": done.iteration,
            "meta_iterations_per_second": round(done.iteration / done.seconds, 4),
            "accuracy": mean_accuracy(config, right),
            "right_answers": right,
            "answers_per_episode": config.way * config.query,
            **selected,
        }
        if config.estimator == "multistep" and config.window != 1:
            windowed = evaluate(self.team, theta, config.test_episodes, windows_at_test(config, config.window))
            metrics["windowed_accuracy"] = mean_accuracy(config, windowed)
            if len(windowed) > 1:
                deviation = 100 * statistics.stdev(windowed) / metrics["answers_per_episode"]
                metrics["windowed_accuracy_sd"] = round(deviation, 4)
        return metrics

    def tested(self, done: Training) -> Params:
        if done.best is None:
            return self.theta
        return {name: value.to(self.device) for name, value in done.best.items()}


train = partial(training.train, FewShot)
"""`training.train` of a FewShotConfig."""


def tune(
    config: FewShotConfig,
    rates: Sequence[float],
    on_result: Callable[[dict[str, Any]], None] = lambda result: None,
    **options: Any,
) -> list[dict[str, Any]]:
    """The grid search of Appendix F: one run for each inner rate, evaluated on classes held out for it; best first.

    on_result: is given each result as it comes. options: of `train`. A rate that diverges has no result, nor has any in
    the others of several processes. Raises DivergedError where all of them diverge.
    """
    results, diverged = [], 0
    for rate in rates:
        try:
            result = train(replace(config, lr=rate, evaluate_on="validation", select_every=None), **options)
        except DivergedError:
            diverged += 1
            continue
        if result is not None:
            results.append(result)
            on_result(result)
    if diverged == len(rates):
        raise DivergedError(f"every inner rate of {', '.join(f'{rate:g}' for rate in rates)} diverged: try lower ones")
    return sorted(results, key=lambda result: -result["metrics"]["accuracy"])


def next_point(config: FewShotConfig, iteration: int) -> int:
    """The first point of the learning curve after so many meta-iterations: they lie at `curve_every` times 1.5^k."""
    point, k = config.curve_every, 0
    while point <= iteration:
        k += 1
        point = config.curve_every * 3**k // 2**k
    return point
