"""Inner optimisers as differentiable maps s' = Φ(s, g) (Eqs. 2, 5 and 11), and the steps that are taken with them.

`window(state, grad, n)` advances n steps with one gradient: Φ̂ⁿ of Eq. 11. With n = 1 it is the ordinary step.
Values agree with torch.optim.SGD; derivatives flow through state, gradient and rates.
A rate is one for all of φ or a dict (`msmeta.rates`); θ makes one in a function, `lambda theta, t: SGD(theta["lr"])`.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from msmeta.bilevel import (
    Bilevel,
    Dynamics,
    DynamicsLike,
    Params,
    Part,
    State,
    Trail,
    detach,
    gradients,
    graph,
    leaves,
    partial_gradients,
    reached,
    require_dependence,
)
from msmeta.checks import kind, require_function, require_params, unchanged
from msmeta.errors import ConfigError, brief
from msmeta.losses import evaluate
from msmeta.rates import Rate, by_name, is_zero, require_rates

Watch = tuple[Params, Callable[[set[str]], None]]
"""Entries of θ as leaves, and what is to be told which of them a window depends on."""


@dataclass(frozen=True)
class SGD:
    """SGD with momentum μ and L2 weight decay ω (Eq. 5): v' = μv + g + ωφ, φ' = φ - ηv'. Buffer: `velocity`.

    lr, momentum, weight_decay: η > 0, μ in [0, 1), ω >= 0; where μ is the number 0 the velocity stays as it is, as in
    torch.optim.SGD. nesterov: as in torch.optim.SGD, φ' = φ - η(g + ωφ + μv').
    """

    lr: Rate
    momentum: Rate = 0.0
    weight_decay: Rate = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        require_rates("positive", lr=self.lr)
        require_rates("not negative", weight_decay=self.weight_decay)
        require_rates("in [0, 1)", momentum=self.momentum)

    buffer_names = property(lambda self: () if is_zero(self.momentum) else ("velocity",))

    @by_name("lr", "momentum", "weight_decay")
    def window(self, state: State, grad: Params, n: int) -> State:
        """n steps with one gradient as one linear map, s' = Aⁿs + (Σ_{i<n} Aⁱ) b g, which Eq. 13 differentiates.

        A = [[1-ηω, -ημ], [ω, μ]] and b = [-η, 1]; costs a handful of element-wise operations whatever n is, but for
        rates that are tensors: their polynomials keep some 3n tensors of a rate's size in the graph.
        """
        power, total = self.coefficients(n)
        matrix, buffers = [(*row, c) for row, c in zip(power, total, strict=True)], dict(state.buffers)
        if is_zero(self.momentum):
            (phi,) = _linear([matrix[0][::2]], state.phi, grad)
        else:
            phi, buffers["velocity"] = _linear(matrix, state.phi, buffers.get("velocity", {}), grad)
        return replace(state, phi=phi, buffers=buffers, step=state.step + n)

    def pull_back(self, multipliers: State, n: int) -> tuple[State, Params]:
        """Multipliers Λ of the state after a window -> ΛᵀAⁿ, those of its first state, and Λᵀ(Σ_{i<n} Aⁱ) b of g.

        The first leaves out what acts through g (Eq. 12 is their sum once g's part is multiplied by ∂g/∂φ).
        """
        power, total = self.coefficients(n)
        columns, buffers = [*zip(*power, strict=True), total], dict(multipliers.buffers)
        if is_zero(self.momentum):
            phi, grad = _linear([column[:1] for column in columns[::2]], multipliers.phi)
        else:
            phi, buffers["velocity"], grad = _linear(columns, multipliers.phi, buffers.get("velocity", {}))
        return State(phi, buffers), grad

    def coefficients(self, n: int) -> tuple[tuple[tuple[Rate, Rate], tuple[Rate, Rate]], tuple[Rate, Rate]]:
        """Aⁿ as two rows, Σ_{i<n} Aⁱ b (Eq. 13): what n steps make of φ = 1, v = 1, g = 1; not for dicts of rates."""
        columns = []
        for phi, velocity, grad in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)):
            for _ in range(n):
                before, velocity = velocity, self.momentum * velocity + grad + self.weight_decay * phi
                ahead = velocity + self.momentum * (velocity - before) if self.nesterov else velocity
                phi = phi if is_zero(ahead) else phi - self.lr * ahead
            columns.append((phi, velocity))
        return tuple(zip(*columns[:2], strict=True)), columns[2]


def has_methods_of(kind: type, dynamics: Any, *names: str) -> bool:
    """Whether these methods are the class's own, unlike those that a subclass overrides."""
    return all(getattr(getattr(dynamics, name, None), "__func__", None) is getattr(kind, name) for name in names)


def _linear(matrix: Sequence[Sequence[Rate]], *columns: Part) -> list[Params]:
    """Σⱼ cᵢⱼ xⱼ for each row i of the matrix, by the first column's names; None, or no entry, stands for zero."""
    entries = [[column.get(name) for column in columns] for name in columns[0]]
    if any(isinstance(c, Tensor) for row in matrix for c in row):
        values = [sum(c * x for c, x in zip(row, xs, strict=True) if x is not None) for xs in entries for row in matrix]
    else:
        values = _Linear.apply(matrix, *itertools.chain(*entries))
    return [dict(zip(columns[0], values[i :: len(matrix)], strict=True)) for i in range(len(matrix))]


class _Linear(Function):
    """The same by numbers, a term of all names in one operation; its derivative is the transposed map."""

    @staticmethod
    def forward(ctx: Any, matrix: Sequence[Sequence[float]], *values: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.matrix = matrix
        ctx.set_materialize_grads(False)
        width, rows = len(matrix[0]), [{} for _ in matrix]
        for row, coefficients in zip(rows, matrix, strict=True):
            for j, c in enumerate(map(float, coefficients)):
                c = c if abs(c) < 1e38 else c * math.inf  # float32 has no more, and torch would raise
                terms = {i: x for i, x in enumerate(values[j::width]) if x is not None}
                if new := terms.keys() - row.keys():
                    first = [terms.pop(i) for i in new]
                    row.update(zip(new, first if c == 1 else torch._foreach_mul(first, c), strict=True))
                if terms and c:
                    total = torch._foreach_add([row[i] for i in terms], list(terms.values()), alpha=c)
                    row.update(zip(terms, total, strict=True))
        return tuple(row.get(i) for i in range(len(values) // width) for row in rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        found = _Linear.apply(list(zip(*ctx.matrix, strict=True)), *grads)
        return None, *(x if needed else None for x, needed in zip(found, ctx.needs_input_grad[1:], strict=True))


@dataclass(frozen=True)
class Steps:
    """What every estimator is told of the inner loop.

    dynamics: an inner optimiser, or a pure function `(theta, t) -> dynamics` that gives the one of the window which
    begins at step t, for rates that are scheduled or learned. steps: T.
    """

    dynamics: DynamicsLike
    steps: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", whole(self.steps, "steps", 1))
        require_dynamics(self.dynamics)


@dataclass(frozen=True)
class Windowed(Steps):
    """And of windows, of which each shares something of its first step.

    dynamics, steps: as for `Steps`. window: N, which divides T; or any partition of T, such as (2, 1).
    """

    window: int | Sequence[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        lengths = partition(self.steps, self.window)
        if not isinstance(self.window, int):  # an array, perhaps, which would not compare
            object.__setattr__(self, "window", lengths)


def partition(steps: int, window: int | Sequence[int]) -> tuple[int, ...]:
    """The windows' lengths: T = N + N + ... + N, or any partition of T. Raises ConfigError where they are none of T."""
    steps = whole(steps, "steps", 1)
    if not isinstance(window, Sequence) and not getattr(window, "ndim", 0):
        n = whole(window, "window")
        if n < 1 or steps % n:
            raise ConfigError(f"window={n} does not divide steps={steps}: choose a divisor or a partition as (2, 1)")
        return (n,) * (steps // n)
    windows = tuple(whole(n, "window") for n in window)
    if not windows or min(windows) < 1 or sum(windows) != steps:
        raise ConfigError(f"window={brief(windows)} is no partition of steps={steps}: lengths >= 1 must add up to it")
    return windows


def whole(value: Any, what: str, least: float = -math.inf) -> int:
    """As an int what is one up to a million, NumPy's too, or a float without a fraction. Raises ConfigError else."""
    with suppress(TypeError):
        number = operator.index(int(value) if isinstance(value, Real) and value % 1 == 0 else value)
        if least <= number <= 10**6 and not isinstance(value, bool):
            return number
    allowed = "at least one and at most" if least == 1 else "at most"
    raise ConfigError(f"{what}={brief(value)}: it must be a whole number, {allowed} a million")


def require_dynamics(found: Any) -> None:
    """Raises ConfigError for what is neither dynamics nor a function that may return some."""
    if isinstance(found, Steps):
        name = type(found).__name__
        raise ConfigError(f"dynamics is {name}, an estimator: give the inner optimiser, as SGD(0.1)")
    if isinstance(found, type) or not callable(found):
        _require_window(found, "dynamics")
    elif not hasattr(found, "window"):
        require_function(found, "dynamics", "theta", "t")


def _require_window(found: Any, what: str) -> None:
    if isinstance(found, type) or not hasattr(found, "window"):
        name = getattr(found, "__name__", f"a {type(found).__name__}")
        needs = "an object with window(state, grad, n), as SGD(0.1) is, or a function (theta, t) that returns one"
        raise ConfigError(f"{what} is {name}: it must be {needs}")


def dynamics_at(dynamics: DynamicsLike, theta: Params, t: int) -> Dynamics:
    """Those of the window from step t. Raises ConfigError where they hold a tensor with gradients by other than θ."""
    if not hasattr(dynamics, "window"):
        with unchanged(f"dynamics at step {t}", theta):
            dynamics = dynamics(dict(theta), t)
        _require_window(dynamics, f"what dynamics(theta, {t}) returned")
    for name, value in _held(dynamics):
        if value.requires_grad and not reached([value], theta):
            what = f"{name} of {type(dynamics).__name__} requires gradients but does not come from theta"
            raise ConfigError(f'{what}: put it there, and give dynamics as lambda theta, t: SGD(theta["lr"])')
    return dynamics


def _held(value: Any, *path: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors in dynamics by their names: fields, what is in dicts and tuples there, and in dynamics they wrap."""
    inside = dict(enumerate(value)) if isinstance(value, tuple | list) else value
    if hasattr(value, "window"):
        is_module = isinstance(value, torch.nn.Module)
        inside = dict(value.named_parameters()) if is_module else getattr(value, "__dict__", {})
    if isinstance(value, Tensor):
        yield ".".join(map(str, path)), value
    for name, part in inside.items() if isinstance(inside, Mapping) else ():
        yield from _held(part, *path, name)


def inner_gradient(problem: Bilevel, phi: Params, theta: Params, t: int, create_graph: bool) -> tuple[Tensor, Params]:
    """The inner loss L_t(φ; θ) and g_t = ∂L_t/∂φ of what it uses; with `create_graph` g_t can be differentiated again.

    Raises ConfigError for a loss that is not a scalar, does not depend on φ, or has no second derivative.
    """
    loss = evaluate(problem.inner, phi, theta, t, twice=create_graph)
    (grads,) = gradients([(loss, None)], phi, create_graph=create_graph)
    used = {name: grad for name, grad in grads.items() if grad is not None}
    if not used:
        raise ConfigError(f"inner loss at step {t} does not depend on phi: there is nothing to adapt")
    return loss, used


def advance(dynamics: Dynamics, state: State, grad: Params, n: int) -> State:
    """The state after a window; entries of φ that have no gradient stay, and so do their buffers.

    Raises ConfigError where `window` does not return a State of the entries that it was given, or has lost the graph of
    their gradients.
    """
    what, own = f"window() of {type(dynamics).__name__}", state.part(grad)
    with unchanged(what, own.phi, grad, *own.buffers.values()):
        after = dynamics.window(own, dict(grad), n)
    if not isinstance(after, State):
        raise ConfigError(f"{what} returned a {type(after).__name__}: it must return a State")
    for name, values in {"phi": after.phi, **after.buffers}.items():
        require_params(values, f"{name} as {what} returned it")
    if {k: kind(v) for k, v in after.phi.items()} != {k: kind(state.phi[k]) for k in grad}:
        raise ConfigError(f"{what} returned a phi of other entries, types or shapes than it was given")
    if any(value.requires_grad for value in grad.values()) and not _comes_from(grad, after.phi, own):
        raise ConfigError(f"{what} returned a phi without the graph of its gradient: nothing flows back, so no no_grad")
    unused = [name for name in state.phi if name not in grad]
    kept = state.part(unused).buffers
    # No zeros where there was nothing: an optimiser that takes over would take them for buffers of its own.
    buffers = {name: {**kept.get(name, {}), **values} for name, values in after.buffers.items()}
    skipped = {**state.skipped, **after.skipped, **{k: state.skipped.get(k, 0) + n for k in unused}}
    return State({**state.phi, **after.phi}, buffers, after.step, skipped, state.tasks)


def _comes_from(grad: Params, phi: Params, before: State) -> bool:
    """Whether any φ after a window has in its graph a gradient that it was given, whose own graph is not walked."""
    made, leaf = {value.grad_fn for value in grad.values()}, {id(value) for value in grad.values()}
    known = [value for values in (before.phi, *before.buffers.values()) for value in values.values()]
    nodes = graph(phi.values(), known)
    return any(node in made or id(getattr(node, "variable", None)) in leaf for node in nodes)


@torch.enable_grad()
def walk(
    problem: Bilevel,
    state: State,
    theta: Params,
    dynamics: DynamicsLike,
    windows: Sequence[int],
    t: int = 0,
    keep: Callable[[int, State], tuple[Tensor, Params] | None] = lambda k, state: None,
    watch: Watch | None = None,
) -> tuple[State, Trail]:
    """The state after the windows without a graph, as at test time, and the evaluations of the inner loss.

    state: as `begin` gives it. t: index of the first step. keep: is given the number of each window, from 0, and its
    first state; where it has the loss and the gradient there it returns them. watch: θ as the steps see it and what is
    told that they depend on it; without it θ is a constant. Costs a gradient evaluation a window and holds one state.
    """
    (theta, tell), trail = watch or (detach(theta), None), []
    phi, state = leaves(state.phi, state.phi), state.detach()
    for k, n in enumerate(windows):
        known = keep(k, replace(state, phi=phi))
        loss, grad = known or inner_gradient(problem, phi, theta, t, create_graph=False)
        after = advance(dynamics_at(dynamics, theta, t), state, grad, n)
        if tell:
            tell(reached([loss, *after.phi.values(), *(v for b in after.buffers.values() for v in b.values())], theta))
        trail.append((t, loss.detach(), tuple(grad)))
        phi, state, t = leaves(after.phi, phi), after.detach(), t + n
    return replace(state, phi=phi), trail


@torch.enable_grad()
def adapt_and_judge(problem: Bilevel, first: State, theta: Params, *how: Any, **options: Any) -> tuple:
    """`walk`'s two, the outer loss, its gradient by φ and directly by θ. Raises ConfigError where both are None."""
    state, trail = walk(problem, first, theta, *how, **options)
    loss = evaluate(problem.outer, state.phi, theta)
    by_phi, direct = partial_gradients(loss, state.phi, theta)
    require_dependence(by_phi, direct)
    return state, trail, loss, by_phi, direct
