"""Inner optimisers as differentiable maps s' = Φ(s, g) (Eqs. 2, 5 and 11).

`window(state, grad, n)` advances n steps with one gradient: Φ̂ⁿ of Eq. 11. With n = 1 it is the ordinary step.
Values agree with torch.optim.SGD and torch.optim.Adam; derivatives flow through state and gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from msmeta.bilevel import Params, State
from msmeta.errors import ConfigError


class Dynamics(Protocol):
    """What an estimator asks of an inner optimiser."""

    def window(self, state: State, grad: Params, n: int) -> State:
        """The state after n steps that all use `grad`."""
        ...


@dataclass(frozen=True)
class SGD:
    """SGD with momentum μ and L2 weight decay ω (Eq. 5): v' = μv + g + ωφ, φ' = φ - ηv'. Buffer: `velocity`."""

    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _require_rates(self.lr, self.weight_decay)
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum={self.momentum}: it must lie in [0, 1)")

    def window(self, state: State, grad: Params, n: int) -> State:
        """n steps with one gradient as one linear map, s' = Aⁿs + (Σ_{i<n} Aⁱ) b g, which Eq. 13 differentiates.

        A = [[1-ηω, -ημ], [ω, μ]] and b = [-η, 1]; costs a handful of element-wise operations whatever n is.
        """
        power, total = self.coefficients(n)
        zero = dict.fromkeys(state.phi)
        velocity = state.buffers.get("velocity", zero) if self.momentum else zero
        parts = {name: (state.phi[name], velocity[name], grad[name]) for name in state.phi}
        phi = {name: _combine((*power[0], total[0]), values) for name, values in parts.items()}
        buffers = dict(state.buffers)
        if self.momentum:
            buffers["velocity"] = {name: _combine((*power[1], total[1]), values) for name, values in parts.items()}
        return State(phi, buffers, state.step + n)

    def pull_back(self, multipliers: State, n: int) -> tuple[State, Params]:
        """Multipliers Λ of the state after a window -> ΛᵀAⁿ, those of its first state, and Λᵀ(Σ_{i<n} Aⁱ) b of g.

        The first leaves out what acts through g (Eq. 12 is their sum once g's part is multiplied by ∂g/∂φ).
        """
        power, total = self.coefficients(n)
        zero = dict.fromkeys(multipliers.phi)
        velocity = multipliers.buffers.get("velocity", zero)
        parts = {name: (value, velocity[name]) for name, value in multipliers.phi.items()}
        columns = zip(*power, strict=True)
        phi, velocity = ({name: _combine(column, pair) for name, pair in parts.items()} for column in columns)
        buffers = {"velocity": velocity} if self.momentum else {}
        return State(phi, buffers), {name: _combine(total, pair) for name, pair in parts.items()}

    def coefficients(self, n: int) -> tuple[tuple[tuple[float, float], tuple[float, float]], tuple[float, float]]:
        """Aⁿ as two rows, and Σ_{i<n} Aⁱ b (Eq. 13)."""
        eta, mu, omega = self.lr, self.momentum, self.weight_decay
        (a, b), (c, d) = (1 - eta * omega, -eta * mu), (omega, mu)
        power, total, column = ((1.0, 0.0), (0.0, 1.0)), (0.0, 0.0), (-eta, 1.0)
        for _ in range(n):
            total = (total[0] + column[0], total[1] + column[1])
            column = (a * column[0] + b * column[1], c * column[0] + d * column[1])
            (p, q), (r, s) = power
            power = ((a * p + b * r, a * q + b * s), (c * p + d * r, c * q + d * s))
        return power, total


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba, 2015) with L2 weight decay, as torch.optim.Adam. Buffers: `mean` and `square`."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _require_rates(self.lr, self.weight_decay)
        if not all(0 <= beta < 1 for beta in self.betas) or self.eps <= 0:
            raise ConfigError(f"betas={self.betas}, eps={self.eps}: betas must lie in [0, 1) and eps be positive")

    def window(self, state: State, grad: Params, n: int) -> State:
        """n element-wise steps with one gradient; weight decay and moments move on at each of them."""
        zeros = {name: torch.zeros_like(value) for name, value in state.phi.items()}
        phi, mean, square = state.phi, state.buffers.get("mean", zeros), state.buffers.get("square", zeros)
        beta1, beta2 = self.betas
        for step in range(state.step + 1, state.step + n + 1):
            decayed = {name: _combine((1.0, self.weight_decay), (grad[name], phi[name])) for name in phi}
            mean = {name: beta1 * mean[name] + (1 - beta1) * g for name, g in decayed.items()}
            square = {name: beta2 * square[name] + (1 - beta2) * g * g for name, g in decayed.items()}
            rate, correction = self.lr / (1 - beta1**step), (1 - beta2**step) ** 0.5
            phi = {
                name: phi[name] - rate * mean[name] / (_safe_sqrt(square[name]) / correction + self.eps) for name in phi
            }
        return State(phi, {**state.buffers, "mean": mean, "square": square}, state.step + n)


def _require_rates(lr: float, weight_decay: float) -> None:
    if lr <= 0 or weight_decay < 0:
        raise ConfigError(f"lr={lr}, weight_decay={weight_decay}: lr must be positive and weight_decay not negative")


def _combine(coefficients: tuple[float, ...], values: tuple[Tensor | None, ...]) -> Tensor:
    """Σ cᵢ xᵢ over the terms that are there; None stands for zero."""
    terms = [(c, x) for c, x in zip(coefficients, values, strict=True) if x is not None and c != 0]
    if not terms:
        return torch.zeros_like(next(x for x in values if x is not None))
    first, value = terms[0]
    result = value if first == 1 else value * first
    for c, x in terms[1:]:
        result = torch.add(result, x, alpha=c)
    return result


def _safe_sqrt(x: Tensor) -> Tensor:
    """√x whose derivative at 0 is 0 instead of infinite, which would turn a dead unit's zero gradient into NaN."""
    is_zero = x == 0
    return torch.where(is_zero, torch.zeros_like(x), torch.where(is_zero, torch.ones_like(x), x).sqrt())
