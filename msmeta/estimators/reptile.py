"""Reptile (Eq. 17): the way from the adapted parameters back to the initial ones, taken for the meta-gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from msmeta.bilevel import (
    Bilevel,
    MetaGradient,
    Params,
    adapt,
    begin,
    detach,
    partition,
    require_finite,
    require_scalar,
    task_dimensions,
)
from msmeta.dynamics import Dynamics
from msmeta.errors import ConfigError


@dataclass(frozen=True)
class Reptile:
    """∂L/∂θ ≈ θ - φ_{T+1} (Eq. 17; Nichol et al., 2018), the mean over tasks where φ has a task dimension.

    Valid only where φ₁ = θ, since it subtracts φ from θ. It looks at the outer loss not at all (but returns it), so its
    length has no relation to the meta-gradient's: the meta learning rate is a step size of its own.

    Costs T gradient evaluations and no Hessian-vector product; holds one state.
    """

    dynamics: Dynamics
    steps: int

    def __post_init__(self) -> None:
        partition(self.steps, 1)

    def __call__(self, problem: Bilevel, theta: Params) -> MetaGradient:
        """As `MultiStep.__call__`; raises ConfigError besides where φ₁ is not θ."""
        theta, state = begin(problem, theta)
        theta, start = detach(theta), detach(state.phi)
        tasks = task_dimensions(theta, start)
        if theta.keys() != start.keys() or not all(
            start[k].shape[tasks:] == theta[k].shape and torch.equal(start[k], theta[k].expand_as(start[k]))
            for k in theta
        ):
            raise ConfigError(
                "Reptile needs a theta that initialises phi: it subtracts the adapted phi from theta, which has no "
                "meaning where they are different parameters (a meta-network); use MultiStep"
            )
        adapted, losses = adapt(problem, state, theta, self.dynamics, partition(self.steps, 1))
        with torch.no_grad():
            outer = problem.outer(adapted.phi, theta)
        require_scalar(outer, "outer loss")
        require_finite(losses, outer)
        moved = {name: start[name] - adapted.phi[name] for name in theta}
        return MetaGradient(outer, {k: v.mean(0) if tasks else v for k, v in moved.items()}, adapted.phi)
