"""The config of a few-shot run (Section 5.2 and Appendix F): everything that defines its outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator, Field

from msmeta.comparison import Estimator
from msmeta.data import FEW_SHOT
from msmeta.dynamics import SGD
from msmeta.errors import ConfigError
from msmeta.estimators import (
    Binomial,
    EvolutionStrategies,
    FiniteDifference,
    FirstOrder,
    GaussianSmoothing,
    Implicit,
    LazyHessian,
    MultiStep,
    Perturbed,
    Reptile,
    Truncated,
)
from msmeta.experiments.config import (
    OPTIMIZERS,
    Config,
    Count,
    Long,
    NotNegative,
    Positive,
    checked,
    dataset_for,
    whole,
)
from msmeta.optimisers import Adam

Told = Sequence[Callable[[dict[str, float], int], float]]
"""Each a number to log, of an estimator's `info` on some tasks and their count."""


@dataclass(frozen=True)
class _Entry:
    """An estimator that can be trained with: its name in the tables, how it is built, whether it draws randomly, and
    which of `Told` the training log has, by name."""

    method: str
    build: Callable[[FewShotConfig, torch.Generator | None], Estimator]
    random: bool = False
    told: dict[str, Callable[[dict[str, float], int], float]] = field(default_factory=dict)


ESTIMATORS = {
    "multistep": _Entry("Multi-step", lambda c, _: MultiStep(c.dynamics(), c.steps, c.window)),
    "first-order": _Entry("FO-MAML", lambda c, _: FirstOrder(c.dynamics(), c.steps)),
    "implicit": _Entry(
        "iMAML",
        lambda c, _: Implicit(c.dynamics(), c.steps, c.proximal, c.cg_steps, damping=c.damping),
        told={
            "residual": lambda info, tasks: info["residual"],
            "indefinite": lambda info, tasks: info["indefinite_tasks"] / tasks,
        },
    ),
    "reptile": _Entry("Reptile", lambda c, _: Reptile(c.dynamics(), c.steps)),
    "perturbed": _Entry("FO-B-MAML", lambda c, _: Perturbed(c.dynamics(), c.steps, c.proximal)),
    "truncated": _Entry("Truncated", lambda c, _: Truncated(c.dynamics(), c.steps, c.depth)),
    "binomial": _Entry("Binomial", lambda c, _: Binomial(c.dynamics(), c.steps, c.depth)),
    "lazy-hessian": _Entry("Lazy Hessian", lambda c, _: LazyHessian(c.dynamics(), c.steps, c.window)),
    "finite-difference": _Entry("Finite differences", lambda c, _: FiniteDifference(c.dynamics(), c.steps)),
    "gaussian-smoothing": _Entry(
        "Gaussian smoothing", lambda c, g: GaussianSmoothing(c.dynamics(), c.steps, c.samples, generator=g), True
    ),
    "evolution-strategies": _Entry(
        "Evolution strategies", lambda c, g: EvolutionStrategies(c.dynamics(), c.steps, c.samples, generator=g), True
    ),
}
META_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": lambda theta, lr, on_gpu: torch.optim.Adam(theta, lr=lr, fused=on_gpu, capturable=on_gpu),
    "sgd": lambda theta, lr, on_gpu: torch.optim.SGD(theta, lr=lr, fused=on_gpu),  # else no graph reads its rate
}
META_SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda fraction: 1.0,
    "linear": lambda fraction: max(0.0, 1.0 - fraction),
}
"""Factor on the meta learning rate by the fraction of the training that is done."""

NORMS = ("transductive", "support", "running")
"""Whose statistics batch norm has for the query images of a test: `at_test.query_logits`."""

RGB = ("miniimagenet", "cifar-fs")
"""Data sets with the protocol of miniImageNet; the others have Omniglot's."""


@checked
class FewShotConfig(Config):
    """Everything that defines the outcome of a run; `preset_config` fills in what a preset says."""

    dataset: Annotated[
        dataset_for(FEW_SHOT),
        Field(description="Data set, as `msmeta data list` names it, or a folder of your images (data/README.md)."),
    ]
    way: Annotated[
        int, Field(ge=2, le=1_000_000, description="Classes of a task, of which one could not be told apart."),
        BeforeValidator(whole),
    ]  # fmt: skip
    shot: Annotated[Count, Field(description="Support images of a class.")]
    query: Annotated[Count, Field(description="Query images of a class.")] = 15
    estimator: Annotated[
        Literal[tuple(ESTIMATORS)], Field(description="Of the meta-gradient; `multistep` with window 1 is MAML.")
    ]
    inner_shot: Annotated[
        Count | None,
        Field(description="Images of a class in each inner step's minibatch, in turn from all of a task's (Reptile)."),
    ] = None
    test_steps: Annotated[Count | None, Field(description="Inner steps at test time; else those of training.")] = None
    test_norm: Annotated[
        Literal[NORMS],
        Field(
            description="Batch norm's statistics for query images at test time: theirs, the support images', or means "
            "over training tasks' support images."
        ),
    ] = "transductive"
    depth: Annotated[
        int,
        Field(ge=0, le=10_000, description="Last steps of `truncated`; second derivatives in a term of `binomial`."),
        BeforeValidator(whole),
    ] = 1
    proximal: Annotated[Positive, Field(description="Proximal weight of `implicit` and `perturbed`.")] = 2.0
    damping: Annotated[
        NotNegative, Field(description="Added to the proximal weight in the products of `implicit`.")
    ] = 0.0
    cg_steps: Annotated[Count, Field(description="Conjugate-gradient steps of `implicit`.")] = 5
    samples: Annotated[Count, Field(description="Directions of the two estimators that draw them.")] = 8
    meta_optimizer: Annotated[Literal[tuple(META_OPTIMIZERS)], Field(description="Of the meta-parameters.")] = "adam"
    meta_schedule: Annotated[
        Literal[tuple(META_SCHEDULES)], Field(description="Of the meta learning rate; `linear` ends at zero.")
    ] = "constant"
    filters: Annotated[Count, Field(description="Filters of each convolution.")]
    image_size: Annotated[
        Count | None, Field(description="Side in pixels that images are shrunk to, a divisor of their own.")
    ] = None
    tasks: Annotated[Count, Field(description="Tasks of a meta-batch.")]
    task_chunk: Annotated[
        Count | None, Field(description="Tasks worked on at once; less takes less memory. Else by the other fields.")
    ] = None
    iterations: Annotated[Long, Field(description="Meta-iterations at the most.")]
    train_seconds: Annotated[
        Positive | None, Field(description="Seconds of meta-training at the most, evaluation not counted.")
    ] = None
    select_every: Annotated[
        Long | None,
        Field(
            description="Meta-iterations between looks at validation classes; of these and the end the best is tested."
        ),
    ] = None
    test_episodes: Annotated[Count, Field(description="Tasks of the final evaluation.")] = 600
    curve_episodes: Annotated[
        Count, Field(description="Tasks of each point of the learning curve, and of each look at validation classes.")
    ] = 200
    curve_every: Annotated[
        Long, Field(description="Points of the curve lie at this many iterations times 1.5^k, rounded down.")
    ] = 125

    OWN = {"window": ("multistep", "lazy-hessian"), "depth": ("truncated", "binomial")}
    UNTIMED = Config.UNTIMED | {
        "test_steps", "test_norm", "proximal", "damping", "meta_schedule", "iterations", "train_seconds",
        "select_every", "test_episodes", "curve_episodes", "curve_every",
    }  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inner_shot is not None and self.estimator != "reptile":
            raise ConfigError(f"inner_shot={self.inner_shot} has no meaning for {self.estimator}: leave it out")
        if self.select_every is not None and self.evaluate_on == "validation":
            raise ConfigError(
                "select_every would choose by the classes that evaluate_on=validation tests: leave it out"
            )
        self.build_estimator(None)  # for its own checks

    def dynamics(self) -> SGD | Adam:
        """The inner optimiser."""
        return OPTIMIZERS[self.optimizer](self.lr, self.momentum, self.weight_decay)

    @property
    def train_split(self) -> str:
        """Split to train on: without the validation classes where anything is chosen by them."""
        return "tune" if self.select_every or self.evaluate_on == "validation" else "train"

    @property
    def told(self) -> Told:
        """What the log has beside loss and accuracy."""
        return [*ESTIMATORS[self.estimator].told.values()]

    def build_estimator(self, generator: torch.Generator | None, backward: str = "autograd") -> Estimator:
        """The estimator; `generator` is the source of the directions of those that draw them. backward: of `multistep`,
        the only one that has a choice; the same meta-gradient either way."""
        built = ESTIMATORS[self.estimator].build(self, generator)
        return built if backward == "autograd" else replace(built, backward=backward)


def label(config: FewShotConfig) -> str:
    """The method's name in the paper's tables."""
    return method(config.estimator, config.window, config.depth)


def method(estimator: str, window: int | tuple[int, ...] = 1, depth: int = 1) -> str:
    """The name of an estimator with a window or a depth, likewise."""
    if (estimator, window) == ("multistep", 1):
        return "MAML"
    own = [value for field, value in (("window", window), ("depth", depth)) if estimator in FewShotConfig.OWN[field]]
    inside = [str(value) if isinstance(value, int) else ", ".join(map(str, value)) for value in own]
    return " ".join([ESTIMATORS[estimator].method, *(f"({text})" for text in inside)])


def setting(config: FewShotConfig) -> str:
    """The column of the paper's tables."""
    return f"{config.way}-way {config.shot}-shot"
