"""BinomMAML: of the meta-gradient's expansion in second derivatives the terms of low order."""

from __future__ import annotations

from dataclasses import dataclass

from msmeta.adjoint import adjoint
from msmeta.bilevel import Bilevel, MetaGradient, Params
from msmeta.estimators.first_order import FirstOrder
from msmeta.estimators.truncated import Shortened


@dataclass(frozen=True)
class Binomial(Shortened):
    """The terms of Eqs. 3 and 4 with at most L = `depth` second derivatives (BinomMAML; Zhang et al., 2026).

    For MAML with plain SGD the product of the steps' Jacobians is multiplied out,

        ∏_t (I - η H_t) ≈ I + Σ_{l <= L} Σ_{t₁ < ... < t_l} (-η)^l H_{t₁} ... H_{t_l},    H_t = ∂g_t/∂φ_t.

    Other dynamics have their own linear maps in the places of I and -η: momentum, weight decay and, for Adam, all
    that acts past the gradient are exact. In a product that ends at a meta-network ∂g_t/∂θ counts as one of the L. What
    θ does in the dynamics, as a learned rate, does not count. Valid for every θ; at L = 0, which is `FirstOrder`, only
    where that is. The error is of order (η T |H|)^(L+1) / (L+1)!: good where the steps are short.

    One sweep carries the multipliers of at most L + 1 orders. Costs L(T - L + 1) Hessian-vector products, as many as
    exact back-propagation for L = 1 and L = T and more between, and 2T - 1 gradient evaluations (up to 3T - 1 for more
    than 16 steps: `msmeta.adjoint`); holds T states and one gradient's graph. The inner loss must be a function of its
    arguments alone, since it is evaluated again on the way back.
    """

    def __call__(self, problem: Bilevel, theta: Params) -> MetaGradient:
        """As `MultiStep.__call__`; at depth 0 as `FirstOrder.__call__`."""
        if self.depth == 0:
            return FirstOrder(self.dynamics, self.steps)(problem, theta)
        return adjoint(problem, theta, self.dynamics, (1,) * self.steps, depth=self.depth)
