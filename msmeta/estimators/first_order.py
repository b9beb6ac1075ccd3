"""First-order MAML (Eq. 16): the adapted parameters' gradient, taken for the meta-gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from msmeta.bilevel import (
    Bilevel,
    DynamicsLike,
    MetaGradient,
    Params,
    State,
    Trail,
    begin,
    conclude,
    detach,
    leaves,
    reached,
)
from msmeta.checks import refuse
from msmeta.dynamics import Steps, advance, dynamics_at, inner_gradient
from msmeta.losses import evaluate
from msmeta.outer_terms import Carried


@dataclass(frozen=True)
class FirstOrder(Steps):
    """∂L/∂θ ≈ ∂L(φ_{T+1})/∂φ (Eq. 16), carried to θ by the derivative of φ₁(θ), the identity in MAML; terms of
    `outer_at` likewise.

    What θ does in the dynamics (a learned rate, a learned initial velocity) is differentiated exactly with the inner
    gradients g_t held constant: first-order Meta-SGD (Li et al., 2017), -Σ_t g_t · ∂L(φ_{T+1})/∂φ by the rate of plain
    SGD. What θ does in the inner loss is left out: valid where θ initialises φ or makes rates. An entry that acts in
    the inner loss and does not start φ (a meta-network, a regulariser) would get a wrong gradient, and is refused.

    Costs T gradient evaluations and no Hessian-vector product; holds one state, where θ acts in the dynamics T.
    """

    @torch.enable_grad()
    def __call__(self, problem: Bilevel, theta: Params) -> MetaGradient:
        """As `MultiStep.__call__`; raises ConfigError besides for entries of θ that act in the inner loss alone."""
        theta, first = begin(problem, theta, self.dynamics, passing=True)
        why = "acts in the inner loss without starting phi (a meta-network): it holds g constant; use MultiStep"
        carried, tell = Carried(problem, first, theta), partial(refuse, "FirstOrder", why)
        state, trail = constant_gradients(carried, self.dynamics, self.steps, tell)
        carried.add(state, partial(evaluate, problem.outer))
        state = replace(state, phi=leaves(state.phi, first.phi))
        return conclude(theta, state, trail, carried.loss, *carried.parts())


def constant_gradients(
    carried: Carried, dynamics: DynamicsLike, steps: int, tell: Callable[[set[str]], None]
) -> tuple[State, Trail]:
    """As `walk`; the states' graph, if any, has what θ does in the dynamics alone, from a φ₁ that is a constant.

    carried: is given each step's number and first state. tell: is told of the entries of θ that act in an inner loss
    and do not start φ.
    """
    problem, first, theta = carried.problem, carried.first, carried.theta
    started = reached(first.phi.values(), theta)
    seen = {name: value.detach() if name in started else value for name, value in theta.items()}
    state, trail = replace(first, phi=detach(first.phi)), []
    for t in range(steps):
        carried(t, state)
        loss, grad = inner_gradient(problem, leaves(state.phi, first.phi), seen, t, create_graph=False)
        tell(reached([loss], seen))
        trail.append((t, loss.detach(), tuple(grad)))
        state = advance(dynamics_at(dynamics, theta, t), state, grad, 1)
    return state, trail
