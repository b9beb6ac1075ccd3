"""The config of a meta-transfer run (Section 5.1, Appendices D, E and H): everything that defines its outcome."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from msmeta.dynamics import SGD, Adam
from msmeta.errors import ConfigError
from msmeta.experiments.transfer.sources import SOURCES
from msmeta.experiments.transfer.step import transfer_windows
from msmeta.models.layers import PRECISIONS
from msmeta.models.resnet import ResNet
from msmeta.models.vgg9 import VGG9

ESTIMATORS = ("scratch", "multistep", "first-order")
"""`multistep` with `window=1` is the exact meta-gradient, the paper's baseline (L2T-ww)."""


@dataclass(frozen=True)
class TransferConfig:
    """Everything that defines the outcome of a run.

    estimator: one of ESTIMATORS. steps: T, transfer steps before the step on the cross-entropy. window: N.
    transfer_rate: factor on the learning rate of the transfer steps. rollback: undo the inner steps after each
    iteration. source, target: keys of SOURCES and TARGETS. width: factor on VGG-9's channels. train_images: a
    stratified part of the training images; None for all.
    optimizer: of φ, `sgd` (whose momentum is `momentum`) or `adam` (whose first decay rate it is); lr: its rate in the
    first epoch, annealed by Eq. 55. beta: weight of the transfer loss. meta_lr, meta_weight_decay: of Adam on θ.
    evaluate_on: `test`, or `validation` for choosing settings. The network of the epoch that does best on the
    validation images is the one evaluated. precision: of the target's convolutions, one of
    `msmeta.models.layers.PRECISIONS`. log_every: iterations averaged into one point of the log.
    """

    preset: str
    dataset: str
    estimator: str
    optimizer: str
    source: str
    target: str
    lr: float
    batch: int
    epochs: int
    meta_lr: float
    steps: int = 2
    window: int = 1
    transfer_rate: float = 1.0
    rollback: bool = True
    width: float = 1.0
    train_images: int | None = None
    momentum: float = 0.9
    weight_decay: float = 1e-4
    meta_weight_decay: float = 1e-4
    beta: float = 0.5
    evaluate_on: str = "test"
    precision: str = "float32"
    log_every: int = 25
    seed: int = 0

    def __post_init__(self) -> None:
        choices = {
            "estimator": ESTIMATORS, "optimizer": OPTIMIZERS, "source": SOURCES, "target": TARGETS,
            "evaluate_on": ("test", "validation"), "precision": PRECISIONS,
        }  # fmt: skip
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} {getattr(self, name)!r} is unknown: choose from {', '.join(known)}")
        for name in ("batch", "epochs", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: it must be at least 1")
        if min(self.meta_lr, self.transfer_rate, self.width) <= 0 or min(self.beta, self.meta_weight_decay) < 0:
            raise ConfigError(
                "meta_lr, transfer_rate and width must be positive, beta and meta_weight_decay not negative"
            )
        if self.estimator != "multistep" and self.window != 1:
            raise ConfigError(f"window={self.window} has no meaning for {self.estimator}: leave it at 1")
        if self.width != 1 and self.target != "vgg9":
            raise ConfigError(f"width={self.width} has no meaning for {self.target}: leave it at 1")
        transfer_windows(self.steps, self.window)
        self.dynamics(0)

    def dynamics(self, epoch: int) -> SGD | Adam:
        """The inner optimiser in an epoch, counted from 0: η_t = η₀ (1 + cos(π t / epochs)) / 2 (Eq. 55)."""
        lr = self.lr * (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        return OPTIMIZERS[self.optimizer](self, lr)


def label(config: TransferConfig) -> str:
    """The method's name in the paper's tables, and in Figure 4 where the tables have none."""
    if config.estimator == "scratch":
        return "Scratch"
    if config.estimator == "first-order":
        return "First-order"
    if config.transfer_rate != 1:
        return f"{config.steps}-step, {config.transfer_rate:g}·lr"
    if config.window == 1:
        return "Baseline" if config.steps == 2 else f"{config.steps}-step"
    return "Multi-step" if (config.steps, config.window) == (2, 2) else f"{config.steps}-step Est. ({config.window})"


def setting(config: TransferConfig) -> str:
    """What a row of a table shares with the others of its block."""
    return {"sgd": "SGD", "adam": "Adam"}[config.optimizer]


OPTIMIZERS: dict[str, Callable[[TransferConfig, float], SGD | Adam]] = {
    "sgd": lambda config, lr: SGD(lr, config.momentum, config.weight_decay),
    "adam": lambda config, lr: Adam(lr, (config.momentum, 0.999), weight_decay=config.weight_decay),
}
TARGETS: dict[str, Callable[[TransferConfig, int], VGG9 | ResNet]] = {
    "vgg9": lambda config, way: VGG9(way, config.width, config.precision),
    "resnet18": lambda config, way: ResNet(18, way, config.precision),
}
