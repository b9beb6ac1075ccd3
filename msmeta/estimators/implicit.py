"""Implicit MAML (Eq. 18): the meta-gradient at a stationary point of the inner problem, by conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from msmeta.adjoint import HessianVector
from msmeta.bilevel import (
    Bilevel,
    MetaGradient,
    Params,
    State,
    adapt,
    add_parts,
    begin,
    detach,
    gradients,
    leaves,
    partition,
    plus,
    pull_back,
    require_finite,
    require_initialisation,
    require_scalar,
    task_dimensions,
    task_dot,
    task_scale,
)
from msmeta.dynamics import Dynamics
from msmeta.errors import ConfigError


@dataclass(frozen=True)
class Implicit:
    """∂L/∂θ ≈ (I + H/λ)⁻¹ ∂L(φ_{T+1})/∂φ (Eq. 18; Rajeswaran et al., 2019), with H = ∂²L_t/∂φ² at φ_{T+1}.

    proximal: λ; the inner steps minimise L_t(φ) + λ/2 |φ - φ₁|². cg_steps, tolerance: conjugate gradients end after
    so many products, or once each task's residual is so small relative to its right-hand side.

    Valid where θ initialises φ, and where the steps come near a stationary point: Eq. 18 holds there, however the
    steps got there. L_t is that of the last step. The dynamics' weight decay ω counts as part of the inner loss
    (H + ωI).

    Costs T + 1 gradient evaluations and one Hessian-vector product for each conjugate-gradient step; holds one state
    and one gradient's graph.
    """

    dynamics: Dynamics
    steps: int
    proximal: float = 1.0
    cg_steps: int = 5
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        partition(self.steps, 1)
        if self.proximal <= 0 or self.cg_steps < 1 or self.tolerance < 0:
            raise ConfigError(
                f"proximal={self.proximal}, cg_steps={self.cg_steps}, tolerance={self.tolerance}: the first must be "
                "positive, the second at least 1, the third not negative"
            )

    @torch.enable_grad()
    def __call__(self, problem: Bilevel, theta: Params) -> MetaGradient:
        """As `MultiStep.__call__`; raises ConfigError besides where φ₁ does not depend on θ.

        `info` has `cg_iterations`, `residual` (relative, of the worst task) and `indefinite_tasks`, for which I + H/λ
        has a direction of negative curvature, where conjugate gradients stop: λ is too small for them.
        """
        theta, state = begin(problem, theta)
        unit = {name: torch.ones_like(value) for name, value in state.phi.items()}
        require_initialisation(
            pull_back(state, theta, State(unit)), "Implicit", "the proximal term ties the inner solution to theta"
        )
        adapted, losses = adapt(
            self.regularised(problem, detach(state.phi)), state, theta, self.dynamics, partition(self.steps, 1)
        )
        phi = leaves(adapted.phi)
        outer = problem.outer(phi, theta)
        require_scalar(outer, "outer loss")
        by_phi, direct = gradients(outer, phi, theta)
        require_finite(losses, outer)
        curvature = HessianVector(problem, adapted.phi, theta, self.steps - 1)
        decay = getattr(self.dynamics, "weight_decay", 0.0)

        def product(v: Params) -> Params:
            hessian_v = add_parts(v, curvature.times(v, again=True)[0])
            return {k: (1 + decay / self.proximal) * v[k] + hessian_v[k] / self.proximal for k in v}

        solution, info = conjugate_gradients(
            product, add_parts(phi, by_phi), self.cg_steps, self.tolerance, task_dimensions(theta, adapted.phi)
        )
        through_init = pull_back(state, theta, State(solution))
        return MetaGradient(outer.detach(), add_parts(theta, through_init, direct), adapted.phi, info)

    def regularised(self, problem: Bilevel, centre: Params) -> Bilevel:
        """The same problem with the proximal term in its inner loss."""

        def inner(phi: Params, theta: Params, t: int) -> Tensor:
            distance = sum((phi[name] - centre[name]).square().sum() for name in phi)
            return problem.inner(phi, theta, t) + self.proximal / 2 * distance

        return Bilevel(problem.init, inner, problem.outer)


def conjugate_gradients(
    product: Callable[[Params], Params], right: Params, steps: int, tolerance: float, dimensions: int = 0
) -> tuple[Params, dict[str, float]]:
    """x with A x = right for a symmetric A, from x = 0; (x, {cg_iterations, residual, indefinite_tasks}).

    product: v -> A v. With dimensions=1 every entry has a leading task dimension, A is block-diagonal over it, and
    each task's iteration has its own step sizes. A task stops at negative curvature, vᵀAv <= 0.
    """
    x, residual = {k: torch.zeros_like(v) for k, v in right.items()}, detach(right)
    direction, squared = residual, task_dot(residual, residual, dimensions)
    goal, done = squared * tolerance**2, 0
    indefinite = torch.zeros_like(squared, dtype=torch.bool)
    while done < steps and bool((active := ~indefinite & (squared > goal)).any()):
        moved = product(direction)
        curvature = task_dot(direction, moved, dimensions)
        indefinite |= active & (curvature <= 0)
        active &= ~indefinite
        rate = torch.where(active, squared / torch.where(active, curvature, 1), 0)
        x = plus(x, task_scale(rate, direction))
        residual = plus(residual, task_scale(-rate, moved))
        previous, squared = squared, torch.where(active, task_dot(residual, residual, dimensions), squared)
        grown = torch.where(active, squared / torch.where(active, previous, 1), 0)
        direction = plus(residual, task_scale(grown, direction))
        done += 1
    start = task_dot(right, right, dimensions)
    relative = torch.where(start > 0, squared / torch.where(start > 0, start, 1), 0).sqrt().max()
    return x, {
        "cg_iterations": done,
        "residual": relative.item(),
        "indefinite_tasks": int(indefinite.sum()),
    }
