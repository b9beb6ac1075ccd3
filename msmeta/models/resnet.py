"""ResNet-18 and ResNet-34 as torchvision has them, functional: target and source for 224x224 images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from msmeta.bilevel import Params
from msmeta.errors import ConfigError
from msmeta.models.layers import batch_norm, convolution
from msmeta.modules import random_numbers

STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
"""Basic blocks of each stage, by depth."""
WIDTHS = (64, 128, 256, 512)
STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class ResNet:
    """Four stages of basic blocks (He et al., 2016); parameters and statistics have torchvision's names.

    depth: 18 or 34. way: classes. precision: of the convolutions, one of PRECISIONS. total: as for `batch_norm`.
    Raises ConfigError for another depth.
    """

    depth: int
    way: int
    precision: str = "float32"
    total: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.depth not in STAGES:
            raise ConfigError(f"a ResNet of depth {self.depth} is unknown: choose from {', '.join(map(str, STAGES))}")

    @property
    def channels(self) -> tuple[int, ...]:
        """Of the features: the output of each stage."""
        return WIDTHS

    def sizes(self, side: int) -> list[tuple[int, int]]:
        """Heights and widths of the features, for square images of this side."""
        return [(-(-side // stride),) * 2 for stride in (4, 8, 16, 32)]

    def init(self, seed: int = 0) -> tuple[Params, Params]:
        """Parameters and running statistics, drawn as torchvision draws them."""
        from torchvision import models

        with random_numbers(seed, torch.device("cpu")):
            module = models.get_model(f"resnet{self.depth}", num_classes=self.way)
        return split_state(module.state_dict())

    def __call__(
        self, params: Params, x: Tensor, statistics: Params | None = None, training: bool = True
    ) -> tuple[Tensor, list[Tensor]]:
        """Logits (n, way) and the four features, of x (n, 3, H, W).

        Batch norm uses the batch's statistics if `training`, and moves `statistics` in place where they are given;
        else it uses `statistics`.
        """

        def conv(name: str, x: Tensor, stride: int, padding: int) -> Tensor:
            return convolution(x, params[f"{name}.weight"], stride, padding, self.precision)

        def norm(name: str, x: Tensor) -> Tensor:
            known = None if statistics is None else tuple(statistics[f"{name}.{part}"] for part in STATISTICS)
            return batch_norm(x, params[f"{name}.weight"], params[f"{name}.bias"], known, training, self.total)

        def block(name: str, x: Tensor, stride: int) -> Tensor:
            y = F.relu(norm(f"{name}.bn1", conv(f"{name}.conv1", x, stride, 1)))
            y = norm(f"{name}.bn2", conv(f"{name}.conv2", y, 1, 1))
            if f"{name}.downsample.0.weight" in params:
                x = norm(f"{name}.downsample.1", conv(f"{name}.downsample.0", x, stride, 0))
            return F.relu(x + y)

        x, features = F.relu(norm("bn1", conv("conv1", x, 2, 3))), []
        x = F.max_pool2d(x, 3, 2, 1)
        for stage, blocks in enumerate(STAGES[self.depth]):
            for number in range(blocks):
                x = block(f"layer{stage + 1}.{number}", x, stride=2 if stage and not number else 1)
            features.append(x)
        return F.linear(x.mean((2, 3)), params["fc.weight"], params["fc.bias"]), features


def split_state(state: dict[str, Tensor]) -> tuple[Params, Params]:
    """Parameters and running statistics of a torchvision state dictionary."""
    kept = {name: value.detach() for name, value in state.items() if not name.endswith("num_batches_tracked")}
    statistics = {name: value for name, value in kept.items() if name.endswith(STATISTICS)}
    return {name: value for name, value in kept.items() if name not in statistics}, statistics
