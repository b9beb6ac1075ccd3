"""The Lagrange-multiplier recursion (Eqs. 3-7 and 12-15): the meta-gradient without a graph of the whole trajectory.

Forwards it keeps each window's first state; backwards it evaluates the window's gradient again, multiplies it by the
multipliers once, and forgets it. Costs 2K gradient evaluations and K Hessian-vector products for K windows; holds K
states and one gradient's graph, where automatic differentiation holds K graphs and evaluates K gradients.
Of more than 16 windows it keeps every √K-th state and recomputes those between when their turn comes: 3K gradient
evaluations, and 2√K states, at most 16 of them up to 64 windows.
"""

from __future__ import annotations

import math
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
    plus,
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
    states = _States(problem, theta, dynamics, windows)
    adapted, losses = adapt(problem, first, theta, dynamics, windows, keep=states.keep)
    phi = leaves(adapted.phi)
    outer = problem.outer(phi, theta)
    require_scalar(outer, "outer loss")
    by_phi, direct = gradients(outer, phi, theta)
    require_dependence(by_phi, direct)
    require_finite(losses, outer)

    multipliers = State(add_parts(phi, by_phi))  # Λ_T
    total = direct
    for k, n in reversed(list(enumerate(windows))):
        t, start = states.take(k)
        product = curvature(problem, start.phi, theta, t)
        if isinstance(dynamics, SGD):
            multipliers, weights = dynamics.pull_back(multipliers, n)
        else:
            multipliers, weights = _pull_back_steps(dynamics, start, product.gradient(), n, multipliers)
        by_phi, by_theta = product.times(weights)
        multipliers = State(plus(multipliers.phi, by_phi), multipliers.buffers)
        total = plus(total, by_theta)
    total = plus(total, pull_back(first, theta, multipliers))
    require_dependence(total)
    return MetaGradient(outer.detach(), add_parts(theta, total), adapted.phi)


class _States:
    """The windows' first states, kept or recomputed from one that was."""

    def __init__(self, problem: Bilevel, theta: Params, dynamics: Dynamics, windows: Sequence[int]) -> None:
        self._problem, self._theta, self._dynamics, self._windows = problem, theta, dynamics, windows
        self._every = 1 if len(windows) <= 16 else math.isqrt(len(windows) - 1) + 1
        self._held: dict[int, State] = {}

    def keep(self, k: int, state: State) -> None:
        """Holds the first state of window k if it is one that is kept."""
        if k % self._every == 0:
            self._hold(k, state)

    def take(self, k: int) -> tuple[int, State]:
        """The first step and state of window k, which is not held any longer; windows are taken from the last on."""
        if k not in self._held:
            base = k - k % self._every
            between, t = self._windows[base:k], sum(self._windows[:base])
            place = self._problem, self._held[base], self._theta, self._dynamics, between
            state, _ = adapt(*place, t, lambda j, state: self._hold(base + j, state) if j else None)
            self._hold(k, state)
        return sum(self._windows[:k]), self._held.pop(k)

    def _hold(self, k: int, state: State) -> None:
        # SGD is linear: its buffer is not needed on the way back, unless other states are recomputed from this one.
        starts_others = self._every > 1 and k % self._every == 0
        bare = isinstance(self._dynamics, SGD) and not starts_others
        self._held[k] = State(state.phi) if bare else state


def _pull_back_steps(
    dynamics: Dynamics, start: State, grad: Params, n: int, multipliers: State
) -> tuple[State, Params]:
    """As `SGD.pull_back`, for dynamics that are not linear: back through the window's steps one at a time."""
    states = [start]
    with torch.no_grad():
        for _ in range(n - 1):
            states.append(dynamics.window(states[-1], grad, 1))
    weights: Part = dict.fromkeys(grad)
    for state in reversed(states):
        multipliers, part = _pull_back_step(dynamics, state, grad, multipliers)
        weights = plus(weights, part)
    return multipliers, weights


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
