"""3x3 convolutions of small images as a few large matrix products, by minimal filtering (Winograd, 1980).

An output of two positions a dimension needs 4 products for each pair of channels instead of 6 (Lavin and Gray, 2016),
and an image that is 2 wide, half of whose taps fall on the padding, 3. Input, weight and output are transformed by
constant matrices, so derivatives are matrix products as well.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

INPUT = [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]
"""Of the four positions that two outputs see."""
WEIGHT = [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]
OUTPUT = [[1, 1, 1, 0], [0, 1, -1, -1]]


def suits(x: Tensor, weight: Tensor, stride: int, padding: int, groups: int) -> bool:
    """Whether `convolve` and `gradients` take this convolution, and pay: on a CPU, small images of many channels."""
    small = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and x.shape[2] == x.shape[3]
    small &= x.shape[3] in (2, 4, 6, 8) and min(weight.shape[:2]) >= 128
    return small and weight.shape[2:] == (3, 3) and (stride, padding, groups) == (1, 1, 1)


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """3x3 convolution with stride 1 and padding 1: x (n, C, H, H), H even, weight (O, C, 3, 3) -> (n, O, H, H).

    The result lies in memory as (H, H, n, O), and x costs no copy where it lies so. Without derivatives.
    """
    line, taps, back = _transforms(x.shape[3], x.dtype)
    products = _images(x, line) @ _weights(weight, taps).transpose(1, 2)  # (points, tiles*n, O)
    return _positions_last(back @ products.view(back.shape[1], -1), x.shape[0], x.shape[3])


def gradients(grad: Tensor, x: Tensor, weight: Tensor, by_x: bool, by_weight: bool) -> tuple[Tensor | None, ...]:
    """(∂/∂x, ∂/∂weight) of ⟨grad, convolve(x, weight)⟩, None where it is not asked for; by x as grad lies in memory."""
    (line, taps, back), grad_x, grad_weight = _transforms(x.shape[3], x.dtype), None, None
    products = _images(grad, back.t())
    if by_x:
        images = products @ _weights(weight, taps)
        grad_x = _positions_last(line.t() @ images.view(len(line), -1), x.shape[0], x.shape[3])
    if by_weight:
        grad_weight = (taps.t() @ (products.transpose(1, 2) @ _images(x, line)).view(len(taps), -1)).t()
        grad_weight = grad_weight.reshape(weight.shape)
    return grad_x, grad_weight


def _images(x: Tensor, transform: Tensor) -> Tensor:
    """(points, tiles*n, C)"""
    side, channels = x.shape[3], x.shape[1]
    points = 9 if side == 2 else 16
    return (transform @ x.permute(2, 3, 0, 1).reshape(side * side, -1)).view(points, -1, channels)


def _weights(weight: Tensor, transform: Tensor) -> Tensor:
    """(points, O, C)"""
    return (transform @ weight.reshape(-1, 9).t()).view(-1, *weight.shape[:2])


def _positions_last(x: Tensor, n: int, side: int) -> Tensor:
    return x.view(side, side, n, -1).permute(2, 3, 0, 1)


@cache
def _transforms(side: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Matrices from an image's side² positions to points*tiles, from a weight's 9 to points, and from products back."""
    if side == 2:  # y₀ = (x₀ + x₁)w₁ + x₁(w₂ - w₁), y₁ = (x₀ + x₁)w₁ + x₀(w₀ - w₁)
        line = torch.tensor([[[1.0, 1]], [[0, 1]], [[1, 0]]], dtype=dtype)  # (points, tiles, positions)
        weight = torch.tensor([[0.0, 1, 0], [0, -1, 1], [1, -1, 0]], dtype=dtype)
        back = torch.tensor([[[1.0], [1], [0]], [[1], [0], [1]]], dtype=dtype)  # (positions, points, tiles)
    else:
        tiles, weight = side // 2, torch.tensor(WEIGHT, dtype=dtype)
        line, back = torch.zeros(4, tiles, side + 2, dtype=dtype), torch.zeros(side, 4, tiles, dtype=dtype)
        for tile in range(tiles):
            line[:, tile, 2 * tile : 2 * tile + 4] = torch.tensor(INPUT, dtype=dtype)
            back[2 * tile : 2 * tile + 2, :, tile] = torch.tensor(OUTPUT, dtype=dtype)
        line = line[..., 1:-1]  # the padding is zero
    square = torch.einsum("iay,jbx->ijabyx", line, line).reshape(-1, side * side)
    return square, torch.kron(weight, weight), torch.einsum("yia,xjb->yxijab", back, back).reshape(side * side, -1)
