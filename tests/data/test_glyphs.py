import torch

from msmeta.data import EpisodeSampler, load, verify
from msmeta.data import glyphs as module

HASH = "a5284d5a8dd4b7e4e9199e35f325fbc154fd1c31c04b0d4e0510ac47e417b8f7"


def test_the_same_bits_everywhere(glyphs):
    assert glyphs.hash == HASH


def test_a_class_is_drawn_the_same_again_and_alone(glyphs):
    for label in (0, 137, 599):
        everything = torch.cat([glyphs.by_class("train"), glyphs.by_class("test")])
        assert torch.equal(everything[label, :, 0], torch.from_numpy(module._draw(label)))


def test_a_load_is_not_changed_by_what_is_done_to_another(glyphs):
    load("glyphs").images["train"].zero_()
    assert load("glyphs").hash == HASH


def test_shape_and_ink(glyphs):
    assert glyphs.by_class("train").shape == (400, 20, 1, 28, 28)
    assert glyphs.by_class("test").shape == (200, 20, 1, 28, 28)
    images = torch.cat([glyphs.by_class("train"), glyphs.by_class("test")])
    assert images.dtype == torch.uint8
    ink = images.float().mean((2, 3, 4)) / 255
    assert 0.05 < ink.mean() < 0.12  # Omniglot: 0.084
    assert ink.min() > 0.005  # no drawing is empty
    assert (images.flatten(2).float().std(1).sum(-1) > 0).all()  # no class repeats one drawing


def test_as_hard_as_characters(glyphs):
    """Nearest class mean on raw pixels; Omniglot gives 46 % and 26 %."""
    assert 0.40 < nearest_mean(glyphs, way=5) < 0.60
    assert 0.20 < nearest_mean(glyphs, way=20) < 0.40


def nearest_mean(data, way: int) -> float:
    episodes = EpisodeSampler(data, "test", way, shot=1, query=15).sample(step=0, tasks=100)
    distances = torch.cdist(episodes.query_x.flatten(2), episodes.support_x.flatten(2))
    return (distances.argmin(2) == episodes.query_y).double().mean().item()


def test_those_for_transfer_are_the_same_in_the_middle(glyphs):
    data = load("glyphs-rgb")
    assert (data.title, data.classes, data.side) == ("Glyphs (32x32)", 20, 32)
    assert {split: len(part) for split, part in data.images.items()} == {"train": 280, "validation": 40, "test": 80}
    for split, first, last in (("train", 0, 14), ("validation", 14, 16), ("test", 16, 20)):
        drawings = glyphs.by_class("train")[:20, first:last].flatten(0, 1)
        images = data.images[split]
        assert torch.equal(images[..., 2:-2, 2:-2], drawings.expand(-1, 3, -1, -1)) and images.shape[-1] == 32
        assert images.sum() == 3 * drawings.sum()  # nothing in the margin
        assert torch.equal(data.labels[split], torch.arange(20).repeat_interleave(last - first))
    assert data.hash == "e8a18b053931dc518760eeb5626c335f91f9da06a6339c89c7ba8393c44cf51d"
    assert verify("glyphs-rgb").state == "generated"
