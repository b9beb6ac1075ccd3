"""Data sets on a device: classes, parts and smaller images."""

from dataclasses import replace

import pytest
import torch

from msmeta.data import load
from msmeta.errors import ConfigError


@pytest.mark.usefixtures("root")
def test_images_by_class(root):
    data = load("drawings", root=root)
    assert data.by_class("train").shape == (2, 15, 1, 8, 8)
    assert data.by_class("train").data_ptr() == data.images["train"].data_ptr()
    assert torch.equal(data.by_class("test")[0], data.images["test"])
    with pytest.raises(ConfigError, match="drawings has no split 'tset': choose one of train, test, tune, validation"):
        data.by_class("tset")
    uneven = replace(data, labels={**data.labels, "train": torch.tensor([0] * 14 + [1] * 16)})
    with pytest.raises(ConfigError, match="split train of drawings has not the same number of images of each class"):
        uneven.by_class("train")


def test_shrunk_images_are_means_of_squares_and_shared_splits_stay_shared(glyphs):
    small = glyphs.shrunk(14)
    exact = glyphs.images["test"].double().unflatten(-1, (14, 2)).unflatten(-3, (14, 2)).mean((-1, -3))
    assert small.images["test"].dtype == torch.uint8 and small.images["test"].shape[-2:] == (14, 14)
    assert (small.images["test"] - exact).abs().max() <= 0.5  # rounded
    assert small.hash == glyphs.hash and small.images.keys() == glyphs.images.keys() and small.side == 14
    twice = replace(glyphs, images={"train": glyphs.images["train"], "tune": glyphs.images["train"]})
    shrunk = twice.shrunk(7).images
    assert shrunk["tune"] is shrunk["train"]
    for side in (0, 13, 56):
        with pytest.raises(ConfigError, match=f"image_size={side} is impossible: glyphs has 28x28 images"):
            glyphs.shrunk(side)


@pytest.mark.parametrize("name", ["pictures", "photographs"])
def test_a_subset_has_the_same_number_of_each_class(root, name):
    data = load(name, root=root)
    part = data.subset(9)
    assert part.labels["train"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert part.images["train"].shape == (9, *data.images["train"].shape[1:])
    assert part.images["test"] is data.images["test"] and part.hash == data.hash and part.classes == data.classes
    of_image = {
        image.numpy().tobytes(): label.item()
        for image, label in zip(data.images["train"], data.labels["train"], strict=True)
    }
    images = [image.numpy().tobytes() for image in part.images["train"]]
    assert [of_image[image] for image in images] == part.labels["train"].tolist() and len(set(images)) == 9
    assert {image.numpy().tobytes() for image in data.subset(4).images["train"]} < set(images)
    assert torch.equal(data.subset(30).images["train"], data.images["train"])
    for train in (-1, 0, 2, 31):
        with pytest.raises(ConfigError) as error:
            data.subset(train)
        message = f"{train} training images are impossible: {name} has 30, and each of its 3 classes needs one"
        assert str(error.value) == message
