"""ES-MAML: the gradient of a smoothed outer loss, from its values alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from msmeta.bilevel import (
    Bilevel,
    MetaGradient,
    Params,
    adapt,
    add_parts,
    begin,
    detach,
    partition,
    require_finite,
    require_scalar,
)
from msmeta.dynamics import Dynamics
from msmeta.errors import ConfigError


@dataclass(frozen=True)
class EvolutionStrategies:
    """∂F/∂θ ≈ mean over ε of (F(θ + σε) - F(θ - σε)) ε / 2σ, ε ~ N(0, I) (ES-MAML; Song et al., 2020).

    F(θ) is the outer loss after the inner steps that start from θ. samples: directions ε. deviation: σ. generator:
    source of the directions, torch's global one where None.

    Valid for every θ, also a meta-network: nothing is differentiated by it. Without bias where F is at most quadratic;
    the variance grows with the number of meta-parameters and falls with 1 / samples.

    Costs (1 + 2 samples) T gradient evaluations and no Hessian-vector product; holds one state.
    """

    dynamics: Dynamics
    steps: int
    samples: int = 8
    deviation: float = 1e-2
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        partition(self.steps, 1)
        if self.samples < 1 or self.deviation <= 0:
            raise ConfigError(
                f"samples={self.samples}, deviation={self.deviation}: the first must be at least 1, the second positive"
            )

    def __call__(self, problem: Bilevel, theta: Params) -> MetaGradient:
        """As `MultiStep.__call__`."""
        theta = detach(theta)
        loss, phi = self._outer(problem, theta)
        parts = []
        for _ in range(self.samples):
            epsilon = gaussian(theta, self.generator)
            above, below = (
                self._outer(problem, {k: v + sign * self.deviation * epsilon[k] for k, v in theta.items()})[0]
                for sign in (1, -1)
            )
            slope = (above - below) / (2 * self.deviation * self.samples)
            parts.append({name: slope * value for name, value in epsilon.items()})
        return MetaGradient(loss, add_parts(theta, *parts), phi)

    def _outer(self, problem: Bilevel, theta: Params) -> tuple[Tensor, Params]:
        """F(θ) and φ_{T+1}."""
        theta, state = begin(problem, theta)
        adapted, losses = adapt(problem, state, theta, self.dynamics, partition(self.steps, 1))
        with torch.no_grad():
            outer = problem.outer(adapted.phi, detach(theta))
        require_scalar(outer, "outer loss")
        require_finite(losses, outer)
        return outer, adapted.phi


def gaussian(like: Params, generator: torch.Generator | None) -> Params:
    """Standard normal numbers with the keys, shapes and types of `like`, the same ones on every device."""
    device = "cpu" if generator is None else generator.device
    return {
        name: torch.randn(value.shape, generator=generator, dtype=value.dtype, device=device).to(value.device)
        for name, value in like.items()
    }
