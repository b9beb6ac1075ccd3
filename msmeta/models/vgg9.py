"""VGG-9 with batch norm (Simonyan and Zisserman, 2015), the target of the 32x32 transfer experiments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from msmeta.bilevel import Params
from msmeta.models.layers import batch_norm, convolution, max_pool

BLOCKS = ((64,), (128,), (256, 256), (512, 512), (512, 512))
"""Channels of the convolutions before each of the five poolings; with the head they are nine layers."""


@dataclass(frozen=True)
class VGG9:
    """Five blocks of [3x3 convolution, batch norm, ReLU], each followed by 2x2 max-pooling, and a linear head.

    way: classes. width: factor on the channels. precision: of the convolutions, one of PRECISIONS. total: as for
    `batch_norm`.
    """

    way: int
    width: float = 1.0
    precision: str = "float32"
    total: Callable[[Tensor], Tensor] | None = None

    @property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """Channels of the convolutions of each block."""
        return tuple(tuple(max(1, round(self.width * channels)) for channels in block) for block in BLOCKS)

    @property
    def channels(self) -> tuple[int, ...]:
        """Of the features: the input of each pooling."""
        return tuple(block[-1] for block in self.blocks)

    def sizes(self, side: int) -> list[tuple[int, int]]:
        """Heights and widths of the features, for square images of this side."""
        return [(side // 2**block,) * 2 for block in range(len(BLOCKS))]

    def init(self, seed: int = 0) -> tuple[Params, Params]:
        """Parameters (He-normal convolutions, unit batch norms, a small normal head) and running statistics."""
        generator = torch.Generator().manual_seed(seed)
        params, statistics, fan_in = {}, {}, 3
        for name, channels in self._convolutions():
            weight = torch.randn(channels, fan_in, 3, 3, generator=generator)
            params[f"{name}.weight"] = weight * (2 / (9 * channels)) ** 0.5
            params[f"{name}.scale"], params[f"{name}.shift"] = torch.ones(channels), torch.zeros(channels)
            statistics[f"{name}.mean"], statistics[f"{name}.variance"] = torch.zeros(channels), torch.ones(channels)
            fan_in = channels
        params["head.weight"] = torch.randn(self.way, fan_in, generator=generator) * 0.01
        params["head.bias"] = torch.zeros(self.way)
        return params, statistics

    def __call__(
        self, params: Params, x: Tensor, statistics: Params | None = None, training: bool = True
    ) -> tuple[Tensor, list[Tensor]]:
        """Logits (n, way) and the five features, of x (n, 3, 32, 32).

        Batch norm uses the batch's statistics if `training`, and moves `statistics` in place where they are given;
        else it uses `statistics`.
        """
        x, features = x.contiguous(memory_format=torch.channels_last), []
        for number, block in enumerate(self.blocks):
            for layer in range(len(block)):
                name = f"block{number}.{layer}"
                x = convolution(x, params[f"{name}.weight"], padding=1, precision=self.precision)
                known = None
                if statistics is not None:
                    known = statistics[f"{name}.mean"], statistics[f"{name}.variance"]
                x = batch_norm(x, params[f"{name}.scale"], params[f"{name}.shift"], known, training, self.total)
                x = F.relu_(x)
            features.append(x)
            x = max_pool(x)
        return F.linear(x.flatten(1), params["head.weight"], params["head.bias"]), features

    def _convolutions(self) -> list[tuple[str, int]]:
        return [
            (f"block{number}.{layer}", channels)
            for number, block in enumerate(self.blocks)
            for layer, channels in enumerate(block)
        ]
