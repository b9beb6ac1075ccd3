"""ResNets against torchvision's own modules."""

import pytest
import torch
from torchvision import models

from msmeta import ConfigError
from msmeta.models.resnet import ResNet, split_state


@pytest.mark.parametrize("depth", [18, 34])
def test_agrees_with_torchvision(depth):
    """Logits, features, running statistics and gradients, in float64; in training and in evaluation."""
    torch.manual_seed(0)
    module = models.get_model(f"resnet{depth}", num_classes=7).double()
    network = ResNet(depth, 7)
    params, statistics = split_state({name: value.clone() for name, value in module.state_dict().items()})
    params = {name: value.requires_grad_() for name, value in params.items()}
    x = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    seen = []
    for layer in (module.layer1, module.layer2, module.layer3, module.layer4):
        layer.register_forward_hook(lambda layer, inputs, output: seen.append(output))
    expected = module(x)
    logits, features = network(params, x, statistics)
    # float64 with the sums in another order
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)
    for own, other, size in zip(features, seen, network.sizes(64), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-10)
        assert own.shape[2:] == size
    moved = split_state(module.state_dict())[1]
    for name, value in statistics.items():
        torch.testing.assert_close(value, moved[name], rtol=1e-10, atol=1e-10)
    expected.square().sum().backward()
    grads = torch.autograd.grad(logits.square().sum(), list(params.values()))
    for (name, _), grad in zip(params.items(), grads, strict=True):
        torch.testing.assert_close(grad, module.get_parameter(name).grad, rtol=1e-8, atol=1e-8)
    module.eval()
    torch.testing.assert_close(network(params, x, statistics, training=False)[0], module(x), rtol=1e-10, atol=1e-10)


def test_begins_as_torchvision_does_and_leaves_its_generator_alone():
    before = torch.get_rng_state()
    params, statistics = ResNet(18, 5).init(3)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(3)
    expected = split_state(models.resnet18(num_classes=5).state_dict())
    assert all(torch.equal(params[name], value) for name, value in expected[0].items())
    assert statistics.keys() == expected[1].keys()


def test_another_depth_is_refused():
    with pytest.raises(ConfigError, match="18, 34"):
        ResNet(50, 10)
