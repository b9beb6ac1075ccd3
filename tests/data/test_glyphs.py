import torch

from msmeta.data import EpisodeSampler, load
from msmeta.data import glyphs as module

HASH = "1cc33b67e5338434e07505fc83c07624a578e6e11d501ff9a65e59eb9e2028a5"


def test_the_same_bits_everywhere(glyphs):
    assert glyphs.hash == HASH


def test_a_class_is_drawn_the_same_again_and_alone(glyphs):
    for label in (0, 137, 599):
        everything = torch.cat([glyphs.images["train"], glyphs.images["test"]])
        assert torch.equal(everything[label, :, 0], torch.from_numpy(module._draw(label)))


def test_a_load_is_not_changed_by_what_is_done_to_another(glyphs):
    load("glyphs").images["train"].zero_()
    assert load("glyphs").hash == HASH


def test_shape_and_ink(glyphs):
    assert glyphs.images["train"].shape == (400, 20, 1, 28, 28)
    assert glyphs.images["test"].shape == (200, 20, 1, 28, 28)
    images = torch.cat([glyphs.images["train"], glyphs.images["test"]])
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
