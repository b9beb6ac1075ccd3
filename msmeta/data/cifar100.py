"""CIFAR-100: 60,000 photographs of 100 classes, 32x32 (Krizhevsky 2009), in two layouts."""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np

from msmeta.data.dataset import LabelledDataset, Labels, Progress, RawFile
from msmeta.data.raw import (
    PickledArray,
    ReadFile,
    as_text,
    decode_all,
    find_tree,
    load_pickle,
    open_path,
    open_rgb,
    readable,
)
from msmeta.data.splits import divide
from msmeta.errors import DataError

_NAMES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle "
    "caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant "
    "flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man "
    "maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree "
    "plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper "
    "snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train "
    "trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)
CLASSES = _NAMES.split()
"""In the order of the official labels."""
SAMPLES = {"train": 500, "test": 100}
"""Images of a class in each of the two published parts."""
COUNTS = {"train": 45_000, "validation": 5_000, "test": 10_000}
SIDE = 32
OBTAINED = (
    "downloaded through torchvision as CIFAR-100, or given as cifar-100-python.tar.gz or as cifar100.tar.gz with "
    "train/CLASS/ and test/CLASS/ (.tgz, .tar, .zip, or the folder)"
)
T = TypeVar("T")


def raw_files() -> tuple[RawFile, ...]:
    """The official archive for Python, with URL and checksum as torchvision has them."""
    from torchvision.datasets import CIFAR100

    return (RawFile(CIFAR100.filename, CIFAR100.url, CIFAR100.tgz_md5),)


def build(folder: Path | None, images: np.ndarray, progress: Progress) -> Labels:
    """Fills `images`: of the published training images, a tenth of each class is for validation.

    Raises DataError as `read_classes` does.
    """
    found = read_classes(folder, CLASSES, progress)
    classes, samples = found.shape[:2]
    labels = np.repeat(np.arange(classes), samples)
    order = divide(labels, np.tile(np.arange(samples) >= SAMPLES["train"], classes), COUNTS)
    np.take(found.reshape(-1, 3, SIDE, SIDE), order, axis=0, out=images)
    return Labels(labels[order], list(CLASSES))


def read_classes(folder: Path, classes: Sequence[str], progress: Progress) -> np.ndarray:
    """CIFAR-100 in `folder`, the official pickles or else an image a file, in the order of `classes`.

    Returns uint8 (100, 600, 3, 32, 32). The images of a class are those of the train, then of the test part, each
    sorted by file name without suffix; both layouts give the same arrays. Raises DataError if something is missing or
    damaged or a count is wrong.
    """
    if tree := find_tree(folder, "cifar-100-python") or (folder if (folder / "meta").is_file() else None):
        with open_path(tree, max_files=20, max_bytes=2**28) as (names, read):
            return _from_pickles(tree, names, read, classes, progress)
    here = all((folder / part).is_dir() for part in SAMPLES)
    if tree := find_tree(folder, "cifar100") or (folder if here else None):
        with open_path(tree, max_files=100_000, max_bytes=65_536) as (names, read):
            return _from_images(tree, names, read, classes, progress)
    raise DataError(f"{folder} does not hold CIFAR-100, which is {OBTAINED}")


def decode(data: bytes, name: str) -> np.ndarray:
    """One image as uint8 (3, 32, 32). Raises DataError if it cannot be decoded or has another size."""
    image = open_rgb(data, name)
    if image.size != (SIDE, SIDE):
        raise DataError(f"{name} is {image.width}x{image.height} instead of {SIDE}x{SIDE}")
    return np.asarray(image).transpose(2, 0, 1)


def _from_pickles(
    tree: Path, names: list[str], read: ReadFile, classes: Sequence[str], progress: Progress
) -> np.ndarray:
    where = {PurePosixPath(name).name: name for name in names}

    def load(name: str) -> dict[str, object]:
        if name not in where:
            raise DataError(f"{tree} holds no {name}: CIFAR-100 is {OBTAINED}")
        return load_pickle(io.BytesIO(read(where[name])), f"{tree}, {where[name]}")

    with readable(f"{tree}, meta"):
        labels = [as_text(label) for label in _list(load("meta"), "fine_label_names")]
    pixels, found = {}, {}
    for done, part in enumerate(SAMPLES):
        progress("read CIFAR-100", done, len(SAMPLES))
        with readable(f"{tree}, {part}"):
            pixels[part], found[part] = _part(load(part), labels)
    images = np.concatenate([pixels[part][_ordered(tree, part, found[part], classes)] for part in SAMPLES], axis=1)
    progress("read CIFAR-100", len(SAMPLES), len(SAMPLES))
    return images


def _part(content: Mapping[str, object], labels: list[str]) -> tuple[np.ndarray, list[tuple[str, str, int]]]:
    """Images (N, 3, 32, 32) of a part, and (class, file name, row) of each. Raises ValueError if they are not that."""
    array, numbers, files = content.get("data"), _list(content, "fine_labels"), _list(content, "filenames")
    if not isinstance(array, PickledArray) or array.values.dtype != np.uint8:
        raise ValueError("it lacks data")
    if array.values.shape != (len(numbers), 3 * SIDE * SIDE) or len(files) != len(numbers):
        raise ValueError(f"{array.values.shape} data, {len(numbers)} labels and {len(files)} names do not fit together")
    if not all(isinstance(number, int) and 0 <= number < len(labels) for number in numbers):
        raise ValueError("a label has no name")
    rows = [(labels[number], as_text(file), row) for row, (number, file) in enumerate(zip(numbers, files, strict=True))]
    return array.values.reshape(-1, 3, SIDE, SIDE), rows


def _list(content: Mapping[str, object], key: str) -> list:
    if not isinstance(values := content.get(key), list):
        raise ValueError(f"it lacks {key}")
    return values


def _from_images(
    tree: Path, names: list[str], read: ReadFile, classes: Sequence[str], progress: Progress
) -> np.ndarray:
    image = re.compile(r"(?:[^/]+/)?(train|test)/([^/]+)/([^/.][^/]*\.(?:png|webp))")
    found: dict[str, list[tuple[str, str, str]]] = {part: [] for part in SAMPLES}
    for name in names:
        if match := image.fullmatch(name):
            found[match[1]].append((match[2], match[3], name))
    parts = [_ordered(tree, part, found[part], classes) for part in SAMPLES]
    files = [sum(of_class, []) for of_class in zip(*parts, strict=True)]
    images = np.empty((len(files), sum(SAMPLES.values()), 3, SIDE, SIDE), np.uint8)
    decode_all(files, lambda file: decode(read(file), f"{tree}, {file}"), images, "read CIFAR-100", progress)
    return images


def _ordered(tree: Path, part: str, found: list[tuple[str, str, T]], classes: Sequence[str]) -> list[list[T]]:
    """The items of each class by file name, from (class, file name, item), once all counts are those of CIFAR-100."""
    by_class: dict[str, list[tuple[str, T]]] = {name: [] for name in classes}
    for label, file, item in found:
        if label not in by_class:
            raise DataError(f"{tree}: {part} has a class {label!r}, which CIFAR-100 has not: get it again")
        by_class[label].append((file.rpartition(".")[0], item))
    for label, items in by_class.items():
        if len(items) != SAMPLES[part]:
            raise DataError(
                f"{tree}: {part} has {len(items):,} images of class {label} instead of {SAMPLES[part]}: get it again"
            )
    return [[item for _, item in sorted(items)] for items in by_class.values()]


DATASET = LabelledDataset(
    name="cifar-100",
    title="CIFAR-100",
    licence="none stated; free to use with citation of Krizhevsky (2009)",
    source="A. Krizhevsky, V. Nair, G. Hinton: www.cs.toronto.edu/~kriz/cifar.html",
    citation="krizhevsky2009cifar",
    obtained=OBTAINED,
    raw_files=raw_files,
    way=100,
    stored=SIDE,
    side=SIDE,
    counts=COUNTS,
    build=build,
)
