"""Bird, Indoor, Action and Dog: photographs, stored as 256x256, with lists of those for training and for the test.

CUB-200-2011 (Wah et al. 2011), MIT Indoor Scenes (Quattoni and Torralba 2009), Stanford 40 Actions (Yao et al. 2011),
Stanford Dogs (Khosla et al. 2011). None can be downloaded: their places have moved, or no checksum is published.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from msmeta.data import apart
from msmeta.data.dataset import Allocate, Arrays, Dataset, Limits, Progress, splits_of_images
from msmeta.data.decoders import Decode, decode_all
from msmeta.data.raw import MAX_BYTES, opened, readable
from msmeta.data.splits import divide
from msmeta.data.trees import matching
from msmeta.errors import DataError

STORED, SIDE = 256, 224
"""Sides of the images on disk and of what a network sees."""
decode = Decode(("JPEG", "PNG", "WebP", "GIF", "BMP"), 3, STORED)
"""Some images in circulation are named .jpg and are not JPEG."""
MAX_LIST_BYTES = 2**22
"""Of a MAT-file, which may be compressed a thousandfold."""
MAX_TEXTS = 2**24
"""Bytes of all texts of such a list, as JSON."""
READ_TEXTS = f"""
import json, sys
from scipy.io import loadmat
cells = loadmat(sys.argv[1], variable_names=["file_list"])["file_list"]
texts = json.dumps([cell.item() for cell in cells.ravel()])
sys.exit(1) if len(texts) > {MAX_TEXTS} else print(texts)
"""
LIST_LIMITS = {"RLIMIT_AS": 2**31, "RLIMIT_CPU": 60}
"""Of the process that reads them."""


class Photograph(NamedTuple):
    """What the lists say of an image."""

    label: str
    file: str
    """Among the raw files."""
    testing: bool


Listed = Callable[[Mapping[str, Path]], Iterable[Photograph]]
"""Reads the lists, given the raw files by the first group of the pattern that they match."""


def build(
    lists: Sequence[str],
    listed: Listed,
    folder: Path,
    progress: Progress,
    allocate: Allocate,
    dataset: Dataset,
    follow_links: bool,
) -> Arrays:
    """The photographs that are `listed`, resized to 256x256, in the order of the splits.

    Validation images are a part of the training images. Raises DataError in one line if a list is missing, the lists do
    not agree with the counts, or an image is missing or damaged.
    """
    title, counts = dataset.title, dataset.counts
    names: dict[str, str] = {}
    for match in matching(folder, dataset.wanted, {name.casefold() for name in dataset.archives}, follow_links):
        names.setdefault(match[1], match.string)
    for name in lists:
        if name not in names:
            raise DataError(f"no {name}: {title} is {dataset.obtained}")
    rows = sorted(listed({name: folder / stored for name, stored in names.items()}))
    if not rows:
        raise DataError(f"no lists of images: {title} is {dataset.obtained}")
    again = f"get {title} again"
    for file, times in Counter(row.file for row in rows).items():
        if times > 1:
            raise DataError(f"the lists name {file} {times} times: {again}")
        if file not in names:
            elsewhere = names.keys().isdisjoint(row.file for row in rows)
            raise DataError(
                f"no {file}, which a list names: " + (f"{title} is {dataset.obtained}" if elsewhere else again)
            )
    names_of_classes, labels = np.unique([row.label for row in rows], return_inverse=True)
    testing = np.array([row.testing for row in rows])
    for what, found, expected in (
        ("classes", len(names_of_classes), dataset.classes),
        ("training images", np.sum(~testing), counts["train"] + counts["validation"]),
        ("test images", np.sum(testing), counts["test"]),
    ):
        if found != expected:
            raise DataError(f"the lists name {found:,} {what}, {title} has {expected:,}: {again}")
    order = divide(labels, testing, counts["validation"])
    files = [names[rows[place].file] for place in order]
    images = decode_all(dataset, folder, files, decode, progress, allocate)
    among = np.cumsum(~testing)[order] - 1  # the training images alone, as in a folder of their own
    return Arrays(images, labels[order], names_of_classes.tolist(), among[: dataset.splits["test"].start])


BIRD_LISTS = ("images.txt", "image_class_labels.txt", "train_test_split.txt")
INDOOR_LISTS = ("TrainImages.txt", "TestImages.txt")
DOG_LISTS = ("train_list.mat", "test_list.mat")
ACTION_LIST = re.compile(r"ImageSplits/(.+)_(train|test)\.txt")


def _birds(files: Mapping[str, Path]) -> list[Photograph]:
    paths, numbers, training = (_column(files[name]) for name in BIRD_LISTS)
    if not paths.keys() == numbers.keys() == training.keys():
        raise DataError(f"{', '.join(BIRD_LISTS)} do not number the same images: get Bird again")
    if not set(training.values()) <= {"0", "1"}:
        raise DataError("train_test_split.txt has a value that is neither 0 nor 1: get Bird again")
    rows = {image: _in_folder("images", path, training[image] == "0") for image, path in paths.items()}
    species = {(numbers[image], row.label) for image, row in rows.items()}
    if not len(species) == len(dict(species)) == len({label for _, label in species}):
        raise DataError("images.txt and image_class_labels.txt do not agree: get Bird again")
    return list(rows.values())


def _rooms(files: Mapping[str, Path]) -> list[Photograph]:
    return [_in_folder("Images", path, "Test" in name) for name in INDOOR_LISTS for path in _lines(files[name])]


def _actions(files: Mapping[str, Path]) -> list[Photograph]:
    """The classes are those of which there are lists."""
    lists = [(*match.groups(), _lines(files[name])) for name in files if (match := ACTION_LIST.fullmatch(name))]
    return [Photograph(action, f"JPEGImages/{line}", part == "test") for action, part, lines in lists for line in lines]


def _dogs(files: Mapping[str, Path]) -> list[Photograph]:
    return [_in_folder("Images", path, "test" in name) for name in DOG_LISTS for path in _matlab_texts(files[name])]


def _in_folder(folder: str, path: str, testing: bool) -> Photograph:
    """Of a path CLASS/FILE."""
    return Photograph(PurePosixPath(path).parent.name, f"{folder}/{path}", testing)


def _lines(path: Path) -> list[str]:
    """The lines that are not empty."""
    with readable(path.name), opened(path, MAX_BYTES) as (file, _):
        lines = file.read().decode("utf-8-sig").splitlines()
    return [text for line in lines if (text := line.strip())]


def _column(path: Path) -> dict[str, str]:
    """Lines `number value`, by number."""
    pairs = [line.split(maxsplit=1) for line in _lines(path)]
    if any(len(pair) != 2 for pair in pairs) or len({pair[0] for pair in pairs}) < len(pairs):
        raise DataError(f"{path.name} has a line that is not a number of its own and a value")
    return dict(pairs)


def _matlab_texts(path: Path) -> list[str]:
    """The texts of the cell array `file_list` of a MAT-file."""
    if path.stat().st_size > MAX_LIST_BYTES:
        raise DataError(f"{path.name} has more than the {MAX_LIST_BYTES:,} bytes allowed")
    # In a process of its own, since a single changed byte can make SciPy's reader end the process.
    done = apart.run(READ_TEXTS, LIST_LIMITS, path)
    texts = json.loads(done.stdout) if done.returncode == 0 else [None]
    if not all(isinstance(text, str) for text in texts):
        raise DataError(f"cannot read {path.name}: SciPy finds no list of texts `file_list` in it")
    return texts


def _dataset(
    name: str, images: str, lists: Sequence[str], listed: Listed, given: str, counts: Mapping[str, int], **about: Any
) -> Dataset:
    """An entry. `images`: pattern of the names of images, or of lists whose names are not fixed, which are `lists`."""
    return Dataset(
        name=name,
        obtained=f"given with `msmeta data prepare {name} --from DIR`, where DIR holds {given}",
        shape=(3, STORED, STORED),
        splits=splits_of_images(**counts),
        build=partial(build, lists, listed),
        wanted=rf"(?:.*/)?({'|'.join([images, *map(re.escape, lists)])})",
        crop=SIDE,
        limits=Limits(members=100_000, member=2**26),
        **about,
    )


BIRD = _dataset(
    "bird",
    r"images/[^/]+/[^/.][^/]*",
    BIRD_LISTS,
    _birds,
    "CUB_200_2011.tgz (.tar.gz, .tar, .zip, or the folder) with " + ", ".join(BIRD_LISTS) + " and images/",
    {"train": 4_994, "validation": 1_000, "test": 5_794},
    title="Bird",
    licence="non-commercial research and education; the photographers keep the copyright of the images",
    source="CUB-200-2011: C. Wah, S. Branson, P. Welinder, P. Perona, S. Belongie: "
    "www.vision.caltech.edu/datasets/cub_200_2011",
    citation="wah2011cub",
    classes=200,
    archives=("CUB_200_2011", "images"),
)

INDOOR = _dataset(
    "indoor",
    r"Images/[^/]+/[^/.][^/]*",
    INDOOR_LISTS,
    _rooms,  # photographs that the lists do not name are left out
    "indoorCVPR_09.tar (or the folder Images/), TrainImages.txt and TestImages.txt",
    {"train": 4_360, "validation": 1_000, "test": 1_340},
    title="Indoor",
    licence="for research purposes only",
    source="MIT Indoor Scenes: A. Quattoni, A. Torralba: web.mit.edu/torralba/www/indoor.html",
    citation="quattoni2009indoor",
    classes=67,
    archives=("indoorCVPR_09", "Images"),
)

ACTION = _dataset(
    "action",
    r"JPEGImages/[^/.][^/]*|ImageSplits/[^/.][^/]*_(?:train|test)\.txt",
    (),
    _actions,
    "Stanford40_JPEGImages.zip and Stanford40_ImageSplits.zip (or the folders JPEGImages/ and ImageSplits/)",
    {"train": 3_600, "validation": 400, "test": 5_532},
    title="Action",
    licence="none stated; its authors ask to be cited",
    source="Stanford 40 Actions: B. Yao, X. Jiang, A. Khosla, A. L. Lin, L. Guibas, L. Fei-Fei: "
    "vision.stanford.edu/Datasets/40actions.html",
    citation="yao2011action",
    classes=40,
    archives=("Stanford40_JPEGImages", "Stanford40_ImageSplits", "Stanford40", "JPEGImages", "ImageSplits"),
)

DOG = _dataset(
    "dog",
    r"Images/[^/]+/[^/.][^/]*",
    DOG_LISTS,
    _dogs,
    "images.tar (or the folder Images/) and lists.tar (or train_list.mat and test_list.mat)",
    {"train": 10_800, "validation": 1_200, "test": 8_580},
    title="Dog",
    licence="ImageNet's terms of access: non-commercial research and education; not to be passed on",
    source="Stanford Dogs: A. Khosla, N. Jayadevaprakash, B. Yao, L. Fei-Fei: "
    "vision.stanford.edu/aditya86/ImageNetDogs",
    citation="khosla2011dog",
    classes=120,
    archives=("images", "Images", "lists"),
)
