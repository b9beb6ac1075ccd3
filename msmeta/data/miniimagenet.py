"""miniImageNet: 100 classes of ImageNet, 600 images each (Vinyals et al. 2016; split of Ravi and Larochelle 2017)."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from msmeta.data.dataset import Allocate, Arrays, Dataset, Progress, splits_of_classes
from msmeta.data.pickles import PickledArray, as_text, load_pickle
from msmeta.data.raw import decode_all, matching, open_image, readable
from msmeta.errors import DataError

CLASSES = {"train": 64, "validation": 16, "test": 20}
SAMPLES = 600
SIDE = 84
NAMES = {"train": "train", "validation": "val", "test": "test"}
"""What a split is called in file names."""
FILES = r"(?:.*/)?(?:(train|val|test)\.csv|(images|train|val|test)/((?:([^/.][^/]*)/)?[^/.][^/]*\.(?i:jpe?g|png|webp)))"
"""Split of a CSV file; or folder of an image, its name there, and its class where that has a folder."""
OBTAINED = (
    "given with `msmeta data prepare miniimagenet --from DIR`, where DIR holds miniimagenet.tar.gz (.tgz, .tar, .zip, "
    "or that folder) with train.csv, val.csv, test.csv and images/ (with or without a folder for each class), or with "
    "train/CLASS/, val/CLASS/ and test/CLASS/; or mini-imagenet-cache-train.pkl, -val.pkl and -test.pkl"
)


def build(folder: Path, progress: Progress, allocate: Allocate = np.empty) -> Arrays:
    """Reads the images, by the CSV files where there are such, or else the three pickles, in `folder`.

    The classes of a split are sorted by name, the images of a class in the order of the CSV file (or pickle), or by
    name where there is none. Images of another size are resized to 84x84 with Pillow's bilinear filter, grey ones
    become RGB. Raises DataError if a file is missing or damaged or a count is not the published one.
    """
    found = matching(folder, FILES, {"miniimagenet", "images", *NAMES.values()})
    lists = {match[1]: match.string for match in found if match[1]}
    images = [match for match in found if match[2]]
    if lists:
        return _from_images(folder, _stored(_checked(_lists(folder, lists)), images), progress, allocate)
    if any(match[2] != "images" and match[4] for match in images):
        return _from_images(folder, _checked(_folders(images)), progress, allocate)
    if any(_pickle(folder, split).exists() for split in CLASSES):
        return _from_pickles(folder, progress, allocate)
    raise DataError(f"it does not hold miniImageNet, which is {OBTAINED}")


def decode(data: bytes, name: str) -> np.ndarray:
    """One image as uint8 (3, 84, 84). Raises DataError if it cannot be decoded."""
    image = open_image(data, name)
    if image.size != (SIDE, SIDE):
        image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)


def _from_images(folder: Path, classes: Mapping[str, list[str]], progress: Progress, allocate: Allocate) -> Arrays:
    names = [name for of_class in classes.values() for name in of_class]
    images = allocate((len(names), 3, SIDE, SIDE), np.uint8)
    decode_all(folder, names, decode, images, "read miniImageNet", progress)
    return _arrays(images, classes)


def _folders(images: Sequence[re.Match[str]]) -> dict[str, dict[str, list[str]]]:
    """Images of each class of each split, where there is a folder for each."""
    split_of, listed = {short: split for split, short in NAMES.items()}, {split: {} for split in NAMES}
    for match in images:
        if match[2] in split_of and match[4]:
            listed[split_of[match[2]]].setdefault(match[4], []).append(match.string)
    return listed


def _lists(folder: Path, lists: Mapping[str, str]) -> dict[str, dict[str, list[str]]]:
    """Images of each class of each split, as the CSV files name them."""
    for short in NAMES.values():
        if short not in lists:
            raise DataError(f"no {short}.csv: miniImageNet is {OBTAINED}")
    return {split: _listed(folder / lists[short], lists[short]) for split, short in NAMES.items()}


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


def _listed(path: Path, name: str) -> dict[str, list[str]]:
    """Images of each class, in the order of a CSV file."""
    classes: dict[str, list[str]] = {}
    with readable(name):
        rows = csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""))
        if not {"filename", "label"} <= set(rows.fieldnames or ()):
            raise ValueError("its columns are not filename,label")
        for row in rows:
            if not row["filename"] or not row["label"]:
                raise ValueError(f"line {rows.line_num} lacks a filename or a label")
            classes.setdefault(row["label"], []).append(row["filename"])
    return classes


def _from_pickles(folder: Path, progress: Progress, allocate: Allocate) -> Arrays:
    pixels, listed = {}, {}
    for done, split in enumerate(CLASSES):
        progress("read miniImageNet", done, len(CLASSES))
        path = _pickle(folder, split)
        with readable(path.name), path.open("rb") as file:
            pixels[split], listed[split] = _cache(load_pickle(file, path.name))
    classes = _checked(listed)
    split_of = {label: split for split, found in listed.items() for label in found}
    images = allocate((len(classes) * SAMPLES, 3, SIDE, SIDE), np.uint8)
    for place, (label, rows) in enumerate(classes.items()):
        images[place * SAMPLES : (place + 1) * SAMPLES] = pixels[split_of[label]][rows].transpose(0, 3, 1, 2)
    progress("read miniImageNet", len(CLASSES), len(CLASSES))
    return _arrays(images, classes)


def _arrays(images: np.ndarray, classes: Mapping[str, list]) -> Arrays:
    return Arrays(images, np.repeat(np.arange(len(classes)), SAMPLES), list(classes))


def _cache(content: dict[str, object]) -> tuple[np.ndarray, dict[str, list[int]]]:
    """Images (N, 84, 84, 3) of a split, and the rows of each class. Raises ValueError if they are not that."""
    array, classes = content.get("image_data"), content.get("class_dict")
    if not isinstance(array, PickledArray) or not isinstance(classes, dict):
        raise ValueError("it lacks image_data or class_dict")
    pixels = array.values
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (SIDE, SIDE, 3):
        raise ValueError(f"image_data is {pixels.dtype} {pixels.shape} instead of uint8 (N, {SIDE}, {SIDE}, 3)")
    for label, rows in classes.items():
        if not isinstance(rows, list) or not all(isinstance(row, int) and 0 <= row < len(pixels) for row in rows):
            raise ValueError(f"class {as_text(label)} is not a list of rows of image_data")
    return pixels, {as_text(label): rows for label, rows in classes.items()}


def _checked(listed: Mapping[str, dict[str, list]]) -> dict[str, list]:
    """Images of each class, classes in the order of the splits, once all counts are the published ones."""
    classes: dict[str, list] = {}
    for split, expected in CLASSES.items():
        found = listed[split]
        if len(found) != expected:
            raise DataError(
                f"{NAMES[split]} has {len(found):,} classes, miniImageNet has {expected} there: get it again"
            )
        for label in sorted(found):
            if label in classes:
                raise DataError(f"class {label} is in two splits: get miniImageNet again")
            if len(set(found[label])) != SAMPLES or len(found[label]) != SAMPLES:
                raise DataError(
                    f"class {label} has {len(found[label]):,} images, {len(set(found[label])):,} of them different, "
                    f"instead of {SAMPLES}: get miniImageNet again"
                )
            classes[label] = found[label]
    return classes


def _pickle(folder: Path, split: str) -> Path:
    return folder / f"mini-imagenet-cache-{NAMES[split]}.pkl"


DATASET = Dataset(
    name="miniimagenet",
    title="miniImageNet",
    licence="ImageNet's terms of access: non-commercial research and education; not to be passed on",
    source="O. Vinyals et al. 2016, with the classes and images that S. Ravi and H. Larochelle (2017) published: "
    "github.com/twitter-research/meta-learning-lstm, folder data/miniImagenet; images of ImageNet (image-net.org)",
    citation="ravi2017optimization",
    obtained=OBTAINED,
    classes=sum(CLASSES.values()),
    shape=(3, SIDE, SIDE),
    splits=splits_of_classes(
        SAMPLES, train=range(0, 64), validation=range(64, 80), test=range(80, 100), tune=range(0, 64)
    ),
    build=build,  # ImageNet's licence leaves no place to download it from
    archives=("miniimagenet",),
    samples=SAMPLES,
)
