"""Estimators of the meta-gradient, one file each; all are called as `estimator(problem, theta)`."""

from msmeta.estimators.evolution_strategies import EvolutionStrategies
from msmeta.estimators.finite_difference import FiniteDifference
from msmeta.estimators.first_order import FirstOrder
from msmeta.estimators.gaussian_smoothing import GaussianSmoothing
from msmeta.estimators.implicit import Implicit
from msmeta.estimators.multistep import MultiStep
from msmeta.estimators.reptile import Reptile

__all__ = [
    "EvolutionStrategies",
    "FiniteDifference",
    "FirstOrder",
    "GaussianSmoothing",
    "Implicit",
    "MultiStep",
    "Reptile",
]
