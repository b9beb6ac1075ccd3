"""Multi-step estimation (Eqs. 11-15): one gradient a window of inner steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from msmeta.adjoint import adjoint
from msmeta.bilevel import Bilevel, DynamicsLike, MetaGradient, Params, State, begin, conclude, gradients
from msmeta.dynamics import Windowed, advance, dynamics_at, inner_gradient, partition
from msmeta.errors import ConfigError
from msmeta.losses import evaluate
from msmeta.outer_terms import window_terms


@dataclass(frozen=True)
class MultiStep(Windowed):
    """The meta-gradient through T inner steps; each window of N shares its first gradient (Kim et al., Eqs. 11-15).

    dynamics, steps, window: as for `Windowed`. `window=1` is exact back-propagation (Eqs. 3-7); others
    are exact for the steps they take, near it where N times the rate times the curvature is small.
    backward: the same meta-gradient in two ways. Costs, for K windows:
    `autograd`: K gradient evaluations and K Hessian-vector products; holds K states and K gradients' graphs.
    `adjoint`: 2K - 1 gradient evaluations and K Hessian-vector products; holds K states and one gradient's graph (up to
    3K - 1 and 2√K for more than 16 windows: `msmeta.adjoint`). The inner loss must be a function of its arguments
    alone, since each window's gradient but the last one's is evaluated a second time.
    """

    backward: Literal["autograd", "adjoint"] = "autograd"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backward not in ("autograd", "adjoint"):
            raise ConfigError(f"backward={self.backward!r} is unknown: choose autograd or adjoint")

    @torch.enable_grad()
    def __call__(self, problem: Bilevel, theta: Params) -> MetaGradient:
        """The outer loss and its gradient at `theta`, and the inner optimiser's last state.

        Raises ConfigError for a loss that is not a scalar or does not depend on what it is differentiated by, for
        parameters or functions of another kind than `Bilevel` says, and for what cannot be differentiated; and
        DivergedError, naming the step or the entry of theta, for a loss or a meta-gradient that is not finite.
        """
        windows = partition(self.steps, self.window)
        if self.backward == "adjoint":
            return adjoint(problem, theta, self.dynamics, windows)
        theta, state = begin(problem, theta, self.dynamics, passing=True)
        state, trail, terms = unroll(problem, state, theta, self.dynamics, windows)
        outer = sum(terms, evaluate(problem.outer, state.phi, theta))
        return conclude(theta, state, trail, outer, *gradients([(outer, None)], theta))


def unroll(
    problem: Bilevel, state: State, theta: Params, dynamics: DynamicsLike, windows: Sequence[int], t: int = 0
) -> tuple:
    """`walk`'s two and the terms of `outer_at`, in one graph of all windows for one backward pass."""
    trail, terms, steps = [], [], t + sum(windows)
    for n in windows:
        loss, grad = inner_gradient(problem, state.phi, theta, t, create_graph=True)
        trail.append((t, loss.detach(), tuple(grad)))
        now = dynamics_at(dynamics, theta, t)
        terms += [term for *_, term in window_terms(problem, now, state, grad, theta, (t, n, steps))]
        state = advance(now, state, grad, n)
        t += n
    return state, trail, terms
