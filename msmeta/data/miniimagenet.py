"""miniImageNet: 100 classes of ImageNet, 600 images each (Vinyals et al. 2016; split of Ravi and Larochelle 2017)."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from msmeta.data.dataset import Allocate, Arrays, Dataset, Progress, splits_of_classes
from msmeta.data.decoders import FORMATS, Decode, decode_all
from msmeta.data.pickles import MAX_BYTES, PickledArray, as_text, load_pickle
from msmeta.data.raw import readable
from msmeta.data.trees import LIST, PARTS, T, grouped, listed, lists_of, located, matching
from msmeta.errors import DataError

CLASSES = {"train": 64, "validation": 16, "test": 20}
SAMPLES = 600
SIDE = 84
decode = Decode(FORMATS, 3, SIDE)
WITHIN = {"miniimagenet", "mini-imagenet", "mini_imagenet", "images", "split", "splits", *PARTS}
"""Folders that are looked into, in small letters."""
IMAGE = r"(?:.*/)?(images|train|val|test)/(?:([^/.][^/]*)/)?[^/.][^/]*\.(?i:jpe?g|png|webp)"
"""Its folder, and its class where that has a folder in this."""
PICKLES = (
    {part: f"mini-imagenet-cache-{part}.pkl" for part in PARTS},
    {  # train_phase_val and train_phase_test hold more images of the classes for training, which are no part of it
        part: f"miniImageNet_category_split_{name}.pickle"
        for part, name in zip(PARTS, ("train_phase_train", "val", "test"), strict=True)
    },
)


def build(folder: Path, progress: Progress, allocate: Allocate, dataset: Dataset, follow_links: bool) -> Arrays:
    """Reads the images, by the CSV files where there are such, or else the three pickles, in `folder`.

    The classes of a split are sorted by name, the images of a class in the order of the CSV file (or pickle), or by
    name where there is none. Images of another size are resized to 84x84 with Pillow's bilinear filter, grey ones
    become RGB. Raises DataError if a file is missing or damaged or a count is not the published one.
    """
    images = matching(folder, IMAGE, WITHIN, follow_links)
    lists = lists_of(matching(folder, LIST, WITHIN, follow_links))
    in_folders = {
        part: [(image[2], image.string) for image in images if image[1] == part and image[2]] for part in PARTS
    }
    if lists or (images and not any(in_folders.values())):
        if missing := [part for part in PARTS if part not in lists]:
            raise DataError(f"no {missing[0]}.csv: miniImageNet is {dataset.obtained}")
        rows = listed(folder, lists)
        _checked(rows)  # first, since lists of another data set name images that are not there
        if not images:
            raise DataError(f"no images in images/, train/, val/ or test/: miniImageNet is {dataset.obtained}")
        classes = _checked(located(rows, [image.string for image in images]))
    elif images:
        if missing := [part for part in PARTS if not in_folders[part]]:
            raise DataError(f"no images {missing[0]}/CLASS/FILE: miniImageNet is {dataset.obtained}")
        classes = _checked(in_folders)
    else:
        return _from_pickles(dataset, folder, progress, allocate, follow_links)
    names = _names(classes)
    return _arrays(decode_all(dataset, folder, names, decode, progress, allocate), classes, names)


def _checked(found: Mapping[str, Iterable[tuple[str, T]]]) -> dict[str, list[T]]:
    """Images of each class, classes in the order of the splits, from (class, image) of each split."""
    classes: dict[str, list[T]] = {}
    for part, expected in zip(PARTS, CLASSES.values(), strict=True):
        own = grouped(part, found[part], expected, SAMPLES)
        if twice := classes.keys() & own:
            raise DataError(f"class {min(twice)} is in two splits, which those of Ravi and Larochelle (2017) have not")
        classes |= own
    return classes


def _arrays(images: np.ndarray, classes: Mapping[str, list], names: Sequence[str]) -> Arrays:
    return Arrays(images, np.repeat(np.arange(len(classes)), SAMPLES), list(classes), names=names)


def _names(classes: Mapping[str, Iterable[str]]) -> list[str]:
    """Of all images. Raises DataError where one is in two classes."""
    where: dict[str, str] = {}
    for label, names in classes.items():
        for name in names:
            if name in where:
                raise DataError(f"{name} is in classes {where[name]} and {label}: leave only what was published")
            where[name] = label
    return list(where)


def _from_pickles(dataset: Dataset, folder: Path, progress: Progress, allocate: Allocate, follow_links: bool) -> Arrays:
    pattern = rf"(?:.*/)?({'|'.join(name for names in PICKLES for name in names.values())})"
    where = {match[1]: match.string for match in matching(folder, pattern, WITHIN, follow_links, MAX_BYTES)}
    names = next((names for names in PICKLES if where.keys() & names.values()), None)
    if names is None:
        raise DataError(f"it does not hold miniImageNet, which is {dataset.obtained}")
    pixels, found, classes_of = {}, {}, dict(zip(PARTS, CLASSES.values(), strict=True))
    for done, (part, name) in enumerate(names.items()):
        progress("read miniImageNet", done, len(names))
        if name not in where:
            raise DataError(f"no {name}: miniImageNet is {dataset.obtained}")
        with readable(where[name]):
            pixels[part], rows = _content(load_pickle(folder, where[name]), SAMPLES * classes_of[part])
        found[part] = [(label, (part, row)) for label, row in rows]
    classes = _checked(found)
    called = _names({label: [f"row {row} of {names[part]}" for part, row in rows] for label, rows in classes.items()})
    images = allocate((dataset.size, 3, SIDE, SIDE), np.uint8)
    for place, (part, row) in enumerate(chain.from_iterable(classes.values())):
        images[place] = pixels[part][row].transpose(2, 0, 1)
    progress("read miniImageNet", len(names), len(names))
    return _arrays(images, classes, called)


def _content(content: dict[str, object], most: int) -> tuple[np.ndarray, list[tuple[str, int]]]:
    """Images uint8 (N, 84, 84, 3) of a split, and (class, row) of each; or ValueError.

    From `image_data` and `class_dict`, the rows of each class; from `data`, `labels` and `catname2label`; or from the
    images of each class. most: images that it may have, since a list can name one thing any number of times.
    """
    if "image_data" in content:
        _require_at_most(most, content["image_data"])
        pixels, rows = (
            _pixels(content["image_data"], "image_data"),
            _rows_of_classes(content.get("class_dict"), 4 * most),
        )
    elif "data" in content:
        _require_at_most(most, content["data"])
        pixels, rows = _pixels(content["data"], "data"), _labelled_rows(content)
    else:
        _require_at_most(most, *content.values())
        of_class = {label: _pixels(images, label) for label, images in content.items()}
        labels = [label for label, images in of_class.items() for _ in images]
        pixels, rows = np.concatenate([*of_class.values()]), [(label, row) for row, label in enumerate(labels)]
    for label, row in rows:
        if not 0 <= row < len(pixels):
            raise ValueError(f"class {label} has row {row}, of {len(pixels):,} images")
    return pixels, rows


def _require_at_most(most: int, *lists: object) -> None:
    count = sum(_length(values) for values in lists)
    if count > most:
        raise ValueError(f"it has {count:,} images instead of {most:,}: leave only what was published")


def _length(values: object) -> int:
    if isinstance(values, PickledArray):
        return values.values.shape[0] if values.values.ndim else 0
    return len(values) if isinstance(values, list) else 0


def _pixels(images: object, name: str) -> np.ndarray:
    """uint8 (N, 84, 84, 3) from an array or a list of them: numbers from 0 to 255, or fractions from 0 to 1."""
    if isinstance(images, list) and images and all(isinstance(image, PickledArray) for image in images):
        shapes = {image.values.shape for image in images}
        if len(shapes) > 1:
            raise ValueError(f"{name} has images of {len(shapes)} shapes, such as {min(shapes)} and {max(shapes)}")
        found = np.stack([image.values for image in images])
    elif isinstance(images, PickledArray):
        found = images.values
    else:
        raise ValueError(f"{name} is neither an array nor a list of arrays")
    if found.ndim != 4 or found.shape[1:] != (SIDE, SIDE, 3) or not len(found):
        raise ValueError(f"{name} is {found.dtype} {found.shape} instead of (N, {SIDE}, {SIDE}, 3)")
    if found.dtype == np.uint8:
        return found
    low, high = found.min(), found.max()
    if not 0 <= low <= high <= 255:  # nor where one is NaN
        raise ValueError(f"{name} is {found.dtype} from {low:.4g} to {high:.4g}, not pixels from 0 to 255 or to 1")
    scale = 255 if found.dtype.kind == "f" and high <= 1 else 1
    return np.stack([np.rint(image * np.float64(scale)).astype(np.uint8) for image in found])


def _rows_of_classes(classes: object, most: int) -> list[tuple[str, int]]:
    if not isinstance(classes, dict):
        raise ValueError("it lacks class_dict")
    _require_at_most(most, *classes.values())
    return [(as_text(label), row) for label, rows in classes.items() for row in _whole(rows, as_text(label))]


def _labelled_rows(content: Mapping[str, object]) -> list[tuple[str, int]]:
    """Where classes have no names, they have their numbers."""
    labels, numbers = _whole(content.get("labels"), "labels"), content.get("catname2label", {})
    names = {number: as_text(name) for name, number in numbers.items()} if isinstance(numbers, dict) else {}
    return [(names.get(label, f"class {label:02d}"), row) for row, label in enumerate(labels)]


def _whole(values: object, name: str) -> list[int]:
    found = values.values.tolist() if isinstance(values, PickledArray) else values
    if not isinstance(found, list) or not all(isinstance(value, int) for value in found):
        raise ValueError(f"{name} is not a list of whole numbers")
    return found


DATASET = Dataset(
    name="miniimagenet",
    title="miniImageNet",
    licence="ImageNet's terms of access: non-commercial research and education; not to be passed on",
    source="O. Vinyals et al. 2016, with the classes and images that S. Ravi and H. Larochelle (2017) published: "
    "github.com/twitter-research/meta-learning-lstm, folder data/miniImagenet; images of ImageNet (image-net.org)",
    citation="ravi2017optimization",
    obtained="given with `msmeta data prepare miniimagenet --from DIR`, where DIR holds miniimagenet.tar.gz (.tgz, "
    ".tar, .zip, or that folder) with train.csv, val.csv, test.csv (in DIR or split/) and images/ (with or without a "
    "folder for each class), or with train/CLASS/, val/CLASS/ and test/CLASS/; or the pickles "
    "mini-imagenet-cache-train.pkl, -val.pkl and -test.pkl, or miniImageNet_category_split_train_phase_train.pickle, "
    "_val.pickle and _test.pickle",
    classes=sum(CLASSES.values()),
    shape=(3, SIDE, SIDE),
    splits=splits_of_classes(
        SAMPLES, train=range(0, 64), validation=range(64, 80), test=range(80, 100), tune=range(0, 64)
    ),
    build=build,  # ImageNet's licence leaves no place to download it from
    archives=("miniimagenet", "mini-imagenet", "images"),
    repeated=100,  # 8 and more, as a copy was made: ImageNet has photographs twice, some of them in two classes
    samples=SAMPLES,
)
