"""What the package knows about a data set before any file of it is read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Progress = Callable[[str, int, int], None]
"""Called as `progress(what, done, total)` while a data set is downloaded or read."""


@dataclass(frozen=True)
class RawFile:
    """One official archive: its file name, where it can be downloaded, and its MD5 as published."""

    name: str
    url: str
    md5: str


@dataclass(frozen=True)
class Arrays:
    """A data set in memory: `images` uint8 (classes, samples, channels, height, width) and one name a class."""

    images: np.ndarray
    classes: list[str]


@dataclass(frozen=True)
class Dataset:
    """A registry entry: images in classes, the classes ordered so that each split is a contiguous range.

    `tune` and `validation` exist for choosing settings only: the one to train on, the other to measure. Splits may
    overlap: where the data set has no validation classes of its own, the two are parts of `train`; where it has, `tune`
    is `train`.
    """

    name: str
    title: str
    licence: str
    source: str
    """Who made it and where it comes from, for a reader."""
    citation: str
    """Key in the book's references."""
    obtained: str
    """How a user gets it."""
    shape: tuple[int, int, int, int, int]
    """(classes, samples, channels, height, width)"""
    splits: Mapping[str, range]
    """Classes of each split."""
    rotations: int
    """4 where each class also counts when turned by 90, 180 and 270 degrees, else 1."""
    raw_files: Callable[[], tuple[RawFile, ...]] | None
    """The official archives, empty where they cannot be downloaded; None where the data are generated.

    A function, since torchvision is slow to import.
    """
    build: Callable[[Path | None, Progress], Arrays]
    """Reads the folder with the raw files (None where the data are generated); raises DataError in one line."""

    @property
    def generated(self) -> bool:
        """Whether the data are computed rather than read, so that there is nothing to prepare."""
        return self.raw_files is None
