"""The presets of meta-transfer: `smoke`, `quick`, `cpu` and the `paper`'s own protocol."""

from __future__ import annotations

from typing import Any

from msmeta.data.registry import find_labelled
from msmeta.errors import ConfigError
from msmeta.experiments.transfer.config import TransferConfig

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"epochs": 200, "log_every": 100},
    # Two cores: a quarter of VGG-9's channels, a part of the images, and small minibatches for more iterations of them.
    # The rate of θ was tuned as those of φ below.
    "cpu": {"epochs": 8, "batch": 32, "width": 0.25, "train_images": 2500, "meta_lr": 1e-4, "log_every": 10},
    "quick": {"epochs": 2, "batch": 64, "width": 0.125, "train_images": 1000, "log_every": 5},
    "smoke": {"epochs": 1, "batch": 64, "width": 0.0625, "log_every": 1},
}

PAPER_LR = {"sgd": 0.1, "adam": 1e-3}
# First rates of the other presets, chosen on validation images of CIFAR-100 (results/transfer-tuning).
SCRATCH_LR = {"sgd": 0.01, "adam": 1e-3}
TRANSFER_LR = {"sgd": 0.03, "adam": 3e-3}


def preset_config(preset: str, dataset: str, estimator: str, optimizer: str = "sgd", **changes: Any) -> TransferConfig:
    """The config of a preset (`smoke`, `quick`, `cpu`, `paper`), with `changes` to any of its fields.

    Raises ConfigError for an unknown preset, data set, estimator or field value.
    """
    if preset not in PRESETS:
        raise ConfigError(f"preset {preset!r} is unknown: choose from {', '.join(PRESETS)}")
    small = find_labelled(dataset).side == 32
    rates = PAPER_LR if preset == "paper" else SCRATCH_LR if estimator == "scratch" else TRANSFER_LR
    values = {
        "source": "tinyimagenet-resnet32" if small else "imagenet-resnet34",
        "target": "vgg9" if small else "resnet18",
        "lr": rates.get(optimizer),  # None for an optimiser that TransferConfig refuses
        "batch": 128 if small else 64,
        "meta_lr": 1e-3 if small else 1e-4,
        **PRESETS[preset],
    }
    if dataset == "glyphs-rgb":
        values |= {"source": "random-resnet32", "train_images": None}
    return TransferConfig(preset, dataset, estimator, optimizer, **(values | changes))
