"""Random pixels in the place of a data set, for measurements that depend on shapes alone."""

import torch

from msmeta.data.images import Images
from msmeta.data.registry import find


def noise(name: str, classes: int, samples: int) -> Images:
    """`samples` images of each of `classes` classes, shaped as those of the data set, in the split `train` alone.

    Raises ConfigError if there is no such data set.
    """
    dataset = find(name)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (classes * samples, *dataset.shape), generator=generator, dtype=torch.uint8)
    return Images(
        name=dataset.name,
        title=dataset.title,
        classes=classes,
        side=dataset.side,
        images={"train": images},
        labels={"train": torch.arange(classes).repeat_interleave(samples)},
        hash="",
        rotations=dataset.rotations,
    )
