"""The config of a few-shot run (Section 5.2 and Appendix F): everything that defines its outcome."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from msmeta.bilevel import Bilevel, MetaGradient, Params, partition
from msmeta.dynamics import SGD, Adam
from msmeta.errors import ConfigError
from msmeta.estimators import (
    EvolutionStrategies,
    FiniteDifference,
    FirstOrder,
    GaussianSmoothing,
    Implicit,
    MultiStep,
    Reptile,
)
from msmeta.models.layers import PRECISIONS

Estimator = Callable[[Bilevel, Params], MetaGradient]


@dataclass(frozen=True)
class FewShotConfig:
    """Everything that defines the outcome of a run.

    estimator: a key of ESTIMATORS (`multistep` with `window=1` is MAML). window: N, or a partition of `steps`.
    optimizer: `sgd`, or `adam`, whose first decay rate is `momentum`. inner_shot: images a class in the minibatch
    of each inner step, taken in turn from all of a task's images (Reptile); None for all support images at every step.
    image_size: side in pixels that images are shrunk to, a divisor of their own; None leaves them.
    proximal, cg_steps: of `implicit`. samples: directions of the two estimators that draw them.
    tasks: meta-batch. meta_optimizer, meta_schedule: `adam` or `sgd`; `constant`, or `linear` down to zero at the end.
    train_seconds: stop meta-training after this time, evaluation not counted; None for no limit.
    evaluate_on: `test`, or `validation` for choosing settings: the network is then trained on the rest of the
    meta-training classes and never sees the test split.
    test_steps: inner steps at test time, None for `steps`. select_every: meta-iterations between two looks at the
    validation classes; the best of them is tested. None: the last is.
    test_episodes, curve_episodes: tasks of the final evaluation and of each point of the learning curve (and each look
    at the validation classes); curve points lie at `curve_every` * 2^k iterations. log_every: meta-iterations averaged
    into one point of the training log. precision: one of `msmeta.models.layers.PRECISIONS`.
    """

    preset: str
    dataset: str
    way: int
    shot: int
    estimator: str
    lr: float
    momentum: float
    weight_decay: float
    filters: int
    tasks: int
    iterations: int
    window: int | tuple[int, ...] = 1
    optimizer: str = "sgd"
    inner_shot: int | None = None
    image_size: int | None = None
    proximal: float = 2.0
    cg_steps: int = 5
    samples: int = 8
    query: int = 15
    steps: int = 8
    test_steps: int | None = None
    meta_lr: float = 1e-3
    meta_optimizer: str = "adam"
    meta_schedule: str = "constant"
    train_seconds: float | None = None
    evaluate_on: str = "test"
    select_every: int | None = None
    test_episodes: int = 600
    curve_episodes: int = 200
    curve_every: int = 125
    log_every: int = 25
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        choices = {
            "estimator": ESTIMATORS, "optimizer": OPTIMIZERS, "meta_optimizer": META_OPTIMIZERS,
            "meta_schedule": META_SCHEDULES, "evaluate_on": TRAIN_SPLIT, "precision": PRECISIONS,
        }  # fmt: skip
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} {getattr(self, name)!r} is unknown: choose from {', '.join(known)}")
        if self.estimator != "multistep" and self.window != 1:
            raise ConfigError(f"window={self.window} has no meaning for {self.estimator}: leave it at 1")
        counts = ("filters", "tasks", "iterations", "test_episodes", "curve_episodes", "curve_every", "log_every")
        given = [
            name
            for name in ("inner_shot", "image_size", "test_steps", "select_every")
            if getattr(self, name) is not None
        ]
        for name in (*counts, *given):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: it must be at least 1")
        if self.meta_lr <= 0 or (self.train_seconds is not None and self.train_seconds <= 0):
            raise ConfigError(f"meta_lr={self.meta_lr}, train_seconds={self.train_seconds}: both must be positive")
        partition(self.steps, self.window)
        self.build_estimator(None)

    def dynamics(self) -> SGD | Adam:
        """The inner optimiser."""
        return OPTIMIZERS[self.optimizer](self)

    def build_estimator(self, generator: torch.Generator | None) -> Estimator:
        """The estimator; `generator` is the source of the directions of those that draw them."""
        return ESTIMATORS[self.estimator].build(self, generator)


def label(config: FewShotConfig) -> str:
    """The method's name in the paper's tables."""
    if config.estimator != "multistep" or config.window == 1:
        return ESTIMATORS[config.estimator].method
    return f"Multi-step ({config.window if isinstance(config.window, int) else ', '.join(map(str, config.window))})"


def setting(config: FewShotConfig) -> str:
    """The column of the paper's tables."""
    return f"{config.way}-way {config.shot}-shot"


@dataclass(frozen=True)
class _Entry:
    """An estimator that can be trained with: its name in the tables, how it is built, and whether it draws randomly."""

    method: str
    build: Callable[[FewShotConfig, torch.Generator | None], Estimator]
    random: bool = False


ESTIMATORS = {
    "multistep": _Entry("MAML", lambda c, _: MultiStep(c.dynamics(), c.steps, c.window)),
    "first-order": _Entry("FO-MAML", lambda c, _: FirstOrder(c.dynamics(), c.steps)),
    "reptile": _Entry("Reptile", lambda c, _: Reptile(c.dynamics(), c.steps)),
    "implicit": _Entry("iMAML", lambda c, _: Implicit(c.dynamics(), c.steps, c.proximal, c.cg_steps)),
    "finite-difference": _Entry("Finite differences", lambda c, _: FiniteDifference(c.dynamics(), c.steps)),
    "gaussian-smoothing": _Entry(
        "Gaussian smoothing", lambda c, g: GaussianSmoothing(c.dynamics(), c.steps, c.samples, generator=g), True
    ),
    "evolution-strategies": _Entry(
        "Evolution strategies", lambda c, g: EvolutionStrategies(c.dynamics(), c.steps, c.samples, generator=g), True
    ),
}
OPTIMIZERS: dict[str, Callable[[FewShotConfig], SGD | Adam]] = {
    "sgd": lambda config: SGD(config.lr, config.momentum, config.weight_decay),
    "adam": lambda config: Adam(config.lr, (config.momentum, 0.999), weight_decay=config.weight_decay),
}
META_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": lambda theta, lr, on_gpu: torch.optim.Adam(theta, lr=lr, capturable=on_gpu),
    "sgd": lambda theta, lr, on_gpu: torch.optim.SGD(theta, lr=lr),
}
META_SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda fraction: 1.0,
    "linear": lambda fraction: max(0.0, 1.0 - fraction),
}
"""Factor on the meta learning rate by the fraction of the training that is done."""
TRAIN_SPLIT = {"test": "train", "validation": "tune"}
"""Split to train on, by `evaluate_on`."""

RGB = ("miniimagenet", "cifar-fs")
"""Data sets with the protocol of miniImageNet; the others have Omniglot's."""
