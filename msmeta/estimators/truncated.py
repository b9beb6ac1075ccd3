"""Truncated back-propagation: the exact meta-gradient of the last steps, the earlier ones taken for constants."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from msmeta.bilevel import Bilevel, MetaGradient, Params, State, begin, conclude, gradients, leaves, plus, reached
from msmeta.checks import refuse
from msmeta.dynamics import Steps, whole
from msmeta.errors import ConfigError
from msmeta.estimators.first_order import constant_gradients
from msmeta.estimators.multistep import unroll
from msmeta.losses import evaluate
from msmeta.outer_terms import Carried


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
    """Eqs. 3 and 4 with the derivatives ∂g of the last `depth` steps alone (Shaban et al., 2019).

    The multiplier of φ that arrives at the first of them goes on unchanged to φ₁(θ), as in `FirstOrder`, which this is
    at depth 0: for MAML with plain SGD it is

        ∂L/∂θ ≈ ∂L(φ_{T+1})/∂φ ∏_{t > T - depth} (I - η ∂g_t/∂φ_t).

    A term of `outer_at` before it is carried to φ₁(θ) likewise. What θ does in the dynamics of the earlier steps, too,
    is differentiated with their gradients held constant. What it does in their losses is left out: valid for a
    meta-network, whose gradient is the sum of the last terms, biased. An entry that acts in the earlier losses alone
    would get a zero gradient and is refused; one with a part of its own for each step gets zeros in the parts of the
    earlier ones.
    Near where the inner steps converge each factor contracts, so that earlier terms are exponentially small in depth;
    but the multiplier of φ₁ would contract in the earlier steps, too, and is too long without them.

    Costs T gradient evaluations and `depth` Hessian-vector products; holds `depth` states and gradients' graphs (where
    θ acts in the dynamics T states).
    """

    @torch.enable_grad()
    def __call__(self, problem: Bilevel, theta: Params) -> MetaGradient:
        """As `MultiStep.__call__`; raises ConfigError besides for entries of θ in the earlier steps' losses alone."""
        theta, first = begin(problem, theta, self.dynamics, passing=True)
        lost, early, carried = set(), self.steps - self.depth, Carried(problem, first, theta)
        middle, trail = constant_gradients(carried, self.dynamics, early, lost.update)
        if self.depth:
            carried(early, middle)
        buffers = {name: leaves(values) for name, values in middle.buffers.items()}
        cut = replace(middle, phi=leaves(middle.phi, first.phi), buffers=buffers)
        last, late, terms = unroll(problem, cut, theta, self.dynamics, (1,) * self.depth, early)
        ends = [*last.phi.values(), *last.buffer_tensors()]
        why = f"acts in the inner loss before the last {self.depth} steps alone: raise depth or use MultiStep"
        refuse("Truncated", why, lost - reached(ends, theta))
        outer = sum(terms, evaluate(problem.outer, last.phi, theta))
        # Retained here and below, since a loss may read what `init` made of θ, and buffers may come from there.
        groups = cut.phi, theta, *buffers.values()
        by_phi, by_theta, *parts = gradients([(outer, None)], *groups, retain_graph=True)
        multipliers = State(by_phi, dict(zip(buffers, parts, strict=True)))
        by_dynamics = middle.pull_back(multipliers, theta, retain_graph=True)
        carried.by_phi = plus(by_phi, carried.by_phi)
        parts = by_theta, *by_dynamics, *carried.parts()
        return conclude(theta, last, [*trail, *late], outer.detach() + carried.loss, *parts)
