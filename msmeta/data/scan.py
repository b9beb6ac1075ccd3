"""A user's folder of images, looked through and read: folders of a class each, folders or lists of splits, or a split
of its own."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from msmeta.data import folder as names
from msmeta.data.dataset import Allocate, Arrays, Dataset, Progress, splits_of_images
from msmeta.data.decoders import decode_all
from msmeta.data.folder import Given
from msmeta.data.pictures import FORMATS, PICTURE, decode
from msmeta.data.splits import SEED, shuffled, stratified
from msmeta.data.trees import PARTS, listed, lists_of, located, matching, repeated
from msmeta.errors import DataError
from msmeta.paths import user_path

LISTS = r"(?:(?i:splits?|lists?)/)?(train|val|test)\.csv"
PART_OF = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""What folders of splits are called, in small letters."""
SPLIT_OF = dict(zip(PARTS, ("train", "validation", "test"), strict=True))
Row = tuple[str, str]
"""Class and file of an image."""


@dataclass(frozen=True)
class Scan:
    """A folder before an image of it is read.

    parts: images of each split. how: it came about. left_out: images of the classes that are left out. unlisted: images
    that no list names. state: hash of the files' names, sizes and times of change.
    """

    folder: Path
    given: Given
    parts: Mapping[str, Sequence[Row]]
    how: str
    left_out: Mapping[str, int]
    unlisted: int
    fingerprint: str
    state: str

    @property
    def dataset(self) -> Dataset:
        """The entry whose `build` reads the folder."""
        name = re.sub(r"[^\w.-]", "_", self.folder.name)[:40] or "images"
        name = f"{names.PREFIX}{name}-{self.fingerprint}{self.given.suffix}"
        return replace(names.entry(name), build=partial(build, self))


def scan(given: Given) -> Scan:
    """Looks through a folder. Raises DataError in one line if it has not what a data set needs."""
    folder = user_path(given.path, names.PREFIX)
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    try:
        look = partial(matching, folder, follow_links=given.links, option=f"{names.PREFIX}PATH+links")
        images = [match.string for match in look(PICTURE)]
        lists = lists_of(look(LISTS))
        if not images:
            raise DataError(f"no images ({', '.join(FORMATS)}) in folders of a class each")
        found, how = _found(folder, images, lists)
        kept, left_out = _with_enough(found, given)
        parts, how = _divided(kept, how, given.transfer)
    except DataError as error:
        raise DataError(f"{folder}: {error}") from error
    states = [(name, (folder / name).stat()) for name in sorted([*images, *lists.values()])]
    fingerprint = _hash([(name, state.st_size) for name, state in states])[:8]
    now = _hash([(name, state.st_size, state.st_mtime_ns, state.st_ctime_ns) for name, state in states])
    unlisted = len(images) - sum(map(len, found.values()))
    return Scan(folder, given, parts, how, left_out, unlisted, fingerprint, now)


def _hash(value: list[tuple[str | int, ...]]) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _found(folder: Path, images: Sequence[str], lists: Mapping[str, str]) -> tuple[dict[str, list[Row]], str]:
    """The images of each part, of "" where there are no parts, and what says so."""
    if lists:
        return located(listed(folder, lists), images), f"as {', '.join(lists.values())} say"
    paths = [tuple(image.split("/")) for image in images]
    while len({path[0] for path in paths}) == 1 and all(len(path) > 2 for path in paths):  # a folder around all others
        paths = [path[1:] for path in paths]
    if loose := next((image for image, path in zip(images, paths, strict=True) if len(path) < 2), None):
        raise DataError(f"{loose} lies in no folder of a class: move it into one, or write train.csv and test.csv")
    parted = {PART_OF.get(path[0].casefold()) for path in paths}
    if parted == {None}:
        return {"": [("/".join(path[:-1]), image) for path, image in zip(paths, images, strict=True)]}, ""
    if None in parted:
        other = next(path[0] for path in paths if path[0].casefold() not in PART_OF)
        raise DataError(
            f"folder {other} lies beside those of splits: leave only train, val and test, or none of these; classes of "
            "such names go with train.csv and test.csv"
        )
    parts: dict[str, list[Row]] = {}
    for path, image in zip(paths, images, strict=True):
        if len(path) < 3:
            raise DataError(f"{image} lies in no folder of a class: move it into one")
        parts.setdefault(PART_OF[path[0].casefold()], []).append(("/".join(path[1:-1]), image))
    return parts, "as the folders " + ", ".join(sorted({path[0] for path in paths})) + " say"


def _with_enough(found: Mapping[str, Sequence[Row]], given: Given) -> tuple[dict[str, list[Row]], dict[str, int]]:
    """The images of the classes that have enough of them, and the counts of the others."""
    counts = Counter(label for rows in found.values() for label, _ in rows)
    few = {label: count for label, count in sorted(counts.items()) if count < given.least}
    return {part: [row for row in rows if row[0] not in few] for part, rows in found.items()}, few


def _divided(found: Mapping[str, list[Row]], how: str, transfer: bool) -> tuple[dict[str, list[Row]], str]:
    """The images of train, val and test, sorted, and how they came to be so.

    What is not given is a fifth of the classes or, for transfer, a fifth of each class's images, at random.
    """
    files = Counter(file for rows in found.values() for _, file in rows)
    if twice := [file for file, times in files.items() if times > 1]:
        raise DataError(f"the lists name {min(twice)} more than once")
    parts, fifth = dict(found), "of each class" if transfer else "of the classes"
    if "" in parts:
        parts["train"], parts["test"] = _drawn(parts.pop(""), transfer)
        how = f"a random fifth {fifth} for the test (seed {SEED})"
    if missing := {"train", "test"} - parts.keys():
        name = min(missing)
        raise DataError(f"it has {' and '.join(sorted(parts))}, but no {name}: rename one of them, or add {name}")
    if "val" not in parts:
        parts["train"], parts["val"] = _drawn(parts["train"], transfer)
        how += f", a random fifth {fifth} of train for validation (seed {SEED})"
    classes = {part: {label for label, _ in parts[part]} for part in PARTS}
    if empty := [part for part in PARTS if not classes[part]]:
        raise DataError(f"too few classes or images: there are none for {SPLIT_OF[empty[0]]}")
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        if not transfer and (both := classes[one] & classes[other]):
            raise DataError(
                f"class {min(both)} is in {one} and in {other}, which are to have other classes for few-shot tasks: "
                "give a folder without splits, or train transfer on this one"
            )
        if transfer and one == "train" and (new := classes[other] - classes[one]):
            raise DataError(f"class {min(new)} has images in {other}, none in train (+least5 leaves small ones out)")
    return {part: sorted(parts[part]) for part in PARTS}, how


def _drawn(rows: Sequence[Row], transfer: bool) -> tuple[list[Row], list[Row]]:
    """The others, and a random fifth of the classes, at least one, or of the images of each class in proportion."""
    rows = sorted(rows)
    names, labels = np.unique([label for label, _ in rows], return_inverse=True)
    if transfer:
        places = set(stratified(labels, round(len(rows) / 5)).tolist())
    else:
        chosen = shuffled(len(names))[: max(1, round(len(names) / 5))]
        places = set(np.flatnonzero(np.isin(labels, chosen)).tolist())
    return [row for i, row in enumerate(rows) if i not in places], [rows[place] for place in sorted(places)]


def build(
    scan: Scan, folder: Path, progress: Progress, allocate: Allocate, dataset: Dataset, follow_links: bool
) -> Arrays:
    """The images split by split, class by class and by name; those that cannot be read are noted and left out.

    Raises DataError in one line where a class or a split has no image that can be read.
    """
    rows = [(part, *row) for part in PARTS for row in scan.parts[part]]
    unreadable: dict[str, str] = {}
    own = decode(*dataset.shape[::2], scan.given.squash)
    images = decode_all(dataset, folder, [file for *_, file in rows], own, progress, allocate, unreadable)
    kept = [place for place, (*_, file) in enumerate(rows) if file not in unreadable]
    needed = {(part, label) for part, label, _ in rows if part == "train" or not scan.given.transfer}
    if gone := needed - {rows[place][:2] for place in kept}:
        part, label = min(gone)
        raise DataError(f"no image of class {label} for {SPLIT_OF[part]} can be read: {min(unreadable.values())}")
    if empty := [part for part in PARTS if part not in {rows[place][0] for place in kept}]:
        raise DataError(f"no image for {SPLIT_OF[empty[0]]} can be read: {min(unreadable.values())}")
    if len(kept) < len(rows):
        readable, images = images, allocate((len(kept), *dataset.shape), np.uint8)
        for place, old in enumerate(kept):
            images[place] = readable[old]
    counts = {part: Counter(rows[place][1] for place in kept if rows[place][0] == part) for part in PARTS}
    classes = sorted(counts["train"]) if scan.given.transfer else [label for own in counts.values() for label in own]
    number = {label: place for place, label in enumerate(classes)}
    splits = splits_of_images(**{SPLIT_OF[part]: counts[part].total() for part in PARTS})
    notes = {
        "split": scan.how,
        "classes": {SPLIT_OF[part]: dict(counts[part]) for part in PARTS},
        "left_out": dict(scan.left_out),
        "unlisted": scan.unlisted,
        "unreadable": [unreadable[file] for *_, file in rows if file in unreadable],
        "repeated": _repeated(images, [rows[place] for place in kept]),
        "state": scan.state,
    }
    labels = np.array([number[rows[place][1]] for place in kept], np.int64)
    own = {} if scan.given.transfer else {"tune": splits["train"]}
    return Arrays(images, labels, classes, splits=splits | own, notes=notes)


def _repeated(images: np.ndarray, rows: Sequence[tuple[str, str, str]]) -> list[str]:
    """Pairs of files with the same image, first those in two splits or of two classes, which spoil a test."""
    apart, alike = [], []
    for before, place in repeated(images):
        (part, label, file), (own_part, own_label, own_file) = rows[before], rows[place]
        pair = f"{file} and {own_file}"
        if part != own_part:
            apart.append(f"{pair} in {SPLIT_OF[part]} and {SPLIT_OF[own_part]}")
        elif label != own_label:
            apart.append(f"{pair} of two classes")
        else:
            alike.append(pair)
    return apart + alike
