"""Truncated back-propagation: the exact meta-gradient of the last steps, the earlier ones taken for constants."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from msmeta.bilevel import Bilevel, MetaGradient, Params, State, begin, conclude, evaluate, gradients, leaves, reached
from msmeta.dynamics import Steps, walk, whole
from msmeta.errors import ConfigError
from msmeta.estimators.multistep import unroll


@dataclass(frozen=True)
class Shortened(Steps):
    """What estimators that leave out terms of the meta-gradient are told besides.

    depth: 0 to T; at T they are exact, at 0 first-order.
    """

    depth: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "depth", whole(self.depth, "depth"))
        if not 0 <= self.depth <= self.steps:
            raise ConfigError(f"depth={self.depth}: it must be a whole number from 0 to steps={self.steps}")


@dataclass(frozen=True)
class Truncated(Shortened):
    """Eqs. 3 and 4 through the last `depth` steps alone (Shaban et al., 2019).

    The multiplier of φ that arrives at the first of them goes on unchanged to φ₁(θ), as if ∂φ/∂φ₁ were the identity
    there, and the optimiser's buffers are constants there: for MAML with plain SGD it is

        ∂L/∂θ ≈ ∂L(φ_{T+1})/∂φ ∏_{t > T - depth} (I - η ∂g_t/∂φ_t).

    What θ does in the earlier steps is left out: valid for a meta-network or a learned rate, whose gradient is the sum
    of the last terms, biased. An entry of θ that acts in the earlier steps alone would get a zero gradient and is
    refused; one with a part of its own for each step gets zeros in the parts of the earlier ones.
    Near where the inner steps converge each factor contracts, so that earlier terms are exponentially small in depth;
    but the multiplier of φ₁ would contract in the earlier steps, too, and is too long without them.

    Costs T gradient evaluations and `depth` Hessian-vector products; holds `depth` states and gradients' graphs.
    """

    @torch.enable_grad()
    def __call__(self, problem: Bilevel, theta: Params) -> MetaGradient:
        """As `MultiStep.__call__`; raises ConfigError besides for entries of θ that act in the earlier steps alone."""
        theta, first = begin(problem, theta)
        early = self.steps - self.depth
        lost = reached([value for values in first.buffers.values() for value in values.values()], theta)
        middle, trail = walk(problem, first, theta, self.dynamics, (1,) * early, watch=(theta, lost.update))
        middle = replace(middle, buffers={name: leaves(values) for name, values in middle.buffers.items()})
        last, late = unroll(problem, middle, theta, self.dynamics, (1,) * self.depth, early)
        ends = [*last.phi.values(), *(value for values in last.buffers.values() for value in values.values())]
        for name in sorted(lost - reached(first.phi.values(), theta) - reached(ends, theta) if early else ()):
            where = f"which acts in the inner steps before the last {self.depth} alone"
            raise ConfigError(f"Truncated has no gradient for theta[{name!r}], {where}: raise depth or use MultiStep")
        outer = evaluate(problem.outer, last.phi, theta)
        # Retained, since a loss may read what `init` made of θ.
        groups = middle.phi, theta, *middle.buffers.values()
        by_phi, by_theta, *parts = gradients([(outer, None)], *groups, retain_graph=True)
        multipliers = State(by_phi, {} if early else dict(zip(middle.buffers, parts, strict=True)))
        return conclude(theta, last, [*trail, *late], outer, by_theta, *first.pull_back(multipliers, theta))
