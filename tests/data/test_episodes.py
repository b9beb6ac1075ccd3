from dataclasses import replace

import numpy as np
import pytest
import torch

from msmeta.data import EpisodeSampler, Images
from msmeta.data.images import in_unit_range
from msmeta.errors import ConfigError

CLASSES, SAMPLES = 30, 12


@pytest.fixture(scope="module", params=["cpu"] + ["cuda"] * torch.cuda.is_available())
def coded(request) -> Images:
    """Images whose four corner pixels tell class, drawing and rotation: (class, drawing, 1, 0) clockwise."""
    images = torch.zeros(CLASSES, SAMPLES, 1, 6, 6, dtype=torch.uint8)
    images[..., 0, 0] = torch.arange(CLASSES)[:, None, None] + 100
    images[..., 0, 5] = torch.arange(SAMPLES)[None, :, None] + 50
    images[..., 5, 5] = 1
    images = images.flatten(0, 1).to(request.param)
    labels = torch.arange(CLASSES, device=request.param).repeat_interleave(SAMPLES)
    splits = {split: images for split in ("train", "test")}, {split: labels for split in ("train", "test")}
    return Images("coded", "Coded", CLASSES, 6, *splits, hash="", rotations=4)


def decoded(x: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes, drawings and quarter turns of coded images (..., 1, 6, 6) in [0, 1]."""
    x = (255 * x[..., 0, :, :]).round().long().cpu()
    corners = torch.stack([x[..., 0, 0], x[..., 0, 5], x[..., 5, 5], x[..., 5, 0]], -1).numpy()
    place = corners.argmax(-1)
    drawing = np.take_along_axis(corners, (place[..., None] + 1) % 4, -1)[..., 0]
    one = np.take_along_axis(corners, (place[..., None] + 2) % 4, -1)[..., 0]
    assert (one == 1).all()
    return corners.max(-1) - 100, drawing - 50, -place % 4


def test_shapes_types_and_labels(coded):
    episodes = EpisodeSampler(coded, "train", way=5, shot=2, query=3).sample(0, 7)
    assert len(episodes) == 7
    assert episodes.support_x.shape == (7, 10, 1, 6, 6)
    assert episodes.query_x.shape == (7, 15, 1, 6, 6)
    for x, y, each in ((episodes.support_x, episodes.support_y, 2), (episodes.query_x, episodes.query_y, 3)):
        assert x.dtype == torch.float32 and y.dtype == torch.int64
        assert x.device == y.device == coded.images["train"].device
        assert x.min() >= 0 and x.max() <= 1
        assert y.tolist() == [[label for label in range(5) for _ in range(each)]] * 7


def test_distinct_classes_and_drawings(coded):
    way, shot, query, tasks = 10, 3, 9, 50
    episodes = EpisodeSampler(coded, "train", way, shot, query).sample(3, tasks)
    classes_s, drawings_s, turns_s = (part.reshape(tasks, way, shot) for part in decoded(episodes.support_x))
    classes_q, drawings_q, turns_q = (part.reshape(tasks, way, query) for part in decoded(episodes.query_x))
    classes, turns = np.concatenate([classes_s, classes_q], 2), np.concatenate([turns_s, turns_q], 2)
    assert (classes == classes[..., :1]).all() and (turns == turns[..., :1]).all()
    drawings = np.sort(np.concatenate([drawings_s, drawings_q], 2), 2)
    assert (drawings == np.arange(SAMPLES)).all()  # shot + query is all there is: each drawing once
    assert all(len(set(row)) == way for row in classes[..., 0])


def test_classes_drawings_turns_and_their_order_are_uniform(coded):
    sampler = EpisodeSampler(coded, "train", way=5, shot=1, query=1)
    parts = [decoded(sampler.sample(step, 400).support_x) for step in range(5)]
    classes, drawings, turns = (np.concatenate(part) for part in zip(*parts, strict=True))
    for way in range(5):
        for values, count in ((classes, CLASSES), (drawings, SAMPLES), (turns, 4)):
            expected = len(values) / count
            chi2 = ((np.bincount(values[:, way], minlength=count) - expected) ** 2).sum() / expected
            assert chi2 < count - 1 + 5 * np.sqrt(2 * (count - 1))


def test_a_pure_function_of_seed_split_and_step(coded):
    def support(seed=0, split="train", step=5):
        return EpisodeSampler(coded, split, 5, 1, 2, seed).sample(step, 4).support_x

    first = support()
    assert torch.equal(support(), first)
    assert not torch.equal(support(seed=1), first)
    assert not torch.equal(support(split="test"), first)
    assert not torch.equal(support(step=6), first)


def test_a_task_does_not_depend_on_how_many_there_are(coded):
    sampler = EpisodeSampler(coded, "train", 5, 1, 2)
    few, many = sampler.sample(2, 8), sampler.sample(2, 32)
    for field in ("support_x", "support_y", "query_x", "query_y"):
        assert torch.equal(getattr(few, field), getattr(many, field)[:8])


def test_chunks(coded):
    episodes = EpisodeSampler(coded, "train", 5, 1, 2).sample(2, 8)
    chunks = list(episodes.chunks(3))
    assert [len(chunk) for chunk in chunks] == [3, 3, 2]
    for field in ("support_x", "support_y", "query_x", "query_y"):
        assert torch.equal(torch.cat([getattr(chunk, field) for chunk in chunks]), getattr(episodes, field))
    assert chunks[0].query_x.data_ptr() == episodes.query_x.data_ptr()
    with pytest.raises(ConfigError, match="at least 1"):
        next(episodes.chunks(0))


def test_images_are_turned_as_they_are_where_all_are_turned_at_once(coded):
    """As on a GPU."""
    sampler = EpisodeSampler(coded, "train", 5, 1, 2)
    places = torch.from_numpy(sampler.places(0, 20)).flatten().to(coded.labels["train"].device)
    assert torch.equal(sampler._images(places), sampler._pool.index_select(0, places))


def test_pixels_are_the_nearest_to_their_quotients_on_every_device(coded):
    found = in_unit_range(torch.arange(256, dtype=torch.uint8, device=coded.labels["train"].device))
    assert found.tolist() == (np.arange(256, dtype=np.float32) / np.float32(255)).tolist()


def test_no_rotation_where_classes_do_not_turn(coded):
    upright = replace(coded, rotations=1)
    _, _, turns = decoded(EpisodeSampler(upright, "train", 5, 1, 2).sample(0, 20).query_x)
    assert (turns == 0).all()


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({"way": 31}, "30 classes"),
        ({"shot": 6, "query": 7}, "12 images"),
        ({"way": 0}, "at least 1"),
        ({"shot": -1}, "at least 1"),
        ({"query": 0}, "at least 1"),
        ({"seed": -1}, "at least 0"),
        ({"split": "tset"}, "train, test"),
    ],
)
def test_impossible_tasks(coded, options, limit):
    with pytest.raises(ConfigError, match=limit) as error:
        EpisodeSampler(coded, **{"split": "train", "way": 5, "shot": 1, "query": 2} | options)
    assert "\n" not in str(error.value)


def test_impossible_batches(coded):
    sampler = EpisodeSampler(coded, "train", 5, 1, 2)
    for step, tasks in ((0, 0), (-1, 4)):
        with pytest.raises(ConfigError, match="impossible"):
            sampler.sample(step, tasks)


def test_the_largest_task_there_is(coded):
    classes, _, _ = decoded(EpisodeSampler(coded, "train", CLASSES, 1, 11).sample(0, 1).support_x)
    assert sorted(classes[0]) == list(range(CLASSES))
