"""Few-shot protocols (Section 5.2 and Appendix F): everything that defines the outcome of a run, and the presets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
    inner_optimizer: `sgd`, or `adam`, whose first decay rate is `momentum`. inner_shot: images a class in the minibatch
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
    inner_lr: float
    momentum: float
    weight_decay: float
    filters: int
    tasks: int
    iterations: int
    window: int | tuple[int, ...] = 1
    inner_optimizer: str = "sgd"
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
            "estimator": ESTIMATORS, "inner_optimizer": INNER_OPTIMIZERS, "meta_optimizer": META_OPTIMIZERS,
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
        return INNER_OPTIMIZERS[self.inner_optimizer](self)

    def build_estimator(self, generator: torch.Generator | None) -> Estimator:
        """The estimator; `generator` is the source of the directions of those that draw them."""
        return ESTIMATORS[self.estimator].build(self, generator)

    @property
    def method(self) -> str:
        """The method's name in the paper's tables."""
        if self.estimator != "multistep" or self.window == 1:
            return ESTIMATORS[self.estimator].method
        return f"Multi-step ({self.window if isinstance(self.window, int) else ', '.join(map(str, self.window))})"

    @property
    def setting(self) -> str:
        """The column of the paper's tables."""
        return f"{self.way}-way {self.shot}-shot"


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
INNER_OPTIMIZERS: dict[str, Callable[[FewShotConfig], SGD | Adam]] = {
    "sgd": lambda config: SGD(config.inner_lr, config.momentum, config.weight_decay),
    "adam": lambda config: Adam(config.inner_lr, (config.momentum, 0.999), weight_decay=config.weight_decay),
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
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"iterations": 60_000, "log_every": 200, "curve_every": 500},
    # Two cores: narrower, smaller meta-batches, and rates chosen on held-out meta-training classes.
    "cpu": {"iterations": 60_000, "train_seconds": 150.0, "meta_lr": 1e-2},
    "quick": {"iterations": 60_000, "train_seconds": 20.0, "meta_lr": 1e-2, "test_episodes": 200, "curve_episodes": 50},
    "smoke": {"iterations": 4, "meta_lr": 1e-2, "test_episodes": 10, "curve_episodes": 5, "curve_every": 1,
              "log_every": 1},
}  # fmt: skip
FILTERS = {"paper": (64, 32), "cpu": (32, 32), "quick": (32, 16), "smoke": (8, 8)}
"""Of Omniglot's network, and of miniImageNet's."""
TASKS = {"paper": (32, 16, 4), "cpu": (8, 4, 2), "quick": (4, 2, 2), "smoke": (2, 1, 1)}
"""Meta-batch of Omniglot with fewer than 20 ways and with 20, and of miniImageNet."""
PHOTOGRAPHS = {
    "cpu": {"meta_lr": 3e-3, "curve_every": 50, "curve_episodes": 100},
    "quick": {"meta_lr": 3e-3},
}
"""What is different there: fewer meta-iterations, and looks at them that take longer."""
SELECT_EVERY = {"paper": 1000, "cpu": 250, "quick": 50, "smoke": 2}
"""Model selection on the validation classes of miniImageNet; Omniglot has none in the paper."""

IMAGE_SIZE = {"cpu": 42, "quick": 42}
"""Of miniImageNet where time is short: a quarter of the pixels, so four times the meta-iterations."""

# Inner rates of the `paper` preset on miniImageNet, by shot (Appendix F); on Omniglot the rate is 0.4.
PAPER_RGB_LR = {"multistep": {1: 0.01, 5: 0.04}, "first-order": {1: 0.1, 5: 0.04}}
# Inner rates off the paper's protocol: for each method the best of those tried, after equal meta-iterations on classes
# held out for it (results/few-shot-tuning). On Omniglot by ways, fewer than 20 and 20, and found with one shot; on
# photographs by shots, one and more, where windows of 2 and 8 have the rate of windows of 4. Where MAML's rates for one
# shot did not differ it has the windows'.
INNER_LR = {
    "exact": (0.1, 0.2, 0.01, 0.04),
    "multistep": (0.1, 0.2, 0.01, 0.01),
    "first-order": (0.4, 0.8, 0.1, 0.1),
    "implicit": (0.1, 0.1, 0.1, 0.03),
    "reptile": (0.016, 0.02, 0.003, 0.003),
}


def preset_config(
    preset: str, dataset: str, way: int, shot: int, estimator: str, window: int | tuple[int, ...] = 1, **changes: Any
) -> FewShotConfig:
    """The config of a preset (`smoke`, `quick`, `cpu`, `paper`), with `changes` to any of its fields.

    Raises ConfigError for an unknown preset, estimator or field, or an impossible value.
    """
    if preset not in PRESETS:
        raise ConfigError(f"preset {preset!r} is unknown: choose from {', '.join(PRESETS)}")
    rgb, many = dataset in RGB, way >= 20
    column = 2 if rgb else int(many)
    rates = INNER_LR.get("exact" if (estimator, window) == ("multistep", 1) else estimator, INNER_LR["multistep"])
    values = {
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "filters": FILTERS[preset][rgb],
        "tasks": TASKS[preset][column],
        "image_size": IMAGE_SIZE.get(preset) if dataset == "miniimagenet" else None,
        "inner_lr": rates[2 + (shot > 1) if rgb else int(many)],
        "select_every": SELECT_EVERY[preset] if rgb and changes.get("evaluate_on", "test") == "test" else None,
        **PRESETS[preset],
        **(PHOTOGRAPHS.get(preset, {}) if rgb else {}),
    }
    if preset == "paper" and estimator != "implicit":  # whose rate the paper does not give
        values["inner_lr"] = PAPER_RGB_LR.get(estimator, {}).get(shot, 0.04) if rgb else 0.4
    values |= _METHODS.get(estimator, lambda *_: {})(preset, rgb, many) | changes
    return FewShotConfig(preset, dataset, way, shot, estimator, window=window, **values)


def _first_order(preset: str, rgb: bool, many: bool) -> dict[str, Any]:
    """FO-MAML adapts with vanilla SGD (Appendix F)."""
    return {"momentum": 0.0, "weight_decay": 0.0}


def _reptile(preset: str, rgb: bool, many: bool) -> dict[str, Any]:
    """The settings of Nichol et al. (2018), whose numbers the paper quotes; off `paper`, shorter and with our rates."""
    values = {
        "inner_optimizer": "adam", "momentum": 0.0, "weight_decay": 0.0,
        "inner_shot": 1 if many else 2, "steps": 8 if rgb else 10 if many else 5, "test_steps": 50,
        "meta_optimizer": "sgd", "meta_lr": 1.0, "meta_schedule": "linear", "tasks": 5,
    }  # fmt: skip
    if preset == "paper":
        values |= {"iterations": 200_000 if many else 100_000, "inner_lr": 5e-4 if many else 1e-3}
    if preset == "smoke":
        values |= {"test_steps": 8, "tasks": 2}
    return values


def _implicit(preset: str, rgb: bool, many: bool) -> dict[str, Any]:
    """The settings of Rajeswaran et al. (2019) as the paper's text has them."""
    return {"momentum": 0.0, "weight_decay": 0.0, "steps": 25 if many else 16, "proximal": 0.5 if rgb else 2.0}


_METHODS: dict[str, Callable[[str, bool, bool], dict[str, Any]]] = {
    "first-order": _first_order,
    "reptile": _reptile,
    "implicit": _implicit,
}
