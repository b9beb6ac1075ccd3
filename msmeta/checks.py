"""What users' functions are given and return: whether it is of the right kind, and left alone."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from msmeta.errors import ConfigError, brief

Tensors = Mapping[str, Tensor]
ALONE = "this estimator needs a function of phi, theta and t alone, without dropout or other random numbers"


def require_params(params: Any, what: str, tasks: int | None = None) -> None:
    """Raises ConfigError for what is not a dict of tensors that have derivatives, and lead with a task dimension."""
    if not isinstance(params, Mapping):
        raise ConfigError(f"{what} is a {type(params).__name__}: it must be a dict of tensors")
    for name, value in params.items():
        if not isinstance(value, Tensor):
            raise ConfigError(f"{what} has a {type(value).__name__} under {name!r}: it must be a tensor")
        if not (value.is_floating_point() or value.is_complex()):
            raise ConfigError(f"{what} has {value.dtype} under {name!r}: leave counters and masks out of it")
        if tasks is not None and value.shape[:1] != (tasks,):
            has = f"shape {tuple(value.shape)} under {name!r}"
            raise ConfigError(f"{what} has {has}: with tasks={tasks} that must be its first size")


def require_buffers(phi: Tensors, buffers: Any, step: Any) -> None:
    """Raises ConfigError where a state's buffers or its counter cannot be those of an optimiser of its φ."""
    if not isinstance(buffers, Mapping):
        raise ConfigError(f"buffers as init returned them are a {type(buffers).__name__}: it must be a dict")
    for name, values in buffers.items():
        require_params(values, f"{name} as init returned it")
        for k, value in values.items():
            if k not in phi or kind(value) != kind(phi[k]):
                has = f"shape {tuple(value.shape)} and {value.dtype} under {k!r}"
                raise ConfigError(f"{name} as init returned it has {has}: it must have phi's names, types and shapes")
    counted = isinstance(step, Tensor)  # as where a CUDA graph counts, and nothing can be read
    if not counted and not (isinstance(step, int) and step >= 0):
        raise ConfigError(f"step as init returned it is {step!r}: it must be a whole number, 0 or more")


def require_used(buffers: Mapping[str, Tensors], dynamics: Any) -> None:
    """Raises ConfigError for a buffer with gradients of a name that would do nothing in dynamics which say theirs."""
    *_, dynamics = layers_of(dynamics)
    defines = [name for base in type(dynamics).__mro__ for name in ("buffer_names", "window") if name in vars(base)]
    if defines[:1] != ["buffer_names"]:  # a `window` of a subclass's own may have others
        return
    names = dynamics.buffer_names
    for name, values in buffers.items():
        if name not in names and any(value.requires_grad for value in values.values()):
            has = f"they use {', '.join(names)}" if names else "they use none"
            what = f"buffers as init returned them have {name!r}, learned"
            raise ConfigError(f"{what}, which has no part in {type(dynamics).__name__}'s steps as set: {has}")


def layers_of(dynamics: Any) -> Iterator[Any]:
    """Dynamics and, from the outermost on, what they wrap, as `clipped` does."""
    yield dynamics
    while hasattr(dynamics, "dynamics"):
        dynamics = dynamics.dynamics
        yield dynamics


def refuse(estimator: str, why: str, names: Iterable[str]) -> None:
    """Raises ConfigError for the first of these entries of θ, if any, which an estimator has no gradient for."""
    if (name := min(names, default=None)) is not None:
        raise ConfigError(f"{estimator} has no gradient for theta[{name!r}], which {why}")


def kind(value: Tensor) -> tuple[torch.Size, torch.dtype]:
    """What a step keeps of an entry of φ, its gradient and its buffers."""
    return value.shape, value.dtype


_GIVEN = {
    "init": ("theta",), "inner": ("phi", "theta", "t"), "outer": ("phi", "theta"), "outer_at": ("phi", "theta", "t")
}  # fmt: skip
"""What a problem's functions are called with."""


def require_problem(problem: Any) -> None:
    """Raises ConfigError for what is no function, and for a number of tasks that is none; NumPy's will do."""
    for name, given in _GIVEN.items():
        if name != "outer_at" or problem.outer_at is not None:
            require_function(getattr(problem, name), f"{name} of the problem", *given)
    tasks = problem.tasks
    is_number = isinstance(tasks, Integral) and not isinstance(tasks, bool) and tasks >= 1
    if tasks is not None and not is_number:
        raise ConfigError(f"tasks={brief(tasks)}: it must be a whole number, at least one, or None for one problem")


def require_function(found: Any, what: str, *given: str) -> None:
    """Raises ConfigError for what is no function, and for one that cannot be called with as many arguments."""
    if not callable(found):
        raise ConfigError(f"{what} is a {type(found).__name__}: it must be a function")
    try:
        signature = inspect.signature(found)
    except ValueError:  # as of some that are built in
        return
    try:
        signature.bind(*given)
    except TypeError as error:
        raise ConfigError(f"{what} must take ({', '.join(given)}): {error}") from None


@contextmanager
def unchanged(what: str, *given: Tensors) -> Iterator[None]:
    """Raises ConfigError where these tensors are written to inside, which a graph does not see."""
    before = [(name, value, value._version) for params in given for name, value in params.items()]
    yield
    for name, value, version in before:
        if value._version != version:
            raise ConfigError(f"{what} changes {name!r} in place, which no gradient would see: make a new tensor of it")
