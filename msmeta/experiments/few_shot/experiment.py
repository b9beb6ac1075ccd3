"""Few-shot learning (Section 5.2 and Appendix F): meta-training, model selection, evaluation.

MAML and its relatives meta-learn the initial parameters θ = φ₁ of a network from batches of small classification
tasks. One meta-iteration adapts the network to the support images of each task by T inner steps, and moves θ by the
meta-gradient of the query images' loss.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from msmeta import data, machine, runs
from msmeta.bilevel import Params, begin, detach
from msmeta.data import Episodes, EpisodeSampler, Images
from msmeta.dynamics import adapt, partition
from msmeta.errors import ConfigError, DivergedError
from msmeta.estimators import Implicit
from msmeta.experiments import distributed
from msmeta.experiments.distributed import World
from msmeta.experiments.few_shot.config import (
    META_OPTIMIZERS,
    META_SCHEDULES,
    TRAIN_SPLIT,
    FewShotConfig,
    label,
    setting,
)
from msmeta.experiments.few_shot.step import (
    MetaStepper,
    default_chunk,
    episode_problem,
    in_threads,
    stepper,
)
from msmeta.models import Conv4
from msmeta.statistics import mean_ci

TEST_SEED = 2020  # one set of test episodes for every run, so that methods are compared on the same tasks
EVALUATION_BLOCK = 20  # test episodes drawn at once
CHECKPOINT_SECONDS = 60


@dataclass(frozen=True)
class Progress:
    """What a progress bar shows after each meta-iteration.

    fraction: how much of the training is done. speed: meta-iterations a second. accuracy: in per cent.
    """

    iteration: int
    fraction: float
    speed: float
    loss: float
    accuracy: float


@dataclass
class _Training:
    """Everything that changes while training, and that a checkpoint keeps.

    recent: (loss, accuracy) of the meta-iterations since the last point of the log. selection: accuracy on the
    validation classes at each look. best: θ at the best of them.
    """

    theta: dict[str, torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    iteration: int = 0
    seconds: float = 0.0
    log: dict[str, list[float]] = field(default_factory=lambda: _columns("iteration", "seconds", "loss", "accuracy"))
    curve: dict[str, list[Any]] = field(
        default_factory=lambda: _columns("iteration", "seconds", "accuracy", "accuracy_ci95", "right_answers")
    )
    recent: list[tuple[float, float]] = field(default_factory=list)
    selection: dict[str, list[float]] = field(default_factory=lambda: _columns("iteration", "seconds", "accuracy"))
    best: dict[str, Tensor] | None = None

    def state(self) -> dict[str, Any]:
        return {
            "theta": {name: value.detach() for name, value in self.theta.items()},
            "optimizer": self.optimizer.state_dict(),
            **{name: getattr(self, name) for name in _PLAIN},
        }

    def restore(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for name, value in self.theta.items():
                value.copy_(state["theta"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        for name in _PLAIN:
            setattr(self, name, state[name])


_PLAIN = ("iteration", "seconds", "log", "curve", "recent", "selection", "best")


def run(config: FewShotConfig, root: Path | None = None) -> runs.Run:
    """The place of this config's result and checkpoint."""
    window = "x".join(map(str, config.window)) if isinstance(config.window, tuple) else config.window
    label = f"{config.dataset}-{config.way}w{config.shot}s-{config.estimator}-{window}-{config.preset}-s{config.seed}"
    kind = "few-shot" if config.evaluate_on == "test" else "few-shot-tuning"
    defaults = runs.defaults(FewShotConfig)
    return runs.Run(kind, label, config.preset, runs.plain(config), root or runs.results_root(), defaults)


def train(
    config: FewShotConfig,
    device: str = "auto",
    resume: bool = False,
    force: bool = False,
    time_budget: float | None = None,
    on_step: Callable[[Progress], None] = lambda progress: None,
    results_root: Path | None = None,
) -> dict[str, Any] | None:
    """Meta-trains, evaluates and stores one run; returns its result, or None if `time_budget` (s) ended it early.

    A finished run with the same config is returned, not repeated, unless `force`. Training that was cut short goes on
    with `resume`. Under torchrun each process takes its share of each meta-batch; the first one writes the result and
    returns it, the others return None. Raises UserError, in one line, for whatever a user can mend: data, options,
    memory, a diverged loss.
    """
    place = run(config, results_root)
    if not force and (finished := place.result()):
        return finished
    started = time.perf_counter()
    world, device = distributed.join(device)
    chosen = machine.choose_device(device)
    machine.set_precision(config.precision)
    images = data.load(config.dataset, chosen)
    if config.image_size is not None:
        images = images.shrunk(config.image_size)
    sampler = EpisodeSampler(
        images, TRAIN_SPLIT[config.evaluate_on], config.way, config.shot, config.query, config.seed
    )
    if world.size > config.tasks:
        raise ConfigError(f"{world.size} processes for {config.tasks} tasks: each needs at least one")
    chunk = config.task_chunk or default_chunk(config, chosen)
    model = build_model(config, images)
    machine.reset_peak_memory(chosen)
    with machine.memory_errors(f"out of memory with {chunk} tasks at a time: lower --task-chunk, --filters or --query"):
        training, resumed = _begin_or_resume(config, model, place, chosen, world, resume, force)
        loop = _Loop(config, training, model, sampler, images, chunk, world, place)
        try:
            done = loop.run(started + (math.inf if time_budget is None else time_budget), on_step)
        except DivergedError:
            raise
        except BaseException:
            loop.save()
            raise
        loop.save()
        if not done or not world.first:
            return None
        metrics = _test_metrics(config, model, training, images, chunk)
    result = {
        "method": label(config),
        "setting": setting(config),
        "metrics": {
            "iterations": training.iteration,
            "meta_iterations_per_second": round(training.iteration / training.seconds, 4),
            **metrics,
        },
        "log": training.log,
        "curve": training.curve,
        **({"selection": training.selection} if config.select_every else {}),
        "data": {"name": images.name, "title": images.title, "hash": images.hash},
        "provenance": {
            **runs.provenance(chosen),
            "processes": world.size,
            "task_chunk": chunk,
            "train_seconds": round(training.seconds, 3),
            "wall_seconds": round(time.perf_counter() - started, 3),
            "peak_memory_bytes": machine.peak_memory(chosen),
            "resumed": resumed,
        },
    }
    place.save_result(result)
    return place.result()


def tune(
    config: FewShotConfig,
    rates: Sequence[float],
    on_result: Callable[[dict[str, Any]], None] = lambda result: None,
    **options: Any,
) -> list[dict[str, Any]]:
    """The grid search of Appendix F: one run for each inner rate, evaluated on classes held out for it; best first.

    on_result: is given each result as it comes. options: of `train`. A rate that diverges has no result. Raises
    DivergedError where all of them do.
    """
    results = []
    for rate in rates:
        try:
            result = train(replace(config, lr=rate, evaluate_on="validation", select_every=None), **options)
        except DivergedError:
            continue
        if result is not None:
            results.append(result)
            on_result(result)
    if not results:
        raise DivergedError(f"every inner rate of {', '.join(f'{rate:g}' for rate in rates)} diverged: try lower ones")
    return sorted(results, key=lambda result: -result["metrics"]["accuracy"])


def build_model(config: FewShotConfig, images: Images) -> Conv4:
    """The network for these images: strided for drawings, pooled for photographs, as in MAML."""
    _, channels, height, width = images.images["train"].shape
    if height != width:
        raise ConfigError(f"{images.name} has {height}x{width} images: Conv4 takes square ones")
    return Conv4(config.way, channels, height, config.filters, pool=channels == 3, precision=config.precision)


def evaluate(
    config: FewShotConfig,
    model: Conv4,
    theta: Params,
    images: Images,
    episodes: int,
    chunk: int,
    window: int | tuple[int, ...] | None = None,
    split: str | None = None,
) -> list[int]:
    """Right answers in each of the first `episodes` test episodes, after the inner steps of test time.

    window: take `steps` in these windows; None takes `test_steps` with a gradient each. split: None for `evaluate_on`.
    """
    split = config.evaluate_on if split is None else split
    sampler = EpisodeSampler(images, split, config.way, config.shot, config.query, TEST_SEED)
    windows = partition(config.test_steps or config.steps, 1) if window is None else partition(config.steps, window)
    dynamics, estimator = config.dynamics(), config.build_estimator(None)
    theta = {name: value.detach() for name, value in theta.items()}

    def right(part: Episodes) -> list[int]:
        problem = episode_problem(model, part, inner_shot=config.inner_shot)
        _, start = begin(problem, theta)
        if isinstance(estimator, Implicit):
            problem = estimator.regularised(problem, detach(start.phi))
        adapted, _ = adapt(problem, start, theta, dynamics, windows)
        with torch.no_grad():
            answers = model(adapted.phi, part.query_x).argmax(-1)
        return (answers == part.query_y).sum(1).tolist()

    found: list[int] = []
    for block in range(math.ceil(episodes / EVALUATION_BLOCK)):
        parts = list(sampler.sample(block, min(EVALUATION_BLOCK, episodes - len(found))).chunks(chunk))
        for counts in in_threads(right, parts, sampler.device):
            found += counts
    return found


def _begin_or_resume(
    config: FewShotConfig,
    model: Conv4,
    place: runs.Run,
    device: torch.device,
    world: World,
    resume: bool,
    force: bool,
) -> tuple[_Training, bool]:
    """The training as it begins, or as its checkpoint left it, and whether the latter."""
    theta = {name: torch.nn.Parameter(value.to(device)) for name, value in model.init(config.seed).items()}
    optimizer = META_OPTIMIZERS[config.meta_optimizer](list(theta.values()), config.meta_lr, device.type == "cuda")
    training = _Training(theta, optimizer)
    saved = world.of_first(None if force or not world.first else place.load_checkpoint())
    if saved is None:
        return training, False
    runs.require_resume(saved, resume)
    training.restore(saved)
    return training, True


@dataclass
class _Loop:
    """Training from where it stands to its end, with what happens on the way."""

    config: FewShotConfig
    training: _Training
    model: Conv4
    sampler: EpisodeSampler
    images: Images
    chunk: int
    world: World
    place: runs.Run

    def run(self, deadline: float, on_step: Callable[[Progress], None]) -> bool:
        """Trains to the config's end, or to the deadline; says whether the end was reached."""
        config, training, device = self.config, self.training, self.sampler.device
        steps = stepper(config, device)(
            config, self.model, training.theta, training.optimizer, self.sampler, self.chunk, self.world
        )
        last_checkpoint = time.perf_counter()
        while (fraction := _fraction(config, training)) < 1:
            began = time.perf_counter()
            (late,) = self.world.mean([float(began > deadline)], device)
            if late:
                return False
            loss, accuracy = self._block(steps, META_SCHEDULES[config.meta_schedule](fraction))
            (elapsed,) = self.world.mean([time.perf_counter() - began], device)
            training.seconds += elapsed
            if self.world.first:
                self._look()
                if time.perf_counter() - last_checkpoint > CHECKPOINT_SECONDS:
                    self.save()
                    last_checkpoint = time.perf_counter()
            speed = training.iteration / training.seconds
            on_step(Progress(training.iteration, min(1.0, _fraction(config, training)), speed, loss, 100 * accuracy))
        return True

    def save(self) -> None:
        """Writes the checkpoint, in the first process."""
        if self.world.first:
            self.place.save_checkpoint(self.training.state())

    def _block(self, steps: MetaStepper, rate: float) -> tuple[float, float]:
        """As many meta-iterations as the stepper does at once, up to the next look at them; the last one's loss and
        accuracy."""
        config, training = self.config, self.training
        intervals = [n for n in (config.log_every, config.curve_every, config.select_every) if n]
        until = min(config.iterations, *((training.iteration // n + 1) * n for n in intervals))
        count = min(steps.block, until - training.iteration)
        training.recent += steps.run(training.iteration, count, rate)
        training.iteration += count
        return training.recent[-1]

    def _look(self) -> None:
        """Log, learning curve and model selection, where they are due."""
        config, training = self.config, self.training
        if training.iteration % config.log_every == 0:
            means = [sum(column) / len(training.recent) for column in zip(*training.recent, strict=True)]
            _append(training.log, training.iteration, training.seconds, means[0], 100 * means[1])
            training.recent = []
        if _is_curve_point(config, training.iteration):
            right = self._evaluate(config.evaluate_on)
            _append(training.curve, training.iteration, training.seconds, *_accuracy(config, right).values())
            training.curve["right_answers"].append(right)
        if config.select_every and training.iteration % config.select_every == 0:
            accuracy = _accuracy(config, self._evaluate("validation"))["accuracy"]
            if accuracy > max(training.selection["accuracy"], default=-1.0):
                training.best = {name: value.detach().cpu().clone() for name, value in training.theta.items()}
            _append(training.selection, training.iteration, training.seconds, accuracy)

    def _evaluate(self, split: str) -> list[int]:
        config, training = self.config, self.training
        return evaluate(config, self.model, training.theta, self.images, config.curve_episodes, self.chunk, split=split)


def _fraction(config: FewShotConfig, training: _Training) -> float:
    by_time = training.seconds / config.train_seconds if config.train_seconds else 0.0
    return max(training.iteration / config.iterations, by_time)


def _is_curve_point(config: FewShotConfig, iteration: int) -> bool:
    ratio, rest = divmod(iteration, config.curve_every)
    return rest == 0 and ratio & (ratio - 1) == 0


def _test_metrics(
    config: FewShotConfig, model: Conv4, training: _Training, images: Images, chunk: int
) -> dict[str, Any]:
    """Accuracy with a gradient at each test step and, for windows, also with the windows of training.

    Of the θ that did best on the validation classes where there is a selection, else of the last.
    """
    theta, selected = training.theta, {}
    if training.best is not None:
        theta = {name: value.to(theta[name].device) for name, value in training.best.items()}
        looks = training.selection
        at = looks["accuracy"].index(max(looks["accuracy"]))
        selected = {"selected_iteration": looks["iteration"][at], "validation_accuracy": looks["accuracy"][at]}
    right = evaluate(config, model, theta, images, config.test_episodes, chunk)
    answers = config.way * config.query
    metrics = {**_accuracy(config, right), "right_answers": right, "answers_per_episode": answers, **selected}
    if config.window != 1:
        windowed = evaluate(config, model, theta, images, config.test_episodes, chunk, config.window)
        metrics |= {f"windowed_{name}": value for name, value in _accuracy(config, windowed).items()}
    return metrics


def _accuracy(config: FewShotConfig, right: list[int]) -> dict[str, float | None]:
    """Mean over episodes (%) and the half-width of its 95 % interval over them, None where there is one episode."""
    mean, half = mean_ci([100 * count / (config.way * config.query) for count in right])
    return {"accuracy": round(mean, 4), "accuracy_ci95": None if half is None else round(half, 4)}


def _columns(*names: str) -> dict[str, list[float]]:
    return {name: [] for name in names}


def _append(columns: dict[str, list[Any]], *values: float | None) -> None:
    """Adds a point to the columns, of which the first take the values."""
    for column, value in zip(columns.values(), values, strict=False):
        column.append(None if value is None else round(value, 4))
