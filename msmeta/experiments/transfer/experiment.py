"""Meta-transfer learning (Section 5.1): training by Algorithm 1, model selection, evaluation.

A target network φ learns a data set while meta-networks θ decide which channels and layers of a frozen source network
it is to imitate. θ is moved by the meta-gradient of the cross-entropy after T steps on the transfer loss and one step
on the cross-entropy.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from msmeta import data, machine, runs
from msmeta.bilevel import Params, State
from msmeta.data import Images, MinibatchSampler
from msmeta.errors import ConfigError, DivergedError
from msmeta.experiments.transfer import sources
from msmeta.experiments.transfer.config import TARGETS, TransferConfig, label, setting
from msmeta.experiments.transfer.sources import SOURCES, Source
from msmeta.experiments.transfer.step import (
    TransferProblem,
    scratch_iteration,
    transfer_iteration,
)
from msmeta.models.l2t import L2T
from msmeta.models.resnet import ResNet
from msmeta.models.vgg9 import VGG9

EVALUATION_BATCH = 500
CHECKPOINT_SECONDS = 60
LOADERS = 4
"""Processes that read and augment images of 224x224."""


@dataclass(frozen=True)
class Progress:
    """What a progress bar shows after each iteration.

    fraction: how much of the training is done. speed: iterations a second. loss: the total loss. accuracy: on the
    validation images, at the end of the last epoch; None in the first.
    """

    iteration: int
    fraction: float
    speed: float
    loss: float
    accuracy: float | None


@dataclass(frozen=True)
class _Model:
    """The networks of a run. source: None from scratch."""

    target: VGG9 | ResNet
    l2t: L2T | None
    source: Source | None
    sizes: list[tuple[int, int]]


@dataclass
class _Training:
    """Everything that changes while training, and that a checkpoint keeps.

    recent: (total loss, outer loss, gradient change) of the iterations since the last point of the log; None where
    there is none. best: φ and statistics of the epoch that did best on the validation images.
    """

    state: State
    statistics: Params
    theta: Params
    optimizer: torch.optim.Optimizer | None
    iteration: int = 0
    seconds: float = 0.0
    log: dict[str, list[float | None]] = field(
        default_factory=lambda: {name: [] for name in ("iteration", "seconds", *_LOGGED)}
    )
    curve: dict[str, list[float]] = field(default_factory=lambda: {n: [] for n in ("epoch", "seconds", "accuracy")})
    recent: list[tuple[float | None, ...]] = field(default_factory=list)
    best: tuple[Params, Params] | None = None

    def saved(self) -> dict[str, Any]:
        return {
            "state": (self.state.phi, self.state.buffers, self.state.step),
            "theta": {name: value.detach() for name, value in self.theta.items()},
            "optimizer": self.optimizer.state_dict() if self.optimizer else None,
            **{name: getattr(self, name) for name in _PLAIN},
        }

    def restore(self, saved: dict[str, Any]) -> None:
        self.state = State(*saved["state"])
        with torch.no_grad():
            for name, value in self.theta.items():
                value.copy_(saved["theta"][name])
        if self.optimizer:
            self.optimizer.load_state_dict(saved["optimizer"])
        for name in _PLAIN:
            setattr(self, name, saved[name])


_LOGGED = ("total_loss", "outer_loss", "gradient_change")
_PLAIN = ("statistics", "iteration", "seconds", "log", "curve", "recent", "best")


def run(config: TransferConfig, root: Path | None = None) -> runs.Run:
    """The place of this config's result and checkpoint."""
    label = (
        f"{config.dataset}-{config.target}-{config.optimizer}-{config.estimator}-T{config.steps}-N{config.window}-"
        f"{config.preset}-s{config.seed}"
    )
    kind = "transfer" if config.evaluate_on == "test" else "transfer-tuning"
    defaults = runs.defaults(TransferConfig)
    return runs.Run(kind, label, config.preset, runs.plain(config), root or runs.results_root(), defaults)


def train(
    config: TransferConfig,
    device: str = "auto",
    resume: bool = False,
    force: bool = False,
    time_budget: float | None = None,
    on_step: Callable[[Progress], None] = lambda progress: None,
    results_root: Path | None = None,
) -> dict[str, Any] | None:
    """Trains, evaluates and stores one run; returns its result, or None if `time_budget` (s) ended it early.

    A finished run with the same config is returned, not repeated, unless `force`. Training that was cut short goes on
    with `resume`. Raises UserError, in one line, for whatever a user can mend: data, weights, options, memory, a
    diverged loss.
    """
    place = run(config, results_root)
    if not force and (finished := place.result()):
        return finished
    started = time.perf_counter()
    chosen = machine.choose_device(device)
    machine.set_precision(config.precision)
    machine.keep_freed_memory()
    images = data.load(config.dataset, chosen)
    if config.train_images is not None:
        images = images.subset(config.train_images)
    model = _build(config, images, chosen)
    machine.reset_peak_memory(chosen)
    with machine.memory_errors("out of memory: lower --batch or --width"):
        training = _begin(config, model, chosen)
        saved = None if force else place.load_checkpoint(chosen)
        runs.require_resume(saved, resume)
        if saved:
            training.restore(saved)
        deadline = started + (math.inf if time_budget is None else time_budget)
        try:
            done = _loop(config, model, training, images, place, deadline, on_step)
        except DivergedError:
            raise
        except BaseException:
            place.save_checkpoint(training.saved())
            raise
        place.save_checkpoint(training.saved())
        if not done:
            return None
        metrics = _metrics(config, model, training, images)
    place.save_result(
        {
            "method": label(config),
            "setting": setting(config),
            "metrics": metrics,
            "log": training.log,
            "curve": training.curve,
            "data": {"name": images.name, "title": images.title, "hash": images.hash},
            "source": {"name": model.source.name, "hash": model.source.hash} if model.source else None,
            "provenance": {
                **runs.provenance(chosen),
                "train_seconds": round(training.seconds, 3),
                "wall_seconds": round(time.perf_counter() - started, 3),
                "peak_memory_bytes": machine.peak_memory(chosen),
                "resumed": saved is not None,
            },
        }
    )
    return place.result()


@torch.no_grad()
def evaluate(network: VGG9 | ResNet, phi: Params, statistics: Params, images: Images, split: str) -> float:
    """Accuracy (%) on a split, with batch norm's running statistics."""
    right = 0
    for x, y in data.evaluation_batches(images, split, EVALUATION_BATCH):
        logits, _ = network(phi, x, statistics, training=False)
        right += (logits.argmax(1) == y).sum().item()
    return 100 * right / len(images.labels[split])


def _build(config: TransferConfig, images: Images, device: torch.device) -> _Model:
    side = SOURCES[config.source].side
    if images.side != side:
        raise ConfigError(f"{config.source} takes {side}x{side} images, {images.title} has {images.side}x{images.side}")
    target = TARGETS[config.target](config, images.classes)
    sizes = target.sizes(images.side)
    if config.estimator == "scratch":
        return _Model(target, None, None, sizes)
    source = sources.load(config.source, device)
    return _Model(target, L2T(source.channels, target.channels), source, sizes)


def _begin(config: TransferConfig, model: _Model, device: torch.device) -> _Training:
    phi, statistics = model.target.init(config.seed)
    theta: Params = {}
    if model.l2t:
        phi |= model.l2t.init_matching(config.seed)
        theta = {name: torch.nn.Parameter(value.to(device)) for name, value in model.l2t.init_meta().items()}
    optimizer = None
    if theta:
        optimizer = torch.optim.Adam(theta.values(), lr=config.meta_lr, weight_decay=config.meta_weight_decay)
    phi, statistics = ({name: value.to(device) for name, value in part.items()} for part in (phi, statistics))
    return _Training(State(phi), statistics, theta, optimizer)


def _loop(
    config: TransferConfig,
    model: _Model,
    training: _Training,
    images: Images,
    place: runs.Run,
    deadline: float,
    on_step: Callable[[Progress], None],
) -> bool:
    """Trains from where it stands to the last epoch, or to the deadline; says whether the end was reached."""
    sampler = MinibatchSampler(images, config.batch, config.seed)
    total = config.epochs * sampler.batches
    last_checkpoint = time.perf_counter()
    batches = sampler.from_step(training.iteration, workers=0 if images.side == 32 else LOADERS)
    while training.iteration < total:
        began = time.perf_counter()
        if began > deadline:
            return False
        loss = _iterate(config, model, training, *next(batches), epoch=training.iteration // sampler.batches)
        training.seconds += time.perf_counter() - began
        _log(config, training)
        if training.iteration % sampler.batches == 0:
            _look(model, training, images, training.iteration // sampler.batches)
        if time.perf_counter() - last_checkpoint > CHECKPOINT_SECONDS:
            place.save_checkpoint(training.saved())
            last_checkpoint = time.perf_counter()
        accuracy = training.curve["accuracy"][-1] if training.curve["accuracy"] else None
        speed = training.iteration / training.seconds
        on_step(Progress(training.iteration, training.iteration / total, speed, loss, accuracy))
    return True


def _iterate(config: TransferConfig, model: _Model, training: _Training, x: Tensor, y: Tensor, epoch: int) -> float:
    """One iteration of Algorithm 1, and the step on θ; the total loss."""
    statistics = {name: value.clone() for name, value in training.statistics.items()}
    dynamics = config.dynamics(epoch)
    if model.l2t is None:
        found = scratch_iteration(model.target, x, y, training.state, dynamics, statistics)
    else:
        batch = model.l2t.source_batch(model.source.features(x), model.sizes)
        problem = TransferProblem(model.target, model.l2t, x, y, batch, config.beta)
        found = transfer_iteration(
            problem, training.state, training.theta, dynamics, config.steps, config.window, statistics,
            first_order=config.estimator == "first-order", transfer_rate=config.transfer_rate,
            rollback=config.rollback,
        )  # fmt: skip
    if found.meta:
        for name, value in training.theta.items():
            value.grad = found.meta.grad[name]
        training.optimizer.step()
    outer = found.meta.loss.item() if found.meta else None
    change = None if found.gradient_change is None else found.gradient_change.item()
    training.state, training.statistics = found.state, statistics
    training.iteration += 1
    training.recent.append((found.total.item(), outer, change))
    return training.recent[-1][0]


def _log(config: TransferConfig, training: _Training) -> None:
    if training.iteration % config.log_every:
        return
    means = [_mean(column) for column in zip(*training.recent, strict=True)]
    for column, value in zip(training.log.values(), (training.iteration, training.seconds, *means), strict=True):
        column.append(None if value is None else round(value, 5))
    training.recent = []


def _mean(values: tuple[float | None, ...]) -> float | None:
    return None if None in values else sum(values) / len(values)


def _look(model: _Model, training: _Training, images: Images, epoch: int) -> None:
    """Accuracy on the validation images at the end of an epoch."""
    accuracy = evaluate(model.target, training.state.phi, training.statistics, images, "validation")
    if accuracy > max(training.curve["accuracy"], default=-1.0):
        training.best = training.state.phi, training.statistics
    for column, value in zip(training.curve.values(), (epoch, training.seconds, accuracy), strict=True):
        column.append(round(value, 4))


def _metrics(config: TransferConfig, model: _Model, training: _Training, images: Images) -> dict[str, Any]:
    looks, split = training.curve["accuracy"], config.evaluate_on
    metrics = {
        "accuracy": round(evaluate(model.target, *training.best, images, split), 4),
        "last_accuracy": round(evaluate(model.target, training.state.phi, training.statistics, images, split), 4),
        "validation_accuracy": max(looks),
        "selected_epoch": training.curve["epoch"][looks.index(max(looks))],
        "iterations": training.iteration,
        "seconds_per_iteration": round(training.seconds / training.iteration, 5),
        "seconds_per_epoch": round(training.seconds / config.epochs, 4),
        "images": {name: len(labels) for name, labels in images.labels.items()},
    }
    return metrics | (_meta_metrics(model, training, images) if model.l2t else {})


@torch.no_grad()
def _meta_metrics(model: _Model, training: _Training, images: Images) -> dict[str, Any]:
    """How far θ has moved, and the mean weights λ_st of the pairs over random validation images."""
    start = model.l2t.init_meta()
    moved = {
        kind: math.sqrt(
            sum((value.cpu() - start[name]).square().sum().item() for name, value in training.theta.items()
                if name.startswith(kind))
        )
        for kind in ("what", "where")
    }  # fmt: skip
    count = min(EVALUATION_BATCH, len(images.labels["validation"]))
    x, _ = MinibatchSampler(images, count, split="validation", augment=False).batch_at(0)
    batch = model.l2t.source_batch(model.source.features(x), model.sizes)
    return {
        "meta_movement": {kind: round(value, 5) for kind, value in moved.items()},
        "pair_weights": [
            [round(value, 4) for value in row.tolist()] for row in model.l2t.pair_weights(training.theta, batch)
        ],
    }
