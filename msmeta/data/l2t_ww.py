"""What the authors of L2T-ww published: their source network for 32x32 images, and which images they trained on.

Y. Jang, H. Lee, S. J. Hwang, J. Shin: Learning What and Where to Transfer, ICML 2019; github.com/alinlab/L2T-ww.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from msmeta import files
from msmeta.data import apart, fetch
from msmeta.data.dataset import L2T_WW, SEEDED, Dataset, Progress
from msmeta.data.raw import MAX_BYTES, readable
from msmeta.data.registry import find
from msmeta.errors import ConfigError, DataError

REPOSITORY = "https://raw.githubusercontent.com/alinlab/L2T-ww/f4dde04e8d5d5725dc3bff2f59cb0d0c26d0bcbe"
"""At one commit, so that its files do not change."""
LISTS = {"cifar-100": "cifar100", "stl-10": "stl10", "bird": "cub200", "dog": "dog"}
"""Data sets of which there are lists of images, and what these are called there: for the others it has none."""
PARTS = {"train": "train", "validation": "val", "test": "test"}
MAX_LIST_BYTES = 2**22
"""Of a file with a list of images."""
READ_LISTS = """
import io, json, sys
import torch
for text in json.load(sys.stdin):
    stored = torch.load(io.BytesIO(bytes.fromhex(text)), map_location="cpu", weights_only=True)
    print(json.dumps([[int(number) for number in numbers] for numbers in stored]), flush=True)
"""
LIMITS = {"RLIMIT_DATA": 2**32, "RLIMIT_CPU": 120}
"""Of the process that does it, torch's own import included."""


@dataclass(frozen=True)
class Published:
    """Files of that repository that `msmeta data prepare` puts into one file of the data folder.

    file: below the data folder. files: there, by the names that they have in the repository, and their SHA-256, empty
    where its authors state none and the commit alone says what they are.
    """

    name: str
    title: str
    file: str
    files: Mapping[str, str]


SOURCE = Published(
    "l2t-source",
    "ResNet-32 trained on TinyImageNet, the source network for 32x32 images",
    "weights/tinyimagenet-resnet32.pth.tar",
    {
        "logs/tinyimagenet-200-resnet32/0/model_best.pth.tar": (
            "049f81f8bea8504e90818d6c614f15c485ac2d891348330b433110e161f66d68"
        )
    },
)
SPLITS = Published(
    "l2t-splits",
    "images for training, validation and test of " + ", ".join(LISTS),
    "l2t-splits/places.json",
    {f"split/{name}-{part}": "" for name in LISTS.values() for part in PARTS.values()},
)
PUBLISHED = {own.name: own for own in (SOURCE, SPLITS)}


def prepare(name: str, source: Path | None, root: Path, progress: Progress = lambda *_: None) -> Path:
    """Downloads one of PUBLISHED, or reads it from `source`, and returns its file in the data folder.

    source: the file, the folder that holds the files, or a clone of the repository. Returns at once if it is there.
    Raises DataError in one line, and leaves everything as it was, if a file cannot be had or is another one.
    """
    own = PUBLISHED[name]
    path = root / own.file
    if path.exists():
        verify(name, root)
        return path
    contents = {}
    for done, (file, sha256) in enumerate(own.files.items()):
        progress(f"get {file.rpartition('/')[2]}", done, len(own.files))
        if source is None:
            way_out = f"get it elsewhere and run `msmeta data prepare {name} --from PATH`"
            contents[file] = fetch.fetch(f"{REPOSITORY}/{file}", sha256, way_out)
        else:
            contents[file] = _given(own, file, Path(source))
    progress(f"get {name}", len(own.files), len(own.files))
    files.write(path, contents.popitem()[1] if own is SOURCE else _gathered(contents), DataError)
    return path


def verify(name: str, root: Path) -> str:
    """SHA-256 of what is in the data folder. Raises DataError in one line if it is absent or not what was published."""
    own = PUBLISHED[name]
    path = root / own.file
    if not path.is_file():
        raise DataError(f"{path} is not there: run `msmeta data prepare {name}`, with `--from PATH` if you have it")
    again = f"move it away and run `msmeta data prepare {name}`"
    try:
        content = path.read_bytes()
        if own is SOURCE:
            return fetch.require(content, *own.files.values())
        _places(content)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is not what its authors published ({error}): {again}") from error
    return hashlib.sha256(content).hexdigest()


def require_split(name: str, split: str) -> None:
    """Raises ConfigError where a data set cannot be divided so."""
    if split not in (SEEDED, L2T_WW):
        raise ConfigError(f"split {split!r} is unknown: choose from {SEEDED}, {L2T_WW}")
    if split == L2T_WW and name not in LISTS:
        raise ConfigError(
            f"split={split} is impossible for {name}: its authors published lists of {', '.join(LISTS)} alone"
        )


def divide(dataset: Dataset, root: Path, order: np.ndarray) -> dict[str, np.ndarray]:
    """Where the images are stored that the authors used for `train` and `validation`: sorted int64 (n,) each.

    The test images are all of those published. order (n,): the place that each stored image of the two splits has among
    the published training images. Lists that are not in the data folder are downloaded. Raises DataError in one line if
    they cannot be had, or are damaged.
    """
    path, stored = prepare(SPLITS.name, None, root), np.argsort(order)
    listed = _places(path.read_bytes())[dataset.name]
    return {split: np.sort(stored[listed[split]]) for split in ("train", "validation")}


def _given(own: Published, file: str, source: Path) -> bytes:
    """The content of one file of the repository, from what the user has."""
    name, folder = file.rpartition("/")[2], source.parent if source.is_file() else source
    tried = [folder / file, folder / name, folder / Path(own.file).name]
    if source.is_file() and len(own.files) == 1:  # else it is one of several, the others beside it
        tried = [source]
    with readable(source):
        path = next((path for path in tried if path.is_file()), None)
        if path is None:
            raise DataError(f"there is no {name} in {source}: give the file, its folder or a clone of the repository")
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path} has more than the {MAX_BYTES:,} bytes allowed")
        content = path.read_bytes()
    try:
        fetch.require(content, own.files[file])
    except ValueError as error:
        raise DataError(f"{path} is not the {name} that was published: {error}") from error
    return content


def _gathered(contents: Mapping[str, bytes]) -> bytes:
    """The lists as one JSON file, with the SHA-256 of each of theirs."""
    found: dict[str, Any] = {"hashes": {file: hashlib.sha256(data).hexdigest() for file, data in contents.items()}}
    lists = read_lists(contents)
    for dataset, name in LISTS.items():
        found[dataset] = {split: lists[f"split/{name}-{part}"] for split, part in PARTS.items()}
    content = json.dumps(found).encode() + b"\n"
    try:
        _places(content)
    except ValueError as error:
        raise DataError(f"the lists do not fit together: {error}") from error
    return content


def read_lists(contents: Mapping[str, bytes]) -> dict[str, list[list[int]]]:
    """What torch saved in each file: (classes in some order, places of images). Raises DataError.

    In a process of its own, which torch's reader can end where a file is hostile.
    """
    if too_large := [file for file, content in contents.items() if len(content) > MAX_LIST_BYTES]:
        raise DataError(f"{too_large[0]} has more than the {MAX_LIST_BYTES:,} bytes allowed")
    done = apart.run(READ_LISTS, LIMITS, given=json.dumps([data.hex() for data in contents.values()]))
    lists = [json.loads(line) for line in done.stdout.splitlines()]
    if len(lists) < len(contents):
        file = list(contents)[len(lists)]
        raise DataError(f"{file} is not a list of images as the authors of L2T-ww saved it: get it again")
    return dict(zip(contents, lists, strict=True))


def _places(content: bytes) -> dict[str, dict[str, np.ndarray]]:
    """By data set and split. Raises ValueError, KeyError or TypeError where they are not what they are to be."""
    stored, found = json.loads(content), {}
    for name in LISTS:
        dataset, pairs = find(name), {split: stored[name][split] for split in PARTS}
        for split, (classes, _) in pairs.items():
            if sorted(classes) != list(range(dataset.classes)):
                raise ValueError(f"{split} of {name} does not list its {dataset.classes} classes")
        own = {split: _whole(listed) for split, (_, listed) in pairs.items()}
        counts, known = dataset.counts, [*own["train"], *own["validation"]]
        if not _distinct(known, counts["train"] + counts["validation"]) or not min(map(len, own.values())):
            raise ValueError(f"train and validation of {name} are not apart, or not among its training images")
        if not _distinct(own["test"], counts["test"]) or len(own["test"]) != counts["test"]:
            raise ValueError(f"test of {name} does not list its {counts['test']:,} test images")
        found[name] = {split: np.array(numbers, np.int64) for split, numbers in own.items()}
    return found


def _whole(numbers: Sequence[Any]) -> list[int]:
    if not all(type(number) is int for number in numbers):
        raise TypeError("a place is no whole number")
    return list(numbers)


def _distinct(numbers: Sequence[int], count: int) -> bool:
    """Whether all are different and less than `count`."""
    return len(set(numbers)) == len(numbers) and all(0 <= number < count for number in numbers)
