"""What the four data sets of photographs have in common: raw files in several parts, and lists that name the images."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from msmeta.data.dataset import Labels, Progress
from msmeta.data.raw import ReadFile, decode_all, find_tree, open_path, open_rgb, readable
from msmeta.data.splits import divide
from msmeta.errors import DataError

STORED, SIDE = 256, 224
"""Sides of the images on disk and of what a network sees."""
MAX_FILES, MAX_BYTES = 200_000, 2**26
FORMATS = ("JPEG", "PNG", "WebP", "GIF", "BMP")
"""Some images in circulation are named .jpg and are not JPEG."""


@dataclass(frozen=True)
class Raw:
    """The raw files of a data set by name, in whatever archive or folder they lie."""

    title: str
    folder: Path
    obtained: str
    files: Mapping[str, tuple[ReadFile, str]]
    """How to read each: a function and what to call it with."""

    def read(self, name: str) -> bytes:
        """The content of one of `files`. Raises DataError in one line if it is damaged."""
        read, stored = self.files[name]
        return read(stored)

    def read_list(self, name: str) -> bytes:
        """As `read`. Raises DataError in one line that says how to get it if it is not there."""
        if name not in self.files:
            raise DataError(f"{self.folder} holds no {name}: {self.title} is {self.obtained}")
        return self.read(name)

    def lines(self, name: str) -> list[str]:
        """The lines of a list that are not empty. Raises DataError as `read_list` does, and if it is not text."""
        with readable(f"{self.folder}, {name}"):
            return [text for line in self.read_list(name).decode("utf-8-sig").splitlines() if (text := line.strip())]

    def column(self, name: str) -> dict[str, str]:
        """A list with lines `number value`, by number. Raises DataError as `lines` does, and if it is not that."""
        pairs = [line.split(maxsplit=1) for line in self.lines(name)]
        if any(len(pair) != 2 for pair in pairs) or len({pair[0] for pair in pairs}) < len(pairs):
            raise DataError(f"{self.folder}, {name} has a line that is not a number of its own and a value")
        return dict(pairs)


class Photograph(NamedTuple):
    """What the lists say of an image."""

    label: str
    file: str
    """Among the raw files."""
    testing: bool


@contextmanager
def open_raw(
    title: str, folder: Path, obtained: str, parts: Iterable[Sequence[str]], pattern: re.Pattern[str]
) -> Iterator[Raw]:
    """Opens the archives or folders that hold a data set, without extracting anything.

    Each part is the first of its stems for which `folder` holds a folder or an archive; files beside these count as
    well. A file is known by the first group of `pattern`; those that do not match are left out. Raises DataError as
    `open_path` does.
    """
    files: dict[str, tuple[ReadFile, str]] = {}
    found = [next(filter(None, (_find(folder, stem) for stem in stems)), None) for stems in parts]
    with ExitStack() as stack:
        for tree in dict.fromkeys(filter(None, found)):  # one archive may hold several parts
            names, read = stack.enter_context(
                open_path(tree, MAX_FILES, MAX_BYTES, lambda name: pattern.fullmatch(name) is not None)
            )
            for name in names:
                files.setdefault(pattern.fullmatch(name)[1], (read, name))

        def read_beside(name: str) -> bytes:
            with readable(folder / name):
                return (folder / name).read_bytes()

        with readable(folder):
            beside = [path.name for path in folder.iterdir() if pattern.fullmatch(path.name) and path.is_file()]
        for name in beside:
            files.setdefault(name, (read_beside, name))
        yield Raw(title, folder, obtained, files)


def fill(
    raw: Raw,
    photographs: Iterable[Photograph],
    way: int,
    counts: Mapping[str, int],
    images: np.ndarray,
    progress: Progress,
) -> Labels:
    """Fills `images` (N, 3, 256, 256) with the photographs, resized without cropping, in the order of the splits.

    Validation images are a part of the training images. Resizing is Pillow's bilinear filter, which is antialiased.
    Raises DataError in one line if the lists do not agree with `way` and `counts`, or an image is missing or damaged.
    """
    rows = sorted(photographs)
    again = f"get {raw.title} again"
    for file, times in Counter(row.file for row in rows).items():
        if times > 1:
            raise DataError(f"{raw.folder}: the lists name {file} {times} times: {again}")
        if file not in raw.files:
            raise DataError(f"{raw.folder} holds no {file}, which a list names: {again}")
    classes = sorted({row.label for row in rows})
    if len(classes) != way:
        raise DataError(f"{raw.folder}: the lists name {len(classes):,} classes, {raw.title} has {way}: {again}")
    testing = np.array([row.testing for row in rows])
    published = {"training": counts["train"] + counts["validation"], "test": counts["test"]}
    for (part, expected), found in zip(published.items(), (np.sum(~testing), np.sum(testing)), strict=True):
        if found != expected:
            raise DataError(
                f"{raw.folder}: the lists name {found:,} {part} images, {raw.title} has {expected:,}: {again}"
            )
    number = {label: place for place, label in enumerate(classes)}
    labels = np.array([number[row.label] for row in rows])
    order = divide(labels, testing, counts)
    files = [[rows[place].file] for place in order]

    def decoded(file: str) -> np.ndarray:
        return decode(raw.read(file), f"{raw.folder}, {file}")

    decode_all(files, decoded, images[:, None], f"read {raw.title}", progress)
    return Labels(labels[order], classes)


def decode(data: bytes, name: str) -> np.ndarray:
    """One image as uint8 (3, 256, 256). Raises DataError if it cannot be decoded."""
    image = open_rgb(data, name, FORMATS).resize((STORED, STORED), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)


def _find(folder: Path, stem: str) -> Path | None:
    """A folder before an archive of the same name, which may have been too large to read and so extracted."""
    return folder / stem if (folder / stem).is_dir() else find_tree(folder, stem)
