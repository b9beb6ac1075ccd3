"""HF-MAML: Hessian-vector products from differences of gradients."""

from __future__ import annotations

from dataclasses import dataclass

from msmeta.adjoint import Part, adjoint
from msmeta.bilevel import (
    Bilevel,
    MetaGradient,
    Params,
    detach,
    gradients,
    inner_gradient,
    leaves,
    partition,
    task_dimensions,
    task_dot,
)
from msmeta.dynamics import Dynamics
from msmeta.errors import ConfigError


@dataclass(frozen=True)
class FiniteDifference:
    """Eqs. 3 and 4 with wᵀ∂g/∂φ ≈ (g(φ + rw) - g(φ - rw)) / 2r (HF-MAML; Fallah et al., 2019), at every step.

    radius: length of the perturbation rw, the longest one where φ has a task dimension; the error is of order
    radius², plus rounding of order 1/radius. The default is for float32 and a network such as Conv4, where shorter
    ones drown in rounding; in float64 take 1e-5.

    Valid for every θ, also a meta-network: the same difference of ∂L_t/∂θ is wᵀ∂g/∂θ. The paper counts this method
    among those that cannot have this mixed derivative.

    Costs 3T gradient evaluations (another T for dynamics other than SGD) and no Hessian-vector product; holds T states.
    """

    dynamics: Dynamics
    steps: int
    radius: float = 0.3

    def __post_init__(self) -> None:
        partition(self.steps, 1)
        if self.radius <= 0:
            raise ConfigError(f"radius={self.radius}: it must be positive")

    def __call__(self, problem: Bilevel, theta: Params) -> MetaGradient:
        """As `MultiStep.__call__`."""

        def curvature(problem: Bilevel, phi: Params, theta: Params, t: int) -> _Differences:
            return _Differences(problem, phi, theta, t, self.radius)

        return adjoint(problem, theta, self.dynamics, partition(self.steps, 1), curvature)


@dataclass(frozen=True)
class _Differences:
    problem: Bilevel
    phi: Params
    theta: Params
    t: int
    radius: float

    def gradient(self) -> Params:
        return inner_gradient(self.problem, leaves(self.phi), detach(self.theta), self.t, create_graph=False)[1]

    def times(self, w: Params) -> tuple[Part, Part]:
        length = task_dot(w, w, task_dimensions(self.theta, w)).max().sqrt().item()
        if length == 0:
            return dict.fromkeys(w), dict.fromkeys(self.theta)
        return central_difference(self.problem, self.phi, self.theta, self.t, w, self.radius / length)


def central_difference(
    problem: Bilevel, phi: Params, theta: Params, t: int, direction: Params, step: float
) -> tuple[Part, Part]:
    """Derivatives of ∂L_t/∂φ and of ∂L_t/∂θ along `direction` of φ, by two gradient evaluations."""
    sides = []
    for sign in (1, -1):
        moved = leaves({name: value + sign * step * direction[name] for name, value in phi.items()})
        sides.append(gradients(problem.inner(moved, theta, t), moved, theta))
    above, below = sides
    return tuple(
        {k: None if a[k] is None or b[k] is None else (a[k] - b[k]) / (2 * step) for k in a}
        for a, b in zip(above, below, strict=True)
    )
