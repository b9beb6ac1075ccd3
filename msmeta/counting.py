"""Counting evaluations of inner gradients, and products with their derivatives, as they happen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.autograd import Function

from msmeta.bilevel import Bilevel, Params
from msmeta.losses import evaluate


@dataclass
class Counts:
    gradients: int = 0
    products: int = 0


def counted(problem: Bilevel, counts: Counts) -> Bilevel:
    """The same problem, which counts the backward passes through its inner loss and through that one's gradients."""
    if not isinstance(problem, Bilevel):
        return problem  # which the estimator refuses

    def inner(phi: Params, theta: Params, t: int) -> Tensor:
        moving = {name: value for name, value in phi.items() if value.requires_grad}
        watched = dict(zip(moving, _Watched.apply(counts, *moving.values()), strict=True)) if moving else {}
        return _Differentiated.apply(counts, evaluate(problem.inner, phi | watched, theta, t))

    return replace(problem, inner=inner)


class _Differentiated(Function):
    """A value of the inner loss: a backward pass through it is an evaluation of a gradient."""

    @staticmethod
    def forward(ctx: Any, counts: Counts, loss: Tensor) -> Tensor:
        ctx.counts = counts
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        ctx.counts.gradients += 1
        return None, grad


class _Watched(Function):
    """φ as the inner loss sees it: the gradient by it, in one piece, goes through `_Multiplied`."""

    @staticmethod
    def forward(ctx: Any, counts: Counts, *phi: Tensor) -> tuple[Tensor, ...]:
        ctx.counts = counts
        ctx.set_materialize_grads(False)
        return tuple(value.view_as(value) for value in phi)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *_Multiplied.apply(ctx.counts, *grads)


class _Multiplied(Function):
    """A gradient by φ: a backward pass through it is a product with its derivatives."""

    @staticmethod
    def forward(ctx: Any, counts: Counts, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.counts = counts
        ctx.set_materialize_grads(False)
        return tuple(None if grad is None else grad.view_as(grad) for grad in grads)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.counts.products += 1
        return None, *grads
