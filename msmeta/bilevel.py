"""Bilevel problems and what an estimator makes of them (Eqs. 1, 3 and 11).

A bilevel problem adapts task-parameters `phi` by a few steps on an inner loss, and asks for the gradient of an outer
loss of the adapted parameters with respect to the meta-parameters `theta`. Both are `dict[str, Tensor]`.
A batch of independent tasks is one problem: every entry of `phi` carries a leading task dimension and the inner loss
is the sum over tasks, so that its gradient is each task's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from msmeta.errors import ConfigError, DivergedError

if TYPE_CHECKING:
    from msmeta.dynamics import Dynamics

Params = dict[str, Tensor]


@dataclass(frozen=True)
class State:
    """The inner optimiser's state s = [φ, v, ...] (Eq. 2).

    phi: task-parameters.
    buffers: the optimiser's own variables by name, each with phi's keys and shapes; a missing one is zero.
    step: how many steps the optimiser has taken (Adam's bias correction looks at it).
    """

    phi: Params
    buffers: dict[str, Params] = field(default_factory=dict)
    step: int = 0


@dataclass(frozen=True)
class Bilevel:
    """A bilevel problem (Eq. 1) in three functions.

    init: `init(theta)` gives φ₁(θ), or a `State` with optimiser buffers.
    inner: `inner(phi, theta, t)` is the scalar L_t(φ; θ). `t` is the index of the step at which it is evaluated; it
        counts from 0, as in Algorithm 1, so it is the step that Eq. 2 numbers t + 1.
    outer: `outer(phi, theta)` is the scalar meta-objective, evaluated at φ_{T+1}.
    """

    init: Callable[[Params], Params | State]
    inner: Callable[[Params, Params, int], Tensor]
    outer: Callable[[Params, Params], Tensor]


@dataclass(frozen=True)
class MetaGradient:
    """What an estimator returns; nothing in it carries an autograd graph.

    loss: outer loss at the adapted parameters, 0-d.
    grad: meta-gradient ∂L/∂θ, keys and shapes of theta.
    phi: adapted task-parameters φ_{T+1}.
    info: what an iterative estimator reports of itself, by name.
    """

    loss: Tensor
    grad: Params
    phi: Params
    info: dict[str, float] = field(default_factory=dict)


def partition(steps: int, window: int | Sequence[int]) -> tuple[int, ...]:
    """The lengths of the windows that `steps` inner steps fall into: T = N + N + ... + N, or any partition of T.

    Raises ConfigError where the windows do not add up to the steps.
    """
    if steps < 1:
        raise ConfigError(f"steps={steps}: at least one inner step is needed")
    if isinstance(window, int):
        if window < 1 or steps % window:
            raise ConfigError(
                f"window={window} does not divide steps={steps}: choose a divisor or a partition such as (2, 1)"
            )
        return (window,) * (steps // window)
    windows = tuple(window)
    if not windows:
        raise ConfigError("window=() is empty: name the length of each window, for example (2, 1)")
    if any(not isinstance(n, int) or n < 1 for n in windows) or sum(windows) != steps:
        raise ConfigError(
            f"window={windows} is no partition of steps={steps}: its lengths must be >= 1 and add up to it"
        )
    return windows


def begin(problem: Bilevel, theta: Params) -> tuple[Params, State]:
    """Fresh leaves for θ and the initial state s₁(θ).

    φ₁ is an alias of what `init` returned, not the same tensors: where φ₁ is θ itself and the inner loss also reads θ,
    the gradient by φ must be the partial derivative. Where φ₁ does not depend on θ it is a leaf.
    """
    theta = leaves(theta)
    state = problem.init(theta)
    if not isinstance(state, State):
        state = State(state)
    phi = {
        name: value.view_as(value) if value.requires_grad else value.detach().requires_grad_()
        for name, value in state.phi.items()
    }
    return theta, State(phi, state.buffers, state.step)


def inner_gradient(problem: Bilevel, phi: Params, theta: Params, t: int, create_graph: bool) -> tuple[Tensor, Params]:
    """The inner loss L_t(φ; θ), detached, and g_t = ∂L_t/∂φ; with `create_graph` g_t can be differentiated again.

    Raises ConfigError for a loss that is not a scalar or does not depend on φ.
    """
    loss = problem.inner(phi, theta, t)
    require_scalar(loss, f"inner loss at step {t}")
    (grads,) = gradients(loss, phi, create_graph=create_graph)
    if all(g is None for g in grads.values()):
        raise ConfigError(f"inner loss at step {t} does not depend on phi: there is nothing to adapt")
    return loss.detach(), {k: torch.zeros_like(phi[k]) if g is None else g for k, g in grads.items()}


def gradients(loss: Tensor, *groups: Params, create_graph: bool = False) -> list[dict[str, Tensor | None]]:
    """∂loss by each entry of each group of parameters, with None where the loss does not depend on it."""
    wanted = [value for group in groups for value in group.values() if value.requires_grad]
    grads = iter(())
    if loss.requires_grad and wanted:
        grads = iter(torch.autograd.grad(loss, wanted, create_graph=create_graph, allow_unused=True))
    return [{name: next(grads, None) if v.requires_grad else None for name, v in group.items()} for group in groups]


def require_scalar(loss: Tensor, what: str) -> None:
    """Raises ConfigError where `loss` is not a tensor of a single value."""
    if not isinstance(loss, Tensor) or loss.dim() != 0:
        found = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ConfigError(f"{what} is not a 0-d tensor but has {found}: sum it over tasks and examples")


def require_finite(inner_losses: Sequence[tuple[int, Tensor]], outer_loss: Tensor) -> None:
    """Raises DivergedError that names the first step whose loss is NaN or infinite.

    All losses are read at once, after the work is done, so that a GPU is waited for once. While a CUDA graph is
    captured nothing can be read: there the caller looks at the loss after each replay.
    """
    if outer_loss.is_cuda and torch.cuda.is_current_stream_capturing():
        return
    values = torch.stack([loss for _, loss in inner_losses] + [outer_loss.detach()]).tolist()
    if all(map(math.isfinite, values)):
        return
    for (t, _), value in zip(inner_losses, values, strict=False):
        if not math.isfinite(value):
            raise DivergedError(f"inner loss is {value} at step {t}: lower the inner learning rate")
    raise DivergedError(f"outer loss is {values[-1]} after the last inner step: lower the inner learning rate")


def require_dependence(*parts: dict[str, Tensor | None]) -> None:
    """Raises ConfigError where all parts of a meta-gradient are None."""
    if all(value is None for part in parts for value in part.values()):
        raise ConfigError("outer loss does not depend on theta, neither directly nor through the inner steps")


def require_initialisation(through_init: dict[str, Tensor | None], estimator: str, why: str) -> None:
    """Raises ConfigError where φ₁ does not depend on θ, as for a meta-network.

    through_init: what `pull_back` returned. why: what the estimator assumes of θ.
    """
    if all(part is None for part in through_init.values()):
        raise ConfigError(
            f"{estimator} needs a theta that initialises phi: {why}, so a theta that acts only inside the inner loss "
            "(a meta-network) would not learn; use MultiStep"
        )


@torch.enable_grad()
def adapt(
    problem: Bilevel,
    state: State,
    theta: Params,
    dynamics: Dynamics,
    windows: Sequence[int],
    t: int = 0,
    keep: Callable[[int, State], None] = lambda k, state: None,
) -> tuple[State, list[tuple[int, Tensor]]]:
    """The state after the windows without a graph, as at test time, and each evaluated (t, inner loss).

    t: index of the first step. keep: is given the number of each window, from 0, and its first state.
    Costs one gradient evaluation a window and holds one state.
    """
    theta, state = detach(theta), detach_state(state)
    losses = []
    for k, n in enumerate(windows):
        keep(k, state)
        loss, grad = inner_gradient(problem, leaves(state.phi), theta, t, create_graph=False)
        losses.append((t, loss))
        with torch.no_grad():
            state = dynamics.window(state, grad, n)
        t += n
    return state, losses


def pull_back(state: State, theta: Params, multipliers: State) -> dict[str, Tensor | None]:
    """Λ₀ᵀ ∂s₁/∂θ, the part of the meta-gradient that goes through `init` (Eq. 10); None where s₁ does not depend on θ.

    state: s₁ as `begin` gave it. multipliers: Λ₀; an entry that is missing or None stands for zero.
    """
    groups = [(state.phi, multipliers.phi)]
    groups += [(values, multipliers.buffers.get(name, {})) for name, values in state.buffers.items()]
    pairs = [(value, weights.get(name)) for values, weights in groups for name, value in values.items()]
    pairs = [(value, weight) for value, weight in pairs if value.requires_grad and weight is not None]
    if not pairs:
        return dict.fromkeys(theta)
    starts, weights = zip(*pairs, strict=True)
    return dict(zip(theta, torch.autograd.grad(starts, list(theta.values()), weights, allow_unused=True), strict=True))


def add_parts(like: Params, *parts: dict[str, Tensor | None]) -> Params:
    """The sum of gradients with the keys of `like`, in which None stands for zero."""
    return {
        name: sum((part[name] for part in parts if part[name] is not None), torch.zeros_like(value))
        for name, value in like.items()
    }


def plus(a: dict[str, Tensor | None], b: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    """The sum of two gradients, which stays None where both are."""
    return {k: b[k] if a[k] is None else a[k] if b[k] is None else a[k] + b[k] for k in a}


def leaves(params: Params) -> Params:
    """Fresh leaves with the same values, to differentiate by."""
    return {name: value.detach().requires_grad_() for name, value in params.items()}


def detach(params: Params) -> Params:
    """The same values without their history."""
    return {name: value.detach() for name, value in params.items()}


def detach_state(state: State) -> State:
    return State(detach(state.phi), {name: detach(values) for name, values in state.buffers.items()}, state.step)


def task_dimensions(theta: Params, phi: Params) -> int:
    """1 where φ holds θ's parameters for a batch of tasks, with a leading task dimension; else 0: one problem."""
    batched = theta.keys() == phi.keys() and all(phi[k].dim() and phi[k].shape[1:] == theta[k].shape for k in phi)
    return int(batched)


def task_dot(a: Params, b: Params, dimensions: int) -> Tensor:
    """Inner product of each task's parameters: (tasks,), or 0-d for one problem."""
    return sum((a[k] * b[k]).reshape(*a[k].shape[:dimensions], -1).sum(-1) for k in a)


def task_scale(factor: Tensor, params: Params) -> Params:
    """Each task's parameters times its entry of `factor`: (tasks,), or 0-d for one problem."""
    return {k: factor.reshape(factor.shape + (1,) * (v.dim() - factor.dim())) * v for k, v in params.items()}
