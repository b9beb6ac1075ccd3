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


def not_published() -> tuple[RawFile, ...]:
    """The official archives of a data set that cannot be downloaded: none."""
    return ()


@dataclass(frozen=True)
class Arrays:
    """A data set in memory: `images` uint8 (classes, samples, channels, height, width) and one name a class."""

    images: np.ndarray
    classes: list[str]


@dataclass(frozen=True)
class Labels:
    """What belongs to images (N, channels, height, width): int64 labels (N,) and one name a class."""

    labels: np.ndarray
    classes: list[str]


@dataclass(frozen=True)
class Entry:
    """What registry entries of both kinds have in common."""

    name: str
    title: str
    licence: str
    source: str
    """Who made it and where it comes from, for a reader."""
    citation: str
    """Key in the book's references."""
    obtained: str
    """How a user gets it."""
    raw_files: Callable[[], tuple[RawFile, ...]] | None
    """The official archives, empty where they cannot be downloaded; None where the data are generated.

    A function, since torchvision is slow to import.
    """

    @property
    def generated(self) -> bool:
        """Whether the data are computed rather than read, so that there is nothing to prepare."""
        return self.raw_files is None


@dataclass(frozen=True)
class Dataset(Entry):
    """A registry entry for few-shot tasks: images in classes, each split a contiguous range of classes.

    `tune` and `validation` exist for choosing settings only: the one to train on, the other to measure. Splits may
    overlap: where the data set has no validation classes of its own, the two are parts of `train`; where it has, `tune`
    is `train`.
    """

    shape: tuple[int, int, int, int, int]
    """(classes, samples, channels, height, width)"""
    splits: Mapping[str, range]
    """Classes of each split."""
    rotations: int
    """4 where each class also counts when turned by 90, 180 and 270 degrees, else 1."""
    build: Callable[[Path | None, Progress], Arrays]
    """Reads the folder with the raw files (None where the data are generated); raises DataError in one line."""


@dataclass(frozen=True)
class LabelledDataset(Entry):
    """A registry entry for classification: labelled images, all classes in each split, each split a contiguous range.

    The images of a split lie class by class.
    """

    way: int
    """Classes."""
    stored: int
    """Side of the stored images."""
    side: int
    """Side of what a network sees, after cropping."""
    counts: Mapping[str, int]
    """Images of `train`, `validation` and `test`, in the order in which they are stored."""
    build: Callable[[Path | None, np.ndarray, Progress], Labels]
    """Fills an array of `shape` from the folder with the raw files (None where the data are generated).

    It is given the array, so that this can be a file larger than the memory. Raises DataError in one line.
    """

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(images, channels, height, width)"""
        return sum(self.counts.values()), 3, self.stored, self.stored

    @property
    def splits(self) -> dict[str, range]:
        """Images of each split."""
        ends = np.cumsum(list(self.counts.values())).tolist()
        return {split: range(end - self.counts[split], end) for split, end in zip(self.counts, ends, strict=True)}

    @property
    def mapped(self) -> bool:
        """Whether the images are left on disk rather than read into memory: those of 256x256, 1 to 4 GB a set."""
        return self.stored > self.side
