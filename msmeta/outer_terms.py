"""What the states on the way add to the outer loss: `Bilevel.outer_at`, MAML++'s multi-step loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from msmeta.bilevel import Bilevel, Dynamics, Params, Part, State, add_parts, gradients, leaves, partial_gradients, plus
from msmeta.checks import unchanged
from msmeta.dynamics import advance
from msmeta.losses import require_loss

Place = tuple[int, int, int]
"""Of a window: its first step, its length, and T."""


def outer_term(problem: Bilevel, phi: Params, theta: Params, t: int) -> Tensor | None:
    """The term of φ after t steps; None where there is none. Raises ConfigError where it is not a scalar."""
    if not problem.outer_at:
        return None
    what = f"outer_at after {t} steps"
    with unchanged(what, phi, theta):
        value = problem.outer_at(dict(phi), dict(theta), t)
    if value is not None:
        require_loss(value, what, phi, theta)
    return value


def window_terms(
    problem: Bilevel, dynamics: Dynamics, state: State, grad: Params, theta: Params, place: Place, apart: bool = False
) -> Iterator[tuple[int, Params, Tensor]]:
    """(i, φ, term) after i of a window's steps, from its first state and gradient. apart: φ is a leaf."""
    t, n, steps = place
    for i in range(1, min(n, steps - t - 1) + 1) if problem.outer_at else ():
        phi = advance(dynamics, state, grad, i).phi
        phi = leaves(phi, state.phi) if apart else phi
        if (term := outer_term(problem, phi, theta, t + i)) is not None:
            yield i, phi, term


def differentiated(*window: Any) -> Iterator[tuple[int, Tensor, State, Part]]:
    """The same as (i, term, multipliers of the state there, its derivative by θ as written in it)."""
    for i, phi, term in window_terms(*window, apart=True):
        by_phi, direct = gradients([(term, None)], phi, window[4])
        yield i, term.detach(), State(add_parts(phi, by_phi)), direct


def both(a: tuple[State, Params, Part], b: tuple[State, Params, Part]) -> tuple[State, Params, Part]:
    """The sum of two pulled back through one window: multipliers of its first state, of its gradient, and θ's part."""
    buffers = {name: plus(values, b[0].buffers.get(name, {})) for name, values in a[0].buffers.items()}
    return State(plus(a[0].phi, b[0].phi), buffers), plus(a[1], b[1]), plus(a[2], b[2])


class Passed:
    """To be given to `walk` as `keep`, for windows of 1: the terms' sum."""

    def __init__(self, problem: Bilevel, theta: Params) -> None:
        self.problem, self.theta = problem, theta
        self.loss: Tensor | float = 0.0

    def __call__(self, t: int, state: State) -> None:
        phi, theta = leaves(state.phi, state.phi), leaves(self.theta, self.theta)  # a term may differentiate inside
        if t and (term := outer_term(self.problem, phi, theta, t)) is not None:
            self.loss = self.loss + term.detach()


class Carried:
    """The sum of losses of states on the way, where the inner gradients are constants, and its derivatives.

    What comes to a state's φ is carried to φ₁ as it is, `by_phi`, and to θ by what that does in the dynamics.
    """

    def __init__(self, problem: Bilevel, first: State, theta: Params) -> None:
        self.problem, self.first, self.theta = problem, first, theta
        self.loss: Tensor | float = 0.0
        self.by_phi: Part = dict.fromkeys(first.phi)
        self._direct: Part = dict.fromkeys(theta)
        self._moved: list[tuple[Tensor, Tensor]] = []

    def __call__(self, t: int, state: State) -> None:
        if t:
            self.add(state, lambda phi, theta: outer_term(self.problem, phi, theta, t))

    def add(self, state: State, loss: Callable[[Params, Params], Tensor | None]) -> None:
        phi = leaves(state.phi, self.first.phi)
        if (value := loss(phi, self.theta)) is not None:
            by_phi, direct = partial_gradients(value, phi, self.theta)
            self.loss = self.loss + value.detach()
            self.by_phi, self._direct = plus(self.by_phi, by_phi), plus(self._direct, direct)
            moved = [(state.phi[name], w) for name, w in by_phi.items() if w is not None]
            self._moved += [(value, w) for value, w in moved if value.requires_grad]

    def parts(self) -> list[Part]:
        """Of the meta-gradient."""
        started = [(self.first.phi[name], w) for name, w in self.by_phi.items() if w is not None]
        return [*gradients([*started, *self._moved], self.theta), self._direct]
