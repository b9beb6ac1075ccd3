"""Random pixels have the shapes of the data set in whose place they are."""

import pytest
import torch

from msmeta import ConfigError, data
from msmeta.data import EpisodeSampler, MinibatchSampler


def test_episodes_and_minibatches_are_drawn_from_random_pixels():
    found = data.noise("miniimagenet", 3, 5)
    episodes = EpisodeSampler(found, "train", 3, 1, 4).sample(0, 2)
    assert episodes.query_x.shape == (2, 12, 3, 84, 84) and 0.45 < episodes.query_x.mean() < 0.55
    assert data.noise("omniglot", 2, 2).rotations == 4 and torch.equal(
        data.noise("omniglot", 2, 1).labels["train"], torch.arange(2)
    )
    for name, side in (("cifar-100", 32), ("bird", 224)):
        x, y = MinibatchSampler(data.noise(name, 4, 2), 8).batch_at(0)
        assert x.shape == (8, 3, side, side) and y.bincount().tolist() == [2] * 4
    with pytest.raises(ConfigError, match="unknown data set 'birds'"):
        data.noise("birds", 1, 1)
