"""miniImageNet: 100 classes of ImageNet, 600 images each (Vinyals et al. 2016; split of Ravi and Larochelle 2017)."""

import csv
import io
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from msmeta.data.dataset import Arrays, Dataset, Progress, not_published
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
from msmeta.errors import DataError

CLASSES = {"train": 64, "validation": 16, "test": 20}
SAMPLES = 600
SIDE = 84
NAMES = {"train": "train", "validation": "val", "test": "test"}
"""What a split is called in file names."""
OBTAINED = (
    "given with `msmeta data prepare miniimagenet --from DIR`, where DIR holds miniimagenet.tar.gz (.tgz, .tar, .zip, "
    "or that folder) with train.csv, val.csv, test.csv and images/, or mini-imagenet-cache-train.pkl, -val.pkl and "
    "-test.pkl"
)


def build(folder: Path | None, progress: Progress) -> Arrays:
    """Reads the CSV files and images, or else the three pickles, in `folder`.

    The classes of a split are sorted by name, the images of a class in the order of the CSV file (or pickle). Images of
    another size are resized to 84x84 with Pillow's bilinear filter, grey ones become RGB.
    Raises DataError if a file is missing or damaged or a count is not the published one.
    """
    if tree := find_tree(folder, "miniimagenet") or (folder if (folder / "train.csv").is_file() else None):
        with open_path(tree, max_files=100_000, max_bytes=2**23) as (names, read):
            return _from_images(tree, names, read, progress)
    if any(_pickle(folder, split).exists() for split in CLASSES):
        return _from_pickles(folder, progress)
    raise DataError(f"{folder} does not hold miniImageNet, which is {OBTAINED}")


def decode(data: bytes, name: str) -> np.ndarray:
    """One image as uint8 (3, 84, 84). Raises DataError if it cannot be decoded."""
    image = open_rgb(data, name)
    if image.size != (SIDE, SIDE):
        image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)


def _from_images(tree: Path, names: list[str], read: ReadFile, progress: Progress) -> Arrays:
    top = next((name.removesuffix("train.csv") for name in names if PurePosixPath(name).name == "train.csv"), "")
    listed = {}
    for split, short in NAMES.items():
        if (name := f"{top}{short}.csv") not in names:
            raise DataError(f"{tree} holds no {short}.csv: miniImageNet is {OBTAINED}")
        listed[split] = _listed(read(name), f"{tree}, {name}")
    classes = _checked(tree, listed)

    folder = f"{top}images/"
    stored = [name for name in names if name.startswith(folder)]
    # The copies in circulation keep the .jpg of the published CSV files when they store images in another format.
    by_stem = {name.rpartition(".")[0]: name for name in stored} | {name: name for name in stored}
    files = [[_stored(tree, by_stem, f"{folder}{image}") for image in images] for images in classes.values()]
    images = np.empty((len(classes), SAMPLES, 3, SIDE, SIDE), np.uint8)
    decode_all(files, lambda file: decode(read(file), f"{tree}, {file}"), images, "read miniImageNet", progress)
    return Arrays(images, list(classes))


def _listed(data: bytes, name: str) -> dict[str, list[str]]:
    """Images of each class, in the order of a CSV file."""
    classes: dict[str, list[str]] = {}
    with readable(name):
        rows = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        if not {"filename", "label"} <= set(rows.fieldnames or ()):
            raise ValueError("its columns are not filename,label")
        for row in rows:
            if not row["filename"] or not row["label"]:
                raise ValueError(f"line {rows.line_num} lacks a filename or a label")
            classes.setdefault(row["label"], []).append(row["filename"])
    return classes


def _stored(tree: Path, by_stem: dict[str, str], image: str) -> str:
    file = by_stem.get(image) or by_stem.get(image.rpartition(".")[0])
    if file is None:
        raise DataError(f"{tree} holds no {image}, which a CSV file names: get miniImageNet again")
    return file


def _from_pickles(folder: Path, progress: Progress) -> Arrays:
    pixels, listed = {}, {}
    for done, split in enumerate(CLASSES):
        progress("read miniImageNet", done, len(CLASSES))
        path = _pickle(folder, split)
        with readable(path), path.open("rb") as file:
            pixels[split], listed[split] = _cache(load_pickle(file, str(path)))
    classes = _checked(folder, listed)
    images = np.empty((len(classes), SAMPLES, 3, SIDE, SIDE), np.uint8)
    label = 0
    for split, count in CLASSES.items():
        for rows in list(classes.values())[label : label + count]:
            images[label] = pixels[split][rows].transpose(0, 3, 1, 2)
            label += 1
    progress("read miniImageNet", len(CLASSES), len(CLASSES))
    return Arrays(images, list(classes))


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


def _checked(where: Path, listed: dict[str, dict[str, list]]) -> dict[str, list]:
    """Images of each class, classes in the order of the splits, once all counts are the published ones."""
    classes: dict[str, list] = {}
    for split, expected in CLASSES.items():
        found = listed[split]
        if len(found) != expected:
            raise DataError(
                f"{where} has {len(found):,} classes in {NAMES[split]}, miniImageNet has {expected} there: get it again"
            )
        for label in sorted(found):
            if label in classes:
                raise DataError(f"{where}: class {label} is in two splits: get miniImageNet again")
            if len(set(found[label])) != SAMPLES or len(found[label]) != SAMPLES:
                raise DataError(
                    f"{where}: class {label} has {len(found[label]):,} images, {len(set(found[label])):,} of them "
                    f"different, instead of {SAMPLES}: get miniImageNet again"
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
    shape=(100, SAMPLES, 3, SIDE, SIDE),
    splits={
        "train": range(0, 64),
        "validation": range(64, 80),
        "test": range(80, 100),
        "tune": range(0, 64),
    },
    rotations=1,
    raw_files=not_published,  # ImageNet's licence leaves no place to download it from
    build=build,
)
