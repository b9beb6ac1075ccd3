"""The values of a problem's losses, and what would be lost in their derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from msmeta.bilevel import Params, graph, leaves
from msmeta.checks import unchanged
from msmeta.errors import ConfigError


def evaluate(loss: Callable[..., Tensor], phi: Params, theta: Params, *t: int, twice: bool = False) -> Tensor:
    """The problem's inner loss at step t, or its outer loss.

    twice: whether its gradient will be differentiated. Raises ConfigError where it is not a scalar, changes what it is
    given, or where torch would leave out a derivative of it, or have it wrong, without a word.
    """
    what = f"inner loss at step {t[0]}" if t else "outer loss"
    with unchanged(what, phi, theta):
        value = loss(dict(phi), dict(theta), *t)
    require_loss(value, what, phi, theta, twice)
    return value


def require_loss(value: Any, what: str, phi: Params, theta: Params, twice: bool = False) -> None:
    """Raises ConfigError as `evaluate` for what a function of these φ and θ returned."""
    for name, given in (*phi.items(), *theta.items()):
        if given._backward_hooks:
            advice = "change the inner gradient by transformed(dynamics, function)"
            raise ConfigError(f"{what} hooks the gradient of {name!r}, and so the meta-gradient as well: {advice}")
    if not isinstance(value, Tensor) or value.dim() != 0 or value.is_complex():
        if isinstance(value, Tensor):
            found, advice = f"{value.dtype}, shape {tuple(value.shape)}", "sum it over tasks and examples"
        else:
            found, advice = type(value).__name__, "return the tensor itself, without .item()"
        raise ConfigError(f"{what} is not a 0-d tensor of a real number but {found}: {advice}")
    for node in graph([value], phi.values()):
        if why := _lost_at(node, twice):
            raise ConfigError(f"{what} {why}")


_ONCE = once_differentiable(lambda ctx: None).__code__
"""Of what the decorator makes of any function."""


def _lost_at(node: torch.autograd.graph.Node, twice: bool) -> str:
    """Which derivatives get lost at a node, and what to do; empty where none do."""
    name, function = node.name(), getattr(type(node), "_forward_cls", None)
    if name == "CheckpointFunctionBackward":
        return "is checkpointed with use_reentrant=True, which gives parameters no gradient here: do without"
    if twice and name.startswith("WeightNormInterfaceBackward"):
        return "uses weight_norm, of which torch has a wrong second derivative: write weight * g / norm out"
    if twice and "linear_cross_entropy_batch_chunked" in name:
        return "has no second derivative: linear_cross_entropy is chunked by its options, so do without these"
    if twice and getattr(node, "_saved_sparse", False) is True:
        return "has sparse gradients, without second derivatives: make the embedding with sparse=False"
    if twice and name.startswith("NativeLayerNormBackwardBackward"):
        return "differentiates layer_norm inside, of which torch has a wrong third derivative: write it out"
    if twice and "BatchNormBackwardBackward" in name and getattr(node, "_saved_train", True):
        return "differentiates batch_norm or instance_norm inside, of which torch has no third derivative: write it out"
    if twice and name == "CompiledFunctionBackward":
        return "is compiled: torch.compile loses second derivatives, so do without"
    if twice and getattr(getattr(function, "backward", None), "__code__", None) is _ONCE:
        why = f"{function.__name__} is once_differentiable"
        return f"has no second derivative: {why}, so write its backward pass without that, or use FirstOrder"
    return ""


def value_of(loss: Callable[..., Tensor], phi: Params, theta: Params, *t: int) -> Tensor:
    """As `evaluate`, without a graph; the loss may differentiate inside."""
    with torch.enable_grad():
        return evaluate(loss, leaves(phi, phi), leaves(theta, theta), *t).detach()
