"""Multi-step estimation for gradient-based meta-learning: one inner gradient for a window of N steps."""

from msmeta.adaptation import adapt
from msmeta.bilevel import Bilevel, MetaGradient, State
from msmeta.comparison import compare
from msmeta.dynamics import SGD
from msmeta.errors import ConfigError, DataError, DivergedError, UserError
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
from msmeta.modules import from_module, to_module
from msmeta.optimisers import Adam, AdamW, AMSGrad, RMSprop, SignSGD, clipped, transformed
from msmeta.partitions import best_partition

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "AMSGrad",
    "Adam",
    "AdamW",
    "Bilevel",
    "Binomial",
    "ConfigError",
    "DataError",
    "DivergedError",
    "EvolutionStrategies",
    "FiniteDifference",
    "FirstOrder",
    "GaussianSmoothing",
    "Implicit",
    "LazyHessian",
    "MetaGradient",
    "MultiStep",
    "Perturbed",
    "RMSprop",
    "Reptile",
    "SignSGD",
    "State",
    "Truncated",
    "UserError",
    "adapt",
    "best_partition",
    "clipped",
    "compare",
    "from_module",
    "to_module",
    "transformed",
]
