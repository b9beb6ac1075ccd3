"""Folders of raw files with what is no file, links, and lists that a stranger wrote."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import made
import small
from attempts import SECRET, Case

VALID: dict[str, small.Files] = {
    "omniglot": small.omniglot(),
    "cifar-100": {f"cifar100/{name}": data for name, data in small.cifar().items()},
    "cifar-fs": {f"cifar-100-python/{name}": data for name, data in small.cifar_pickles().items()},
    "miniimagenet": small.mini(),
    "bird": small.photographs("bird"),
    "indoor": small.photographs("indoor"),
    "action": small.photographs("action"),
    "dog": small.photographs("dog"),
    "stl-10": {f"stl10_binary/{name}": data for name, data in small.stl().items()},
    "folder": small.own() | {"train.csv": b"", "test.csv": b""},
}
FIRST = {name: next(iter(files)) for name, files in VALID.items()}


def fifo(path: Path) -> None:
    os.mkfifo(path)


def bound(path: Path) -> None:
    """A socket."""
    here = os.getcwd()
    os.chdir(path.parent)  # the length of its name is limited
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name[-90:])
    finally:
        os.chdir(here)


def linked(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


SPECIAL: dict[str, Callable[[Path], None]] = {
    "a FIFO": fifo,
    "a socket": bound,
    "a folder": lambda path: path.mkdir(),
    "a link to a device": linked("/dev/zero"),
    "a link to a terminal": linked("/dev/tty"),
    "a link to nothing": linked("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to a file elsewhere": lambda path: path.symlink_to(_secret(path)),
    "a sparse file of a tebibyte": lambda path: sparse(path, 2**40),
}


def _secret(path: Path) -> Path:
    return next(parent / SECRET for parent in path.parents if (parent / SECRET).exists())


def sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def special(raw: Path, dataset: str, make: Callable[[Path], None]) -> None:
    """In place of the first of the raw files."""
    files = dict(VALID[dataset])
    del files[FIRST[dataset]]
    made.write(raw, {name: data for name, data in files.items() if not name.endswith(".csv") or dataset != "folder"})
    path = raw / FIRST[dataset]
    path.parent.mkdir(parents=True, exist_ok=True)
    make(path)


def pipe_for_archive(raw: Path, dataset: str, make: Callable[[Path], None]) -> None:
    """In place of the archive."""
    name, _, others = small.ARCHIVED[dataset]
    made.write(raw, others)
    make(raw / name)


LINES = b"filename,label\n"
GREEK = "images_background/Greek"
DRAWING, PICTURE = small.omniglot()[FIRST["omniglot"]], small.image(77, 105, grey=True)


def of_train(words: str) -> bytes:
    """Images and their classes."""
    names = words.split()
    return (
        LINES + "".join(f"{name}.png,{label}\n" for name, label in zip(names[::2], names[1::2], strict=True)).encode()
    )


LISTS: dict[str, tuple[str, str, bytes]] = {
    "a list that names a file outside": ("miniimagenet", "train.csv", LINES + b"../../secret.png,n1\n" * 2),
    "a list that names a file by its path": ("miniimagenet", "train.csv", LINES + b"/etc/passwd,n1\n" * 2),
    "a list of one endless field": ("miniimagenet", "train.csv", LINES + b'"' + b"a" * 10**7),
    "a list of zeros": ("miniimagenet", "train.csv", bytes(10**6)),
    "a list of noise": ("miniimagenet", "train.csv", bytes(range(256)) * 10),
    "a list without its columns": ("miniimagenet", "train.csv", b"a,b\n1,2\n"),
    "a list with an empty line's worth": ("miniimagenet", "train.csv", LINES + b",\n"),
    "a list of another text": ("miniimagenet", "train.csv", "filename,label\n".encode("utf-16")),
    "a list that clears the terminal": ("miniimagenet", "train.csv", LINES + b"n1_0.png,\x1b[2J\nn1_1.png,\x1b[2J\n"),
    "a list with an image in two classes": ("miniimagenet", "train.csv", of_train("n1_0 n1 n1_1 n1 n1_0 n2 n2_0 n2")),
    "a list with an image twice": ("miniimagenet", "train.csv", of_train("n1_0 n1 n1_0 n1 n2_1 n2 n2_0 n2")),
    "a list with an image of another split": ("miniimagenet", "train.csv", of_train("n3_0 n1 n1_0 n1 n2_1 n2 n2_0 n2")),
    "a list of a million lines": ("miniimagenet", "train.csv", LINES + b"a.png,b\n" * 10**6),
    "two lists of a split": ("miniimagenet", "split/train.csv", LINES),
    "birds that are not numbered": ("bird", "images.txt", b"a/a_0.jpg\n"),
    "birds with one number twice": ("bird", "images.txt", b"1 a/a_0.jpg\n1 a/a_1.jpg\n"),
    "birds of a file outside": ("bird", "images.txt", b"".join(b"%d ../secret.png\n" % n for n in range(1, 7))),
    "birds of noise": ("bird", "images.txt", bytes(range(256))),
    "birds for neither": ("bird", "train_test_split.txt", b"".join(b"%d 2\n" % n for n in range(1, 7))),
    "birds without lists": ("bird", "image_class_labels.txt", b""),
    "rooms twice": ("indoor", "TrainImages.txt", b"a/a_0.jpg\n" * 4),
    "rooms of a file outside": ("indoor", "TrainImages.txt", b"../../secret.png\n" * 4),
    "rooms by a path": ("indoor", "TrainImages.txt", b"/etc/passwd\n" * 4),
    "rooms of noise": ("indoor", "TestImages.txt", bytes(range(256))),
    "rooms without an end": ("indoor", "TestImages.txt", b"a" * 10**7),
    "actions of a file outside": ("action", "ImageSplits/a_train.txt", b"../../secret.png\n"),
    "actions of a class that clears the terminal": ("action", "ImageSplits/\x1b[2J_train.txt", b"a_0.jpg\n"),
    "dogs without a list": ("dog", "train_list.mat", b""),
    "dogs of noise": ("dog", "train_list.mat", bytes(range(256)) * 20),
    "half of the dogs": ("dog", "train_list.mat", small.mat_file(["a/a_0.jpg"] * 4)[:150]),
    "dogs of a file outside": ("dog", "train_list.mat", small.mat_file(["../secret.png"] * 4)),
    "dogs that clear the terminal": ("dog", "train_list.mat", small.mat_file(["\x1b[2J/a.jpg"] * 4)),
    "dogs of 4 MB of zeros a thousandfold": ("dog", "train_list.mat", small.mat_file(["a" * 10**7] * 30)),
    "half of STL-10's images": ("stl-10", "stl10_binary/train_X.bin", bytes(1000)),
    "labels of STL-10 that are none": ("stl-10", "stl10_binary/train_y.bin", bytes(20)),
    "a drawing twice": ("omniglot", f"{GREEK}/character01/0001.png", DRAWING),
    "a drawing of two characters": ("omniglot", f"{GREEK}/character02/0000.png", DRAWING),
    "a drawing of two parts": ("omniglot", "images_evaluation/Tagalog/character01/0000.png", DRAWING),
    "a drawing too many": ("omniglot", f"{GREEK}/character01/9999.png", PICTURE),
    "a character too many": ("omniglot", f"{GREEK}/character03/0000.png", PICTURE),
    "a name that clears the terminal": ("omniglot", f"{GREEK}/character01/\x1b[2J.png", PICTURE),
    "a name of two lines": ("folder", "a/\nmsmeta: all is well.png", small.image(77, 20)),
    "a class that CIFAR-100 has not": ("cifar-100", "cifar100/train/x/0.png", small.image(77, 32)),
    "a picture in no class": ("folder", "loose.png", small.image(77, 20)),
}  # fmt: skip
OWN_TWICE = ("a drawing twice", "a drawing of two characters", "a drawing of two parts")
"""One such is published: these have two."""


def listed(raw: Path, name: str) -> None:
    dataset, file, content = LISTS[name]
    files = {own: data for own, data in VALID[dataset].items() if dataset != "folder" or not own.endswith(".csv")}
    if name in OWN_TWICE:
        files[f"{GREEK}/character02/0001.png"] = files["images_evaluation/Tagalog/character01/0001.png"]
    made.write(raw, files | {file: content})


def cases() -> list[Case]:
    found = [Case(LISTS[name][0], name, lambda raw, name=name: listed(raw, name)) for name in LISTS]
    for place, (name, make) in enumerate(SPECIAL.items()):
        for dataset in VALID:
            if dataset == "folder" and "link to a file" not in name and name != "a FIFO":
                continue
            found.append(Case(dataset, f"{name} for a file", lambda raw, d=dataset, make=make: special(raw, d, make)))
        for dataset in list(small.ARCHIVED)[place % 3 :: 3]:
            if "elsewhere" not in name:  # a link at the top is the user's own
                found.append(
                    Case(
                        dataset,
                        f"{name} for the archive",
                        lambda raw, d=dataset, make=make: pipe_for_archive(raw, d, make),
                    )
                )
    return found


def test_hostile_folders(trials, refuses):
    trials("hostile folders of raw files (devices, links, lists, one image twice)", cases(), refuses)
