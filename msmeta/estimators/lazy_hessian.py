"""Lazy Hessians: the exact steps, with second derivatives at the first step of each window alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from msmeta.bilevel import Bilevel, MetaGradient, Params, begin, conclude, gradients, leaves, reached
from msmeta.checks import refuse
from msmeta.dynamics import Windowed, advance, dynamics_at, inner_gradient, partition
from msmeta.losses import evaluate
from msmeta.outer_terms import outer_term


@dataclass(frozen=True)
class LazyHessian(Windowed):
    """Eqs. 12 and 13 along the exact steps: the dual of windows, which share a gradient where these share ∂g.

    dynamics, steps, window: as for `Windowed`; `window=1` is exact.

    Each step takes a gradient of its own. On the way back, ∂g_t/∂φ and ∂g_t/∂θ of all steps of a window are those at
    its first step, where they are multiplied once by the sum of the steps' multipliers: with H of that step and plain
    SGD a window of N multiplies by I - N η H, as `MultiStep` with the same `window`, which takes other steps. So the
    two tell what stale gradients do from what stale Hessians do. What acts past the gradient (momentum, decay, a
    learned rate) is exact. The name is that of lazy Newton methods (Doikov et al., 2023), which use one Hessian for
    several steps; their (I - η H)^N would take as many products as exact back-propagation.

    Valid for every θ, where the inner loss of a window's first step stands for those of the others: an entry of θ that
    acts in another step's loss but not in the first one's is refused; one with a part of its own for each step gets
    zeros in the parts of the others.

    Costs T gradient evaluations and K Hessian-vector products; holds K states and K gradients' graphs (T states for
    dynamics other than SGD).
    """

    @torch.enable_grad()
    def __call__(self, problem: Bilevel, theta: Params) -> MetaGradient:
        """As `MultiStep.__call__`; raises ConfigError besides for entries of θ in other steps' losses alone."""
        theta, state = begin(problem, theta, self.dynamics, passing=True)
        trail, terms = [], []
        for n in partition(self.steps, self.window):
            start = len(trail)
            loss, grad = inner_gradient(problem, state.phi, theta, start, create_graph=True)
            lazy, acting = grad, reached([loss], theta, until=state.phi.values())
            for t in range(start, start + n):
                if t > start:
                    loss, grad = inner_gradient(problem, leaves(state.phi, state.phi), theta, t, create_graph=False)
                    why = f"acts at step {t} but not at step {start}, the first of its window"
                    refuse("LazyHessian", why, reached([loss], theta) - acting)
                    # The value of this step's, the derivative of the first one's.
                    grad = {k: v + (lazy[k] - lazy[k].detach()) if k in lazy else v for k, v in grad.items()}
                trail.append((t, loss.detach(), tuple(grad)))
                state = advance(dynamics_at(self.dynamics, theta, t), state, grad, 1)
                if t + 1 < self.steps and (term := outer_term(problem, state.phi, theta, t + 1)) is not None:
                    terms.append(term)
        outer = sum(terms, evaluate(problem.outer, state.phi, theta))
        return conclude(theta, state, trail, outer, *gradients([(outer, None)], theta))
