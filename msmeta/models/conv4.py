"""The four-block convolutional network of MAML (Finn et al., 2017), functional and batched over tasks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from msmeta.bilevel import Params
from msmeta.errors import ConfigError
from msmeta.models.layers import batch_norm, conv2d, laid_out, relu_

BLOCKS = 4


@dataclass(frozen=True)
class Conv4:
    """Four blocks of [3x3 convolution, batch norm, ReLU] and a linear head.

    way: classes. channels, size: of the square input images. filters: channels of each block.
    pool: False for stride-2 convolutions and a mean over the last positions (28x28 Omniglot), True for stride 1 with
    2x2 max-pooling and a flattened last map (84x84 images). precision: one of PRECISIONS; with `bf16` the convolutions'
    operands are bfloat16, parameters, batch norm's statistics, head and losses stay as they are.

    Batch norm uses the batch's own statistics, in training and at test time ("transductive", as in MAML's code), unless
    it is given others. The convolutions have no bias: the batch norm that follows would cancel it.

    Tasks lie in the channel dimension, (n, tasks * C, H, W) with groups = tasks. There batch norm over channels is per
    task by construction, so its second derivatives are right, which under torch.func.vmap they are not.
    """

    way: int
    channels: int = 1
    size: int = 28
    filters: int = 64
    pool: bool = False
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.pool and self.size < (least := 2**BLOCKS):
            small = f"{self.size}x{self.size}"
            raise ConfigError(f"images of {small} are too small for {BLOCKS} poolings: {least}x{least} at the least")

    def init(self, seed: int = 0) -> Params:
        """Glorot-uniform convolutions, unit batch norms and a small normal head, float32 on the CPU."""
        generator = torch.Generator().manual_seed(seed)
        params: Params = {}
        for block in range(1, BLOCKS + 1):
            fan_in = self.channels if block == 1 else self.filters
            weight = torch.empty(self.filters, fan_in, 3, 3)
            params[f"conv{block}.weight"] = torch.nn.init.xavier_uniform_(weight, generator=generator)
            params[f"norm{block}.weight"] = torch.ones(self.filters)
            params[f"norm{block}.bias"] = torch.zeros(self.filters)
        params["head.weight"] = torch.randn(self.way, self.features, generator=generator) * 0.01
        params["head.bias"] = torch.zeros(self.way)
        return params

    @property
    def features(self) -> int:
        """Inputs of the linear head."""
        return self.filters * (self.size // 2**BLOCKS) ** 2 if self.pool else self.filters

    @property
    def parameters(self) -> int:
        """Numbers in θ."""
        return sum(value.numel() for value in self.init(0).values())

    def statistics(self, tasks: int, like: Tensor) -> Params:
        """Room for batch norm's statistics: the mean (tasks, filters) and variance of each block's channels."""
        names = [f"norm{block}.{kind}" for block in range(1, BLOCKS + 1) for kind in ("mean", "variance")]
        return {name: like.new_zeros(tasks, self.filters) for name in names}

    def __call__(self, params: Params, x: Tensor, statistics: Params | None = None, training: bool = True) -> Tensor:
        """Logits: x (n, C, H, W) -> (n, way); or with a task dimension on params and x, (tasks, n, C, H, W) ->
        (tasks, n, way).

        statistics: of batch norm, with a task dimension. If `training` they become the batch's mean and unbiased
        variance, in place; else they are used instead of the batch's.
        """
        if x.dim() == 4:
            alone = {name: value.unsqueeze(0) for name, value in params.items()}
            return self(alone, x.unsqueeze(0), statistics, training).squeeze(0)
        tasks, n = x.shape[:2]
        x = laid_out(x.transpose(0, 1).flatten(1, 2))  # (n, tasks * C, H, W)
        low = torch.bfloat16 if self.precision == "bf16" else x.dtype
        stride = 1 if self.pool else 2
        for block in range(1, BLOCKS + 1):
            x = conv2d(x.to(low), params[f"conv{block}.weight"].flatten(0, 1).to(low), stride, 1, groups=tasks)
            scale, shift = params[f"norm{block}.weight"].flatten(), params[f"norm{block}.bias"].flatten()
            known = None
            if statistics is not None:
                known = statistics[f"norm{block}.mean"].view(-1), statistics[f"norm{block}.variance"].view(-1)
            x = relu_(batch_norm(x, scale, shift, known, training, momentum=1.0))
            if self.pool:
                x = F.max_pool2d(x, 2)
        x = x if self.pool else x.mean((2, 3))
        x = x.to(params["head.bias"].dtype).reshape(n, tasks, -1).transpose(0, 1)  # (tasks, n, features)
        return torch.baddbmm(params["head.bias"].unsqueeze(1), x, params["head.weight"].transpose(1, 2))
