"""Second derivatives of the layers against torch's own and against finite differences, in float64."""

import pytest
import torch
import torch.nn.functional as F
from problems import F64
from torch.autograd import gradcheck, gradgradcheck

from msmeta.models.layers import batch_norm, convolution, max_pool


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    x = 2 + 3 * torch.randn(4, 3, 5, 2, dtype=F64)
    return [value.requires_grad_() for value in (x, torch.randn(3, dtype=F64), torch.randn(3, dtype=F64))]


@pytest.mark.parametrize("total", [None, lambda tensor: tensor], ids=["one", "shared"])
def test_batch_norm_is_torchs_with_its_running_statistics(inputs, total):
    own, expected = ((torch.zeros(3, dtype=F64), torch.ones(3, dtype=F64)) for _ in range(2))
    found = batch_norm(*inputs, own, total=total, momentum=0.3)
    torch.testing.assert_close(
        found, F.batch_norm(inputs[0], *expected, *inputs[1:], True, 0.3), rtol=1e-12, atol=1e-12
    )
    torch.testing.assert_close(own, expected, rtol=1e-12, atol=1e-12)


def test_batch_norms_derivatives_are_finite_differences(inputs):
    assert gradcheck(batch_norm, inputs) and gradgradcheck(batch_norm, inputs)


@pytest.mark.parametrize("among", [(0,), (1,), (2,), (0, 1, 2)])
def test_batch_norms_second_derivatives_are_torchs(inputs, among):
    """Of a function of some of the first derivatives, so that the others' multipliers are missing."""
    torch.manual_seed(1)
    weights = [torch.randn_like(value) for value in inputs]

    def second(norm):
        first = torch.autograd.grad(norm(*inputs).pow(3).sum(), inputs, create_graph=True)
        value = sum((first[i] * weights[i]).sum() for i in among)
        return torch.autograd.grad(value, inputs, allow_unused=True)

    expected = second(lambda x, weight, bias: F.batch_norm(x, None, None, weight, bias, True))
    for own, other in zip(second(batch_norm), expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-10)  # the same sums in another order


LAYOUTS = {"channels first": (0, 1, 2, 3), "channels last": (0, 2, 3, 1), "positions first": (2, 3, 0, 1)}


def laid_out(x, order):
    return x.permute(order).contiguous().permute([order.index(i) for i in range(4)])


@pytest.mark.parametrize("grad_lies", LAYOUTS)
@pytest.mark.parametrize("x_lies", LAYOUTS)
@pytest.mark.parametrize("shape", [(4, 8, 2, 2), (1, 8, 4, 4), (4, 8, 1, 1)], ids=str)
def test_batch_norm_does_not_look_at_how_tensors_lie(shape, x_lies, grad_lies):
    """torch's own backward kernel does: of one image it is silently wrong where x and the gradient lie differently."""
    torch.manual_seed(0)
    x = laid_out(torch.randn(shape, dtype=F64), LAYOUTS[x_lies]).requires_grad_()
    weight, bias = (torch.randn(shape[1], dtype=F64).requires_grad_() for _ in range(2))
    grad, along = torch.randn(2, *shape, dtype=F64)

    def derivatives(norm, lay):
        first = torch.autograd.grad(norm(x, weight, bias), (x, weight, bias), lay(grad), create_graph=True)
        return *first, *torch.autograd.grad(first[0], (x, weight), lay(along))

    def plain(x, weight, bias):
        centred = x - x.mean((0, 2, 3), keepdim=True)
        rate = (centred.square().mean((0, 2, 3), keepdim=True) + 1e-5).rsqrt()
        return centred * rate * weight[:, None, None] + bias[:, None, None]

    expected = derivatives(plain, lambda g: g)
    for own, other in zip(derivatives(batch_norm, lambda g: laid_out(g, LAYOUTS[grad_lies])), expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-9)


def test_max_pool_is_torchs_in_each_layout():
    torch.manual_seed(0)
    x = torch.randn(3, 5, 4, 4, dtype=F64)
    for order in LAYOUTS.values():
        assert torch.equal(max_pool(laid_out(x, order)), F.max_pool2d(x, 2))


def test_batch_norm_leaves_out_what_is_not_asked_for(inputs):
    """As the first window of Algorithm 1, whose state does not depend on theta: by the multiplier alone."""
    x, weight, bias = (value.detach() for value in inputs)
    scale = torch.tensor(2.0, dtype=F64, requires_grad=True)
    x.requires_grad_()
    (first,) = torch.autograd.grad((scale * batch_norm(x, weight, bias).pow(2)).sum(), x, create_graph=True)
    (found,) = torch.autograd.grad(first.pow(2).sum(), scale)
    assert found.item() == pytest.approx(first.detach().pow(2).sum().item(), rel=1e-12)  # 2 f² / scale


def test_batch_norms_third_derivative_is_refused(inputs):
    """Also where x has other ways to the value, on which torch's `once_differentiable` drops this one unseen."""
    value = batch_norm(*inputs).pow(3).sum()
    for _ in range(2):
        (first,) = torch.autograd.grad(value, inputs[0], create_graph=True)
        value = first.pow(2).sum()
    with pytest.raises(NotImplementedError, match="no third derivatives"):
        torch.autograd.grad(value, inputs[0])


def test_convolution_in_bf16_has_the_inputs_type():
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3)
    full, low = (convolution(x, weight, 2, 1, precision) for precision in ("float32", "bf16"))
    assert torch.equal(full, F.conv2d(x, weight, None, 2, 1)) and low.dtype == torch.float32
    assert 1e-4 < ((low - full).norm() / full.norm()).item() < 2e-2  # 8 bits of mantissa


@pytest.mark.parametrize("shape", [(75, 64, 14, 14), (10, 4, 32, 32), (5, 256, 2, 2), (7, 3, 1, 1)])
def test_channels_last_costs_batch_norm_no_digits(shape):
    """Of channels whose mean is 30 deviations from 0: torch's own norm there is off by up to 1e-4 in float32."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 30
    weight, bias = torch.full((shape[1],), 1.5), torch.full((shape[1],), 0.5)
    exact = F.batch_norm(x.double(), None, None, weight.double(), bias.double(), True)
    running = torch.zeros(shape[1]), torch.ones(shape[1])
    found = batch_norm(x.contiguous(memory_format=torch.channels_last), weight, bias, running)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=2e-5)
    expected = torch.zeros(shape[1], dtype=F64), torch.ones(shape[1], dtype=F64)
    F.batch_norm(x.double(), *expected, None, None, True)
    for own, value in zip(running, expected, strict=True):
        torch.testing.assert_close(own.double(), value, rtol=2e-6, atol=0)
