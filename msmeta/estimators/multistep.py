"""Multi-step estimation (Eqs. 11-15): one gradient a window of inner steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from msmeta.bilevel import (
    Bilevel,
    MetaGradient,
    Params,
    begin,
    gradients,
    inner_gradient,
    partition,
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

    Costs K gradient evaluations and K Hessian-vector products for K windows; holds the K windows' graphs until the
    backward pass.
    """

    dynamics: Dynamics
    steps: int
    window: int | Sequence[int] = 1

    def __post_init__(self) -> None:
        partition(self.steps, self.window)

    @torch.enable_grad()
    def __call__(self, problem: Bilevel, theta: Params) -> MetaGradient:
        """The outer loss and its gradient at `theta`, and the adapted parameters.

        Raises ConfigError for a loss that is not a scalar or does not depend on what it is differentiated by, and
        DivergedError, naming the step, for a loss that is not finite.
        """
        theta, state = begin(problem, theta)
        losses, t = [], 0
        for n in partition(self.steps, self.window):
            loss, grad = inner_gradient(problem, state.phi, theta, t, create_graph=True)
            losses.append((t, loss))
            state = self.dynamics.window(state, grad, n)
            t += n
        outer = problem.outer(state.phi, theta)
        require_scalar(outer, "outer loss")
        (grads,) = gradients(outer, theta)
        if all(g is None for g in grads.values()):
            raise ConfigError("outer loss does not depend on theta, neither directly nor through the inner steps")
        require_finite(losses, outer)
        return MetaGradient(
            outer.detach(),
            {name: torch.zeros_like(theta[name]) if g is None else g for name, g in grads.items()},
            {name: value.detach() for name, value in state.phi.items()},
        )
