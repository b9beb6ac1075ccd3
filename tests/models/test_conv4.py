"""Conv4: the task-batched network against one task at a time through torch's own layers, in float64."""

import pytest
import torch
import torch.nn.functional as F
from problems import F64, relative_error

from msmeta import SGD, Adam, Bilevel, MultiStep
from msmeta.models import Conv4
from msmeta.models.layers import conv2d


def reference(model, params, x):
    """One task through torch.nn.functional, written from the description of the network."""
    for block in "1234":
        x = F.conv2d(x, params[f"conv{block}.weight"], stride=1 if model.pool else 2, padding=1)
        x = F.batch_norm(x, None, None, params[f"norm{block}.weight"], params[f"norm{block}.bias"], training=True)
        x = F.relu(x)
        x = F.max_pool2d(x, 2) if model.pool else x
    x = x.flatten(1) if model.pool else x.mean((2, 3))
    return F.linear(x, params["head.weight"], params["head.bias"])


MODELS = {"omniglot": Conv4(5, filters=6), "84x84": Conv4(3, channels=3, size=84, filters=4, pool=True)}


def tasks_for(model, tasks=3, n=6):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(tasks, n, model.channels, model.size, model.size, dtype=F64, generator=generator)
    return x, torch.arange(n).remainder(model.way).expand(tasks, n)


def problem(model, x, y, one_task=None):
    def loss(phi, x, y):
        if one_task is None:
            return F.cross_entropy(model(phi, x).flatten(0, 1), y.flatten(), reduction="sum") / y.shape[1]
        return F.cross_entropy(reference(model, phi, x[one_task]), y[one_task])

    def init(theta):
        return theta if one_task is not None else {k: v.expand(len(x), *v.shape) for k, v in theta.items()}

    half = x.shape[1] // 2
    return Bilevel(
        init,
        lambda phi, theta, t: loss(phi, x[:, :half], y[:, :half]),
        lambda phi, theta: loss(phi, x[:, half:], y[:, half:]),
        tasks=len(x) if one_task is None else None,
    )


@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_torch_layers_with_and_without_a_task_dimension(name):
    model = MODELS[name]
    params = {k: v.double() for k, v in model.init(0).items()}
    x, _ = tasks_for(model)
    batched = model({k: v.expand(3, *v.shape) for k, v in params.items()}, x)
    for task in range(3):
        expected = reference(model, params, x[task])
        torch.testing.assert_close(batched[task], expected, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(model(params, x[task]), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("window", [1, 2, 4])
@pytest.mark.parametrize("dynamics", [SGD(0.1), SGD(0.1, 0.9, 1e-3), Adam(0.01, eps=1e-4)], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_task_batched_meta_gradient_equals_one_task_at_a_time(name, dynamics, window):
    model = MODELS[name]
    theta = {k: v.double() for k, v in model.init(0).items()}
    x, y = tasks_for(model)
    estimator = MultiStep(dynamics, 4, window)
    batched = estimator(problem(model, x, y), theta)
    single = [estimator(problem(model, x, y, task), theta) for task in range(3)]
    torch.testing.assert_close(batched.loss, sum(out.loss for out in single), rtol=1e-10, atol=0)
    total = {k: sum(out.grad[k] for out in single) for k in theta}
    assert relative_error(batched.grad, total) < 1e-10


def test_meta_gradient_equals_finite_differences():
    """Directional, along random directions: the network is smooth where no ReLU input crosses zero within h."""
    model = MODELS["omniglot"]
    theta = {k: v.double() for k, v in model.init(0).items()}
    x, y = tasks_for(model)
    estimator = MultiStep(SGD(0.1, 0.9, 1e-3), 4, 2)
    grad = estimator(problem(model, x, y), theta).grad
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        direction = {k: torch.randn(v.shape, dtype=F64, generator=generator) for k, v in theta.items()}
        h = 1e-6
        ahead, behind = (
            estimator(problem(model, x, y), {k: v + sign * h * direction[k] for k, v in theta.items()}).loss
            for sign in (1, -1)
        )
        slope = sum((grad[k] * direction[k]).sum() for k in theta)
        torch.testing.assert_close((ahead - behind) / (2 * h), slope, rtol=1e-6, atol=1e-9)


def test_vmap_through_native_batch_norm_is_still_wrong():
    """Why tasks lie in the channels: torch.func.vmap gives the right loss and another meta-gradient
    (pytorch/functorch#534). When this fails, torch has been mended and the note in Conv4 can go."""
    model = MODELS["omniglot"]
    theta = {k: v.double() for k, v in model.init(0).items()}
    x, y = tasks_for(model)
    half = x.shape[1] // 2

    def task_loss(theta, x, y):
        phi = theta
        for _ in range(2):
            inner = torch.func.grad(lambda p: F.cross_entropy(reference(model, p, x[:half]), y[:half]))(phi)
            phi = {k: v - 0.1 * inner[k] for k, v in phi.items()}
        return F.cross_entropy(reference(model, phi, x[half:]), y[half:])

    def total(theta):
        return torch.func.vmap(task_loss, in_dims=(None, 0, 0))(theta, x, y).sum()

    grad, loss = torch.func.grad_and_value(total)(theta)
    ours = MultiStep(SGD(0.1), 2, 1)(problem(model, x, y), theta)
    torch.testing.assert_close(loss, ours.loss, rtol=1e-10, atol=0)
    assert relative_error(grad, ours.grad) > 1e-5  # rounding is below 1e-12


@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (2, 3)])
def test_convolution_and_its_derivatives_to_second_order(stride, groups):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 2 * groups, 7, 7, dtype=F64, generator=generator, requires_grad=True)
    weight = torch.randn(4 * groups, 2, 3, 3, dtype=F64, generator=generator, requires_grad=True)
    torch.testing.assert_close(
        conv2d(x, weight, stride, 1, groups), F.conv2d(x, weight, stride=stride, padding=1, groups=groups)
    )
    call = lambda x, w: conv2d(x, w, stride, 1, groups)  # noqa: E731
    assert torch.autograd.gradcheck(call, (x, weight))
    assert torch.autograd.gradgradcheck(call, (x, weight))
    # One operand constant: the other's derivatives take another path.
    assert torch.autograd.gradgradcheck(lambda w: conv2d(x.detach(), w, stride, 1, groups), (weight,))
    assert torch.autograd.gradgradcheck(lambda x: conv2d(x, weight.detach(), stride, 1, groups), (x,))


def test_parameters():
    model = Conv4(5)
    params = model.init(3)
    assert model.features == 64 and params["head.weight"].shape == (5, 64)
    assert model.parameters == 64 * 9 + 3 * 64 * 64 * 9 + 8 * 64 + 5 * 65
    assert all(torch.equal(value, model.init(3)[name]) for name, value in params.items())
    assert not torch.equal(params["conv1.weight"], model.init(4)["conv1.weight"])
    assert Conv4(5, 3, 84, 32, pool=True).features == 32 * 5 * 5
