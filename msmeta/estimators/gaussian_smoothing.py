"""GGS-MAML: the Hessian of a smoothed inner loss, from differences of gradients in random directions."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from msmeta.adjoint import Part, adjoint
from msmeta.bilevel import (
    Bilevel,
    MetaGradient,
    Params,
    add_parts,
    detach,
    inner_gradient,
    leaves,
    partition,
    task_dimensions,
    task_dot,
    task_scale,
)
from msmeta.dynamics import Dynamics
from msmeta.errors import ConfigError
from msmeta.estimators.evolution_strategies import gaussian
from msmeta.estimators.finite_difference import central_difference


@dataclass(frozen=True)
class GaussianSmoothing:
    """Eqs. 3 and 4 with ∂g/∂φ ≈ mean over u of (g(φ + σu) - g(φ - σu)) uᵀ / 2σ, u ~ N(0, I) (Ji et al., 2020).

    samples: directions u at each step, drawn anew. deviation: σ. generator: source of the directions, torch's global
    one where None. Where φ has a task dimension, each task uses its own part of u alone.

    Valid for every θ, also a meta-network: the same differences of ∂L_t/∂θ give ∂g/∂θ. Where the gradients are linear
    in φ the mean is exact; the variance of a product grows with the number of parameters a task and falls with
    1 / samples. Products of steps draw independent directions, so the meta-gradient has no bias there either.

    Costs (1 + 2 samples) T gradient evaluations (another T for dynamics other than SGD) and no Hessian-vector product;
    holds T states.
    """

    dynamics: Dynamics
    steps: int
    samples: int = 8
    deviation: float = 1e-3
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        partition(self.steps, 1)
        if self.samples < 1 or self.deviation <= 0:
            raise ConfigError(
                f"samples={self.samples}, deviation={self.deviation}: the first must be at least 1, the second positive"
            )

    def __call__(self, problem: Bilevel, theta: Params) -> MetaGradient:
        """As `MultiStep.__call__`."""

        def curvature(problem: Bilevel, phi: Params, theta: Params, t: int) -> _Smoothed:
            return _Smoothed(self, problem, phi, theta, t)

        return adjoint(problem, theta, self.dynamics, partition(self.steps, 1), curvature)


@dataclass(frozen=True)
class _Smoothed:
    settings: GaussianSmoothing
    problem: Bilevel
    phi: Params
    theta: Params
    t: int

    def gradient(self) -> Params:
        return inner_gradient(self.problem, leaves(self.phi), detach(self.theta), self.t, create_graph=False)[1]

    def times(self, w: Params) -> tuple[Part, Part]:
        dimensions, by_phi, by_theta = task_dimensions(self.theta, w), [], []
        for _ in range(self.settings.samples):
            u = gaussian(w, self.settings.generator)
            along, mixed = central_difference(self.problem, self.phi, self.theta, self.t, u, self.settings.deviation)
            share = task_dot(u, w, dimensions) / self.settings.samples
            by_phi.append(task_scale(share, add_parts(w, along)))
            by_theta.append({k: None if part is None else share.sum() * part for k, part in mixed.items()})
        unused = all(part is None for parts in by_theta for part in parts.values())
        return add_parts(w, *by_phi), dict.fromkeys(self.theta) if unused else add_parts(self.theta, *by_theta)
