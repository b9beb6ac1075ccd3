"""A data set on a device."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from msmeta.data.splits import balanced
from msmeta.errors import ConfigError

SHRUNK_AT_ONCE = 1024
"""Images that are in memory as float32 at a time while they are shrunk."""


@dataclass(frozen=True)
class Selected:
    """Images (n, channels, height, width) that are mapped files, in another order: none is read before it is used."""

    images: Tensor
    places: Tensor
    """int64 (n,)"""

    @property
    def shape(self) -> torch.Size:
        """(n, channels, height, width)"""
        return torch.Size([len(self.places), *self.images.shape[1:]])

    @property
    def device(self) -> torch.device:
        """Of the images."""
        return self.images.device

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, key: Any) -> Tensor:
        """As of a tensor, where the first index is a number, a slice or a tensor of numbers."""
        first, *rest = key if isinstance(key, tuple) else (key,)
        return self.images[(slice(None), *rest)][self.places[first]]


@dataclass(frozen=True)
class Images:
    """Images and their classes. The images of a split lie class by class; the splits are views of one tensor."""

    name: str
    title: str
    classes: int
    side: int
    """Of what a network sees."""
    images: Mapping[str, Tensor | Selected]
    """For each split uint8 (n, channels, height, width), on the device or, where they are mapped files, on the CPU."""
    labels: Mapping[str, Tensor]
    """For each split int64 (n,), on the device."""
    hash: str
    """SHA-256 of all images, labels and class names, in hexadecimal."""
    rotations: int = 1
    """4 where each class turned by 90, 180 and 270 degrees is a class as well, else 1."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Of a user's own folder: how it was divided, and what was left out (`folder.build`)."""

    @property
    def device(self) -> torch.device:
        """Of the labels, and so of what is drawn."""
        return next(iter(self.labels.values())).device

    def by_class(self, split: str) -> Tensor:
        """The images of a split as (classes, samples, channels, height, width), a view.

        Raises ConfigError if there is no such split, or its classes differ in their numbers of images.
        """
        sizes = self.sizes(split)
        if (sizes != sizes[0]).any():
            raise ConfigError(f"split {split} of {self.name} has not the same number of images of each class")
        return self.images[split].unflatten(0, (len(sizes), -1))

    def sizes(self, split: str) -> np.ndarray:
        """Images of each class of a split, in its order. Raises ConfigError if there is no such split."""
        self.require(split)
        return self.labels[split].unique_consecutive(return_counts=True)[1].cpu().numpy()

    def require(self, split: str) -> None:
        """Raises ConfigError if there is no such split."""
        if split not in self.images:
            raise ConfigError(f"{self.name} has no split {split!r}: choose one of {', '.join(self.images)}")

    def shrunk(self, side: int) -> "Images":
        """The same images `side` pixels high and wide, each the mean of a square of pixels; the hash stays.

        Raises ConfigError where `side` does not divide the images' side.
        """
        height, width = self.images["train"].shape[-2:]
        require_shrinkable(self.name, height, width, side)
        done: dict[tuple[int, int], Tensor] = {}  # two splits may be the same images
        for images in self.images.values():
            key = images.data_ptr(), len(images)
            if key not in done:
                parts = images.split(SHRUNK_AT_ONCE)
                done[key] = torch.cat([F.avg_pool2d(x.float(), height // side).round().to(torch.uint8) for x in parts])
        splits = {name: done[images.data_ptr(), len(images)] for name, images in self.images.items()}
        return replace(self, side=side, images=splits)

    def subset(self, train: int) -> "Images":
        """A fixed random part of the training images, the same number of each class as far as the classes reach.

        A smaller part is contained in a larger one. The other splits and the hash stay. Of mapped images this is a
        copy in memory. Raises ConfigError if there are fewer images, or more classes, than `train`.
        """
        images, labels = self.images["train"], self.labels["train"]
        if not self.classes <= train <= len(labels):
            raise ConfigError(
                f"{train} training images are impossible: {self.name} has {len(labels):,}, "
                f"and each of its {self.classes} classes needs one"
            )
        places = torch.from_numpy(balanced(labels.cpu().numpy(), train))
        return replace(
            self,
            images={**self.images, "train": images[places.to(images.device)]},
            labels={**self.labels, "train": labels[places.to(labels.device)]},
        )


def require_shrinkable(name: str, height: int, width: int, side: int) -> None:
    """Raises ConfigError where images of this size cannot be shrunk to `side` pixels by means of whole squares."""
    if side < 1 or height != width or height % side:
        raise ConfigError(f"image_size={side} is impossible: {name} has {height}x{width} images")


def in_unit_range(images: Tensor) -> Tensor:
    """uint8 to float32 from 0 to 1: the same on every device."""
    # A GPU multiplies by the inverse of a plain number instead, which half of the pixels are an ulp off by.
    return images.to(torch.float32).div_(torch.full((), 255.0, device=images.device))


def stream(seed: int, split: str, number: int, purpose: int = 0) -> np.random.Philox:
    """Random bits of a step or epoch, a pure function of these: there is no stream to restore after a resume."""
    domain = int.from_bytes(hashlib.sha256(split.encode()).digest()[:8], "big")
    return np.random.Philox(
        key=np.array([seed, domain], np.uint64), counter=np.array([0, purpose, number, 0], np.uint64)
    )
