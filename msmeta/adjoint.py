"""The Lagrange-multiplier recursion (Eqs. 3-7 and 12-15): the meta-gradient without a graph of the whole trajectory.

Forwards it keeps each window's first state; backwards it evaluates the window's gradient again, multiplies it by the
multipliers once, and forgets it. The last window's is kept meanwhile, so that for K windows there are 2K - 1 gradient
evaluations and K Hessian-vector products, with K states and, beside the outer loss's, one gradient's graph, where
automatic differentiation holds K graphs and evaluates K gradients. Of more than 16 windows it keeps every √K-th state
and recomputes those between: 3K - 1 evaluations, 2√K states, at most 16 of them up to K = 64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from msmeta.bilevel import (
    Bilevel,
    Dynamics,
    DynamicsLike,
    MetaGradient,
    Params,
    Part,
    State,
    add_parts,
    begin,
    conclude,
    detach,
    gradients,
    leaves,
    plus,
)
from msmeta.dynamics import SGD, adapt_and_judge, advance, dynamics_at, has_methods_of, inner_gradient, walk
from msmeta.outer_terms import both, differentiated
from msmeta.repeats import Repeats


class HessianVector:
    """The inner loss and g = ∂L_t/∂φ at one place, and exact products with g's derivatives, a backward pass each."""

    def __init__(self, problem: Bilevel, phi: Params, theta: Params, t: int) -> None:
        self._phi, self._theta = leaves(phi, phi), theta
        loss, self.grad = inner_gradient(problem, self._phi, theta, t, create_graph=True)
        self.loss = loss.detach()

    def times(self, w: Params) -> tuple[Part, Part]:
        """wᵀ ∂g/∂φ and wᵀ ∂g/∂θ; None is zero."""
        # Retained, since the loss may read what `init` made of θ, whose graph all windows share.
        outputs = [(g, w[name]) for name, g in self.grad.items()]
        return tuple(gradients(outputs, self._phi, self._theta, retain_graph=True))


def kept_every(windows: int) -> int:
    """Of how many windows' first states one is kept on the way, from which the others are walked to again."""
    return 1 if windows <= 16 else math.isqrt(windows - 1) + 1


@torch.enable_grad()
def adjoint(
    problem: Bilevel,
    theta: Params,
    dynamics: DynamicsLike,
    windows: Sequence[int],
    curvature: Any = HessianVector,
    depth: int | None = None,
) -> MetaGradient:
    """The meta-gradient of Eq. 12 for windows of these lengths; Eqs. 3 and 4 where all of them are 1.

    curvature: as `HessianVector`. depth: leaves out the terms with more factors ∂g than that (`Binomial`), at least 1.
    The inner loss and the dynamics must be functions of their arguments alone: a second evaluation is held against the
    first, of the dynamics, and of differences, in the last window. Raises as `MultiStep.__call__`.
    """
    theta, first = begin(problem, theta, dynamics, passing=True)
    every, linear, exact = kept_every(len(windows)), _is_linear(dynamics), curvature is HessianVector
    held, last, repeats = {}, [], Repeats()  # the windows' first states by number; the last window's product

    def hold(k: int, state: State) -> None:
        # SGD is linear: its buffer is not needed on the way back, unless other states are calculated from it.
        held[k] = State(state.phi) if linear and not problem.outer_at and (every == 1 or k % every) else state

    def keep(k: int, state: State) -> tuple[Tensor, Params] | None:
        if k % every == 0:
            hold(k, state)
        t, is_last = sum(windows[:k]), k == len(windows) - 1
        if exact and is_last:
            last.append(curvature(problem, state.phi, theta, t))
            return repeats.first(last[0].loss, last[0].grad)
        if exact or is_last:
            return repeats.first(*inner_gradient(problem, state.phi, detach(theta), t, create_graph=False))
        return None

    adapted, trail, outer, by_phi, total = adapt_and_judge(problem, first, theta, dynamics, windows, keep=keep)
    # Λ_T; with a depth one for each number of factors ∂g, up to it, from which the windows ahead can still reach it.
    carried, depth = [State(add_parts(adapted.phi, by_phi))], depth or len(windows)
    for k, n in reversed(list(enumerate(windows))):
        if k not in held:
            base = k - k % every
            place = problem, held[base], theta, dynamics, windows[base:k], sum(windows[:base])
            hold(k, walk(*place, lambda j, state, base=base: hold(base + j, state))[0])
        (t, loss, used), start = trail[k], held.pop(k)
        product = last.pop() if last else curvature(problem, start.phi, theta, t)
        now, is_last = dynamics_at(dynamics, theta, t), k == len(windows) - 1
        if exact or is_last:
            repeats.again(t, loss, used, product)
        if is_last and not linear:  # whose last φ is known
            repeats.landed(t + n - 1, adapted.phi, advance(now, start.detach(), detach(product.grad), n).phi)
        pulled = [_pull_back(multipliers, now, start, product, n, theta, used) for multipliers in carried]
        place = t, n, sum(windows)
        seen = problem.outer_at and differentiated(problem, now, start, product.grad, theta, place)
        for i, term, at_i, direct in seen or ():
            outer, total = outer + term, plus(total, direct)
            there = _pull_back(at_i, now, start, product, i, theta, used)
            pulled = [both(each, there) for each in pulled]
        # Those of l factors: their own pulled back, and what is multiplied here of those of l - 1.
        carried = [pulled[0][0]] * (k >= depth)
        own = pulled[1:] + pulled[-1:] * (len(windows) - k <= depth)
        for (multipliers, *_), (_, weights, _) in zip(own, pulled, strict=False):
            by_phi, by_theta = product.times(weights)
            carried.append(State(plus(multipliers.phi, by_phi), multipliers.buffers))
        del product  # and its graph, before there is another one
        total = plus(plus(total, pulled[-1][2]), by_theta)
    return conclude(theta, adapted, trail, outer, total, *first.pull_back(carried[-1], theta), again=repeats.pairs())


def _is_linear(dynamics: DynamicsLike) -> bool:
    """Whether `SGD.pull_back` is what the object's own `window` does, with numbers for all of φ as rates."""
    rates = [getattr(dynamics, name, None) for name in ("lr", "momentum", "weight_decay")]
    return has_methods_of(SGD, dynamics, "window", "coefficients") and all(isinstance(rate, Real) for rate in rates)


def _pull_back(
    multipliers: State, dynamics: Dynamics, start: State, product: Any, n: int, theta: Params, used: Sequence[str]
) -> tuple[State, Params, Part]:
    """As `SGD.pull_back`, through any `window`, and the part of θ that acts in the dynamics."""
    if _is_linear(dynamics):
        part, weights = dynamics.pull_back(multipliers.part(used), n)
        buffers = {name: multipliers.buffers.get(name, {}) | values for name, values in part.buffers.items()}
        return State(multipliers.phi | part.phi, buffers), weights, {}
    buffers = {name: leaves(values) for name, values in start.buffers.items()}
    state, grad = replace(start, phi=leaves(start.phi), buffers=buffers), leaves(product.grad)
    after = advance(dynamics, state, grad, n)
    groups = state.phi, grad, theta, *buffers.values()
    by_phi, by_grad, by_theta, *parts = after.pull_back(multipliers, *groups, retain_graph=True)
    parts = {name: add_parts(buffers[name], part) for name, part in zip(buffers, parts, strict=True)}
    return State(add_parts(state.phi, by_phi), parts), add_parts(grad, by_grad), by_theta
