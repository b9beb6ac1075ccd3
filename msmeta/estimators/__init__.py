"""Estimators of the meta-gradient, one file each; all are called as `estimator(problem, theta)`."""

from msmeta.estimators.first_order import FirstOrder
from msmeta.estimators.multistep import MultiStep

__all__ = ["FirstOrder", "MultiStep"]
