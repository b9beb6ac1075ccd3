"""Estimators of the meta-gradient, one file each; all are called as `estimator(problem, theta)`."""

from msmeta.estimators.binomial import Binomial
from msmeta.estimators.evolution_strategies import EvolutionStrategies
from msmeta.estimators.finite_difference import FiniteDifference
from msmeta.estimators.first_order import FirstOrder
from msmeta.estimators.gaussian_smoothing import GaussianSmoothing
from msmeta.estimators.implicit import Implicit
from msmeta.estimators.lazy_hessian import LazyHessian
from msmeta.estimators.multistep import MultiStep
from msmeta.estimators.perturbed import Perturbed
from msmeta.estimators.reptile import Reptile
from msmeta.estimators.truncated import Truncated

__all__ = [
    "Binomial",
    "EvolutionStrategies",
    "FiniteDifference",
    "FirstOrder",
    "GaussianSmoothing",
    "Implicit",
    "LazyHessian",
    "MultiStep",
    "Perturbed",
    "Reptile",
    "Truncated",
]
