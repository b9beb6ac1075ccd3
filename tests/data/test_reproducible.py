"""What is drawn, as hashes taken when the committed results were measured: so these can be measured again."""

import hashlib

import pytest
import torch
from torch import Tensor

from msmeta.data import EpisodeSampler, Images, MinibatchSampler, load


def sha(*tensors: Tensor) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.contiguous().numpy())
    return found.hexdigest()[:16]


@pytest.mark.parametrize(
    ("side", "split", "way", "shot", "query", "seed", "step", "tasks", "expected"),
    [
        (28, "train", 5, 1, 15, 0, 7, 4, "c4ae85530a6df941"),
        (28, "test", 20, 5, 5, 3, 0, 2, "8f879157bfe7b070"),
        (28, "tune", 5, 2, 3, 1, 2, 3, "a870d6dc1c5587fc"),
        (28, "validation", 5, 2, 3, 1, 2, 3, "23b3cd2791dd8664"),
        (14, "train", 5, 1, 15, 0, 7, 4, "8df52d92034735ed"),
    ],
)
def test_episodes(glyphs, side, split, way, shot, query, seed, step, tasks, expected):
    images = glyphs if side == 28 else glyphs.shrunk(side)
    drawn = EpisodeSampler(images, split, way, shot, query, seed).sample(step, tasks)
    assert sha(drawn.support_x, drawn.support_y, drawn.query_x, drawn.query_y) == expected


@pytest.mark.parametrize(
    ("train_images", "seed", "split", "augment", "step", "expected"),
    [
        (None, 0, "train", True, 20, "04ae966f829d238c"),
        (None, 1, "validation", False, 5, "9333e7ce13b9fdb3"),
        (40, 2, "train", True, 9, "e7e8f173bf3861cb"),
    ],
)
def test_minibatches(train_images, seed, split, augment, step, expected):
    images = load("glyphs-rgb")
    images = images if train_images is None else images.subset(train_images)
    assert sha(*MinibatchSampler(images, 16, seed, split, augment).batch_at(step)) == expected


def test_minibatches_of_photographs():
    images = (torch.arange(45 * 3 * 40 * 40) * 7 % 251).to(torch.uint8).reshape(45, 3, 40, 40)
    labels = torch.arange(3).repeat_interleave(15)
    data = Images("made", "Made", 3, 32, {"train": images}, {"train": labels}, hash="")
    assert sha(*MinibatchSampler(data, 8, seed=4).batch_at(12)) == "48f4fbe1f9753bba"
