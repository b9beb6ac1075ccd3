"""Layers whose second derivatives are cheap: a convolution, a batch norm; and torch's convolution in a precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from msmeta.models import winograd

BLOCK_SUMS = 2**14
"""Sums that batch norm adds up side by side; they lie in a core's cache."""
PRECISIONS = ("float32", "tf32", "bf16")
"""Of the convolutions' products. For `tf32` the trainer lets a GPU round them; the tensors stay float32."""


def laid_out(x: Tensor) -> Tensor:
    """Images (n, C, H, W) or weights (O, I, k, k) as convolutions take them fastest: channels last on a CPU."""
    return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x


def convolution(x: Tensor, weight: Tensor, stride: int = 1, padding: int = 0, precision: str = "float32") -> Tensor:
    """2-D convolution without bias; with `bf16` its operands are bfloat16, and the result has x's type."""
    if precision == "bf16":
        return conv2d(x.bfloat16(), weight.bfloat16(), stride, padding).to(x.dtype)
    return conv2d(x, weight, stride, padding)


def positions_first(x: Tensor) -> bool:
    """Whether x (n, C, H, W) lies in memory as (H, W, n, C), as `winograd` leaves it."""
    return x.permute(2, 3, 0, 1).is_contiguous()


def max_pool(x: Tensor) -> Tensor:
    """2x2 max-pooling of x (n, C, H, W), which keeps its layout."""
    if not positions_first(x):
        return F.max_pool2d(x, 2)
    n, channels, height, width = x.shape
    image = x.permute(2, 3, 0, 1).reshape(height, width, -1).permute(2, 0, 1)  # of n*C channels, these last in memory
    return F.max_pool2d(image[None], 2)[0].unflatten(0, (n, channels))


def conv2d(x: Tensor, weight: Tensor, stride: int, padding: int, groups: int = 1) -> Tensor:
    """2-D convolution without bias: x (n, groups*I, H, W), weight (groups*O, I, k, k) -> (n, groups*O, H', W').

    Same value and derivatives as torch.nn.functional.conv2d. Torch's own double backward takes a grouped convolution
    apart group by group; this one makes whole calls, which is what makes tasks in the channel dimension pay.
    """
    return _Conv.apply(x, weight.view_as(weight), stride, padding, groups)  # no leaf: `needed` can tell


_runs = torch._C._will_engine_execute_node


def needed(ctx: Any) -> list[bool]:
    """Which tensors that a Function was given the running backward pass differentiates by, or through, leaves always.

    `ctx.needs_input_grad` says which of them could be: products by θ alone, as of a first window, would cost twice.
    """
    nodes = [node for node, _ in ctx.next_functions]
    return [node is not None and (hasattr(node, "variable") or _runs(node)) for node in nodes]


class _Conv(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int, groups: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = (stride, padding, groups)
        if winograd.suits(x, weight, stride, padding, groups):
            return winograd.convolve(x, weight)
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
        if winograd.suits(x, weight, stride, padding, groups):
            return winograd.gradients(grad, x, weight, by_x, by_w)
        grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups, [by_x, by_w, False]
        )
        return grad_x, grad_weight

    @staticmethod
    def backward(ctx: Any, along_x: Tensor | None, along_w: Tensor | None) -> tuple[Tensor | None, ...]:
        grad, x, weight = ctx.saved_tensors
        by_grad = None
        if along_x is not None:
            by_grad = _Conv.apply(along_x, weight, *ctx.geometry)
        if along_w is not None:
            term = _Conv.apply(x, along_w, *ctx.geometry)
            by_grad = term if by_grad is None else by_grad + term
        _, needs_x, needs_w = needed(ctx)
        by_x, by_w = along_w is not None and needs_x, along_x is not None and needs_w
        grad_x = grad_w = None
        if by_x or by_w:
            grad_x, grad_w = _ConvGradients.apply(
                grad, x if along_x is None else along_x, weight if along_w is None else along_w,
                *ctx.geometry, by_x, by_w,
            )  # fmt: skip
        return (by_grad, grad_x, grad_w, *(None,) * 5)


def batch_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running: tuple[Tensor, Tensor] | None = None,
    training: bool = True,
    total: Callable[[Tensor], Tensor] | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Batch norm of x (n, C, H, W), weight and bias (C,), as torch.nn.functional.batch_norm.

    If `training` by the batch's statistics, and `running` (mean, variance) is moved in place where it is given; else by
    `running`. In training, the second derivatives take a few passes over the batch, where torch's take some thirty;
    there are no third derivatives. total: the sum over the processes that have a part of the batch each, which can be
    differentiated; the statistics are then those of the whole batch.
    """
    if not training:
        return F.batch_norm(x, *running, weight, bias, False, momentum, eps)
    if total is not None:
        return _norm_of_parts(x, weight, bias, running, total, momentum, eps)
    if positions_first(x):  # torch knows channels last alone: one image of H*W*n positions
        height, width, n, channels = x.permute(2, 3, 0, 1).shape
        rows = x.permute(1, 2, 3, 0).flatten(1)[None, ..., None]
        y = _Norm.apply(rows, weight, bias, *(running or (None, None)), momentum, eps)
        return y.squeeze((0, 3)).unflatten(1, (height, width, n)).permute(3, 0, 1, 2)
    return _Norm.apply(x, weight, bias, *(running or (None, None)), momentum, eps)


def _norm_of_parts(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running: tuple[Tensor, Tensor] | None,
    total: Callable[[Tensor], Tensor],
    momentum: float,
    eps: float,
) -> Tensor:
    count = total(x.new_tensor(x.numel() / len(weight)))
    mean = total(x.sum((0, 2, 3))) / count
    centred = x - _wide(mean)
    variance = total(centred.square().sum((0, 2, 3))) / count
    if running is not None:
        with torch.no_grad():
            running[0].lerp_(mean, momentum)
            running[1].lerp_(variance * (count / (count - 1)), momentum)
    return centred * _wide(weight * (variance + eps).rsqrt()) + _wide(bias)


class _Norm(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor | None,
        variance: Tensor | None,
        momentum: float,
        eps: float,
    ) -> Tensor:
        if x.device.type == "cpu" and x.dtype == weight.dtype and not x.is_contiguous():  # torch adds bf16 as float32
            mu, var = _moments(x)
            y, rate = _affine(x, mu, var + eps, weight, bias), (var + eps).rsqrt()
            if mean is not None:
                mean.lerp_(mu, momentum)
                variance.lerp_(var * (1 + 1 / (x.numel() // len(mu) - 1)), momentum)
        else:
            y, mu, rate = torch.native_batch_norm(x, weight, bias, mean, variance, True, momentum, eps)
        ctx.save_for_backward(x, weight, mu, rate)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (*_NormGradients.apply(grad, *ctx.saved_tensors, ctx.eps), None, None, None, None)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel of x (n, C, H, W), channels last.

    Torch adds up all positions one after another there, and in float32 loses two digits to its other layout. So this
    takes the moments of blocks of positions first: as channels of their own, so many that a cache holds their sums.
    """
    channels = x.shape[1]
    blocks = _blocks(x.numel() // channels, max(1, BLOCK_SUMS // channels))
    rows = x.permute(0, 2, 3, 1).reshape(-1, blocks * channels)
    found = torch.ops.aten.batch_norm_update_stats(rows.t()[None, ..., None], None, None, 0.0)
    means, variances = (value.view(blocks, channels) for value in found)
    mean = means.mean(0)
    return mean, variances.add_((means - mean).square_()).mean(0)


@cache
def _blocks(positions: int, most: int) -> int:
    """The largest divisor up to `most`."""
    return next(count for count in range(most, 0, -1) if positions % count == 0)


NO_THIRD = "batch norm has no third derivatives here: use torch.nn.functional.batch_norm"


class _NormGradients(Function):
    """(∂/∂x, ∂/∂weight, ∂/∂bias) of ⟨g, batch_norm(x)⟩, and once more by g, x and weight.

    With x̂ = (x - μ) r, r = 1/√(σ² + ε) and P(v) = v - mean v - x̂ mean(v x̂), symmetric, the first derivatives are
    γ r P(g), Σ g x̂ and Σ g. The derivatives of their inner product with (u, a, b) are γ r P(u) + a x̂ + b by g and
    a r P(g) - γ r² [S x̂ + mean(g x̂) P(u) + mean(u x̂) P(g)] by x, where S = mean(u P(g)), and r Σ u P(g) by γ.
    """

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, x: Tensor, weight: Tensor, mu: Tensor, rate: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        by_x, by_weight, by_bias = _norm_backward(grad, x, weight, mu, rate, eps)
        ctx.save_for_backward(grad, x, weight, mu, rate, by_weight, by_bias)
        ctx.eps = eps
        ctx.set_materialize_grads(False)
        return by_x, by_weight, by_bias

    @staticmethod
    def backward(ctx: Any, *along: Tensor | None) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            found = _NormGradients._second(ctx, *along)
        return (*last(found, (*along, *ctx.saved_tensors[:3]), NO_THIRD), None, None, None)

    @staticmethod
    def _second(ctx: Any, u: Tensor | None, a: Tensor | None, b: Tensor | None) -> tuple[Tensor | None, ...]:
        grad, x, weight, mu, rate, by_weight, by_bias = ctx.saved_tensors
        count = x.numel() / len(weight)
        u = torch.zeros_like(x) if u is None else u
        a = torch.zeros_like(weight) if a is None else a
        b = torch.zeros_like(weight) if b is None else b
        _, *sums = _norm_backward(u, x, weight, mu, rate, ctx.eps, [False, True, True])
        # Few operations on channels, since a GPU waits for each of them. The means of u x̂, u, g x̂ and g, and γ r:
        means, scale = torch.stack((*sums, by_weight, by_bias)).mul_(1 / count), weight * rate
        u_x, u_1 = means[:2]
        d = torch.addcmul(a, scale, u_x, value=-1)
        by_grad = by_x = by_gamma = None
        needs_grad, needs_x, needs_weight, *_ = needed(ctx)
        variance = rate**-2 if needs_grad or needs_x else None
        if needs_grad:
            by_grad = _affine(x, mu, variance, d, torch.addcmul(b, scale, u_1, value=-1)).addcmul_(u, _wide(scale))
        if needs_x or needs_weight:
            r_g = means[2:] * rate
            # r Σ u P(g), in which torch takes r Σ g (u - mean u)
            by_gamma = _norm_backward(grad, u, weight, u_1, rate, ctx.eps, [False, True, False])[1]
            by_gamma = by_gamma.addcmul_(r_g[0], u_x, value=-count)
        if needs_x:
            c_u = scale * r_g[0]  # by x: d r P(g) - c_u P(u) - γ r² S x̂
            c_x, c_1 = torch.addcmul(c_u * means[:2], d, r_g, value=-1)
            c_x = torch.addcmul(c_x, scale, by_gamma, value=-1 / count)
            by_x = _affine(x, mu, variance, c_x, c_1).addcmul_(grad, _wide(d * rate)).addcmul_(u, _wide(c_u), value=-1)
        return by_grad, by_x, by_gamma


def last(found: tuple[Tensor | None, ...], by: Sequence[Tensor | None], advice: str) -> tuple[Tensor | None, ...]:
    """What was found from `by`. Its own derivative, which nobody wrote, raises with `advice`; `once_differentiable`
    would leave out what depends on the same tensors in other ways too."""
    return _Last.apply(advice, len(found), *found, *by) if torch.is_grad_enabled() else found


class _Last(Function):
    @staticmethod
    def forward(ctx: Any, advice: str, count: int, *values: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.advice = advice
        return values[:count]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> None:
        raise NotImplementedError(ctx.advice)


def _norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor, mu: Tensor, rate: Tensor, eps: float, wanted: Sequence[bool] = (True,) * 3
) -> tuple[Tensor, Tensor, Tensor]:
    if grad.stride() != x.stride():  # torch 2.14 is silently wrong for one image where the layouts differ
        grad = torch.empty_like(x).copy_(grad)
    return torch.ops.aten.native_batch_norm_backward(grad, x, weight, None, None, mu, rate, True, eps, wanted)


def _affine(x: Tensor, mu: Tensor, variance: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """weight x̂ + bias, in one pass and without an operation on the channels of our own."""
    return torch.native_batch_norm(x, weight, bias, mu, variance, False, 0.0, 0.0)[0]


def relu_(x: Tensor) -> Tensor:
    """ReLU in x's place. Torch's own second derivative adds zeros to what comes back to its result."""
    return _Relu.apply(x)


class _Relu(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.relu_()
        ctx.mark_dirty(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Masked.apply(grad, ctx.saved_tensors[0].detach())


class _Masked(Function):
    """The values where y > 0, else zero; y is a constant, since the derivative by it vanishes."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(y)
        return torch.ops.aten.threshold_backward(values, y, 0)

    @staticmethod
    def backward(ctx: Any, along: Tensor) -> tuple[Tensor, None]:
        return _Masked.apply(along, ctx.saved_tensors[0]), None


def _wide(channels: Tensor) -> Tensor:
    return channels[:, None, None]
