"""Implicit MAML (Eq. 18): the meta-gradient at a stationary point of the inner problem, by conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from msmeta.adjoint import HessianVector
from msmeta.bilevel import (
    Bilevel,
    MetaGradient,
    Params,
    State,
    add_parts,
    begin,
    conclude,
    detach,
    plus,
    reached,
    task_dot,
    task_scale,
)
from msmeta.checks import layers_of, refuse
from msmeta.dynamics import SGD, Steps, adapt_and_judge, dynamics_at, has_methods_of, whole
from msmeta.errors import ConfigError
from msmeta.losses import evaluate, value_of
from msmeta.optimisers import Adam
from msmeta.rates import is_zero, rate_of, require_numbers

TIED = "the proximal term ties the inner solution to theta"


@dataclass(frozen=True)
class Proximal(Steps):
    """What estimators at a stationary point are told besides: λ, the weight of λ/2 |φ - φ₁|² in the inner loss."""

    proximal: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_numbers("positive", proximal=self.proximal)

    def weight_decay(self, theta: Params, phi: Params) -> dict[str, float | torch.Tensor]:
        """Of each of these entries of φ. Raises ConfigError where it is of another kind than SGD's."""
        layers = list(layers_of(dynamics_at(self.dynamics, theta, self.steps - 1)))
        decays = [getattr(layer, "weight_decay", 0.0) for layer in layers]
        own = (SGD, "coefficients"), (Adam, "step")
        known = any(has_methods_of(kind, layers[0], "window", name) for kind, name in own)
        if not known and not all(map(is_zero, decays)):
            what = f"{type(self).__name__} knows the weight decay of SGD and Adam alone"
            raise ConfigError(f"{what}: put yours into the inner loss")
        return {name: rate_of(decays[0], "weight_decay", name, value) for name, value in phi.items()}

    def regularised(self, problem: Bilevel, centre: Params) -> Bilevel:
        """The same problem with the proximal term of what its inner loss uses; its φ have to be leaves."""

        def inner(phi: Params, theta: Params, t: int) -> torch.Tensor:
            loss = evaluate(problem.inner, phi, theta, t)
            used = reached([loss], phi)
            apart = {name: value - centre[name] for name, value in phi.items() if name in used}
            return loss + self.proximal / 2 * task_dot(apart, apart, by_task=False) if apart else loss

        return replace(problem, inner=inner)


@dataclass(frozen=True)
class Implicit(Proximal):
    """∂L/∂θ ≈ (I + H/λ)⁻¹ ∂L(φ_{T+1})/∂φ (Eq. 18; Rajeswaran et al., 2019), with H = ∂²L_t/∂φ² at φ_{T+1}.

    proximal: λ; the inner steps minimise L_t(φ) + λ/2 |φ - φ₁|². cg_steps, tolerance: conjugate gradients end after
    so many products, or once each task's residual is so small relative to its right-hand side. damping: δ >= 0, for
    (I + H/(λ + δ))⁻¹ in Eq. 18's place where H has negative curvature.

    Valid where θ acts on φ₁ alone and the steps come near a stationary point. L_t is that of the last step. SGD's or
    Adam's weight decay ω counts as part of the inner loss (H + ωI).

    Costs T + 1 gradients, an inner loss and a Hessian-vector product a conjugate-gradient step; holds one graph.
    """

    cg_steps: int = 5
    tolerance: float = 1e-6
    damping: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_numbers("not negative", damping=self.damping, tolerance=self.tolerance)
        object.__setattr__(self, "cg_steps", whole(self.cg_steps, "cg_steps", 1))

    @torch.enable_grad()
    def __call__(self, problem: Bilevel, theta: Params) -> MetaGradient:
        """As `MultiStep.__call__`; raises ConfigError besides where φ₁ does not depend on θ, or the inner steps do.

        `info` has `cg_iterations`, `residual` (relative, of the worst task) and `indefinite_tasks`, whose conjugate
        gradients stopped at a direction of negative curvature: λ + δ is too small for them.
        """
        theta, first = begin(problem, theta, self.dynamics)
        if not reached(first.phi.values(), theta):
            inside = "a theta that acts only inside the inner loss (a meta-network) would not learn"
            raise ConfigError(f"Implicit needs a theta that initialises phi: {TIED}, so {inside}; use MultiStep")
        tell = partial(refuse, "Implicit", f"acts in the inner steps: {TIED}; use MultiStep")
        tell(reached(first.buffer_tensors(), theta))
        pulled, windows, watch = self.regularised(problem, detach(first.phi)), (1,) * self.steps, (theta, tell)
        state, trail, outer, by_phi, direct = adapt_and_judge(pulled, first, theta, self.dynamics, windows, watch=watch)
        right = {k: value for k, value in add_parts(state.phi, by_phi).items() if state.phi[k].requires_grad}
        place, used = (state.phi, theta, self.steps - 1), trail[-1][2]
        decay = dict.fromkeys(right, 0.0) | self.weight_decay(theta, {k: right[k] for k in used})
        curvature, scale = HessianVector(problem, *place), self.proximal + self.damping

        def product(v: Params) -> Params:
            hessian_v = add_parts(v, curvature.times(v)[0])
            return {k: (1 + decay[k] / scale) * v[k] + hessian_v[k] / scale for k in v}

        by_task = problem.tasks is not None
        solution, info = conjugate_gradients(product, right, self.cg_steps, self.tolerance, by_task)
        again = f"inner loss at step {self.steps - 1}", curvature.loss, value_of(problem.inner, *place)
        through_init = first.pull_back(State(solution), theta)
        return conclude(theta, state, trail, outer, *through_init, direct, again=[again], **info)


def conjugate_gradients(
    product: Callable[[Params], Params], right: Params, steps: int, tolerance: float, by_task: bool = False
) -> tuple[Params, dict[str, float]]:
    """x with A x = right for a symmetric A, from x = 0; (x, {cg_iterations, residual, indefinite_tasks}).

    product: v -> A v. by_task: every entry has a leading task dimension, A is block-diagonal over it, and
    each task's iteration has its own step sizes. A task stops at negative curvature, vᵀAv <= 0.
    """
    x, residual = {k: torch.zeros_like(v) for k, v in right.items()}, detach(right)
    direction, squared = residual, task_dot(residual, residual, by_task)
    start, goal, done = squared, squared * tolerance**2, 0
    indefinite = torch.zeros_like(squared, dtype=torch.bool)
    while done < steps and bool((active := ~indefinite & (squared > goal)).any()):
        moved = product(direction)
        curvature = task_dot(direction, moved, by_task)
        indefinite |= active & (curvature <= 0)
        active &= ~indefinite
        rate = torch.where(active, squared / torch.where(active, curvature, 1), 0)
        x = plus(x, task_scale(rate, direction))
        residual = plus(residual, task_scale(-rate, moved))
        previous, squared = squared, torch.where(active, task_dot(residual, residual, by_task), squared)
        grown = torch.where(active, squared / torch.where(active, previous, 1), 0)
        direction = plus(residual, task_scale(grown, direction))
        done += 1
    relative = torch.where(start > 0, squared / torch.where(start > 0, start, 1), 0).sqrt().max()
    return x, {"cg_iterations": done, "residual": relative.item(), "indefinite_tasks": int(indefinite.sum())}
