"""Multi-step estimation (Eqs. 11-15): one gradient a window of inner steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from msmeta.adjoint import adjoint
from msmeta.bilevel import (
    Bilevel,
    MetaGradient,
    Params,
    add_parts,
    begin,
    detach,
    gradients,
    inner_gradient,
    partition,
    require_dependence,
    require_finite,
    require_scalar,
)
from msmeta.dynamics import Dynamics
from msmeta.errors import ConfigError


@dataclass(frozen=True)
class MultiStep:
    """The meta-gradient through T inner steps of which each window of N shares its first gradient (Eqs. 11-15).

    dynamics: inner optimiser. steps: T. window: N, which divides T; or any partition of T, such as (2, 1).
    `window=1` is exact back-propagation through the steps (Eqs. 3-7).
    backward: the same meta-gradient in two ways.

    Costs, for K windows:
    `autograd`: K gradient evaluations and K Hessian-vector products; holds K states and K gradients' graphs.
    `adjoint`: 2K gradient evaluations and K Hessian-vector products; holds K states and one gradient's graph (3K and
    2√K for more than 16 windows, so that memory hardly grows with T: `msmeta.adjoint`). The inner loss must be a
    function of its arguments alone, since each window's gradient is evaluated a second time.
    """

    dynamics: Dynamics
    steps: int
    window: int | Sequence[int] = 1
    backward: Literal["autograd", "adjoint"] = "autograd"

    def __post_init__(self) -> None:
        partition(self.steps, self.window)
        if self.backward not in ("autograd", "adjoint"):
            raise ConfigError(f"backward={self.backward!r} is unknown: choose autograd or adjoint")

    def __call__(self, problem: Bilevel, theta: Params) -> MetaGradient:
        """The outer loss and its gradient at `theta`, and the adapted parameters.

        Raises ConfigError for a loss that is not a scalar or does not depend on what it is differentiated by, and
        DivergedError, naming the step, for a loss that is not finite.
        """
        windows = partition(self.steps, self.window)
        if self.backward == "adjoint":
            return adjoint(problem, theta, self.dynamics, windows)
        return _unroll(problem, theta, self.dynamics, windows)


@torch.enable_grad()
def _unroll(problem: Bilevel, theta: Params, dynamics: Dynamics, windows: Sequence[int]) -> MetaGradient:
    """The windows' forward passes as one graph, and one backward pass through it."""
    theta, state = begin(problem, theta)
    losses, t = [], 0
    for n in windows:
        loss, grad = inner_gradient(problem, state.phi, theta, t, create_graph=True)
        losses.append((t, loss))
        state = dynamics.window(state, grad, n)
        t += n
    outer = problem.outer(state.phi, theta)
    require_scalar(outer, "outer loss")
    (grads,) = gradients(outer, theta)
    require_dependence(grads)
    require_finite(losses, outer)
    return MetaGradient(outer.detach(), add_parts(theta, grads), detach(state.phi))
