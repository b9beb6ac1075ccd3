"""First-order MAML (Eq. 16): the adapted parameters' gradient, taken for the meta-gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from msmeta.bilevel import (
    Bilevel,
    MetaGradient,
    Params,
    State,
    adapt,
    add_parts,
    begin,
    gradients,
    leaves,
    partition,
    pull_back,
    require_finite,
    require_initialisation,
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
        phi = leaves(adapted.phi)
        outer = problem.outer(phi, theta)
        require_scalar(outer, "outer loss")
        by_phi, direct = gradients(outer, phi, theta)
        if all(part is None for part in by_phi.values()):
            raise ConfigError("outer loss does not depend on phi: there is nothing to learn")
        through_init = pull_back(state, theta, State(by_phi))
        require_initialisation(through_init, "FirstOrder", "it takes the inner steps for constants")
        require_finite(losses, outer)
        return MetaGradient(outer.detach(), add_parts(theta, through_init, direct), adapted.phi)
