"""Inner optimisers that act on each number of φ by itself, with values as torch.optim's, and what wraps dynamics.

Derivatives flow through state, gradient and rates; a rate is one for all of φ or a dict (`msmeta.rates`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from msmeta.bilevel import Dynamics, DynamicsLike, Params, State, task_dot, task_scale
from msmeta.checks import kind, require_function, require_params
from msmeta.dynamics import require_dynamics
from msmeta.errors import ConfigError
from msmeta.rates import Rate, by_name, is_zero, require_numbers, require_rates, require_scalars


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba, 2015) with L2 weight decay ω, as torch.optim.Adam. Buffers: `mean` and `square`.

    At the t-th step m' = β₁m + (1 - β₁)(g + ωφ), s' = β₂s + (1 - β₂)(g + ωφ)² and
    φ' = φ - η m' / (1 - β₁ᵗ) / (√(s' / (1 - β₂ᵗ)) + ε).

    lr, betas, weight_decay: η > 0, β₁ and β₂ in [0, 1), ω >= 0. eps: ε > 0, a number.
    """

    buffer_names: ClassVar = ("mean", "square")
    lr: Rate = 1e-3
    betas: tuple[Rate, Rate] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: Rate = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.betas, tuple | list) or len(self.betas) != 2:
            raise ConfigError(f"betas={self.betas!r}: they must be two numbers in [0, 1)")
        require_numbers("positive", eps=self.eps)
        require_rates("positive", lr=self.lr)
        require_rates("not negative", weight_decay=self.weight_decay)
        require_rates("in [0, 1)", **dict(zip(("beta1", "beta2"), self.betas, strict=True)))

    @by_name("lr", "betas", "weight_decay")
    def window(self, state: State, grad: Params, n: int) -> State:
        """n element-wise steps with one gradient. A graph holds the arguments; the way back takes the steps again."""
        return element_wise(self, state, grad, n)

    def step(self, count: int, phi: Tensor, grad: Tensor, mean: Tensor, square: Tensor) -> tuple[Tensor, ...]:
        """An entry of φ and of each buffer after a step on it, which is its `count`-th."""
        mean, square = self.moments(add(grad, self.weight_decay, phi), mean, square)
        return self.descend(count, phi, mean, square), mean, square

    def moments(self, grad: Tensor, mean: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
        beta1, beta2 = self.betas
        return add(beta1 * mean, 1 - beta1, grad), add(beta2 * square, 1 - beta2, grad * grad)

    def descend(self, count: int, phi: Tensor, mean: Tensor, square: Tensor) -> Tensor:
        beta1, beta2 = self.betas
        rate, correction = self.lr / (1 - beta1**count), (1 - beta2**count) ** 0.5
        return torch.addcdiv(phi, mean * -rate, root(square) / correction + self.eps)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay ω (Loshchilov and Hutter, 2019), as torch.optim.AdamW: φ shrinks by ηω first."""

    weight_decay: Rate = 1e-2

    def step(self, count: int, phi: Tensor, grad: Tensor, mean: Tensor, square: Tensor) -> tuple[Tensor, ...]:
        mean, square = self.moments(grad, mean, square)
        return self.descend(count, phi * (1 - self.lr * self.weight_decay), mean, square), mean, square


@dataclass(frozen=True)
class AMSGrad(Adam):
    """Adam by the largest `square` so far (Reddi et al., 2018), as torch.optim.Adam(amsgrad=True). Buffer: `largest`.

    l' = max(l, s') takes the place of s' in the step of φ. Where two are equal, its derivative is the mean of theirs.
    """

    buffer_names: ClassVar = ("mean", "square", "largest")

    def step(self, count: int, phi: Tensor, grad: Tensor, *buffers: Tensor) -> tuple[Tensor, ...]:
        mean, square, largest = buffers
        mean, square = self.moments(add(grad, self.weight_decay, phi), mean, square)
        largest = torch.maximum(largest, square)
        return self.descend(count, phi, mean, largest), mean, square, largest


@dataclass(frozen=True)
class RMSprop:
    """RMSprop (Hinton, 2012) with L2 weight decay ω and momentum μ, as torch.optim.RMSprop.

    s' = αs + (1 - α)(g + ωφ)², v' = μv + (g + ωφ) / (√s' + ε), φ' = φ - ηv'. Buffers: `mean_square`, with μ `momentum`.

    lr, alpha, weight_decay, momentum: η > 0, α in [0, 1), ω >= 0, μ in [0, 1). eps: ε > 0, a number.
    """

    lr: Rate = 1e-2
    alpha: Rate = 0.99
    eps: float = 1e-8
    weight_decay: Rate = 0.0
    momentum: Rate = 0.0

    def __post_init__(self) -> None:
        require_numbers("positive", eps=self.eps)
        require_rates("positive", lr=self.lr)
        require_rates("not negative", weight_decay=self.weight_decay)
        require_rates("in [0, 1)", alpha=self.alpha, momentum=self.momentum)

    buffer_names = property(lambda self: ("mean_square", "momentum")[: 1 if is_zero(self.momentum) else 2])

    @by_name("lr", "alpha", "weight_decay", "momentum")
    def window(self, state: State, grad: Params, n: int) -> State:
        """As `Adam.window`."""
        return element_wise(self, state, grad, n)

    def step(self, count: int, phi: Tensor, grad: Tensor, square: Tensor, *velocity: Tensor) -> tuple[Tensor, ...]:
        grad = add(grad, self.weight_decay, phi)
        square = add(self.alpha * square, 1 - self.alpha, grad * grad)
        direction = grad / (root(square) + self.eps)
        moved = [add(direction, self.momentum, v) for v in velocity]
        return add(phi, -self.lr, (moved or [direction])[0]), square, *moved


@dataclass(frozen=True)
class SignSGD:
    """φ' = φ - η sign(g) (Bernstein et al., 2018), the inner steps of Sign-MAML (Fan et al., 2021).

    The derivative by g is zero, so that back-propagation finds no more than `FirstOrder`, which is exact here and needs
    no second derivative. A θ that acts in the inner loss alone gets zeros.
    """

    buffer_names: ClassVar = ()
    lr: Rate

    def __post_init__(self) -> None:
        require_rates("positive", lr=self.lr)

    @by_name("lr")
    def window(self, state: State, grad: Params, n: int) -> State:
        """n steps with one gradient in one."""
        require_real(self, state.phi)
        phi = {name: value - n * self.lr * grad[name].sign() for name, value in state.phi.items()}
        return replace(state, phi=phi, step=state.step + n)


def clipped(dynamics: DynamicsLike, norm: float | Tensor) -> DynamicsLike:
    """The dynamics with gradients no longer than `norm`: g · min(1, norm / (|g| + 10⁻⁶)).

    |g| is over all entries of φ that the inner loss uses, as torch.nn.utils.clip_grad_norm_ takes it, of each task by
    itself where the problem has `tasks`. Weight decay is not part of g. Raises ConfigError for a norm that is not
    positive (a 0-d tensor's value is not read) and for what is not dynamics. Of two wrappers the outer one acts first.

    >>> from msmeta import SGD
    >>> grad = {"w": torch.tensor([3.0, -4.0])}
    >>> clipped(SGD(lr=1.0), norm=1.0).window(State({"w": torch.zeros(2)}), grad, 1).phi
    {'w': tensor([-0.6000,  0.8000])}
    """
    require_dynamics(dynamics)
    require_scalars("positive", norm=norm)
    if not hasattr(dynamics, "window"):
        return lambda theta, t: clipped(dynamics(theta, t), norm)
    return Clipped(dynamics, norm)


def transformed(dynamics: DynamicsLike, function: Callable[[Params], Params]) -> DynamicsLike:
    """The dynamics given `function(grad)` for the gradient: a pure function that torch can differentiate.

    It is given the gradient of each entry of φ that the inner loss uses, with the task dimension if there is one, and
    returns a dict of the same names and shapes; ConfigError is raised in the steps where it does not, and here for what
    is not dynamics, or no function. Of two wrappers the outer one acts first.

    >>> from msmeta import SGD
    >>> halved = transformed(SGD(lr=1.0), lambda grad: {name: value / 2 for name, value in grad.items()})
    >>> halved.window(State({"w": torch.zeros(2)}), {"w": torch.tensor([3.0, -4.0])}, 1).phi
    {'w': tensor([-1.5000,  2.0000])}
    """
    require_dynamics(dynamics)
    if not callable(function):
        raise ConfigError(f"function={function!r}: it must be a function of a gradient, a dict, that returns one")
    require_function(function, "function", "grad")
    if not hasattr(dynamics, "window"):
        return lambda theta, t: transformed(dynamics(theta, t), function)
    return Transformed(dynamics, function)


@dataclass(frozen=True)
class Clipped:
    """What `clipped` returns."""

    dynamics: Dynamics
    norm: float | Tensor

    def window(self, state: State, grad: Params, n: int) -> State:
        squared, norm = task_dot(grad, grad, state.tasks is not None), self.norm
        long = squared.detach().sqrt() + 1e-6 > norm
        factor = torch.where(long, norm / (squared.where(long, 1).sqrt() + 1e-6), 1)  # √ has no derivative at 0
        return self.dynamics.window(state, task_scale(factor, grad), n)


@dataclass(frozen=True)
class Transformed:
    """What `transformed` returns."""

    dynamics: Dynamics
    function: Callable[[Params], Params]

    def window(self, state: State, grad: Params, n: int) -> State:
        found = self.function(dict(grad))
        require_params(found, "the gradient as the function given to transformed returned it")
        if {name: kind(value) for name, value in found.items()} != {name: kind(v) for name, v in grad.items()}:
            raise ConfigError("the function given to transformed returned other entries, types or shapes than it got")
        return self.dynamics.window(state, dict(found), n)


def element_wise(dynamics: Any, state: State, grad: Params, n: int) -> State:
    """n of the dynamics' own `step`s with one gradient, as `Adam.step`, which is given and returns their buffers."""
    require_real(dynamics, state.phi)
    buffers = dynamics.buffer_names
    held = set().union(*(state.buffers.get(buffer, {}) for buffer in buffers))
    skipped = state.skipped | {name: state.step for name in state.phi if name not in held}  # other optimisers' steps

    def steps(first: int, phi: Tensor, grad: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        for i in range(n):
            phi, *values = dynamics.step(first + i, phi, grad, *values)
        return phi, *values

    after = {}
    for name, phi in state.phi.items():
        found = [state.buffers.get(buffer, {}).get(name) for buffer in buffers]
        values = [torch.zeros_like(phi) if value is None else value for value in found]
        place = state.step + 1 - skipped.get(name, 0), phi, grad[name], *values
        after[name] = checkpoint(steps, *place, use_reentrant=False, preserve_rng_state=False)
    phi, *moved = ({name: values[i] for name, values in after.items()} for i in range(1 + len(buffers)))
    moved = state.buffers | dict(zip(buffers, moved, strict=True))
    return replace(state, phi=phi, buffers=moved, step=state.step + n, skipped=skipped)


def require_real(dynamics: Any, phi: Params) -> None:
    if any(value.is_complex() for value in phi.values()):
        name = type(dynamics).__name__
        raise ConfigError(f"{name} takes no complex parameters: store them by torch.view_as_real, or take SGD")


def root(square: Tensor) -> Tensor:
    """√, with derivative 0 at 0: of a unit whose gradients are all zero, ∞ would become NaN."""
    dead = square == 0
    return square.masked_fill(dead, 1).sqrt().masked_fill(dead, 0)


def add(x: Tensor, c: Rate, y: Tensor) -> Tensor:
    return x + c * y if isinstance(c, Tensor) else torch.add(x, y, alpha=c)
