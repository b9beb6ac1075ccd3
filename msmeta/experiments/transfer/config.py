"""The config of a meta-transfer run (Section 5.1, Appendices D, E and H): everything that defines its outcome."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from msmeta.data import L2T_WW, SEEDED, TRANSFER, require_split
from msmeta.dynamics import SGD
from msmeta.errors import ConfigError
from msmeta.experiments.config import OPTIMIZERS, Config, Count, NotNegative, Positive, checked, dataset_for, number
from msmeta.experiments.transfer.sources import SOURCES
from msmeta.experiments.transfer.step import transfer_windows
from msmeta.models.resnet import ResNet
from msmeta.models.vgg9 import VGG9
from msmeta.optimisers import Adam

ESTIMATORS = ("scratch", "multistep", "first-order")
"""`multistep` with `window=1` is the exact meta-gradient, the paper's baseline (L2T-ww)."""
TARGETS: dict[str, Callable[[TransferConfig, int], VGG9 | ResNet]] = {
    "vgg9": lambda config, way: VGG9(way, config.width, config.precision),
    "resnet18": lambda config, way: ResNet(18, way, config.precision),
}


@checked
class TransferConfig(Config):
    """Everything that defines the outcome of a run; `preset_config` fills in what a preset says.

    `lr` is that of φ in the first epoch, annealed by Eq. 55. The network of the epoch that does best on the validation
    images is the one evaluated.
    """

    dataset: Annotated[
        dataset_for(TRANSFER),
        Field(description="Data set, as `msmeta data list` names it, or a folder of your images (data/README.md)."),
    ]
    estimator: Annotated[
        Literal[ESTIMATORS], Field(description="Of the meta-gradient; `multistep` with window 1 is the Baseline.")
    ]
    transfer_rate: Annotated[Positive, Field(description="Factor on the learning rate of the transfer steps.")] = 1.0
    rollback: Annotated[bool, Field(description="Undo the inner steps after each iteration.")] = True
    source: Annotated[Literal[tuple(SOURCES)], Field(description="Frozen source network.")]
    target: Annotated[Literal[tuple(TARGETS)], Field(description="Target network.")]
    width: Annotated[
        float, Field(gt=0, le=1000, description="Factor on the channels of vgg9."), BeforeValidator(number)
    ] = 1.0
    split: Annotated[
        Literal[SEEDED, L2T_WW],
        Field(
            description="How the published training images are divided for training and validation: validation "
            "images drawn at random, or the lists of the authors of L2T-ww (`msmeta data prepare l2t-splits`)."
        ),
    ] = SEEDED
    train_images: Annotated[Count | None, Field(description="Training images, as many of each class; else all.")] = None
    epochs: Annotated[Count, Field(description="Epochs.")]
    batch: Annotated[Count, Field(description="Images of a minibatch.")]
    beta: Annotated[NotNegative, Field(description="Weight of the transfer loss in the total loss.")] = 0.5
    inner_beta: Annotated[
        NotNegative,
        Field(description="Its weight in the transfer steps: 1 in Algorithm 1, beta in the published code of L2T-ww."),
    ] = 1.0
    meta_weight_decay: Annotated[NotNegative, Field(description="Of the meta-parameters.")] = 1e-4

    UNTIMED = Config.UNTIMED | {
        "transfer_rate", "rollback", "split", "train_images", "epochs", "beta", "inner_beta", "meta_weight_decay",
    }  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width != 1 and self.target != "vgg9":
            raise ConfigError(f"width={self.width} has no meaning for {self.target}: leave it at 1")
        require_split(self.dataset, self.split)
        if not self.steps and self.window != 1:
            raise ConfigError(f"window={self.window} has no meaning without transfer steps: leave it at 1")
        transfer_windows(self.steps, self.window)

    def dynamics(self, epoch: int) -> SGD | Adam:
        """The inner optimiser in an epoch, counted from 0: η_t = η₀ (1 + cos(π t / epochs)) / 2 (Eq. 55)."""
        lr = self.lr * (1 + math.cos(math.pi * epoch / self.epochs)) / 2
        return OPTIMIZERS[self.optimizer](lr, self.momentum, self.weight_decay)


def label(config: TransferConfig) -> str:
    """The method's name in the paper's tables, and in Figure 4 where the tables have none."""
    if config.estimator == "scratch":
        return "Scratch"
    if config.estimator == "first-order":
        return "First-order"
    if config.window == 1:
        name = "Baseline" if config.steps == 2 else f"{config.steps}-step"
    else:
        name = "Multi-step" if config.window == config.steps == 2 else f"{config.steps}-step Est. ({config.window})"
    changed = [f"{config.transfer_rate:g}·lr"] if config.transfer_rate != 1 else []
    changed += [f"inner β {config.inner_beta:g}"] if config.inner_beta != 1 else []
    return ", ".join([name, *changed])


def setting(config: TransferConfig) -> str:
    """What a row of a table shares with the others of its block."""
    return {"sgd": "SGD", "adam": "Adam"}[config.optimizer]
