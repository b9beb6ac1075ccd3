"""Few-shot learning (Section 5.2 and Appendix F): config, meta-training, evaluation.

MAML and its relatives meta-learn the initial parameters θ = φ₁ of a network from batches of small classification
tasks. One meta-iteration adapts the network to the support images of each task by T inner steps, and moves θ by the
meta-gradient of the query images' loss.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from msmeta import data, runs
from msmeta.bilevel import Bilevel, MetaGradient, Params, State, adapt, partition
from msmeta.data import ClassImages, Episodes, EpisodeSampler
from msmeta.dynamics import SGD
from msmeta.errors import ConfigError, DivergedError, UserError
from msmeta.estimators import FirstOrder, MultiStep
from msmeta.models import Conv4

TEST_SEED = 2020  # one set of test episodes for every run, so that methods are compared on the same tasks
EVALUATION_BLOCK = 20  # test episodes drawn at once
CHECKPOINT_SECONDS = 60


@dataclass(frozen=True)
class FewShotConfig:
    """Everything that defines the outcome of a run.

    estimator: `multistep` (`window=1` is MAML) or `first-order`. window: N, or a partition of `steps`.
    tasks: meta-batch. train_seconds: stop meta-training after this time, evaluation not counted; None for no limit.
    evaluate_on: `test`, or `validation` for choosing settings: the network is then trained on the rest of the
    meta-training classes and never sees the test split.
    test_episodes, curve_episodes: tasks of the final evaluation and of each point of the learning curve, which lie at
    `curve_every` * 2^k iterations. log_every: meta-iterations averaged into one point of the training log.
    """

    preset: str
    dataset: str
    way: int
    shot: int
    estimator: str
    inner_lr: float
    momentum: float
    weight_decay: float
    filters: int
    tasks: int
    iterations: int
    window: int | tuple[int, ...] = 1
    query: int = 15
    steps: int = 8
    meta_lr: float = 1e-3
    train_seconds: float | None = None
    evaluate_on: str = "test"
    test_episodes: int = 600
    curve_episodes: int = 200
    curve_every: int = 125
    log_every: int = 25
    seed: int = 0

    def __post_init__(self) -> None:
        if self.estimator not in ESTIMATORS:
            raise ConfigError(f"estimator {self.estimator!r} is unknown: choose from {', '.join(ESTIMATORS)}")
        if self.estimator == "first-order" and self.window != 1:
            raise ConfigError(f"window={self.window} has no meaning for first-order: leave it at 1")
        for name in ("filters", "tasks", "iterations", "test_episodes", "curve_episodes", "curve_every", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: it must be at least 1")
        if self.meta_lr <= 0 or (self.train_seconds is not None and self.train_seconds <= 0):
            raise ConfigError(f"meta_lr={self.meta_lr}, train_seconds={self.train_seconds}: both must be positive")
        if self.evaluate_on not in TRAIN_SPLIT:
            raise ConfigError(f"evaluate_on={self.evaluate_on!r}: choose from {', '.join(TRAIN_SPLIT)}")
        partition(self.steps, self.window)
        self.dynamics()

    def dynamics(self) -> SGD:
        """The inner optimiser."""
        return SGD(self.inner_lr, self.momentum, self.weight_decay)

    @property
    def method(self) -> str:
        """The method's name in the paper's tables."""
        if self.estimator == "first-order":
            return "FO-MAML"
        if self.window == 1:
            return "MAML"
        return f"Multi-step ({self.window if isinstance(self.window, int) else ', '.join(map(str, self.window))})"

    @property
    def setting(self) -> str:
        """The column of the paper's tables."""
        return f"{self.way}-way {self.shot}-shot"


ESTIMATORS: dict[str, Callable[[FewShotConfig], Callable[[Bilevel, Params], MetaGradient]]] = {
    "multistep": lambda config: MultiStep(config.dynamics(), config.steps, config.window),
    "first-order": lambda config: FirstOrder(config.dynamics(), config.steps),
}
TRAIN_SPLIT = {"test": "train", "validation": "tune"}

# Appendix F. FO-MAML adapts with vanilla SGD, the others with momentum and weight decay.
PAPER = {"filters": 64, "iterations": 60_000, "inner_lr": 0.4, "log_every": 200, "curve_every": 500}
PRESETS: dict[str, dict[str, Any]] = {
    "paper": PAPER,
    # Two cores: narrower, smaller meta-batches, and rates chosen on held-out meta-training classes.
    "cpu": {"filters": 32, "iterations": 60_000, "train_seconds": 330.0, "meta_lr": 3e-3},
    "quick": {"filters": 32, "iterations": 60_000, "train_seconds": 30.0, "meta_lr": 3e-3, "test_episodes": 200,
              "curve_episodes": 50},
    "smoke": {"filters": 8, "iterations": 4, "meta_lr": 3e-3, "test_episodes": 10,
              "curve_episodes": 5, "curve_every": 1, "log_every": 1},
}  # fmt: skip
# Meta-batch for 5-way tasks and fewer than 20 ways, and for 20-way tasks.
TASKS = {"paper": (32, 16), "cpu": (8, 4), "quick": (4, 2), "smoke": (2, 1)}
# Inner rates off the paper's protocol, likewise by ways: for each method the best of those tried, after equal
# meta-iterations on held-out meta-training classes (results/few-shot-tuning).
INNER_LR = {"multistep": (0.1, 0.2), "first-order": (0.4, 0.4)}


def preset_config(
    preset: str, dataset: str, way: int, shot: int, estimator: str, window: int | tuple[int, ...] = 1, **changes: Any
) -> FewShotConfig:
    """The config of a preset (`smoke`, `quick`, `cpu`, `paper`), with `changes` to any of its fields.

    Raises ConfigError for an unknown preset or estimator.
    """
    if preset not in PRESETS:
        raise ConfigError(f"preset {preset!r} is unknown: choose from {', '.join(PRESETS)}")
    first_order = estimator == "first-order"
    values = {
        "momentum": 0.0 if first_order else 0.9,
        "weight_decay": 0.0 if first_order else 1e-4,
        "tasks": TASKS[preset][way >= 20],
        "inner_lr": INNER_LR["first-order" if first_order else "multistep"][way >= 20],
        **PRESETS[preset],
        **changes,
    }
    return FewShotConfig(preset, dataset, way, shot, estimator, window=window, **values)


@dataclass(frozen=True)
class Progress:
    """What a progress bar shows after each meta-iteration.

    fraction: how much of the training is done. speed: meta-iterations a second.
    """

    iteration: int
    fraction: float
    speed: float
    loss: float
    accuracy: float


@dataclass
class _Training:
    """Everything that changes while training, and that a checkpoint keeps."""

    theta: dict[str, torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    iteration: int = 0
    seconds: float = 0.0
    log: dict[str, list[float]] = field(default_factory=lambda: _columns("iteration", "seconds", "loss", "accuracy"))
    curve: dict[str, list[float]] = field(
        default_factory=lambda: _columns("iteration", "seconds", "accuracy", "accuracy_ci95")
    )
    recent: list[tuple[float, float]] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        return {
            "theta": {name: value.detach() for name, value in self.theta.items()},
            "optimizer": self.optimizer.state_dict(),
            **{name: getattr(self, name) for name in ("iteration", "seconds", "log", "curve", "recent")},
        }

    def restore(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for name, value in self.theta.items():
                value.copy_(state["theta"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        for name in ("iteration", "seconds", "log", "curve", "recent"):
            setattr(self, name, state[name])


def run(config: FewShotConfig, root: Path | None = None) -> runs.Run:
    """The place of this config's result and checkpoint."""
    window = "x".join(map(str, config.window)) if isinstance(config.window, tuple) else config.window
    label = f"{config.dataset}-{config.way}w{config.shot}s-{config.estimator}-{window}-{config.preset}-s{config.seed}"
    kind = "few-shot" if config.evaluate_on == "test" else "few-shot-tuning"
    return runs.Run(kind, label, config.preset, runs.plain(config), root or runs.results_root())


def train(
    config: FewShotConfig,
    device: str = "auto",
    task_chunk: int | None = None,
    resume: bool = False,
    force: bool = False,
    time_budget: float | None = None,
    on_step: Callable[[Progress], None] = lambda progress: None,
    results_root: Path | None = None,
) -> dict[str, Any] | None:
    """Meta-trains, evaluates and stores one run; returns its result, or None if `time_budget` (s) ended it early.

    A finished run with the same config is returned, not repeated, unless `force`. Training that was cut short goes on
    with `resume`. task_chunk: tasks processed together, None for a choice by device; the result does not depend on it.
    Raises UserError, in one line, for whatever a user can mend: data, options, memory, a diverged loss.
    """
    place = run(config, results_root)
    if not force and (finished := place.result()):
        return finished
    started = time.perf_counter()
    chosen = runs.choose_device(device)
    images = data.load(config.dataset, device=chosen)
    sampler = EpisodeSampler(
        images, TRAIN_SPLIT[config.evaluate_on], config.way, config.shot, config.query, config.seed
    )
    chunk = default_chunk(config, chosen) if task_chunk is None else task_chunk
    if chunk < 1:
        raise ConfigError(f"task_chunk={chunk}: it must be at least 1")
    model = build_model(config, images)
    runs.reset_peak_memory(chosen)
    with _memory_errors(chunk):
        training, resumed = _begin_or_resume(config, model, place, chosen, resume, force)
        deadline = started + (math.inf if time_budget is None else time_budget)
        try:
            done = _train_loop(config, training, model, sampler, chunk, place, deadline, on_step)
        except DivergedError:
            raise
        except BaseException:
            place.save_checkpoint(training.state())
            raise
        place.save_checkpoint(training.state())
        if not done:
            return None
        metrics = _test_metrics(config, model, training.theta, images, chunk)
    result = {
        "method": config.method,
        "setting": config.setting,
        "metrics": {
            "iterations": training.iteration,
            "meta_iterations_per_second": round(training.iteration / training.seconds, 4),
            **metrics,
        },
        "log": training.log,
        "curve": training.curve,
        "data": {"name": images.name, "title": images.title, "hash": images.hash},
        "provenance": {
            **runs.provenance(chosen),
            "task_chunk": chunk,
            "train_seconds": round(training.seconds, 3),
            "wall_seconds": round(time.perf_counter() - started, 3),
            "peak_memory_bytes": runs.peak_memory(chosen),
            "resumed": resumed,
        },
    }
    place.save_result(result)
    return place.result()


def default_chunk(config: FewShotConfig, device: torch.device) -> int:
    """Tasks processed together: all on a GPU; on a CPU the fastest measured for each method (benchmarks/).

    There back-propagation through every step gains from larger chunks than windows do, and stays within 1 GB.
    """
    if device.type == "cuda":
        return config.tasks
    images = 80 if config.method == "MAML" else 20
    return min(config.tasks, max(2, images // (config.way * config.shot)))


def build_model(config: FewShotConfig, images: ClassImages) -> Conv4:
    """The network for these images: strided for small ones, pooled for large ones, as in MAML."""
    _, _, channels, height, width = images.images["train"].shape
    if height != width:
        raise ConfigError(f"{images.name} has {height}x{width} images: Conv4 takes square ones")
    return Conv4(config.way, channels, height, config.filters, pool=height > 32)


def episode_problem(model: Conv4, episodes: Episodes, logits: list[Tensor] | None = None) -> Bilevel:
    """A batch of tasks as one bilevel problem: inner loss summed over tasks, outer loss their mean.

    The outer loss appends its logits (tasks, way*query, way) to `logits`, so that accuracy costs no second pass.
    """
    tasks = len(episodes)

    def outer(phi: Params, theta: Params) -> Tensor:
        scores = model(phi, episodes.query_x)
        if logits is not None:
            logits.append(scores.detach())
        return task_losses(scores, episodes.query_y).mean()

    return Bilevel(
        init=lambda theta: {name: value.expand(tasks, *value.shape) for name, value in theta.items()},
        inner=lambda phi, theta, t: task_losses(model(phi, episodes.support_x), episodes.support_y).sum(),
        outer=outer,
    )


def task_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each task: logits (tasks, n, way), labels (tasks, n) -> (tasks,)."""
    return F.cross_entropy(logits.transpose(1, 2), labels, reduction="none").mean(1)


def meta_gradient(
    estimator: Callable[[Bilevel, Params], MetaGradient], model: Conv4, theta: Params, episodes: Episodes, chunk: int
) -> tuple[float, float, Params]:
    """Mean outer loss, query accuracy and meta-gradient over all tasks, `chunk` of them at a time (Eq. 9)."""
    loss, correct, total = 0.0, 0, {}
    for part in episodes.chunks(chunk):
        logits: list[Tensor] = []
        out = estimator(episode_problem(model, part, logits), theta)
        share = len(part) / len(episodes)
        loss += share * out.loss.item()
        correct += int((logits[-1].argmax(-1) == part.query_y).sum())
        for name, grad in out.grad.items():
            total[name] = total[name].add_(grad, alpha=share) if name in total else grad * share
    return loss, correct / episodes.query_y.numel(), total


def evaluate(
    config: FewShotConfig,
    model: Conv4,
    theta: Params,
    images: ClassImages,
    episodes: int,
    chunk: int,
    window: int | tuple[int, ...] = 1,
) -> list[int]:
    """Right answers in each of the first `episodes` test episodes, after T inner steps in windows of `window`."""
    sampler = EpisodeSampler(images, config.evaluate_on, config.way, config.shot, config.query, TEST_SEED)
    windows, dynamics = partition(config.steps, window), config.dynamics()
    right: list[int] = []
    for block in range(math.ceil(episodes / EVALUATION_BLOCK)):
        for part in sampler.sample(block, min(EVALUATION_BLOCK, episodes - len(right))).chunks(chunk):
            problem = episode_problem(model, part)
            adapted, _ = adapt(problem, State(problem.init(theta)), theta, dynamics, windows)
            with torch.no_grad():
                answers = model(adapted.phi, part.query_x).argmax(-1)
            right += (answers == part.query_y).sum(1).tolist()
    return right


def mean_and_ci95(right: list[int], answers: int) -> tuple[float, float]:
    """Mean accuracy (%) over episodes and the half-width of its 95 % confidence interval (normal approximation)."""
    accuracy = torch.tensor(right, dtype=torch.float64) * (100 / answers)
    spread = accuracy.std().item() if len(right) > 1 else 0.0
    return accuracy.mean().item(), 1.96 * spread / math.sqrt(len(right))


def _begin_or_resume(
    config: FewShotConfig, model: Conv4, place: runs.Run, device: torch.device, resume: bool, force: bool
) -> tuple[_Training, bool]:
    """The training as it begins, or as its checkpoint left it, and whether the latter."""
    theta = {name: torch.nn.Parameter(value.to(device)) for name, value in model.init(config.seed).items()}
    training = _Training(theta, torch.optim.Adam(list(theta.values()), lr=config.meta_lr))
    saved = None if force else place.load_checkpoint(device)
    if saved is None:
        return training, False
    if not resume:
        raise ConfigError(
            f"an unfinished run with this config stopped at iteration {saved['iteration']}: "
            "continue it with --resume, or start again with --force"
        )
    training.restore(saved)
    return training, True


def _train_loop(
    config: FewShotConfig,
    training: _Training,
    model: Conv4,
    sampler: EpisodeSampler,
    chunk: int,
    place: runs.Run,
    deadline: float,
    on_step: Callable[[Progress], None],
) -> bool:
    """Trains to the config's end, or to the deadline; says whether the end was reached."""
    estimator = ESTIMATORS[config.estimator](config)
    last_checkpoint = time.perf_counter()
    while _fraction(config, training) < 1:
        began = time.perf_counter()
        if began > deadline:
            return False
        loss, accuracy = _meta_step(training, model, estimator, sampler.sample(training.iteration, config.tasks), chunk)
        training.seconds += time.perf_counter() - began
        _note(config, training, loss, accuracy)
        if _is_curve_point(config, training.iteration):
            right = evaluate(config, model, training.theta, sampler.data, config.curve_episodes, chunk)
            _append(training.curve, training.iteration, training.seconds, *_accuracy(config, right).values())
        if time.perf_counter() - last_checkpoint > CHECKPOINT_SECONDS:
            place.save_checkpoint(training.state())
            last_checkpoint = time.perf_counter()
        speed = training.iteration / training.seconds
        on_step(Progress(training.iteration, min(1.0, _fraction(config, training)), speed, loss, accuracy))
    return True


def _meta_step(
    training: _Training,
    model: Conv4,
    estimator: Callable[[Bilevel, Params], MetaGradient],
    episodes: Episodes,
    chunk: int,
) -> tuple[float, float]:
    try:
        loss, accuracy, grad = meta_gradient(estimator, model, training.theta, episodes, chunk)
    except DivergedError as error:
        raise DivergedError(f"training diverged at iteration {training.iteration + 1}: {error}") from error
    for name, value in training.theta.items():
        value.grad = grad[name]
    training.optimizer.step()
    training.iteration += 1
    return loss, accuracy


def _fraction(config: FewShotConfig, training: _Training) -> float:
    by_time = training.seconds / config.train_seconds if config.train_seconds else 0.0
    return max(training.iteration / config.iterations, by_time)


def _note(config: FewShotConfig, training: _Training, loss: float, accuracy: float) -> None:
    """Adds the mean of every `log_every` iterations to the log."""
    training.recent.append((loss, accuracy))
    if training.iteration % config.log_every == 0:
        count = len(training.recent)
        means = [sum(column) / count for column in zip(*training.recent, strict=True)]
        _append(training.log, training.iteration, training.seconds, means[0], 100 * means[1])
        training.recent.clear()


def _is_curve_point(config: FewShotConfig, iteration: int) -> bool:
    ratio, rest = divmod(iteration, config.curve_every)
    return rest == 0 and ratio & (ratio - 1) == 0


def _test_metrics(
    config: FewShotConfig, model: Conv4, theta: Params, images: ClassImages, chunk: int
) -> dict[str, Any]:
    """Accuracy with a gradient at each test step and, for windows, also with the windows of training."""
    right = evaluate(config, model, theta, images, config.test_episodes, chunk)
    metrics = {**_accuracy(config, right), "right_answers": right, "answers_per_episode": config.way * config.query}
    if config.window != 1:
        windowed = evaluate(config, model, theta, images, config.test_episodes, chunk, config.window)
        metrics |= {f"windowed_{name}": value for name, value in _accuracy(config, windowed).items()}
    return metrics


def _accuracy(config: FewShotConfig, right: list[int]) -> dict[str, float]:
    mean, ci95 = mean_and_ci95(right, config.way * config.query)
    return {"accuracy": round(mean, 4), "accuracy_ci95": round(ci95, 4)}


def _columns(*names: str) -> dict[str, list[float]]:
    return {name: [] for name in names}


def _append(columns: dict[str, list[float]], *values: float) -> None:
    for column, value in zip(columns.values(), values, strict=True):
        column.append(round(value, 4))


@contextmanager
def _memory_errors(chunk: int) -> Iterator[None]:
    """Turns the several ways in which torch runs out of memory into one line."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
            raise UserError(
                f"out of memory with {chunk} tasks at a time: lower --task-chunk, --filters or --query"
            ) from error
        raise
