"""What users' functions are given and return: whether it is of the right kind, and left alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from msmeta.errors import ConfigError

Tensors = Mapping[str, Tensor]


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


def kind(value: Tensor) -> tuple[torch.Size, torch.dtype]:
    """What a step keeps of an entry of φ, its gradient and its buffers."""
    return value.shape, value.dtype


def require_function(found: Any, what: str) -> None:
    if not callable(found):
        raise ConfigError(f"{what} of the problem is a {type(found).__name__}: it must be a function")


@contextmanager
def unchanged(what: str, *given: Tensors) -> Iterator[None]:
    """Raises ConfigError where these tensors are written to inside, which a graph does not see."""
    before = [(name, value, value._version) for params in given for name, value in params.items()]
    yield
    for name, value, version in before:
        if value._version != version:
            raise ConfigError(f"{what} changes {name!r} in place, which no gradient would see: make a new tensor of it")
