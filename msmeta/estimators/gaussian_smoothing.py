"""GGS-MAML: the Hessian of a smoothed inner loss, from differences of gradients in random directions."""

from __future__ import annotations

from dataclasses import dataclass

from msmeta.adjoint import adjoint
from msmeta.bilevel import Bilevel, MetaGradient, Params, Part, add_parts, plus, task_dot, task_scale
from msmeta.estimators.evolution_strategies import Sampled
from msmeta.estimators.finite_difference import Differences


@dataclass(frozen=True)
class GaussianSmoothing(Sampled):
    """Eqs. 3 and 4 with ∂g/∂φ ≈ mean over u of (g(φ + σu) - g(φ - σu)) uᵀ / 2σ, u ~ N(0, I) (Ji et al., 2020).

    There are `samples` directions u at each step, drawn anew, of which each of a problem's `tasks` uses its own part; σ
    is `deviation`. Valid for every θ, also a meta-network: the same differences of ∂L_t/∂θ give ∂g/∂θ. Where gradients
    are linear in φ the mean is exact; the variance of a product grows with the number of parameters a task and falls
    with 1 / samples. Products of steps draw independent directions, so the meta-gradient has no bias there either.

    Costs (1 + 2 samples) T + 1 gradient evaluations and no Hessian-vector product; holds T states. Up to another T
    gradients as for `FiniteDifference`, which holds as many states.
    """

    def __call__(self, problem: Bilevel, theta: Params) -> MetaGradient:
        """As `MultiStep.__call__`."""
        return adjoint(problem, theta, self.dynamics, (1,) * self.steps, lambda *place: _Smoothed(self, *place))


class _Smoothed(Differences):
    def times(self, w: Params) -> tuple[Part, Part]:
        by_phi, by_theta = dict.fromkeys(w), dict.fromkeys(self.theta)
        for _ in range(self.settings.samples):
            u = self.settings.direction(w)
            along, mixed = self.along(u, self.settings.deviation)
            share = task_dot(u, w, self.problem.tasks is not None) / self.settings.samples
            by_phi = plus(by_phi, task_scale(share, add_parts(w, along)))
            by_theta = plus(by_theta, {k: share.sum() * part for k, part in mixed.items() if part is not None})
        return by_phi, by_theta
