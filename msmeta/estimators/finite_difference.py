"""HF-MAML: Hessian-vector products from differences of gradients."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from msmeta.adjoint import adjoint
from msmeta.bilevel import Bilevel, MetaGradient, Params, Part, detach, leaves, partial_gradients, task_dot
from msmeta.dynamics import Steps, inner_gradient
from msmeta.losses import evaluate
from msmeta.rates import require_numbers


@dataclass(frozen=True)
class FiniteDifference(Steps):
    """Eqs. 3 and 4 with wᵀ∂g/∂φ ≈ (g(φ + rw) - g(φ - rw)) / 2r (HF-MAML; Fallah et al., 2020), at every step.

    radius: length of the perturbation rw, the longest one of the problem's `tasks`; the error is of order radius², plus
    rounding of order 1/radius. The default is for float32 and a network such as Conv4, where shorter ones drown in
    rounding; in float64 take 1e-5. Valid for every θ, also a meta-network: for wᵀ∂g/∂θ it differences ∂L_t/∂θ.

    Costs 3T + 1 gradient evaluations and no Hessian-vector product; holds T states. Up to another T gradients unless by
    SGD of numbers, and for more than 16 steps, of which it holds 2√T states (`msmeta.adjoint`), and with `outer_at`.
    """

    radius: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        require_numbers("positive", radius=self.radius)

    def __call__(self, problem: Bilevel, theta: Params) -> MetaGradient:
        """As `MultiStep.__call__`."""
        return adjoint(problem, theta, self.dynamics, (1,) * self.steps, lambda *place: _AlongOne(self.radius, *place))


class Differences:
    """As `HessianVector`, by central differences; a child says along which directions."""

    def __init__(self, settings: Any, problem: Bilevel, phi: Params, theta: Params, t: int) -> None:
        self.settings, self.problem, self.phi, self.theta, self.t = settings, problem, phi, theta, t

    @property
    def loss(self) -> Tensor:
        return self._evaluated[0].detach()

    @property
    def grad(self) -> Params:
        return self._evaluated[1]

    @cached_property
    def _evaluated(self) -> tuple[Tensor, Params]:
        return inner_gradient(self.problem, leaves(self.phi, self.phi), detach(self.theta), self.t, False)

    def along(self, direction: Params, step: float) -> tuple[Part, Part]:
        """Derivatives of ∂L_t/∂φ and of ∂L_t/∂θ along a direction of φ, by two gradient evaluations."""
        sides = []
        for sign in (1, -1):
            moved = {k: v + sign * step * direction[k] if k in direction else v for k, v in self.phi.items()}
            moved = leaves(moved, self.phi)
            loss = evaluate(self.problem.inner, moved, self.theta, self.t)
            sides.append(partial_gradients(loss, moved, self.theta))
        above, below = sides
        return tuple(
            {k: None if a[k] is None or b[k] is None else (a[k] - b[k]) / (2 * step) for k in a}
            for a, b in zip(above, below, strict=True)
        )


class _AlongOne(Differences):
    def times(self, w: Params) -> tuple[Part, Part]:
        length = task_dot(w, w, self.problem.tasks is not None).max().sqrt().item()
        if length == 0:
            return dict.fromkeys(w), dict.fromkeys(self.theta)
        return self.along(w, self.settings / length)
