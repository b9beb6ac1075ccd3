"""Bilevel problems and what an estimator makes of them (Eqs. 1, 3 and 11).

A bilevel problem adapts task-parameters `phi` by a few steps on an inner loss, and asks for the gradient of an outer
loss of the adapted parameters with respect to the meta-parameters `theta`. Both are `dict[str, Tensor]`.
A batch of independent tasks is one problem: every entry of `phi` carries a leading task dimension and the inner loss
is the sum over tasks, so that its gradient is each task's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, Protocol

import torch
from torch import Tensor

from msmeta.checks import ALONE, require_buffers, require_params, require_problem, require_used, unchanged
from msmeta.errors import ConfigError, DivergedError

Params = dict[str, Tensor]
Part = dict[str, Tensor | None]
"""A part of a gradient, in which None stands for zero."""


@dataclass(frozen=True)
class State:
    """The inner optimiser's state s = [φ, v, ...] (Eq. 2).

    phi: task-parameters. buffers: the optimiser's own variables by name, each with phi's keys and shapes; a missing one
    is zero. step: how many steps were taken (Adam's bias correction looks at it). skipped: how many of them left an
    entry of phi alone, since the inner loss did not use it, or came before the optimiser of its buffers. tasks: as the
    problem has it.
    """

    phi: Params
    buffers: dict[str, Params] = field(default_factory=dict)
    step: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    tasks: int | None = None

    def buffer_tensors(self) -> list[Tensor]:
        return [value for values in self.buffers.values() for value in values.values()]

    def detach(self) -> State:
        """The same state without its history."""
        buffers = {name: detach(values) for name, values in self.buffers.items()}
        return replace(self, phi=detach(self.phi), buffers=buffers)

    def result(self) -> State:
        """The same, as an estimator returns it: what is frozen is so again where a next call begins with it."""
        frozen = {k: torch.nn.Parameter(v, requires_grad=False) for k, v in self.phi.items() if not v.requires_grad}
        state = self.detach()
        return replace(state, phi=state.phi | frozen)

    def part(self, names: Iterable[str]) -> State:
        """The state of these entries of φ alone, in dictionaries of its own."""
        phi = {name: self.phi[name] for name in names}
        others = self.phi.keys() - phi.keys()
        buffers = {name: {k: v for k, v in values.items() if k not in others} for name, values in self.buffers.items()}
        return replace(self, phi=phi, buffers=buffers, skipped=dict(self.skipped))

    def pull_back(self, multipliers: State, *groups: Params, **options: bool) -> list[Part]:
        """Λᵀ∂s by each entry of each group, as `gradients`; a multiplier that is missing or None stands for zero."""
        pairs = [(self.phi, multipliers.phi)]
        pairs += [(values, multipliers.buffers.get(name, {})) for name, values in self.buffers.items()]
        outputs = [(value, weights.get(name)) for values, weights in pairs for name, value in values.items()]
        return gradients([(value, weight) for value, weight in outputs if weight is not None], *groups, **options)


class Dynamics(Protocol):
    """What an estimator asks of an inner optimiser."""

    def window(self, state: State, grad: Params, n: int) -> State:
        """The state, in new tensors, after n steps that all use `grad`; it holds the entries that `grad` has."""
        ...


DynamicsLike = Dynamics | Callable[[Params, int], Dynamics]
"""Dynamics, or a pure function `(theta, t)` that gives those of the window from step t: rates learned or scheduled."""


@dataclass(frozen=True)
class Bilevel:
    """A bilevel problem (Eq. 1) in three functions.

    init: `init(theta)` gives φ₁(θ), or a `State` with optimiser buffers.
    inner: `inner(phi, theta, t)` is the scalar L_t(φ; θ). `t` is the index of the step at which it is evaluated; it
        counts from 0, as in Algorithm 1, so it is the step that Eq. 2 numbers t + 1.
    outer: `outer(phi, theta)` is the scalar meta-objective, evaluated at φ_{T+1}.
    tasks: number of independent tasks: every entry of phi and of the buffers leads with a dimension of this size.
        None: one problem.
    outer_at: `outer_at(phi, theta, t)` is a scalar of the state after t = 1, ..., T - 1 steps that is added to the
        meta-objective, with its weight; None adds nothing (the multi-step loss of MAML++; Antoniou et al., 2019).
        Reptile and the estimators at a stationary point refuse it.

    The functions are given copies: of dictionaries at each call, of theta's and of init's tensors once. What they read
    otherwise, as a module's own parameters, is a constant. An `autograd.Function` in a loss needs a backward pass of
    operations that torch tracks; `compare` with `FiniteDifference` shows where one is not.
    As in torch.optim, a step leaves alone what its loss does not use: value, buffers and all, without weight decay.
    An `nn.Parameter` with `requires_grad=False` is frozen: its meta-gradient is 0, and where `init` returns it or a
    view of it (`expand`, but not `repeat` or `stack`, which copy), it is not adapted. Plain tensors are never frozen,
    since `requires_grad=False` is their default.
    """

    init: Callable[[Params], Params | State]
    inner: Callable[[Params, Params, int], Tensor]
    outer: Callable[[Params, Params], Tensor]
    tasks: int | None = None
    outer_at: Callable[[Params, Params, int], Tensor | None] | None = None

    def __post_init__(self) -> None:
        require_problem(self)


@dataclass(frozen=True)
class MetaGradient:
    """What an estimator returns; nothing in it carries an autograd graph.

    loss: outer loss at the adapted parameters, with the terms of `outer_at` if there are any, 0-d.
    grad: meta-gradient ∂L/∂θ of it, keys and shapes of theta.
    state: the inner optimiser's state after the last step. phi: the adapted task-parameters φ_{T+1} in it.
    info: what an iterative estimator reports of itself, by name.
    """

    loss: Tensor
    grad: Params
    state: State
    info: dict[str, float] = field(default_factory=dict)

    @property
    def phi(self) -> Params:
        return self.state.phi


Trail = Sequence[tuple[int, Tensor, tuple[str, ...]]]
"""Evaluations of the inner loss on the way: step, value without a graph, and the entries of φ that it uses."""


@torch.enable_grad()
def begin(problem: Bilevel, theta: Params, dynamics: Any = None, passing: bool = False) -> tuple[Params, State]:
    """Fresh leaves for θ and the initial state s₁(θ), in copies of the caller's tensors; what is frozen needs no grad.

    φ₁ is a copy also where `init` returned θ itself, since the inner loss may read θ besides, and its gradient by φ is
    the partial derivative. Where φ₁ does not depend on θ it is a leaf.
    dynamics: what a learned buffer must be of use to. passing: whether who calls heeds `outer_at`.
    Raises ConfigError for a theta or a state of another kind, and in inference mode.
    """
    if not isinstance(problem, Bilevel):
        raise ConfigError(f"the problem is a {type(problem).__name__}: it must be a Bilevel(init, inner, outer)")
    if problem.outer_at and not passing:
        others = "use MultiStep, LazyHessian, Truncated, Binomial or FirstOrder"
        raise ConfigError(f"the problem has outer_at, and this estimator looks at the last state alone: {others}")
    if torch.is_inference_mode_enabled():
        raise ConfigError("torch.inference_mode is on: nothing can be differentiated there, so use torch.no_grad")

    def is_frozen(value: Tensor | None) -> bool:
        return isinstance(value, torch.nn.Parameter) and not value.requires_grad

    require_params(theta, "theta")
    if all(map(is_frozen, theta.values())):
        raise ConfigError("theta has nothing to learn: it is empty, or all of it is frozen by requires_grad=False")
    copies = torch._foreach_mul([value.detach() for value in theta.values()], 1)  # one operation on a GPU
    theta = {name: copy.requires_grad_(not is_frozen(theta[name])) for name, copy in zip(theta, copies, strict=True)}
    with unchanged("init", theta):
        found = problem.init(dict(theta))
    state = found if isinstance(found, State) else State(found)
    require_params(state.phi, "phi as init returned it", problem.tasks)
    require_buffers(state.phi, state.buffers, state.step)
    require_used(state.buffers, dynamics)
    still = {value.untyped_storage().data_ptr() for value in theta.values() if not value.requires_grad}
    phi, buffers = {}, {name: {k: v.clone() for k, v in values.items()} for name, values in state.buffers.items()}
    for name, value in state.phi.items():
        in_frozen = bool(still) and value.untyped_storage().data_ptr() in still
        stays = is_frozen(value) or is_frozen(value._base) or in_frozen
        phi[name] = value.clone() if value.requires_grad else value.detach().clone().requires_grad_(not stays)
    return theta, State(phi, buffers, state.step, dict(state.skipped), problem.tasks)


def gradients(outputs: Iterable[tuple[Tensor, Tensor | None]], *groups: Params, **options: bool) -> list[Part]:
    """Σ wᵀ∂y over the outputs (y, w) by each entry of each group, None where no y depends on it; w is None for 1.

    Raises ConfigError where torch has no derivative of an operation.
    """
    outputs = [pair for pair in outputs if pair[0].requires_grad]
    wanted = [value for group in groups for value in group.values() if value.requires_grad]
    grads = iter(())
    if outputs and wanted:
        values, weights = zip(*outputs, strict=True)
        try:
            found = torch.autograd.grad(values, wanted, weights, allow_unused=True, **options)
            grads = (grad.to_dense() if grad is not None and grad.is_sparse else grad for grad in found)
        except RuntimeError as error:
            unknown = any(node.name() == "torch::autograd::NotImplemented" for node in graph(values))
            if unknown or isinstance(error, NotImplementedError):
                advice = "use FirstOrder, or another operation"
                raise ConfigError(f"a loss cannot be differentiated again ({error}): {advice}") from error
            raise
    return [{name: next(grads, None) if v.requires_grad else None for name, v in group.items()} for group in groups]


def partial_gradients(loss: Tensor, phi: Params, theta: Params) -> list[Part]:
    """∂L/∂φ and ∂L/∂θ as written in the loss.

    What it reads of θ may go through what `init` made of it, whose graph is kept; else memory is given back.
    """
    return gradients([(loss, None)], phi, theta, retain_graph=bool(reached([loss], theta)))


def reached(outputs: Collection[Tensor], params: Params, until: Iterable[Tensor] = ()) -> set[str]:
    """Which of `params`, all leaves, the outputs depend on other than through `until`."""
    ends = {id(value) for value in outputs} | {id(getattr(node, "variable", None)) for node in graph(outputs, until)}
    return {name for name, value in params.items() if id(value) in ends}


def graph(outputs: Iterable[Tensor], until: Iterable[Tensor] = ()) -> Iterator[torch.autograd.graph.Node]:
    """The nodes of the outputs' graph, each once, but those that made `until` and what lies behind them."""
    seen, ahead = {None, *(value.grad_fn for value in until)}, [value.grad_fn for value in outputs]
    while ahead:
        node = ahead.pop()
        if node not in seen:
            seen.add(node)
            yield node
            ahead += [before for before, _ in node.next_functions]


def require_dependence(*parts: Part) -> None:
    """Raises ConfigError where all parts of a meta-gradient are None."""
    if all(value is None for part in parts for value in part.values()):
        raise ConfigError("outer loss does not depend on theta, neither directly nor through the inner steps")


def conclude(
    theta: Params, state: State, trail: Trail, loss: Tensor, *parts: Part, again: Any = (), **info: float
) -> MetaGradient:
    """The result, its meta-gradient the sum of the parts. Raises as `require_dependence` and `require_sound`."""
    require_dependence(*parts)
    out = MetaGradient(loss.detach(), add_parts(theta, *parts), state.result(), info)
    require_sound(trail, out.loss, out.phi, out.grad, again)
    return out


def require_sound(trail: Trail, outer: Tensor, phi: Params, grad: Params | None = None, again: Any = ()) -> None:
    """Raises DivergedError that names the first step whose loss is NaN or infinite, or the entry of `grad` that is.

    phi: whose precision may be to blame. again: (what, its value, that at the same place again), with ConfigError
    where they differ. All is read at once, after the work is done, so that a GPU is waited for once. While a CUDA graph
    is captured nothing can be read: there the caller looks at the loss after each replay.
    """
    if outer.device.type != "cpu" and torch.cuda.is_current_stream_capturing():
        return
    grad = grad or {}
    pairs = [loss for _, *both in again for loss in both]
    read = [outer, *(loss for _, loss, _ in trail), *pairs, *(value.isfinite().all() for value in grad.values())]
    values = iter(torch.stack([value.detach().to(outer.device) for value in read]).tolist())
    last = next(values)
    low = [value.dtype for value in (outer, *phi.values()) if value.is_floating_point() and value.itemsize < 4]
    advice = f"{low[0]} may over- or underflow, so try float32" if low else "lower the inner learning rate"
    for t, _, _ in trail:
        if not math.isfinite(value := next(values)):
            advice = advice if t or low else "no step was taken yet, so look at theta and at the data"
            raise DivergedError(f"inner loss is {value} at step {t}: {advice}")
    if not math.isfinite(last):
        raise DivergedError(f"outer loss is {last} after the last inner step: {advice}")
    # Sums taken in another order agree in half of the digits and more; other random numbers show in the first ones.
    for what, value, _ in again:
        a, b = next(values), next(values)
        if not abs(a - b) <= torch.finfo(value.dtype).eps ** 0.5 * max(abs(a), abs(b)):
            raise ConfigError(f"{what} is {a:g} and, at the same phi again, {b:g}: {ALONE}")
    for name in grad:
        if not next(values):
            why = f"{low[0]} may over- or underflow" if low else "a derivative overflows, or does not exist, as of √0"
            raise DivergedError(f"meta-gradient is not finite for theta[{name!r}], though all losses are: {why}")


def add_parts(like: Params, *parts: Part) -> Params:
    """The sum of gradients, in new tensors with the keys of `like`; None, or no entry, stands for zero."""
    total = reduce(plus, parts, dict.fromkeys(like))
    return {name: torch.zeros_like(like[name]) if x is None else x.clone() for name, x in total.items()}


def plus(a: Part, b: Part) -> Part:
    """The sum of two gradients with the keys of `a`, which stays None where both are."""
    pairs = {name: (value, b.get(name)) for name, value in a.items()}
    return {name: y if x is None else x if y is None else x + y for name, (x, y) in pairs.items()}


def leaves(params: Params, like: Params | None = None) -> Params:
    """Fresh leaves with the same values; where `like` is given, those require gradients that do so there."""
    return {k: v.detach().requires_grad_(like is None or like[k].requires_grad) for k, v in params.items()}


def detach(params: Params) -> Params:
    """The same values without their history."""
    return {name: value.detach() for name, value in params.items()}


def task_dot(a: Params, b: Params, by_task: bool) -> Tensor:
    """Inner product of each task's parameters: (tasks,), or 0-d for one problem; in float32 at the least, since squares
    under- and overflow in float16."""
    wide = {k: [x.to(torch.promote_types(x.dtype, torch.float32)) for x in (a[k], b[k])] for k in a}
    return sum((x.conj() * y).real.reshape(*x.shape[: int(by_task)], -1).sum(-1) for x, y in wide.values())


def task_scale(factor: Tensor, params: Params) -> Params:
    """Each task's parameters times its entry of `factor`: (tasks,), or 0-d for one problem; in their own types."""
    return {k: factor.view((*factor.shape, *[1] * (v.dim() - factor.dim()))).to(v.dtype) * v for k, v in params.items()}
