"""Reptile (Eq. 17): the way from the adapted parameters back to the initial ones, taken for the meta-gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from msmeta.bilevel import Bilevel, MetaGradient, Params, begin, conclude
from msmeta.dynamics import Steps, walk
from msmeta.errors import ConfigError
from msmeta.losses import value_of


@dataclass(frozen=True)
class Reptile(Steps):
    """∂L/∂θ ≈ θ - φ_{T+1} (Eq. 17; Nichol et al., 2018), the mean over tasks where the problem has `tasks`.

    Valid only where φ₁ = θ, since it subtracts φ from θ. It looks at the outer loss not at all (but returns it), so its
    length has no relation to the meta-gradient's: the meta learning rate is a step size of its own.

    Costs T gradient evaluations and no Hessian-vector product; holds one state.
    """

    @torch.no_grad()
    def __call__(self, problem: Bilevel, theta: Params) -> MetaGradient:
        """As `MultiStep.__call__`; raises ConfigError besides where φ₁ is not θ, with the task dimension if any."""
        theta, first = begin(problem, theta, self.dynamics)
        lead = () if problem.tasks is None else (problem.tasks,)
        for name in [*theta, *first.phi]:
            start = first.phi.get(name)
            same = start is not None and name in theta and start.shape == (*lead, *theta[name].shape)
            if not same or not torch.allclose(start, theta[name].expand_as(start), rtol=0, atol=0, equal_nan=True):
                why = "it subtracts the adapted phi from theta, without meaning for others (a meta-network, a rate)"
                use = "use MultiStep, or give the problem its number of tasks"
                raise ConfigError(f"Reptile needs a theta that initialises phi, unlike {name!r}: {why}; {use}")
        state, trail = walk(problem, first, theta, self.dynamics, (1,) * self.steps)
        outer = value_of(problem.outer, state.phi, theta)
        moved = {name: first.phi[name] - state.phi[name] for name in theta}
        return conclude(theta, state, trail, outer, {k: v.mean(0) if lead else v for k, v in moved.items()})
