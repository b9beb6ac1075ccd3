"""miniImageNet: 100 classes of ImageNet, 600 images each (Vinyals et al. 2016; split of Ravi and Larochelle 2017)."""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from msmeta.data.dataset import Allocate, Arrays, Dataset, Progress, splits_of_classes
from msmeta.data.pickles import PickledArray, as_text, load_pickle
from msmeta.data.raw import T, decode_all, grouped, matching, open_image, readable, resized
from msmeta.errors import DataError

CLASSES = {"train": 64, "validation": 16, "test": 20}
PARTS = ("train", "val", "test")
"""What files call these splits."""
"""Of each split, as file names call it."""
SAMPLES = 600
SIDE = 84
FILES = r"(?:.*/)?(?:(train|val|test)\.csv|(images|train|val|test)/((?:([^/.][^/]*)/)?[^/.][^/]*\.(?i:jpe?g|png|webp)))"
"""Split of a CSV file; or folder of an image, its name there, and its class where that has a folder."""


def build(folder: Path, progress: Progress, allocate: Allocate = np.empty, dataset: Dataset | None = None) -> Arrays:
    """Reads the images, by the CSV files where there are such, or else the three pickles, in `folder`.

    The classes of a split are sorted by name, the images of a class in the order of the CSV file (or pickle), or by
    name where there is none. Images of another size are resized to 84x84 with Pillow's bilinear filter, grey ones
    become RGB. Raises DataError if a file is missing or damaged or a count is not the published one.
    """
    dataset = dataset or DATASET
    pickles = {split: f"mini-imagenet-cache-{split}.pkl" for split in PARTS}
    found = matching(folder, FILES, {"miniimagenet", "images", *PARTS})
    lists = {match[1]: match.string for match in found if match[1]}
    images = [match for match in found if match[2]]
    if lists:
        classes = _stored(_checked(_listed(dataset, folder, lists)), images)
    elif in_folders := [match for match in images if match[2] in PARTS and match[4]]:
        listed = {split: [(match[4], match.string) for match in in_folders if match[2] == split] for split in PARTS}
        classes = _checked(listed)
    elif any((folder / name).exists() for name in pickles.values()):
        return _from_pickles(dataset, folder, pickles, progress, allocate)
    else:
        raise DataError(f"it does not hold miniImageNet, which is {dataset.obtained}")
    names = [*chain.from_iterable(classes.values())]
    return _arrays(decode_all(dataset, folder, names, decode, progress, allocate), classes)


def decode(data: bytes, name: str) -> np.ndarray:
    """One image as uint8 (3, 84, 84). Raises DataError if it cannot be decoded."""
    return resized(open_image(data, name), SIDE)


def _checked(listed: Mapping[str, Iterable[tuple[str, T]]]) -> dict[str, list[T]]:
    """Images of each class, classes in the order of the splits, from (class, image) of each split."""
    classes: dict[str, list[T]] = {}
    for split, expected in zip(PARTS, CLASSES.values(), strict=True):
        found = grouped(split, listed[split], expected, SAMPLES)
        if twice := classes.keys() & found:
            raise DataError(f"class {min(twice)} is in two splits: get miniImageNet again")
        classes |= found
    return classes


def _arrays(images: np.ndarray, classes: Mapping[str, list]) -> Arrays:
    return Arrays(images, np.repeat(np.arange(len(classes)), SAMPLES), list(classes))


def _listed(dataset: Dataset, folder: Path, lists: Mapping[str, str]) -> dict[str, list[tuple[str, str]]]:
    """(class, image) of each split, in the order of its CSV file."""
    listed: dict[str, list[tuple[str, str]]] = {}
    for split in PARTS:
        if split not in lists:
            raise DataError(f"no {split}.csv: miniImageNet is {dataset.obtained}")
        with readable(lists[split]):
            text = (folder / lists[split]).read_text("utf-8-sig")
            rows = csv.DictReader(io.StringIO(text))
            if not {"filename", "label"} <= set(rows.fieldnames or ()):
                raise ValueError("its columns are not filename,label")
            listed[split] = [(row["label"], row["filename"]) for row in rows]
            for line, row in enumerate(listed[split], 2):
                if not all(row):
                    raise ValueError(f"line {line} lacks a filename or a label")
    return listed


def _stored(classes: Mapping[str, list[str]], images: Sequence[re.Match[str]]) -> dict[str, list[str]]:
    """Where the images that the CSV files name lie: beside each other, or in a folder for each class."""
    # The copies in circulation keep the .jpg of the published CSV files when they store images in another format.
    where = {match[3].rpartition(".")[0]: match.string for match in images}
    where |= {match[3]: match.string for match in images}

    def find(label: str, name: str) -> str:
        stem = name.rpartition(".")[0]
        for key in (name, stem, f"{label}/{name}", f"{label}/{stem}"):
            if key in where:
                return where[key]
        raise DataError(f"no images/{name}, which a CSV file names: get miniImageNet again")

    return {label: [find(label, name) for name in names] for label, names in classes.items()}


def _from_pickles(
    dataset: Dataset, folder: Path, names: Mapping[str, str], progress: Progress, allocate: Allocate
) -> Arrays:
    pixels, listed = {}, {}
    for done, (split, name) in enumerate(names.items()):
        progress("read miniImageNet", done, len(names))
        with readable(name):
            pixels[split], rows = _cache(load_pickle(folder, name))
        listed[split] = [(label, (split, row)) for label, row in rows]
    classes = _checked(listed)
    images = allocate((dataset.size, 3, SIDE, SIDE), np.uint8)
    for place, (split, row) in enumerate(chain.from_iterable(classes.values())):
        images[place] = pixels[split][row].transpose(2, 0, 1)
    progress("read miniImageNet", len(names), len(names))
    return _arrays(images, classes)


def _cache(content: dict[str, object]) -> tuple[np.ndarray, list[tuple[str, int]]]:
    """Images (N, 84, 84, 3) of a split, and (class, row) of each. Raises ValueError if they are not that."""
    array, classes = content.get("image_data"), content.get("class_dict")
    if not isinstance(array, PickledArray) or not isinstance(classes, dict):
        raise ValueError("it lacks image_data or class_dict")
    pixels = array.values
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (SIDE, SIDE, 3):
        raise ValueError(f"image_data is {pixels.dtype} {pixels.shape} instead of uint8 (N, {SIDE}, {SIDE}, 3)")
    for label, rows in classes.items():
        if not isinstance(rows, list) or not all(isinstance(row, int) and 0 <= row < len(pixels) for row in rows):
            raise ValueError(f"class {as_text(label)} is not a list of rows of image_data")
    return pixels, [(as_text(label), row) for label, rows in classes.items() for row in rows]


DATASET = Dataset(
    name="miniimagenet",
    title="miniImageNet",
    licence="ImageNet's terms of access: non-commercial research and education; not to be passed on",
    source="O. Vinyals et al. 2016, with the classes and images that S. Ravi and H. Larochelle (2017) published: "
    "github.com/twitter-research/meta-learning-lstm, folder data/miniImagenet; images of ImageNet (image-net.org)",
    citation="ravi2017optimization",
    obtained="given with `msmeta data prepare miniimagenet --from DIR`, where DIR holds miniimagenet.tar.gz (.tgz, "
    ".tar, .zip, or that folder) with train.csv, val.csv, test.csv and images/ (with or without a folder for each "
    "class), or with train/CLASS/, val/CLASS/ and test/CLASS/; or mini-imagenet-cache-train.pkl, -val.pkl and "
    "-test.pkl",
    classes=sum(CLASSES.values()),
    shape=(3, SIDE, SIDE),
    splits=splits_of_classes(
        SAMPLES, train=range(0, 64), validation=range(64, 80), test=range(80, 100), tune=range(0, 64)
    ),
    build=build,  # ImageNet's licence leaves no place to download it from
    archives=("miniimagenet",),
    samples=SAMPLES,
)
