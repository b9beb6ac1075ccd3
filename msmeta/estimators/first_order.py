"""First-order MAML (Eq. 16): the adapted parameters' gradient, taken for the meta-gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from msmeta.bilevel import (
    Bilevel,
    MetaGradient,
    Params,
    adapt,
    begin,
    gradients,
    partition,
    require_finite,
    require_scalar,
)
from msmeta.dynamics import Dynamics
from msmeta.errors import ConfigError


@dataclass(frozen=True)
class FirstOrder:
    """∂L/∂θ ≈ ∂L(φ_{T+1})/∂φ (Eq. 16), carried to θ by the derivative of φ₁(θ), the identity in MAML.

    Valid only where θ initialises φ: the inner steps are taken as constants, so a θ that acts through the inner loss
    alone (a meta-network) would get a zero gradient.

    Costs T gradient evaluations and no Hessian-vector product; holds one state.
    """

    dynamics: Dynamics
    steps: int

    def __post_init__(self) -> None:
        partition(self.steps, 1)

    @torch.enable_grad()
    def __call__(self, problem: Bilevel, theta: Params) -> MetaGradient:
        """As `MultiStep.__call__`; raises ConfigError besides where φ₁ does not depend on θ."""
        theta, state = begin(problem, theta)
        adapted, losses = adapt(problem, state, theta, self.dynamics, partition(self.steps, 1))
        phi = {name: value.requires_grad_() for name, value in adapted.items()}
        outer = problem.outer(phi, theta)
        require_scalar(outer, "outer loss")
        by_phi, by_theta = gradients(outer, phi, theta)
        reached = [name for name in phi if by_phi[name] is not None]
        if not reached:
            raise ConfigError("outer loss does not depend on phi: there is nothing to learn")
        starts, weights = [state.phi[name] for name in reached], [by_phi[name] for name in reached]
        through_init = torch.autograd.grad(starts, list(theta.values()), weights, allow_unused=True)
        if all(part is None for part in through_init):
            raise ConfigError(
                "FirstOrder needs a theta that initialises phi: it takes the inner steps for constants, so a theta "
                "that acts only inside the inner loss would get a zero gradient; use MultiStep"
            )
        grad = {}
        for (name, value), part in zip(theta.items(), through_init, strict=True):
            grad[name] = sum((p for p in (part, by_theta[name]) if p is not None), torch.zeros_like(value))
        require_finite(losses, outer)
        return MetaGradient(outer.detach(), grad, {name: value.detach() for name, value in phi.items()})
