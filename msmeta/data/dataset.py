"""What the package knows about a data set before any file of it is read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from msmeta.errors import DataError

Progress = Callable[[str, int, int], None]
"""Called as `progress(what, done, total)` while a data set is downloaded or read."""
Allocate = Callable[[tuple[int, ...], type[np.generic]], np.ndarray]
"""Makes the array of a shape and type that images are written into: `numpy.empty`, or a file larger than the memory."""
FEW_SHOT, TRANSFER = "few-shot", "transfer"
SEEDED, L2T_WW = "seeded", "l2t-ww"
"""How the published training images are divided: validation images drawn at random, or as the authors of L2T-ww did."""


class ViewAlone(DataError):
    """Raw files hold a view of a data set, and not the data set."""


@dataclass(frozen=True)
class Limits:
    """What raw files may be at most, with room for what lies beside those that are read.

    members: of an archive, read or not. member: bytes of one that is read. archive: bytes of all, read or not.
    """

    members: int = 200_000
    member: int = 2**28
    archive: int = 2**33


@dataclass(frozen=True)
class RawFile:
    """One official archive: where it can be downloaded, and its MD5, as torchvision has them."""

    url: str
    md5: str

    @property
    def name(self) -> str:
        """Of the file: the last part of the URL."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Arrays:
    """A data set: `images` uint8 (N, channels, height, width), `labels` int64 (N,) and one name a class."""

    images: np.ndarray
    labels: np.ndarray
    classes: list[str]
    order: np.ndarray | None = None
    """For transfer, where it is known: the place of each image of `train` and `validation` among the published training
    images, int64 (n,). It is the order of the official file or, of a file an image, that of class and file name."""
    splits: Mapping[str, range] | None = None
    """Images of each split, where it takes reading to know."""
    names: Sequence[str] | None = None
    """What each image is called in a message, where those that are repeated are known."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Plain values that are kept with a prepared folder of a user's own: `folder.build`."""


@dataclass(frozen=True)
class Dataset:
    """A registry entry: labelled images, each split a contiguous range of them, class by class.

    For few-shot tasks each split has classes of its own, all with the same number of images. `tune` and `validation`
    exist for choosing settings only: the one to train on, the other to measure. Splits may overlap: where the data set
    has no validation classes of its own, the two are parts of `train`; where it has, `tune` is `train`.
    For transfer the splits are `train`, `validation` and `test`, in this order, and each has all classes.
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
    classes: int
    shape: tuple[int, int, int]
    """(channels, height, width) of an image as it is stored."""
    splits: Mapping[str, range]
    """Images of each split."""
    build: Callable[..., Arrays]
    """`build(folder, progress, allocate, dataset, follow_links)` reads a folder of raw files, archives extracted.

    Of generated data it is `build()`, of a view `build(arrays)`, which reorders those of the other data set.
    Raises DataError in one line, which names files as they are called in the folder.
    """
    raw_files: tuple[RawFile, ...] = ()
    """The official archives, none where they cannot be downloaded."""
    archives: tuple[str, ...] = ()
    """What archives of raw files are called, without suffix."""
    wanted: str = ".*"
    """Regular expression of the members of an archive that are read."""
    limits: Limits = Limits()
    repeated: int | None = None
    """Images that are the same as another one, in the published data; None where it is not known."""
    samples: int | None = None
    """Images of a class of a data set for few-shot tasks, the fewest where they differ; None for one for transfer."""
    rotations: int = 1
    """4 where each class also counts when turned by 90, 180 and 270 degrees, else 1."""
    crop: int | None = None
    """Side of what a network sees of a larger stored image; None where it sees the whole."""
    generated: bool = False
    """Whether the data are computed rather than read, so that there is nothing to prepare."""
    view_of: str | None = None
    """The data set whose images these are, in another order, so that nothing is stored twice."""
    build_alone: Callable[..., Arrays] | None = None
    """Of a view: a `build` for raw files that hold it alone, and not what it is a view of."""

    split_classes: Mapping[str, int] = field(default_factory=dict)
    """Classes of each split, where `samples` do not tell."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Of a user's own folder that is prepared: `folder.build`."""
    given: str | None = None
    """What `msmeta data prepare` takes, where that is not `name`."""

    @property
    def stored_as(self) -> str:
        """The folder's name in the data root."""
        return self.name.replace(":", "-")

    @property
    def purpose(self) -> str:
        """FEW_SHOT or TRANSFER."""
        return TRANSFER if self.samples is None else FEW_SHOT

    @property
    def counts(self) -> dict[str, int]:
        """Number of images of each split."""
        return {split: len(part) for split, part in self.splits.items()}

    @property
    def size(self) -> int:
        """Number of images."""
        return max((part.stop for part in self.splits.values()), default=0)

    @property
    def side(self) -> int:
        """Of what a network sees."""
        return self.crop or self.shape[-1]

    def alone(self) -> "Dataset":
        """Of a view: the same with arrays of its own."""
        return replace(self, view_of=None, build=self.build_alone)

    @property
    def mapped(self) -> bool:
        """Whether the images are left on disk rather than read into memory: those of 256x256, 1 to 4 GB a set."""
        return self.crop is not None

    def classes_in(self, split: str) -> int:
        """Number of classes of a split, before rotations."""
        if split in self.split_classes:
            return self.split_classes[split]
        return self.classes if self.samples is None else len(self.splits[split]) // self.samples

    @property
    def samples_in_words(self) -> str:
        """Images of a class, `7 to 20` where classes differ."""
        counts = {count for classes in self.notes.get("classes", {}).values() for count in classes.values()}
        return f"{min(counts):,} to {max(counts):,}" if len(counts) > 1 else str(self.samples)


def splits_of_images(**counts: int) -> dict[str, range]:
    """Splits of so many images, one after the other."""
    ends = np.cumsum(list(counts.values())).tolist()
    return {split: range(end - counts[split], end) for split, end in zip(counts, ends, strict=True)}


def splits_of_classes(samples: int, **classes: range) -> dict[str, range]:
    """Splits of contiguous classes with `samples` images each."""
    return {split: range(part.start * samples, part.stop * samples) for split, part in classes.items()}
