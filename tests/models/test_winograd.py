"""Winograd's convolution against torch's, whose derivatives the layer takes from it."""

import pytest
import torch
import torch.nn.functional as F
from problems import F64

from msmeta.models import winograd
from msmeta.models.layers import conv2d


def operands(side, dtype=F64, channels=(128, 130)):
    torch.manual_seed(side)
    x = torch.randn(2, channels[0], side, side, dtype=dtype)
    return x.requires_grad_(), torch.randn(channels[1], channels[0], 3, 3, dtype=dtype).requires_grad_()


@pytest.mark.parametrize("side", [2, 4, 6, 8])
def test_value_and_two_derivatives_are_torchs(side):
    """Of all second derivatives at once: those by the multiplier of each first one and by each operand."""
    x, weight = operands(side)
    assert winograd.suits(x, weight, 1, 1, 1)
    multiplier = torch.randn(2, 130, side, side, dtype=F64).requires_grad_()
    along = torch.randn_like(x), torch.randn_like(weight)

    def derivatives(convolution):
        y = convolution(x, weight)
        first = torch.autograd.grad(y, (x, weight), multiplier, create_graph=True)
        return y, *first, *torch.autograd.grad(first, (x, weight, multiplier), along)

    expected = derivatives(lambda x, weight: F.conv2d(x, weight, None, 1, 1))
    for own, other in zip(derivatives(lambda x, weight: conv2d(x, weight, 1, 1)), expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-11, atol=1e-10)  # sums of 9 * 130 terms in another order


def test_in_float32_it_rounds_about_as_torch_does():
    x, weight = (value.detach() for value in operands(8, torch.float32, (256, 256)))
    exact = F.conv2d(x.double(), weight.double(), None, 1, 1)
    found = winograd.convolve(x, weight), F.conv2d(x, weight, None, 1, 1)
    own, other = ((y - exact).norm() / exact.norm() for y in found)
    assert own < 5 * other < 5e-6


@pytest.mark.parametrize("how", [(2, 1, 1), (1, 0, 1), (1, 1, 2)], ids=["stride", "padding", "groups"])
def test_it_leaves_other_convolutions_to_torch(how):
    assert not winograd.suits(*operands(8), *how)


@pytest.mark.parametrize("case", [(16,), (5,), (8, F64, (64, 128)), (8, torch.bfloat16)], ids=str)
def test_it_leaves_other_operands_to_torch(case):
    x, weight = operands(*case)
    assert not winograd.suits(x, weight, 1, 1, 1) and not winograd.suits(x.to("meta"), weight.to("meta"), 1, 1, 1)
