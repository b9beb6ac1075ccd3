"""The meta-networks of L2T-ww (Jang et al., 2019): what and where to transfer (Eq. 19 and Section 5.1 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from msmeta.bilevel import Params
from msmeta.models.layers import last, needed, positions_first


@dataclass(frozen=True)
class SourceBatch:
    """What the transfer loss needs of the frozen source network, computed once a batch.

    pooled: means over positions of each source feature, (n, C_s). resized: for each target feature all source features
    at its size, bilinearly, side by side, (n, sum of C_s, H_t, W_t).
    """

    pooled: list[Tensor]
    resized: list[Tensor]


@dataclass(frozen=True)
class L2T:
    """The transfer loss between every pair of a source and a target feature.

    Of an image, the pair (s, t) costs λ_st Σ_c w_st,c D_st,c: D_st,c is the mean over positions of the squared
    difference between channel c of source feature s and a 1x1 convolution of target feature t (feature matching), w_st
    a softmax over the channels ("what") and λ_st a ReLU6 ("where"), both linear in the pooled source feature. The loss
    is the sum over pairs, a mean over images.

    The matching convolutions are adapted with the target network (φ), the two linear maps are the meta-parameters (θ).
    The source features that one target feature is matched with share a convolution, which computes the same.
    """

    source_channels: tuple[int, ...]
    target_channels: tuple[int, ...]

    def init_meta(self) -> Params:
        """θ with which all channels count alike and every pair has weight 1."""
        theta: Params = {}
        for t in range(len(self.target_channels)):
            for s, channels in enumerate(self.source_channels):
                theta[f"what{s}.{t}.weight"] = torch.zeros(channels, channels)
                theta[f"what{s}.{t}.bias"] = torch.zeros(channels)
                theta[f"where{s}.{t}.weight"] = torch.zeros(1, channels)
                theta[f"where{s}.{t}.bias"] = torch.ones(1)
        return theta

    def init_matching(self, seed: int = 0) -> Params:
        """φ of the matching convolutions, uniform as torch's own convolutions."""
        generator, params = torch.Generator().manual_seed(seed), {}
        for t, channels in enumerate(self.target_channels):
            bound = channels**-0.5
            weight = torch.empty(sum(self.source_channels), channels, 1, 1).uniform_(-bound, bound, generator=generator)
            params[f"match{t}.weight"], params[f"match{t}.bias"] = weight, torch.zeros(len(weight))
        return params

    @torch.no_grad()
    def source_batch(self, features: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> SourceBatch:
        """From the source's features and the sizes of the target's."""
        features = [f.contiguous(memory_format=torch.channels_last) for f in features]
        resized = [
            torch.cat([f if f.shape[2:] == size else F.interpolate(f, size, mode="bilinear") for f in features], dim=1)
            for size in map(torch.Size, sizes)
        ]
        return SourceBatch([f.mean((2, 3)) for f in features], resized)

    def weights(self, theta: Params, source: SourceBatch) -> list[Tensor]:
        """λ_st w_st,c of each target feature: (n, sum of C_s)."""
        return [
            torch.cat([_pair_weights(theta, s, t, pooled) for s, pooled in enumerate(source.pooled)], dim=1)
            for t in range(len(self.target_channels))
        ]

    def distances(self, phi: Params, source: SourceBatch, features: Sequence[Tensor]) -> list[Tensor]:
        """D_st,c of each target feature: (n, sum of C_s)."""
        return [
            distance(feature, phi[f"match{t}.weight"][..., 0, 0], phi[f"match{t}.bias"], source.resized[t])
            for t, feature in enumerate(features)
        ]

    def loss(self, phi: Params, theta: Params, source: SourceBatch, features: Sequence[Tensor]) -> Tensor:
        """The transfer loss, 0-d. features: of the target network, as the source batch was made for."""
        pairs = zip(self.weights(theta, source), self.distances(phi, source, features), strict=True)
        return sum((weight * distance).sum(1).mean() for weight, distance in pairs)

    def pair_weights(self, theta: Params, source: SourceBatch) -> Tensor:
        """λ_st, a mean over images: (targets, sources)."""
        pairs = [
            [F.relu6(_linear(theta, "where", s, t, pooled)).mean() for s, pooled in enumerate(source.pooled)]
            for t in range(len(self.target_channels))
        ]
        return torch.stack([torch.stack(row) for row in pairs])


def distance(feature: Tensor, weight: Tensor, bias: Tensor, target: Tensor) -> Tensor:
    """Means over positions (n, S) of the squared differences e of a 1x1 convolution of (n, C, H, W) from (n, S, H, W).

    weight (S, C), bias (S,). The target is a constant; there are no third derivatives. Of a graph of two derivatives
    only e is held beside the arguments, and in whichever layout the feature has its channels last nothing is copied.
    """
    if positions_first(feature):  # positions lead: (H*W, n, C), or follow the images
        rows, positions = [x.permute(2, 3, 0, 1).flatten(0, 1) for x in (feature, target)], 0
    else:
        rows, positions = [x.permute(0, 2, 3, 1).flatten(1, 2) for x in (feature, target)], 1
    return _Distance.apply(*rows, weight, bias.view_as(bias), positions)  # no leaf: `needed` can tell


class _Distance(Function):
    @staticmethod
    def forward(ctx: Any, feature: Tensor, target: Tensor, weight: Tensor, bias: Tensor, positions: int) -> Tensor:
        apart = F.linear(feature, weight, bias).sub_(target)
        ctx.save_for_backward(feature, weight, bias, apart)
        ctx.positions = positions
        return apart.square().mean(positions)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        by_feature, by_weight, by_bias = _DistanceGradients.apply(grad, *ctx.saved_tensors, ctx.positions)
        return by_feature, None, by_weight, by_bias, None


class _DistanceGradients(Function):
    """(∂/∂feature, ∂/∂weight, ∂/∂bias) of ⟨g, mean e²⟩, and once more by g, feature, weight and bias.

    With e' = 2 g e / (HW) the first are e' m, e'ᵀ f and Σ e'. Their inner product with (u, a, c) is ⟨e', z⟩, where
    z = u mᵀ + f aᵀ + c is how e moves along (u, a, c); it is linear in g, in e and in z.
    """

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, feature: Tensor, weight: Tensor, bias: Tensor, apart: Tensor, positions: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(grad, feature, weight, apart)
        ctx.positions = positions
        pull = apart * _factor(grad, apart, positions)
        return pull @ weight, _flat(pull).t() @ _flat(feature), pull.sum((0, 1))

    @staticmethod
    def backward(ctx: Any, *along: Tensor) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            found = _DistanceGradients._second(ctx, *along)
        return last(found, (*along, *ctx.saved_tensors), "the distance of features has no third derivatives")

    @staticmethod
    def _second(ctx: Any, u: Tensor, a: Tensor, c: Tensor) -> tuple[Tensor | None, ...]:
        grad, feature, weight, apart = ctx.saved_tensors
        along = F.linear(u, weight, c).add_(F.linear(feature, a))
        by_grad, factor = (along * apart).mean(ctx.positions) * 2, _factor(grad, apart, ctx.positions)
        if not any(needed(ctx)[1:4]):
            return by_grad, *(None,) * 5
        moved = along.mul_(factor)
        by_feature, by_weight, by_bias = moved @ weight, _flat(moved).t() @ _flat(feature), moved.sum((0, 1))
        del along, moved  # the largest of all, before there is another one
        pull = apart * factor
        return by_grad, by_feature.add_(pull @ a), by_weight.addmm_(_flat(pull).t(), _flat(u)), by_bias, None, None


def _factor(grad: Tensor, apart: Tensor, positions: int) -> Tensor:
    """What makes e' of e."""
    return (grad * (2 / apart.shape[positions])).unsqueeze(positions)


def _flat(rows: Tensor) -> Tensor:
    return rows.flatten(0, 1)


def _pair_weights(theta: Params, s: int, t: int, pooled: Tensor) -> Tensor:
    """λ_st w_st,c: (n, C_s)."""
    return F.relu6(_linear(theta, "where", s, t, pooled)) * _linear(theta, "what", s, t, pooled).softmax(1)


def _linear(theta: Params, kind: str, s: int, t: int, pooled: Tensor) -> Tensor:
    return F.linear(pooled, theta[f"{kind}{s}.{t}.weight"], theta[f"{kind}{s}.{t}.bias"])
