"""CIFAR-100: 60,000 photographs of 100 classes, 32x32 (Krizhevsky 2009); and CIFAR-FS, a view of it or alone."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from msmeta.data.dataset import (
    Allocate,
    Arrays,
    Dataset,
    Limits,
    Progress,
    RawFile,
    ViewAlone,
    splits_of_classes,
    splits_of_images,
)
from msmeta.data.decoders import FORMATS, Decode, decode_all
from msmeta.data.pickles import PickledArray, as_text, load_pickle
from msmeta.data.raw import MAX_BYTES, opened, readable
from msmeta.data.splits import divide
from msmeta.data.trees import PARTS, grouped, matching
from msmeta.errors import DataError

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
CLASSES = sorted(name for names in FEW_SHOT_CLASSES.values() for name in names)
"""Of CIFAR-100, in the order of the official labels."""
SAMPLES = {"train": 500, "test": 100}
"""Images of a class in each of the two published parts."""
WITHIN = ("cifar100", "cifar-fs", "cifar_fs", "cifar-100-python", "data", "splits", *SAMPLES)
"""Folders that are looked into."""
ALONE = r"(?:.*/)?data/([^/.][^/]*)/([^/.][^/]*)\.(?:png|webp)"
"""An image as the authors of CIFAR-FS have it, who do not say which are published as test images of CIFAR-100."""
VALIDATION = 5_000
"""Of the images published for training."""
SIDE = 32
decode = Decode(FORMATS, 3, SIDE, exact=SIDE)
LIMITS = Limits(archive=2**30)
REPEATED = 26
"""Photographs that are there twice, some of them in two classes."""
T = TypeVar("T")


def build(folder: Path, progress: Progress, allocate: Allocate, dataset: Dataset, follow_links: bool) -> Arrays:
    """Reads the official pickles or else an image a file in `folder`; both give the same arrays.

    The images of a class are sorted by file name without suffix. Of the published training images, a tenth of each
    class is for validation. Raises DataError if something is missing or damaged or a count is wrong, ViewAlone where
    the folder holds CIFAR-FS alone.
    """
    labels, order = _labels_and_order()
    found = matching(folder, r"(?:.*/)?(meta|train|test)", {"cifar-100-python"}, follow_links)
    pickles = {match[1]: match.string for match in found}
    if "meta" in pickles or (folder / "cifar-100-python").is_dir():
        pixels, rows = _from_pickles(dataset, folder, pickles, progress)
        images = allocate((len(order), *dataset.shape), np.uint8)
        places = np.array(_published(rows))[order]
        np.take(pixels, places, axis=0, out=images)
        names = [f"{label}/{file}" for _, label, file, _ in (rows[place] for place in places)]
        return Arrays(images, labels[order], CLASSES, places[: dataset.splits["test"].start], names=names)
    image = r"(?:.*/)?(train|test)/([^/.][^/]*)/([^/.][^/]*)\.(?:png|webp)"
    if found := matching(folder, image, {"cifar100", *SAMPLES}, follow_links):
        validation = Path(found[0].string).parents[2] / "val"
        if (folder / validation).is_dir():
            raise DataError(f"{validation}/ is no part of CIFAR-100, which is {dataset.obtained}")
        published = _published([(*match.groups(), match.string) for match in found])
        names = [published[place] for place in order]
        images = decode_all(dataset, folder, names, decode, progress, allocate)
        return Arrays(images, labels[order], CLASSES, names=names)
    if matching(folder, ALONE, WITHIN, follow_links):
        raise ViewAlone(
            "data/CLASS/FILE does not say which images CIFAR-100 has for the test: CIFAR-FS alone can be prepared from "
            "it (msmeta data prepare cifar-fs)"
        )
    raise DataError(f"it does not hold CIFAR-100, which is {dataset.obtained}")


def few_shot_alone(
    folder: Path, progress: Progress, allocate: Allocate, dataset: Dataset, follow_links: bool
) -> Arrays:
    """CIFAR-FS as its authors give it: data/CLASS/FILE, the images of a class by file name without suffix.

    Their lists of classes, splits/bertinetto/, are compared where they are there. Raises DataError if something is
    missing or damaged or differs.
    """
    found = [(match[1], (match[2], match.string)) for match in matching(folder, ALONE, WITHIN, follow_links)]
    _check_known("data", {label for label, _ in found})
    images = grouped("data", found, len(CLASSES), sum(SAMPLES.values()))
    published = dict(zip(PARTS, FEW_SHOT_CLASSES.values(), strict=True))
    for match in matching(folder, rf"(?:.*/)?splits/bertinetto/({'|'.join(PARTS)})\.txt", WITHIN, follow_links):
        with readable(match.string), opened(folder / match.string, MAX_BYTES) as (file, _):
            names = file.read().decode("utf-8").split()
        if sorted(names) != sorted(published[match[1]]):
            raise DataError(f"{match.string} has other classes than CIFAR-FS")
    classes = [label for names in FEW_SHOT_CLASSES.values() for label in names]
    names = [name for label in classes for _, name in sorted(images[label])]
    labels = np.repeat(np.arange(len(classes)), sum(SAMPLES.values()))
    return Arrays(decode_all(dataset, folder, names, decode, progress, allocate), labels, classes, names=names)


def few_shot(arrays: Arrays) -> Arrays:
    """CIFAR-FS: the classes of CIFAR-100 in the order of the splits, the images of each in their published order."""
    labels, order = _labels_and_order()
    where = np.argsort(order).reshape(len(CLASSES), -1)  # (classes, samples): where the published images are stored
    classes = [label for names in FEW_SHOT_CLASSES.values() for label in names]
    places = where[[arrays.classes.index(label) for label in classes]].ravel()
    return Arrays(arrays.images[places], labels, classes)


def _labels_and_order() -> tuple[np.ndarray, np.ndarray]:
    """Labels of the images as they are `_published`, and the order of these that the splits have."""
    classes, samples = len(CLASSES), sum(SAMPLES.values())
    labels = np.repeat(np.arange(classes), samples)
    return labels, divide(labels, np.tile(np.arange(samples) >= SAMPLES["train"], classes), VALIDATION)


def _published(rows: Iterable[tuple[str, str, str, T]]) -> list[T]:
    """The items class by class, of each train before test, by file name; from (part, class, file name, item).

    Raises DataError unless the classes and counts are those of CIFAR-100.
    """
    parts = []
    for part, samples in SAMPLES.items():
        of_part = [(label, (file, item)) for of, label, file, item in rows if of == part]
        _check_known(part, {label for label, _ in of_part})
        parts.append(grouped(part, of_part, len(CLASSES), samples))
        for label, items in parts[-1].items():
            if len({file for file, _ in items}) < len(items):
                raise DataError(f"{part} has two images of class {label} with one name: get it again")
    return [item for label in CLASSES for of_class in parts for _, item in sorted(of_class[label])]


def _check_known(part: str, classes: Collection[str]) -> None:
    if unknown := set(classes) - set(CLASSES):
        raise DataError(f"{part} has a class {min(unknown)!r}, which CIFAR-100 has not")


def _from_pickles(
    dataset: Dataset, folder: Path, where: Mapping[str, str], progress: Progress
) -> tuple[np.ndarray, list[tuple[str, str, str, int]]]:
    """Images (N, 3, 32, 32) of both parts, and (part, class, file name without suffix, place) of each."""
    for name in ("meta", *SAMPLES):
        if name not in where:
            raise DataError(f"no {name}: CIFAR-100 is {dataset.obtained}")
    with readable(where["meta"]):
        labels = [as_text(label) for label in _list(load_pickle(folder, where["meta"]), "fine_label_names")]
    pixels, rows = [], []
    for done, part in enumerate(SAMPLES):
        progress("read CIFAR-100", done, len(SAMPLES))
        with readable(where[part]):
            of_part, names = _part(load_pickle(folder, where[part]), labels)
        rows += [(part, *name, place) for place, name in enumerate(names, len(rows))]
        pixels.append(of_part)
    progress("read CIFAR-100", len(SAMPLES), len(SAMPLES))
    return np.concatenate(pixels), rows


def _part(content: Mapping[str, object], labels: list[str]) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Images (N, 3, 32, 32) of a part, and (class, file name without suffix) of each; or ValueError."""
    array, numbers, files = content.get("data"), _list(content, "fine_labels"), _list(content, "filenames")
    if not isinstance(array, PickledArray) or array.values.dtype != np.uint8:
        raise ValueError("it lacks data")
    if array.values.shape != (len(numbers), 3 * SIDE * SIDE) or len(files) != len(numbers):
        raise ValueError(f"{array.values.shape} data, {len(numbers)} labels and {len(files)} names do not fit together")
    if not all(isinstance(number, int) and 0 <= number < len(labels) for number in numbers):
        raise ValueError("a label has no name")
    names = [(labels[number], as_text(file).rpartition(".")[0]) for number, file in zip(numbers, files, strict=True)]
    return array.values.reshape(-1, 3, SIDE, SIDE), names


def _list(content: Mapping[str, object], key: str) -> list:
    if not isinstance(values := content.get(key), list):
        raise ValueError(f"it lacks {key}")
    return values


CIFAR_100 = Dataset(
    name="cifar-100",
    title="CIFAR-100",
    licence="none stated; free to use with citation of Krizhevsky (2009)",
    source="A. Krizhevsky, V. Nair, G. Hinton: www.cs.toronto.edu/~kriz/cifar.html",
    citation="krizhevsky2009cifar",
    obtained="downloaded through torchvision as CIFAR-100, or given as cifar-100-python.tar.gz or as cifar100.tar.gz "
    "with train/CLASS/ and test/CLASS/ (.tgz, .tar, .zip, or the folder)",
    classes=100,
    shape=(3, SIDE, SIDE),
    splits=splits_of_images(train=45_000, validation=VALIDATION, test=10_000),
    build=build,
    raw_files=(
        RawFile("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
    ),
    archives=("cifar-100-python", "cifar100"),
    limits=LIMITS,
    repeated=REPEATED,
)

CIFAR_FS = Dataset(
    name="cifar-fs",
    title="CIFAR-FS",
    licence="none stated; CIFAR-100 is free to use with citation of Krizhevsky (2009)",
    source="A. Krizhevsky, V. Nair, G. Hinton: www.cs.toronto.edu/~kriz/cifar.html; classes divided by L. Bertinetto, "
    "J. F. Henriques, P. H. S. Torr, A. Vedaldi: github.com/bertinetto/r2d2",
    citation="bertinetto2019cifarfs",
    obtained=f"{CIFAR_100.obtained}; or given as its authors have it, cifar100.zip (or the folder) with data/CLASS/",
    classes=100,
    shape=(3, SIDE, SIDE),
    splits=splits_of_classes(
        sum(SAMPLES.values()), train=range(0, 64), validation=range(64, 80), test=range(80, 100), tune=range(0, 64)
    ),
    build=few_shot,
    samples=sum(SAMPLES.values()),
    view_of="cifar-100",
    build_alone=few_shot_alone,
    archives=("cifar100", "cifar-fs"),
    limits=LIMITS,
    repeated=REPEATED,
)
