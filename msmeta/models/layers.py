"""Convolutions: one whose derivatives of every order are again convolutions, and torch's in a chosen precision."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

PRECISIONS = ("float32", "tf32", "bf16")
"""Of the convolutions' products. For `tf32` the trainer lets a GPU round them; the tensors stay float32."""


def convolution(x: Tensor, weight: Tensor, stride: int = 1, padding: int = 0, precision: str = "float32") -> Tensor:
    """torch's 2-D convolution without bias; with `bf16` its operands are bfloat16, and the result has x's type."""
    if precision == "bf16":
        return F.conv2d(x.bfloat16(), weight.bfloat16(), None, stride, padding).to(x.dtype)
    return F.conv2d(x, weight, None, stride, padding)


def conv2d(x: Tensor, weight: Tensor, stride: int, padding: int, groups: int = 1) -> Tensor:
    """2-D convolution without bias: x (n, groups*I, H, W), weight (groups*O, I, k, k) -> (n, groups*O, H', W').

    Same value and derivatives as torch.nn.functional.conv2d. Torch's own double backward takes a grouped convolution
    apart group by group; this one makes whole calls, which is what makes tasks in the channel dimension pay.
    """
    return _Conv.apply(x, weight, stride, padding, groups)


class _Conv(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int, groups: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = (stride, padding, groups)
        return torch.convolution(x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return (*_ConvGradients.apply(grad, x, weight, *ctx.geometry, *ctx.needs_input_grad[:2]), None, None, None)


class _ConvGradients(Function):
    """(∂/∂x, ∂/∂weight) of ⟨grad, conv(x, weight)⟩; bilinear in grad and the other operand, hence closed."""

    @staticmethod
    def forward(
        ctx: Any,
        grad: Tensor,
        x: Tensor,
        weight: Tensor,
        stride: int,
        padding: int,
        groups: int,
        by_x: bool,
        by_w: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        ctx.save_for_backward(grad, x, weight)
        ctx.geometry = (stride, padding, groups)
        ctx.set_materialize_grads(False)
        grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups, [by_x, by_w, False]
        )
        return grad_x, grad_weight

    @staticmethod
    def backward(ctx: Any, along_x: Tensor | None, along_w: Tensor | None) -> tuple[Tensor | None, ...]:
        grad, x, weight = ctx.saved_tensors
        terms = []
        if along_x is not None:
            terms.append(_Conv.apply(along_x, weight, *ctx.geometry))
        if along_w is not None:
            terms.append(_Conv.apply(x, along_w, *ctx.geometry))
        by_x, by_w = along_w is not None and ctx.needs_input_grad[1], along_x is not None and ctx.needs_input_grad[2]
        grad_x = grad_w = None
        if by_x or by_w:
            grad_x, grad_w = _ConvGradients.apply(
                grad, x if along_x is None else along_x, weight if along_w is None else along_w,
                *ctx.geometry, by_x, by_w,
            )  # fmt: skip
        return (sum(terms) if terms else None, grad_x, grad_w, *(None,) * 5)
