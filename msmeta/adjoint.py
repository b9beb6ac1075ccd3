"""The Lagrange-multiplier recursion (Eqs. 3-7 and 12-15): the meta-gradient without a graph of the whole trajectory.

Forwards it keeps each window's first state; backwards it evaluates the window's gradient again, multiplies it by the
multipliers once, and forgets it. Costs 2K gradient evaluations and K Hessian-vector products for K windows; holds K
states and one gradient's graph, where automatic differentiation holds K graphs and evaluates K gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

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
    inner_gradient,
    leaves,
    pull_back,
    require_dependence,
    require_finite,
    require_scalar,
)
from msmeta.dynamics import SGD, Dynamics

Part = dict[str, Tensor | None]


class Curvature(Protocol):
    """The inner gradient at one state, and products with its derivatives."""

    def gradient(self) -> Params:
        """g = ∂L_t/∂φ."""
        ...

    def times(self, w: Params) -> tuple[Part, Part]:
        """wᵀ ∂g/∂φ and wᵀ ∂g/∂θ; None stands for zero."""
        ...


class HessianVector:
    """Exact products by automatic differentiation: one more backward pass through the gradient's graph."""

    def __init__(self, problem: Bilevel, phi: Params, theta: Params, t: int) -> None:
        self._phi, self._theta = leaves(phi), theta
        _, self._grad = inner_gradient(problem, self._phi, theta, t, create_graph=True)

    def gradient(self) -> Params:
        return detach(self._grad)

    def times(self, w: Params, again: bool = False) -> tuple[Part, Part]:
        """As `Curvature.times`; the graph is freed unless the product is wanted `again`."""
        wanted = {name: g for name, g in self._grad.items() if g.requires_grad}
        inputs = [*self._phi.values(), *self._theta.values()]
        if not wanted:
            return dict.fromkeys(self._phi), dict.fromkeys(self._theta)
        weights = [w[name] for name in wanted]
        parts = iter(torch.autograd.grad(list(wanted.values()), inputs, weights, allow_unused=True, retain_graph=again))
        return {name: next(parts) for name in self._phi}, {name: next(parts) for name in self._theta}


@torch.enable_grad()
def adjoint(
    problem: Bilevel,
    theta: Params,
    dynamics: Dynamics,
    windows: Sequence[int],
    curvature: Callable[[Bilevel, Params, Params, int], Curvature] = HessianVector,
) -> MetaGradient:
    """The meta-gradient of Eq. 12 for windows of these lengths; Eqs. 3 and 4 where all of them are 1.

    The inner loss must be a function of its arguments alone: each window's is evaluated twice.
    Raises as `MultiStep.__call__`.
    """
    theta, first = begin(problem, theta)
    starts: list[State] = []
    adapted, losses = adapt(problem, first, theta, dynamics, windows, starts)
    phi = leaves(adapted)
    outer = problem.outer(phi, theta)
    require_scalar(outer, "outer loss")
    by_phi, direct = gradients(outer, phi, theta)
    require_dependence(by_phi, direct)
    require_finite(losses, outer)

    multipliers = State(add_parts(phi, by_phi))  # Λ_T
    parts, t = [direct], sum(windows)
    for n in reversed(windows):
        t -= n
        start = starts.pop()
        product = curvature(problem, start.phi, theta, t)
        if isinstance(dynamics, SGD):
            multipliers, weights = dynamics.pull_back(multipliers, n)
        else:
            multipliers, weights = _pull_back_steps(dynamics, start, product.gradient(), n, multipliers)
        by_phi, by_theta = product.times(weights)
        multipliers = State(add_parts(multipliers.phi, multipliers.phi, by_phi), multipliers.buffers)
        parts.append(by_theta)
    parts.append(pull_back(first, theta, multipliers))
    require_dependence(*parts)
    return MetaGradient(outer.detach(), add_parts(theta, *parts), adapted)


def _pull_back_steps(
    dynamics: Dynamics, start: State, grad: Params, n: int, multipliers: State
) -> tuple[State, Params]:
    """As `SGD.pull_back`, for dynamics that are not linear: back through the window's steps one at a time."""
    states = [start]
    with torch.no_grad():
        for _ in range(n - 1):
            states.append(dynamics.window(states[-1], grad, 1))
    weights = []
    for state in reversed(states):
        multipliers, part = _pull_back_step(dynamics, state, grad, multipliers)
        weights.append(part)
    return multipliers, add_parts(grad, *weights)


def _pull_back_step(dynamics: Dynamics, state: State, grad: Params, multipliers: State) -> tuple[State, Params]:
    grad = leaves(grad)
    state = State(leaves(state.phi), {name: leaves(values) for name, values in state.buffers.items()}, state.step)
    after = dynamics.window(state, grad, 1)
    groups = [(after.phi, multipliers.phi)]
    groups += [(after.buffers[name], values) for name, values in multipliers.buffers.items()]
    outputs = [values[name] for values, weights in groups for name in weights]
    weights = [weight for _, weights in groups for weight in weights.values()]
    groups = [state.phi, *state.buffers.values(), grad]
    inputs = [value for values in groups for value in values.values()]
    found = iter(torch.autograd.grad(outputs, inputs, weights, allow_unused=True))
    by_phi, *by_buffers, by_grad = [add_parts(values, {name: next(found) for name in values}) for values in groups]
    return State(by_phi, dict(zip(state.buffers, by_buffers, strict=True))), by_grad
