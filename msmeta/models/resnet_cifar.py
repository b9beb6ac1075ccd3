"""ResNet-32 for 32x32 images (He et al., 2016), the frozen source of the 32x32 transfer experiments."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from msmeta.bilevel import Params
from msmeta.errors import DataError

WIDTHS = (16, 32, 64)
BLOCKS = 5
"""Of each stage: 6 x 5 + 2 = 32 layers."""


@dataclass(frozen=True)
class ResNet32:
    """Three stages of five basic blocks, 16, 32 and 64 channels wide, at 32x32, 16x16 and 8x8 positions.

    way: classes. The first convolution has a bias, as the published source model's has. Batch norm uses its stored
    statistics: the network is not trained here.
    """

    way: int

    @property
    def channels(self) -> tuple[int, ...]:
        """Of the features: the output of each stage."""
        return WIDTHS

    def init(self, seed: int = 0) -> Params:
        """He-normal convolutions, batch norms with a standard normal's statistics, and a small normal head.

        The last batch norm of each block is zero, so that the variance does not grow from block to block.
        """
        generator, params = torch.Generator().manual_seed(seed), {"conv.bias": torch.zeros(WIDTHS[0])}

        def convolution(name: str, norm: str, fan_in: int, channels: int, side: int) -> None:
            weight = torch.randn(channels, fan_in, side, side, generator=generator)
            params[f"{name}.weight"] = weight * (2 / (side * side * fan_in)) ** 0.5
            for part, value in (("mean", 0.0), ("variance", 1.0), ("weight", 1.0), ("bias", 0.0)):
                params[f"{norm}.{part}"] = torch.full((channels,), value)

        convolution("conv", "norm", 3, WIDTHS[0], 3)
        fan_in = WIDTHS[0]
        for stage, channels in enumerate(WIDTHS):
            for block in range(BLOCKS):
                name = f"stage{stage}.{block}"
                convolution(f"{name}.conv1", f"{name}.norm1", fan_in, channels, 3)
                convolution(f"{name}.conv2", f"{name}.norm2", channels, channels, 3)
                params[f"{name}.norm2.weight"].zero_()
                if fan_in != channels:
                    convolution(f"{name}.shortcut", f"{name}.shortcut_norm", fan_in, channels, 1)
                fan_in = channels
        params["head.weight"] = torch.randn(self.way, fan_in, generator=generator) * 0.01
        params["head.bias"] = torch.zeros(self.way)
        return params

    def __call__(self, params: Params, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits (n, way) and features [(n, 16, 32, 32), (n, 32, 16, 16), (n, 64, 8, 8)] of x (n, 3, 32, 32)."""
        x = F.conv2d(x, params["conv.weight"], params["conv.bias"], padding=1)
        x, features = F.relu(_norm(params, "norm", x)), []
        for stage in range(len(WIDTHS)):
            for block in range(BLOCKS):
                x = _basic_block(params, f"stage{stage}.{block}", x, stride=2 if stage and not block else 1)
            features.append(x)
        return F.linear(x.mean((2, 3)), params["head.weight"], params["head.bias"]), features


def _basic_block(params: Params, name: str, x: Tensor, stride: int) -> Tensor:
    y = F.relu(_norm(params, f"{name}.norm1", F.conv2d(x, params[f"{name}.conv1.weight"], None, stride, 1)))
    y = _norm(params, f"{name}.norm2", F.conv2d(y, params[f"{name}.conv2.weight"], None, 1, 1))
    if f"{name}.shortcut.weight" in params:
        x = _norm(params, f"{name}.shortcut_norm", F.conv2d(x, params[f"{name}.shortcut.weight"], None, stride))
    return F.relu(x + y)


def _norm(params: Params, name: str, x: Tensor) -> Tensor:
    mean, variance, scale, shift = (params[f"{name}.{part}"] for part in ("mean", "variance", "weight", "bias"))
    return F.batch_norm(x, mean, variance, scale, shift)


def load_source(path: Path) -> tuple[ResNet32, Params]:
    """The source model that the authors of L2T-ww published, a ResNet-32 for TinyImageNet, and its parameters.

    Raises DataError in one line if the file cannot be read or is another network's.
    """
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        state = stored["state_dict"]
        params = {_own_name(name): value for name, value in state.items() if not name.endswith("num_batches_tracked")}
        model = ResNet32(len(params["head.bias"]))
        model(params, torch.zeros(1, 3, 32, 32))
    except OSError as error:
        raise DataError(f"cannot read the source model {path}: {error.strerror or error}") from error
    except Exception as error:  # torch.load's ways to fail on another file have no common class
        raise DataError(f"{path} is not the source model, a ResNet-32 for 32x32 images: get it again") from error
    return model, params


PARTS = {"running_mean": "mean", "running_var": "variance"}
RENAMED = {"conv1": "conv", "bn1": "norm", "fc": "head"}
"""Of the published file, outside its blocks."""
INSIDE = {"bn1": "norm1", "bn2": "norm2", "downsample.0": "shortcut", "downsample.1": "shortcut_norm"}
"""Inside them."""


def _own_name(name: str) -> str:
    """`blocks4.2.bn1.running_var` -> `stage1.3.norm1.variance`: its odd blocks begin a stage, its even ones go on."""
    layer, part = name.rsplit(".", 1)
    part = PARTS.get(part, part)
    found = re.fullmatch(r"blocks?(\d)(?:\.(\d))?\.(.+)", layer)
    if found is None:
        return f"{RENAMED[layer]}.{part}"
    number, rest, inside = int(found[1]), found[2], found[3]
    block = 0 if rest is None else int(rest) + 1
    return f"stage{(number - 1) // 2}.{block}.{INSIDE.get(inside, inside)}.{part}"
