"""Minibatches of labelled images."""

from dataclasses import replace
from itertools import islice

import pytest
import torch
from torchvision.transforms.v2 import functional as transforms

from msmeta.data import Images, MinibatchSampler, evaluation_batches, load
from msmeta.data import minibatches as module
from msmeta.errors import ConfigError

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


@pytest.fixture(params=["pictures", "photographs"])
def data(request, root) -> Images:
    return load(request.param, root=root)


def same(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_batch_is_a_pure_function_of_seed_split_and_step(data, root):
    sampler = MinibatchSampler(data, 8, seed=1)
    batches = [sampler.batch_at(step) for step in range(7)]
    assert same(batches[5], MinibatchSampler(load(data.name, root=root), 8, seed=1).batch_at(5))
    x, y = batches[0]
    assert x.shape == (8, 3, 32, 32) and x.dtype == torch.float32 and x.is_contiguous()
    assert y.shape == (8,) and y.dtype == torch.int64
    for other in (replace(sampler, seed=2), replace(sampler, augment=False), replace(sampler, data=data.subset(9))):
        assert not torch.equal(other.batch_at(0)[0], x)
    assert MinibatchSampler(data, 9, split="test").batch_at(0)[0].shape[0] == 9


def test_an_epoch_has_each_image_once_and_a_random_order(data):
    sampler = MinibatchSampler(data, 7, augment=False)
    assert sampler.batches == 4  # two images are left out
    everything = torch.cat([x for x, _ in evaluation_batches(data, "train", 100)])
    place = {image.numpy().tobytes(): number for number, image in enumerate(everything)}
    orders = []
    for epoch in range(2):
        batches = [sampler.batch_at(4 * epoch + step) for step in range(4)]
        orders.append([place[image.numpy().tobytes()] for x, _ in batches for image in x])
        assert torch.equal(torch.cat([y for _, y in batches]), data.labels["train"][orders[-1]])
        assert len(set(orders[-1])) == 28
    assert orders[0] != orders[1] and orders[0] != sorted(orders[0])


def test_images_are_augmented_as_by_torchvision(data):
    sampler = MinibatchSampler(data, 15, seed=3)
    seen = set()
    for step in range(6):
        plan = sampler._plan(step)
        for place, top, left, turned, x in zip(*plan.tolist(), sampler.batch_at(step)[0], strict=True):
            image = data.images["train"][place]
            if data.name == "pictures":
                image = transforms.pad(image, [4])
            crop = transforms.crop(image, top, left, 32, 32)
            crop = transforms.horizontal_flip(crop) if turned else crop
            crop = transforms.to_dtype(crop, torch.float32, scale=True)
            expected = transforms.normalize(crop, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
            torch.testing.assert_close(x, expected, rtol=0, atol=2e-6)
            seen.add((top, left, turned))
    for numbers, limit in zip(map(set, zip(*seen, strict=True)), (8, 8, 1), strict=True):
        assert numbers == set(range(limit + 1))  # of the 40x40 images of both, all crops


def test_padding_is_black_before_it_is_normalised(root):
    data = load("pictures", root=root)
    white = replace(data, images={split: torch.full_like(part, 255) for split, part in data.images.items()})
    x, _ = MinibatchSampler(white, 30).batch_at(0)
    black, full = (module.normalised(torch.full((1, 3, 1, 1), value, dtype=torch.uint8)) for value in (0, 255))
    assert ((x == black) | (x == full)).all() and (x == black).any()
    torch.testing.assert_close(black.flatten(), torch.tensor([-2.117904, -2.035714, -1.804444]))


def test_without_augmentation_the_middle_is_given(data):
    margin = (data.images["train"].shape[-1] - 32) // 2
    x, y = MinibatchSampler(data, 30, augment=False).batch_at(0)
    middle = data.images["train"][..., margin : margin + 32, margin : margin + 32]
    expected = {image.numpy().tobytes() for image in module.normalised(middle)}
    assert {image.numpy().tobytes() for image in x} == expected


@pytest.mark.parametrize("device", DEVICES)
def test_batches_are_the_same_bits_on_every_device(data, root, device):
    there = load(data.name, device, root)
    assert there.device.type == device
    for step in (0, 5):
        x, y = MinibatchSampler(there, 8).batch_at(step)
        assert x.device.type == y.device.type == device
        assert same((x.cpu(), y.cpu()), MinibatchSampler(data, 8).batch_at(step))
    x, y = next(MinibatchSampler(there, 8).from_step(5))
    assert same((x.cpu(), y.cpu()), MinibatchSampler(data, 8).batch_at(5))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_workers_give_the_same_batches(data, workers):
    sampler = MinibatchSampler(data, 8, seed=2)
    before = torch.get_rng_state()
    batches = list(islice(sampler.from_step(2, workers), 5))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(same(batch, sampler.batch_at(2 + number)) for number, batch in enumerate(batches))


def test_evaluation_takes_every_image_once_in_order(data):
    for batch in (4, 9, 100):
        parts = list(evaluation_batches(data, "test", batch))
        assert [len(y) for _, y in parts] == [batch] * (9 // batch) + [9 % batch] * (9 % batch > 0)
        x, y = (torch.cat(part) for part in zip(*parts, strict=True))
        margin = (data.images["test"].shape[-1] - 32) // 2
        middle = data.images["test"][..., margin : margin + 32, margin : margin + 32]
        assert torch.equal(x, module.normalised(middle)) and torch.equal(y, data.labels["test"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "tune"}, "pictures has no split 'tune': choose one of train, validation, test"),
        ({"batch": 0}, "a batch of 0 images is impossible: it must have at least 1"),
        ({"batch": 31}, "a batch of 31 images is impossible: split train of pictures has 30"),
        ({"seed": -1}, "seed -1 is impossible: it must be at least 0"),
    ],
)
def test_impossible_samplers(root, change, message):
    with pytest.raises(ConfigError) as error:
        MinibatchSampler(**{"data": load("pictures", root=root), "batch": 8, **change})
    assert str(error.value) == message


def test_impossible_batches(data):
    with pytest.raises(ConfigError, match="step -1 is impossible: it must be at least 0"):
        MinibatchSampler(data, 8).batch_at(-1)
    with pytest.raises(ConfigError, match="has no split 'tune'"):
        evaluation_batches(data, "tune", 8)
    with pytest.raises(ConfigError, match="a batch of 0 images is impossible"):
        evaluation_batches(data, "test", 0)
