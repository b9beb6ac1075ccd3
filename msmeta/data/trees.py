"""Folders of raw files, which are not trusted: which files they hold, what lists say of them, and their classes."""

import csv
import hashlib
import io
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from posixpath import splitext
from typing import TypeVar

import numpy as np

from msmeta.data import raw
from msmeta.data.dataset import Arrays, Dataset
from msmeta.data.raw import opened, readable, showable
from msmeta.errors import DataError

PARTS = ("train", "val", "test")
"""What files and folders call the splits."""
LIST = r"(?:.*/)?(train|val|test)\.csv"
"""A list of the images of a part, with the columns filename and label."""
T = TypeVar("T")


def matching(
    folder: Path,
    pattern: str,
    within: Collection[str] | None = None,
    follow_links: bool = False,
    most: int | None = None,
    option: str = "--follow-links",
) -> list[re.Match[str]]:
    """The names of files relative to `folder` that match, sorted: those in it, and those below its folders `within`.

    Hidden folders are passed over. within: in small letters; else all. most: bytes of a file, else raw.MAX_BYTES.
    Files and folders in `folder` may be links. Links below that are refused or, with `follow_links`, followed: to any
    regular file that can be read, and to folders within those that the user gave; `option` is what the user would set
    for that. Raises DataError in one line if a link is not to be followed or leads nowhere, if a file is a device or
    too large, if there are more than raw.MAX_FILES, or if a folder cannot be read.
    """
    wanted, most = re.compile(pattern), most or raw.MAX_BYTES
    found, waiting, given, folders = [], [folder], [folder.resolve()], 0
    while waiting:
        here, folders = waiting.pop(), folders + 1
        with readable(here), os.scandir(here) as entries:
            for entry in entries:
                path, top, is_folder = Path(entry.path), here == folder, entry.is_dir()
                name = path.relative_to(folder).as_posix()
                match = wanted.fullmatch(name)
                if is_folder and entry.name.startswith("."):
                    continue
                if top and is_folder and within is not None and entry.name.casefold() not in within:
                    continue
                if entry.is_symlink() and (match or is_folder):
                    if top:
                        given.append(path.resolve())
                    else:
                        if not follow_links:
                            raise DataError(f"{name} is a link: {option} reads what links lead to")
                        _check_link(path, name, given)
                if is_folder:
                    waiting.append(path)
                elif match:
                    if not showable(name):
                        raise DataError(f"{name!r} is a name with characters for control: rename it")
                    if not entry.is_file():
                        raise DataError(f"{name} is a device or a link that leads nowhere, not a file")
                    if entry.stat().st_size > most:
                        raise DataError(f"{name} has more than the {most:,} bytes allowed")
                    found.append(match)
        if max(len(found), folders) > raw.MAX_FILES:
            raise DataError(f"{here} holds more than the {raw.MAX_FILES:,} files allowed")
    return sorted(found, key=lambda match: match.string)


def _check_link(link: Path, name: str, given: list[Path]) -> None:
    """Raises DataError unless a link below the user's folder may be followed. given: the folders that the user gave."""
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):  # the latter for a circle, before Python 3.13
        raise DataError(f"{name} is a link to {os.readlink(link)}, which is not there: fetch the file first") from None
    if target.is_dir():
        if link.parent.resolve().is_relative_to(target):
            raise DataError(f"{name} is a link to a folder that it is in")
        if not any(target.is_relative_to(folder) for folder in given):
            raise DataError(f"{name} is a link to a folder elsewhere: give that folder itself")
    elif target.is_file() and not os.access(target, os.R_OK):
        raise DataError(f"{name} is a link to {target}, which you may not read")


def lists_of(found: Iterable[re.Match[str]]) -> dict[str, str]:
    """The list of each part, from those that match LIST. Raises DataError where a part has two."""
    lists: dict[str, str] = {}
    for match in found:
        if match[1] in lists:
            raise DataError(f"there are two lists {lists[match[1]]} and {match.string}: leave one of them")
        lists[match[1]] = match.string
    return lists


def listed(folder: Path, lists: Mapping[str, str]) -> dict[str, list[tuple[str, str]]]:
    """(class, image) of each part, in the order of its CSV file. Raises DataError if that is none, or damaged."""
    found: dict[str, list[tuple[str, str]]] = {}
    for part, name in lists.items():
        with readable(name), opened(folder / name, raw.MAX_BYTES) as (file, _):
            rows = csv.DictReader(io.StringIO(file.read().decode("utf-8-sig"), newline=None))
            if not {"filename", "label"} <= set(rows.fieldnames or ()):
                raise ValueError("its columns are not filename,label")
            found[part] = [(row["label"], row["filename"]) for row in rows]
            for line, row in enumerate(found[part], 2):
                if not all(row):
                    raise ValueError(f"line {line} lacks a filename or a label")
                if not all(map(showable, row)):
                    raise ValueError(f"line {line} has characters for control")
    return found


def located(listed: Mapping[str, Sequence[tuple[str, str]]], images: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """The same with the name below the folder of each image, which a list may give without folders in front of it.

    Another suffix is no hindrance: copies in circulation keep the names of published lists when they store images in
    another format. Raises DataError where an image is not there, or more than one may be meant.
    """
    where: dict[str, list[str]] = {}
    for image in images:
        parts = image.split("/")
        for name in {parts[-1], "/".join(parts[-2:]), image}:
            for key in (name, splitext(name)[0]):
                where.setdefault(key, []).append(image)

    def find(label: str, name: str) -> str | None:
        keys = [key for given in (name, f"{label}/{name}") for key in (given, splitext(given)[0])]
        found = min((where[key] for key in keys if key in where), key=len, default=[None])
        if len(found) > 1:
            raise DataError(f"a list names {name}, which may be {found[0]} or {found[1]}")
        return found[0]

    found = {part: [(label, find(label, name)) for label, name in rows] for part, rows in listed.items()}
    names, stored = ([name for rows in part.values() for _, name in rows] for part in (listed, found))
    if missing := [name for name, image in zip(names, stored, strict=True) if image is None]:
        why = "get the images again" if len(missing) < len(names) else "these are not the lists of these images"
        raise DataError(
            f"{len(missing):,} of {len(names):,} images that the lists name are not there, such as {missing[0]}: {why}"
        )
    return found


def grouped(part: str, found: Iterable[tuple[str, T]], classes: int, samples: int) -> dict[str, list[T]]:
    """The items of each class, the classes sorted, from (class, item).

    Raises DataError in one line unless there are so many classes and each has so many items, all different.
    """
    listed: dict[str, list[T]] = {}
    for label, item in found:
        if not showable(label):
            raise DataError(f"{part} has a class {label!r}, whose name has characters for control")
        listed.setdefault(label, []).append(item)
    if len(listed) != classes:
        raise DataError(f"{part} has {len(listed):,} classes instead of {classes:,}: {_way_out(len(listed), classes)}")
    for label, items in listed.items():
        if not len(items) == len(set(items)) == samples:
            raise DataError(
                f"{part} has {len(items):,} images of class {label}, {len(set(items)):,} of them different, "
                f"instead of {samples}: {_way_out(len(set(items)), samples)}"
            )
    return dict(sorted(listed.items()))


def _way_out(found: int, expected: int) -> str:
    return "get it again" if found < expected else "leave only what was published"


def repeated(images: np.ndarray) -> list[tuple[int, int]]:
    """Of each image that is the same as one before it, the places of the first one and of its own."""
    first: dict[bytes, int] = {}
    found = ((first.setdefault(hashlib.sha256(image).digest(), place), place) for place, image in enumerate(images))
    return [(before, place) for before, place in found if before != place]


def require_distinct(dataset: Dataset, arrays: Arrays) -> None:
    """Raises DataError where more images are the same as another one than were published so."""
    if dataset.repeated is None or arrays.names is None:
        return
    again = repeated(arrays.images)
    if len(again) > dataset.repeated:
        # The published ones are mostly of one class.
        one, other = max(again, key=lambda pair: arrays.labels[pair[0]] != arrays.labels[pair[1]])
        raise DataError(
            f"{arrays.names[one]} and {arrays.names[other]} are the same image; {len(again):,} images are the same as "
            f"another, of those published {dataset.repeated}: get it again"
        )
