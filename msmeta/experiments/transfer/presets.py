"""The presets of meta-transfer: `smoke`, `quick`, `cpu` and the `paper`'s own protocol."""

from __future__ import annotations

from typing import Any

from msmeta.data import DATASETS, L2T_LISTS, L2T_WW
from msmeta.experiments.config import Rule, resolve
from msmeta.experiments.transfer.config import TransferConfig

SHORT = ("smoke", "quick", "cpu")
LEARNS = ("multistep", "first-order")
LARGE = tuple(name for name, dataset in DATASETS.items() if dataset.side == 224)
IMAGES = 5000
FEWER = tuple(name for name, dataset in DATASETS.items() if dataset.counts.get("train", IMAGES) < IMAGES)
TUNED = "chosen on validation images of CIFAR-100 (results/transfer-tuning)"

RULES: list[Rule] = [
    ({}, {"steps": 2}, "Appendix D"),
    ({}, {"source": "tinyimagenet-resnet32", "target": "vgg9", "batch": 128, "meta_lr": 1e-3}, "Appendix D"),
    ({"dataset": LARGE}, {"source": "imagenet-resnet34", "target": "resnet18"}, "Appendix D"),
    ({"dataset": LARGE}, {"batch": 64, "meta_lr": 1e-4}, "Appendix D"),
    ({"preset": "paper"}, {"epochs": 200, "log_every": 100}, "Appendix D"),
    (
        {"preset": "paper", "dataset": tuple(L2T_LISTS), "folder": False},
        {"split": L2T_WW},
        "the published numbers' lists",
    ),
    # Two cores: a part of VGG-9's channels and of the images, and small minibatches for more iterations of them.
    ({"preset": "cpu"}, {"epochs": 12, "batch": 32, "width": 0.25, "train_images": IMAGES}, "two cores"),
    ({"preset": "cpu"}, {"log_every": 10}, "two cores"),
    ({"preset": "quick"}, {"epochs": 2, "batch": 64, "width": 0.125, "train_images": 1000, "log_every": 5}, "likewise"),
    ({"preset": "smoke"}, {"epochs": 1, "batch": 64, "width": 0.0625, "log_every": 1}, "seconds"),
    ({"preset": SHORT, "dataset": LARGE}, {"width": 1.0}, "ResNet-18 is not made narrower"),
    ({"preset": "cpu", "dataset": FEWER}, {"train_images": None}, "all that there are"),
    ({"folder": True}, {"train_images": None}, "all of a user's own"),
    ({"dataset": "glyphs-rgb"}, {"source": "random-resnet32", "train_images": None}, "few images, and made at once"),
    # First learning rates of the target network, and those of the meta-networks.
    ({"optimizer": "sgd"}, {"lr": 0.1}, "Appendix D"),
    ({"optimizer": "adam"}, {"lr": 1e-3}, "Appendix D"),
    ({"preset": SHORT, "optimizer": "sgd", "estimator": "scratch"}, {"lr": 0.01}, TUNED),
    ({"preset": SHORT, "optimizer": "adam"}, {"lr": 1e-2}, TUNED),
    ({"preset": SHORT, "optimizer": "adam", "estimator": "scratch"}, {"lr": 1e-3}, TUNED),
    ({"preset": "cpu"}, {"meta_lr": 1e-4}, TUNED),
    ({"preset": "cpu", "optimizer": "sgd", "window": (2, 3)}, {"meta_lr": 3e-7}, TUNED),
    ({"preset": "cpu", "optimizer": "adam", "estimator": LEARNS}, {"meta_lr": 1e-6}, TUNED),
    ({"preset": "cpu", "optimizer": "adam", "window": (2, 3)}, {"meta_lr": 3e-6}, TUNED),
    ({"preset": "cpu", "optimizer": "adam", "estimator": "multistep", "steps": 0}, {"meta_lr": 1e-4}, "θ stays"),
]


def preset_config(preset: str, dataset: str, estimator: str, optimizer: str = "sgd", **changes: Any) -> TransferConfig:
    """The config of a preset (`smoke`, `quick`, `cpu`, `paper`), with `changes` to any of its fields.

    Raises ConfigError for an unknown preset, data set, estimator or field, or an impossible value.
    """
    named = {"preset": preset, "dataset": dataset, "estimator": estimator, "optimizer": optimizer}
    return resolve(TransferConfig, RULES, named | changes)
