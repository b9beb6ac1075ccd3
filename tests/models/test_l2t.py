"""L2T's meta-networks and feature matching, pair by pair from their description, in float64."""

import pytest
import torch
import torch.nn.functional as F
from problems import F64

from msmeta.models.l2t import L2T, distance

L = L2T((2, 3), (4, 5, 6))
SIZES = [(8, 8), (4, 4), (2, 2)]


@pytest.fixture
def parts():
    torch.manual_seed(0)
    source = [torch.randn(7, 2, 8, 8, dtype=F64), torch.randn(7, 3, 4, 4, dtype=F64)]
    target = [torch.randn(7, c, *size, dtype=F64) for c, size in zip(L.target_channels, SIZES, strict=True)]
    theta = {name: torch.randn(value.shape, dtype=F64) for name, value in L.init_meta().items()}
    phi = {name: torch.randn(value.shape, dtype=F64) for name, value in L.init_matching().items()}
    return source, target, theta, phi


def test_loss_is_the_sum_over_pairs(parts):
    source, target, theta, phi = parts
    expected = 0.0
    for t, feature in enumerate(target):
        first = 0
        for s, f in enumerate(source):
            rows = slice(first, first + f.shape[1])
            first = rows.stop
            matched = F.conv2d(feature, phi[f"match{t}.weight"][rows], phi[f"match{t}.bias"][rows])
            if f.shape[2:] != feature.shape[2:]:
                f = F.interpolate(f, feature.shape[2:], mode="bilinear", align_corners=False)
            pooled = source[s].mean((2, 3))
            what = torch.softmax(pooled @ theta[f"what{s}.{t}.weight"].T + theta[f"what{s}.{t}.bias"], 1)
            where = (pooled @ theta[f"where{s}.{t}.weight"].T + theta[f"where{s}.{t}.bias"]).clamp(0, 6)
            for image in range(7):
                for channel in range(f.shape[1]):
                    distance = (f[image, channel] - matched[image, channel]).square().mean()
                    expected += where[image, 0] * what[image, channel] * distance / 7
    assert L.loss(phi, theta, L.source_batch(source, SIZES), target).item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 3, 0, 1)], ids=["images first", "positions first"])
def test_distances_derivatives_are_those_of_the_plain_formula(order):
    torch.manual_seed(0)
    feature = torch.randn(3, 4, 2, 2, dtype=F64).permute(order).contiguous().permute(order).requires_grad_()
    weight, bias = torch.randn(5, 4, dtype=F64).requires_grad_(), torch.randn(5, dtype=F64).requires_grad_()
    target, multiplier = torch.randn(3, 5, 2, 2, dtype=F64), torch.randn(3, 5, dtype=F64).requires_grad_()
    inputs = feature, weight, bias
    along = [torch.randn_like(value) for value in inputs]

    def derivatives(function):
        value = function(*inputs, target)
        first = torch.autograd.grad(value, inputs, multiplier, create_graph=True)
        return value, *first, *torch.autograd.grad(first, (*inputs, multiplier), along)

    def plain(feature, weight, bias, target):
        return (F.conv2d(feature, weight[..., None, None], bias) - target).square().mean((2, 3))

    for own, other in zip(derivatives(distance), derivatives(plain), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-12)


def test_at_first_all_channels_count_alike_and_every_pair_has_weight_one(parts):
    source, _, _, _ = parts
    theta = {name: value.double() for name, value in L.init_meta().items()}
    for weight in L.weights(theta, L.source_batch(source, SIZES)):
        torch.testing.assert_close(weight, torch.tensor([1 / 2] * 2 + [1 / 3] * 3, dtype=F64).expand(7, 5))


def test_the_meta_networks_are_not_dead_at_their_start(parts):
    source, target, _, phi = parts
    theta = {name: value.double().requires_grad_() for name, value in L.init_meta().items()}
    L.loss(phi, theta, L.source_batch(source, SIZES), target).backward()
    assert all(value.grad.abs().max() > 0 for value in theta.values())
    assert len([name for name in theta if name.startswith("where") and name.endswith("bias")]) == 2 * 3


def test_the_source_is_not_differentiated(parts):
    source, *_ = parts
    batch = L.source_batch([f.requires_grad_() for f in source], SIZES)
    assert not any(value.requires_grad for value in (*batch.pooled, *batch.resized))


def test_the_third_derivative_of_the_distance_is_refused():
    """Also where the target feature has other ways to the value."""
    torch.manual_seed(0)
    feature = torch.randn(2, 3, 4, 4, dtype=F64, requires_grad=True)
    weight, bias, target = torch.randn(5, 3, dtype=F64), torch.randn(5, dtype=F64), torch.randn(2, 5, 4, 4, dtype=F64)
    value = distance(feature, weight, bias, target).pow(2).sum() + feature.pow(4).sum()
    for _ in range(2):
        (first,) = torch.autograd.grad(value, feature, create_graph=True)
        value = first.pow(2).sum()
    with pytest.raises(NotImplementedError, match="no third derivatives"):
        torch.autograd.grad(value, feature)
