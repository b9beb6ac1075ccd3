"""Rates of an inner optimiser: one for all of φ, or one for each of its entries by name.

A rate (a learning rate, a momentum, a decay) is a number or a 0-d tensor; or a dict by the names of φ, whose values are
numbers or tensors that broadcast to the entry: `SGD({"w": theta["rate.w"]})` with a rate for each number in w
(Meta-SGD; Li et al., 2017), or `theta["rate.w"][t]` for each entry and step (LSLR; Antoniou et al., 2019). A learning
rate of 0 leaves an entry as it is (ANIL; Raghu et al., 2020); what the inner loss does not use needs none.
Torch broadcasts from the right: where φ leads with a task dimension, a rate of the shape without it serves every task.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace
from functools import wraps
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from msmeta.bilevel import Params, State
from msmeta.errors import ConfigError, brief

Rate = float | Tensor | Mapping[str, float | Tensor]
Window = Callable[..., State]


def by_name(*rates: str) -> Callable[[Window], Window]:
    """For a `window` of dynamics in which these rates may be dicts: then it is given each entry of φ by itself."""

    def decorate(window: Window) -> Window:
        @wraps(window)
        def taken(self: Any, state: State, grad: Params, n: int) -> State:
            given = {field: getattr(self, field) for field in rates}
            parts = [(field, part) for field, rate in given.items() for part in _parts(rate)]
            for field, part in parts:
                _require_types(part, f"{field} of {type(self).__name__}", state.phi)
            if not any(isinstance(part, Mapping) for _, part in parts):
                return window(self, state, grad, n)
            phi, buffers, skipped = {}, {}, dict(state.skipped)
            for name, value in state.phi.items():
                own = copy(self)  # not through __init__, which would refuse a tensor for a single entry
                for field, rate in given.items():
                    object.__setattr__(own, field, rate_of(rate, f"{field} of {type(self).__name__}", name, value))
                held = {k: {name: values[name]} for k, values in state.buffers.items() if name in values}
                after = window(own, replace(state, phi={name: value}, buffers=held), {name: grad[name]}, n)
                phi |= after.phi
                if name in after.skipped:
                    skipped[name] = after.skipped[name]
                buffers = {k: buffers.get(k, {}) | after.buffers.get(k, {}) for k in (*buffers, *after.buffers)}
            return replace(state, phi=phi, buffers=buffers, step=state.step + n, skipped=skipped)

        return taken

    return decorate


def rate_of(rate: Any, what: str, name: str, like: Tensor) -> Any:
    """What a rate is for the entry `name` of φ, which is `like`; a tuple's parts are rates of their own.

    Raises ConfigError for a dict that lacks the name, or whose value would change the entry's shape or type.
    """
    if isinstance(rate, tuple | list):
        return tuple(rate_of(part, what, name, like) for part in rate)
    if not isinstance(rate, Mapping):
        return rate
    if name not in rate:
        raise ConfigError(f"{what} is a dict without {name!r}, an entry of phi: give it a rate for every entry")
    value = rate[name]
    if isinstance(value, Tensor):
        shape, own = tuple(value.shape), tuple(like.shape)
        if len(shape) > len(own) or any(a not in (1, b) for a, b in zip(shape[::-1], own[::-1], strict=False)):
            raise ConfigError(f"{what} has shape {shape} under {name!r}: it must broadcast to phi's {own}")
        _require_types(value, f"{what}, under {name!r},", {name: like})
    return value


def _require_types(rate: Any, what: str, phi: Params) -> None:
    """Raises ConfigError where a tensor's type would make another one of an entry's: a wider one of an entry as 0-d."""
    for name, like in phi.items() if isinstance(rate, Tensor) else ():
        if (wide := torch.result_type(like, rate)) != like.dtype:
            advice = f"with it phi's {name!r} turns from {like.dtype} into {wide}, so give it that type"
            raise ConfigError(f"{what} is of {rate.dtype}: {advice}")


def is_zero(rate: Rate) -> bool:
    """Whether a rate drops out; a tensor's derivative counts even at 0."""
    return not isinstance(rate, Tensor) and rate == 0


def require_numbers(range_: str, or_else: str = "", **values: Any) -> None:
    """Raises ConfigError for what is no number in its range. or_else: what else its message says that it may be."""
    for name, value in values.items():
        top = 1 if range_ == "in [0, 1)" else math.inf
        if not (isinstance(value, Real) and 0 <= value < top and (value > 0 or range_ != "positive")):
            is_tensor = isinstance(value, Tensor)
            found = f" has {value.dtype}, shape {tuple(value.shape)}" if is_tensor else f"={brief(value)}"
            raise ConfigError(f"{name}{found}: it must be a number, {range_}{or_else}")


def require_scalars(range_: str, **values: float | Tensor) -> None:
    """As `require_numbers`, or 0-d tensors, whose values are not read."""
    for name, value in values.items():
        if not (isinstance(value, Tensor) and value.dim() == 0 and value.is_floating_point()):
            require_numbers(range_, ", or a 0-d tensor", **{name: value})


def require_rates(range_: str, **rates: Rate) -> None:
    """As `require_scalars`; of a dict each value, where a number may be 0 and a tensor have any shape."""
    for name, rate in rates.items():
        for key, value in rate.items() if isinstance(rate, Mapping) else ():
            if not (isinstance(value, Tensor) and value.is_floating_point()):
                allowed = range_.replace("positive", "not negative")
                require_numbers(allowed, ", or a tensor", **{f"{name}[{key!r}]": value})
        if not isinstance(rate, Mapping):
            require_scalars(range_, **{name: rate})


def _parts(value: Any) -> tuple | list:
    return value if isinstance(value, tuple | list) else (value,)
