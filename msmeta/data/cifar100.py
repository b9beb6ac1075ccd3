"""CIFAR-100: 60,000 photographs of 100 classes, 32x32 (Krizhevsky 2009), in two layouts; and CIFAR-FS, a view of it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from msmeta.data.dataset import (
    Allocate,
    Arrays,
    Dataset,
    Progress,
    RawFile,
    splits_of_classes,
    splits_of_images,
)
from msmeta.data.pickles import PickledArray, as_text, load_pickle
from msmeta.data.raw import decode_all, matching, open_image, readable
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
FEW_SHOT_CLASSES = {
    split: names.split()
    for split, names in {
        "train": (
            "apple aquarium_fish bear bee bottle bowl boy bridge bus can castle caterpillar chair clock cloud "
            "cockroach couch cup dinosaur dolphin elephant forest girl hamster house kangaroo keyboard lawn_mower lion "
            "lizard lobster mountain mouse mushroom oak_tree orange orchid palm_tree pear pine_tree plate porcupine "
            "possum rabbit raccoon ray road seal shrew skunk skyscraper snake spider squirrel streetcar sunflower "
            "tank tiger train trout tulip turtle willow_tree wolf"
        ),
        "validation": (
            "beaver beetle butterfly camel cattle crab crocodile flatfish lamp maple_tree motorcycle otter sea shark "
            "television tractor"
        ),
        "test": (
            "baby bed bicycle chimpanzee fox leopard man pickup_truck plain poppy rocket rose snail sweet_pepper table "
            "telephone wardrobe whale woman worm"
        ),
    }.items()
}
"""Of CIFAR-FS: those of CIFAR-100 divided for few-shot learning by Bertinetto et al. (2019)."""
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


def build(folder: Path, progress: Progress, allocate: Allocate = np.empty) -> Arrays:
    """Of the published training images, a tenth of each class is for validation. Raises as `read_classes` does."""
    found = read_classes(folder, CLASSES, progress)
    labels, order = _published()
    images = allocate((len(order), *found.shape[2:]), np.uint8)
    np.take(found.reshape(-1, *found.shape[2:]), order, axis=0, out=images)
    return Arrays(images, labels[order], list(CLASSES))


def few_shot(arrays: Arrays) -> Arrays:
    """CIFAR-FS: the classes of CIFAR-100 in the order of the splits, the images of each in their published order."""
    labels, order = _published()
    where = np.argsort(order).reshape(len(CLASSES), -1)  # (classes, samples): where the published images are stored
    classes = [label for names in FEW_SHOT_CLASSES.values() for label in names]
    places = where[[arrays.classes.index(label) for label in classes]].ravel()
    return Arrays(arrays.images[places], labels, classes)


def _published() -> tuple[np.ndarray, np.ndarray]:
    """Labels of the published images, class by class, of each first those of train; and the order of the splits."""
    classes, samples = len(CLASSES), sum(SAMPLES.values())
    labels = np.repeat(np.arange(classes), samples)
    return labels, divide(labels, np.tile(np.arange(samples) >= SAMPLES["train"], classes), COUNTS)


def read_classes(folder: Path, classes: Sequence[str], progress: Progress) -> np.ndarray:
    """CIFAR-100 in `folder`, the official pickles or else an image a file, in the order of `classes`.

    Returns uint8 (100, 600, 3, 32, 32). The images of a class are those of the train, then of the test part, each
    sorted by file name without suffix; both layouts give the same arrays. Raises DataError if something is missing or
    damaged or a count is wrong.
    """
    pickles = {match[1]: match.string for match in matching(folder, r"(?:.*/)?(meta|train|test)", {"cifar-100-python"})}
    if "meta" in pickles or (folder / "cifar-100-python").is_dir():
        return _from_pickles(folder, pickles, classes, progress)
    image = r"(?:.*/)?(train|test)/([^/.][^/]*)/([^/.][^/]*)\.(?:png|webp)"
    if images := matching(folder, image, {"cifar100", *SAMPLES}):
        return _from_images(folder, images, classes, progress)
    raise DataError(f"it does not hold CIFAR-100, which is {OBTAINED}")


def decode(data: bytes, name: str) -> np.ndarray:
    """One image as uint8 (3, 32, 32). Raises DataError if it cannot be decoded or has another size."""
    image = open_image(data, name)
    if image.size != (SIDE, SIDE):
        raise DataError(f"{name} is {image.width}x{image.height} instead of {SIDE}x{SIDE}")
    return np.asarray(image).transpose(2, 0, 1)


def _from_pickles(folder: Path, where: Mapping[str, str], classes: Sequence[str], progress: Progress) -> np.ndarray:
    def load(name: str) -> dict[str, object]:
        if name not in where:
            raise DataError(f"no {name}: CIFAR-100 is {OBTAINED}")
        with readable(where[name]), (folder / where[name]).open("rb") as file:
            return load_pickle(file, where[name])

    with readable(where.get("meta")):
        labels = [as_text(label) for label in _list(load("meta"), "fine_label_names")]
    pixels, found = {}, {}
    for done, part in enumerate(SAMPLES):
        progress("read CIFAR-100", done, len(SAMPLES))
        with readable(where.get(part)):
            pixels[part], found[part] = _part(load(part), labels)
    images = np.concatenate([pixels[part][_ordered(part, found[part], classes)] for part in SAMPLES], axis=1)
    progress("read CIFAR-100", len(SAMPLES), len(SAMPLES))
    return images


def _part(content: Mapping[str, object], labels: list[str]) -> tuple[np.ndarray, list[tuple[str, str, int]]]:
    """Images (N, 3, 32, 32) of a part, and (class, file name without suffix, row) of each.

    Raises ValueError if they are not that.
    """
    array, numbers, files = content.get("data"), _list(content, "fine_labels"), _list(content, "filenames")
    if not isinstance(array, PickledArray) or array.values.dtype != np.uint8:
        raise ValueError("it lacks data")
    if array.values.shape != (len(numbers), 3 * SIDE * SIDE) or len(files) != len(numbers):
        raise ValueError(f"{array.values.shape} data, {len(numbers)} labels and {len(files)} names do not fit together")
    if not all(isinstance(number, int) and 0 <= number < len(labels) for number in numbers):
        raise ValueError("a label has no name")
    stems = [as_text(file).rpartition(".")[0] for file in files]
    rows = [(labels[number], stem, row) for row, (number, stem) in enumerate(zip(numbers, stems, strict=True))]
    return array.values.reshape(-1, 3, SIDE, SIDE), rows


def _list(content: Mapping[str, object], key: str) -> list:
    if not isinstance(values := content.get(key), list):
        raise ValueError(f"it lacks {key}")
    return values


def _from_images(
    folder: Path, found: Sequence[re.Match[str]], classes: Sequence[str], progress: Progress
) -> np.ndarray:
    parts = [
        _ordered(part, [(match[2], match[3], match.string) for match in found if match[1] == part], classes)
        for part in SAMPLES
    ]
    names = [name for of_class in zip(*parts, strict=True) for of_part in of_class for name in of_part]
    images = np.empty((len(names), 3, SIDE, SIDE), np.uint8)
    decode_all(folder, names, decode, images, "read CIFAR-100", progress)
    return images.reshape(len(classes), -1, 3, SIDE, SIDE)


def _ordered(part: str, found: list[tuple[str, str, T]], classes: Sequence[str]) -> list[list[T]]:
    """The items of each class by file name, from (class, file name without suffix, item).

    Raises DataError unless the counts are those of CIFAR-100.
    """
    by_class: dict[str, list[tuple[str, T]]] = {name: [] for name in classes}
    for label, file, item in found:
        if label not in by_class:
            raise DataError(f"{part} has a class {label!r}, which CIFAR-100 has not: get it again")
        by_class[label].append((file, item))
    for label, items in by_class.items():
        if len(items) != SAMPLES[part]:
            raise DataError(
                f"{part} has {len(items):,} images of class {label} instead of {SAMPLES[part]}: get it again"
            )
    return [[item for _, item in sorted(items)] for items in by_class.values()]


CIFAR_100 = Dataset(
    name="cifar-100",
    title="CIFAR-100",
    licence="none stated; free to use with citation of Krizhevsky (2009)",
    source="A. Krizhevsky, V. Nair, G. Hinton: www.cs.toronto.edu/~kriz/cifar.html",
    citation="krizhevsky2009cifar",
    obtained=OBTAINED,
    classes=100,
    shape=(3, SIDE, SIDE),
    splits=splits_of_images(COUNTS),
    build=build,
    raw_files=raw_files,
    archives=("cifar-100-python", "cifar100"),
)

CIFAR_FS = Dataset(
    name="cifar-fs",
    title="CIFAR-FS",
    licence="none stated; CIFAR-100 is free to use with citation of Krizhevsky (2009)",
    source="A. Krizhevsky, V. Nair, G. Hinton: www.cs.toronto.edu/~kriz/cifar.html; classes divided by L. Bertinetto, "
    "J. F. Henriques, P. H. S. Torr, A. Vedaldi: github.com/bertinetto/r2d2",
    citation="bertinetto2019cifarfs",
    obtained=OBTAINED,
    classes=100,
    shape=(3, SIDE, SIDE),
    splits=splits_of_classes(
        sum(SAMPLES.values()),
        train=range(0, 64),
        validation=range(64, 80),
        test=range(80, 100),
        tune=range(0, 64),
    ),
    build=few_shot,
    raw_files=raw_files,
    samples=sum(SAMPLES.values()),
    view_of="cifar-100",
)
