"""VGG-9: torch's own layers in sequence, features and running statistics."""

import torch
from problems import F64, relative_error
from torch import nn

from msmeta.models.vgg9 import VGG9

MODEL = VGG9(way=4, width=1 / 16)


def test_is_torchs_layers_in_sequence():
    params, statistics = MODEL.init(3)
    params = {name: value.double() + 0.1 * torch.rand(value.shape, dtype=F64) for name, value in params.items()}
    statistics = {name: value.double() for name, value in statistics.items()}
    layers, features, fan_in = nn.Sequential(), [], 3
    for number, block in enumerate(MODEL.blocks):
        for layer, channels in enumerate(block):
            conv, norm = nn.Conv2d(fan_in, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
            name, fan_in = f"block{number}.{layer}", channels
            conv.weight.data, norm.weight.data = params[f"{name}.weight"], params[f"{name}.scale"]
            norm.bias.data = params[f"{name}.shift"]
            layers.extend([conv, norm, nn.ReLU()])
        pool = nn.MaxPool2d(2)
        pool.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
        layers.append(pool)
    layers.append(nn.Flatten())
    layers.double()
    x = torch.randn(6, 3, 32, 32, dtype=F64)
    expected = layers(x) @ params["head.weight"].T + params["head.bias"]
    logits, found = MODEL(params, x, statistics)
    assert relative_error({"y": logits.detach()}, {"y": expected.detach()}) < 1e-12
    assert [f.shape for f in found] == [f.shape for f in features] and MODEL.channels == tuple(
        f.shape[1] for f in found
    )
    assert all(torch.allclose(a, b) for a, b in zip(found, features, strict=True))
    norms = [layer for layer in layers if isinstance(layer, nn.BatchNorm2d)]
    for (name, _), norm in zip(MODEL._convolutions(), norms, strict=True):
        torch.testing.assert_close(statistics[f"{name}.mean"], norm.running_mean)
        torch.testing.assert_close(statistics[f"{name}.variance"], norm.running_var)
    layers.eval()
    expected = layers(x) @ params["head.weight"].T + params["head.bias"]
    logits, _ = MODEL(params, x, statistics, training=False)
    assert relative_error({"y": logits.detach()}, {"y": expected.detach()}) < 1e-12


def test_full_width_is_nine_layers():
    model = VGG9(100)
    params, _ = model.init()
    assert model.channels == (64, 128, 256, 512, 512)
    assert len([name for name in params if name.endswith(".weight")]) == 9
    assert params["head.weight"].shape == (100, 512)
