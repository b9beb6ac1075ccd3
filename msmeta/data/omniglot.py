"""Omniglot: 1,623 handwritten characters of 50 alphabets, each drawn by 20 people (Lake et al. 2015)."""

import io
import re
import struct
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from PIL import Image

from msmeta.data.dataset import Arrays, Dataset, Progress, RawFile
from msmeta.data.raw import ReadFile, open_tree
from msmeta.errors import DataError

CHARACTERS = {"images_background": 964, "images_evaluation": 659}
DRAWINGS = 20
RAW_SIDE = 105
SIDE = 28
SPLIT_SEED = 1


def raw_files() -> tuple[RawFile, ...]:
    """The two official archives, with URLs and checksums as torchvision has them."""
    from torchvision.datasets import Omniglot

    return tuple(
        RawFile(f"{part}.zip", f"{Omniglot.download_url_prefix}/{part}.zip", Omniglot.zips_md5[part])
        for part in CHARACTERS
    )


def build(folder: Path | None, progress: Progress) -> Arrays:
    """Reads the two archives (or the two extracted folders) in `folder`, in the order of the split.

    Images are 28x28, strokes 255 on 0. MAML's script asks Pillow for Lanczos, which Pillow replaces by the nearest
    pixel for 1-bit images such as these; here they are made grey first, so that Lanczos is what is done.
    Raises DataError if a part is missing, a count is not the official one, or an image cannot be decoded.
    """
    with ExitStack() as stack:
        drawings: list[tuple[str, list[str], ReadFile]] = []
        for part, expected in CHARACTERS.items():
            names, read = stack.enter_context(open_tree(folder, part, max_files=50_000, max_bytes=65_536))
            characters = _group(part, names)
            if len(characters) != expected:
                raise DataError(f"{folder / part} has {len(characters):,} characters, Omniglot has {expected:,} there")
            for character, files in characters.items():
                if len(files) != DRAWINGS:
                    raise DataError(f"{folder / part}: {character} has {len(files)} drawings instead of {DRAWINGS}")
            drawings += [(character, files, read) for character, files in characters.items()]

        images = np.empty((len(drawings), DRAWINGS, 1, SIDE, SIDE), np.uint8)
        order = split_order(len(drawings))
        for done, index in enumerate(order):
            _, files, read = drawings[index]
            progress("read Omniglot", done, len(order))
            for sample, file in enumerate(files):
                images[done, sample, 0] = decode(read(file), f"{folder}/{file}")
        progress("read Omniglot", len(order), len(order))
        return Arrays(images, [drawings[index][0] for index in order])


def split_order(count: int) -> list[int]:
    """A seeded permutation of the characters in alphabetical order, the same with every NumPy version."""
    return np.argsort(np.random.Philox(key=SPLIT_SEED).random_raw(count), kind="stable").tolist()


def decode(data: bytes, name: str) -> np.ndarray:
    """One drawing as uint8 (28, 28), strokes 255 on 0. Raises DataError unless `data` is a 105x105 PNG."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.size != (RAW_SIDE, RAW_SIDE):
                raise DataError(f"{name} is {image.width}x{image.height} instead of {RAW_SIDE}x{RAW_SIDE}")
            grey = image.convert("L")
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise DataError(f"{name} is not a readable PNG image: {error}") from error
    return 255 - np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def _group(part: str, names: list[str]) -> dict[str, list[str]]:
    """Files by character, `Alphabet/characterNN`, both sorted; anything else in the tree is left alone."""
    drawing = re.compile(rf"{part}/([^/.][^/]*/character\d+)/[^/.][^/]*\.png")
    characters: dict[str, list[str]] = {}
    for name in names:
        if match := drawing.fullmatch(name):
            characters.setdefault(match[1], []).append(name)
    return dict(sorted(characters.items()))


DATASET = Dataset(
    name="omniglot",
    title="Omniglot",
    licence="MIT",
    source="B. M. Lake, R. Salakhutdinov, J. B. Tenenbaum: github.com/brendenlake/omniglot, folder python/",
    citation="lake2015omniglot",
    obtained="downloaded through torchvision, or given as the two archives (or folders) images_background and "
    "images_evaluation",
    shape=(1623, DRAWINGS, 1, SIDE, SIDE),
    splits={
        "train": range(0, 1200),
        "test": range(1200, 1623),
        "tune": range(0, 1100),
        "validation": range(1100, 1200),
    },
    rotations=4,
    raw_files=raw_files,
    build=build,
)
