"""ES-MAML: the gradient of a smoothed outer loss, from its values alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from msmeta.bilevel import Bilevel, MetaGradient, Params, begin, conclude, require_sound
from msmeta.dynamics import Steps, walk, whole
from msmeta.errors import ConfigError
from msmeta.losses import value_of
from msmeta.outer_terms import Passed
from msmeta.rates import require_numbers


@dataclass(frozen=True)
class Sampled(Steps):
    """What estimators by random directions are told besides.

    samples: how many directions. deviation: σ, their scale. generator: their source; where None one of the estimator's
    own, with seed 0, which leaves torch's global one alone: equal estimators draw the same, a call after another anew.
    """

    samples: int = 8
    deviation: float = 1e-3
    generator: torch.Generator | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_numbers("positive", deviation=self.deviation)
        object.__setattr__(self, "samples", whole(self.samples, "samples", 1))
        if self.generator is None:
            object.__setattr__(self, "generator", torch.Generator().manual_seed(0))
        elif not isinstance(self.generator, torch.Generator):
            raise ConfigError(f"generator={self.generator!r}: it must be a torch.Generator, or None")

    def direction(self, like: Params) -> Params:
        """Standard normal numbers with the keys, shapes and types of `like`, the same ones on every device."""
        place = {"generator": self.generator, "device": self.generator.device}
        drawn = {k: torch.randn(v.shape, dtype=v.dtype, **place).to(v.device) for k, v in like.items()}
        # Torch gives a complex number the variance 1; here either part has it.
        return {name: value * 2**0.5 if value.is_complex() else value for name, value in drawn.items()}


@dataclass(frozen=True)
class EvolutionStrategies(Sampled):
    """∂F/∂θ ≈ mean over ε of (F(θ + σε) - F(θ - σε)) ε / 2σ, ε ~ N(0, I) (ES-MAML; Song et al., 2020).

    F(θ) is the outer loss after the inner steps; σ is `deviation`, and there are `samples` ε. Valid for every θ, also a
    meta-network: nothing is differentiated by it. Without bias where F is at most quadratic; the variance grows with
    the number of meta-parameters and falls with 1 / samples.

    Costs (1 + 2 samples) T gradient evaluations and no Hessian-vector product; holds one state.
    """

    deviation: float = 1e-2

    def __call__(self, problem: Bilevel, theta: Params) -> MetaGradient:
        """As `MultiStep.__call__`."""
        leaf, state, trail, loss = self._outer(problem, theta)
        moving = {name: value.detach() for name, value in leaf.items() if value.requires_grad}
        parts = []
        for _ in range(self.samples):
            epsilon = self.direction(moving)
            sides = [{k: v + sign * self.deviation * epsilon[k] for k, v in moving.items()} for sign in (1, -1)]
            above, below = (self._outer(problem, {**theta, **side})[-1] for side in sides)
            slope = (above - below) / (2 * self.deviation * self.samples)
            parts.append({name: slope * value for name, value in epsilon.items()})
        return conclude(leaf, state, trail, loss, *parts)

    def _outer(self, problem: Bilevel, theta: Params) -> tuple:
        """θ as leaves, `walk`'s state and evaluations, and F(θ)."""
        theta, first = begin(problem, theta, self.dynamics, passing=True)
        terms = Passed(problem, theta)
        state, trail = walk(problem, first, theta, self.dynamics, (1,) * self.steps, keep=terms)
        outer = value_of(problem.outer, state.phi, theta) + terms.loss
        require_sound(trail, outer, state.phi)
        return theta, state, trail, outer
