"""Raw files of small data sets that are read, and archives made by hand, in which a trial changes one thing."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import made
import numpy as np
from PIL import Image

Files = dict[str, bytes]


def image(seed: int, side: int, kind: str = "PNG", grey: bool = False) -> bytes:
    shape = (side, side) if grey else (side, side, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def mat_file(texts: list[str]) -> bytes:
    return made.mat_file({"file_list": texts})


def omniglot() -> Files:
    parts = {
        "images_background": ("Greek/character01", "Greek/character02"),
        "images_evaluation": ("Tagalog/character01",),
    }
    names = [f"{part}/{label}/{n:04d}.png" for part, labels in parts.items() for label in labels for n in range(2)]
    return {name: image(seed, 105, grey=True) for seed, name in enumerate(names)}


def cifar() -> Files:
    names = [
        f"{part}/{label}/{n}.png" for part, n in (("train", 0), ("train", 1), ("test", 2)) for label in ("bee", "sea")
    ]
    return {name: image(seed, 32) for seed, name in enumerate(names)}


def cifar_pickles() -> Files:
    rows = np.random.default_rng(0).integers(0, 256, (6, 3072), np.uint8)
    contents = {"meta": {"fine_label_names": ["bee", "sea"]}}
    for part, labels, data in (("train", [0, 0, 1, 1], rows[:4]), ("test", [0, 1], rows[4:])):
        contents[part] = {"data": data, "fine_labels": labels, "filenames": [f"{n}.png" for n in range(len(labels))]}
    return {name: pickle.dumps(content, 2) for name, content in contents.items()}


CLASSES = {"train": ["n1", "n2"], "val": ["n3"], "test": ["n4"]}


def mini() -> Files:
    names = [f"{label}_{n}" for labels in CLASSES.values() for label in labels for n in range(2)]
    files = {f"images/{name}.png": image(seed, 84) for seed, name in enumerate(names)}
    lists = {
        f"{part}.csv": "filename,label\n" + "".join(f"{label}_{n}.png,{label}\n" for label in labels for n in range(2))
        for part, labels in CLASSES.items()
    }
    return files | {name: text.encode() for name, text in lists.items()}


def mini_pickles(train: object = None) -> Files:
    """train: the content of the pickle of this part, instead of the valid one."""
    files = {}
    for part, labels in CLASSES.items():
        pixels = np.random.default_rng(len(part)).integers(0, 256, (2 * len(labels), 84, 84, 3), np.uint8)
        content = {"image_data": pixels, "class_dict": {label: [2 * n, 2 * n + 1] for n, label in enumerate(labels)}}
        files[f"mini-imagenet-cache-{part}.pkl"] = pickle.dumps(train if train and part == "train" else content)
    return files


def photographs(name: str) -> Files:
    rows = [(label, f"{label}_{n}.jpg", n == 2) for label in ("a", "b") for n in range(3)]
    pictures = {(label, file): image(seed, 20 + seed, "JPEG") for seed, (label, file, _) in enumerate(rows)}
    if name == "action":
        files = {f"JPEGImages/{file}": data for (_, file), data in pictures.items()}
        for label, file, test in rows:
            name = f"ImageSplits/{label}_{'test' if test else 'train'}.txt"
            files[name] = files.get(name, b"") + f"{file}\n".encode()
        return files
    top = "images" if name == "bird" else "Images"
    files = {f"{top}/{label}/{file}": data for (label, file), data in pictures.items()}
    paths = {part: [f"{label}/{file}" for label, file, test in rows if test == part] for part in (False, True)}
    if name == "dog":
        return files | {"train_list.mat": mat_file(paths[False]), "test_list.mat": mat_file(paths[True])}
    if name == "indoor":
        lists = {f"{part}Images.txt": "\n".join(paths[part == "Test"]) for part in ("Train", "Test")}
    else:
        lists = {
            "images.txt": "\n".join(f"{n} {label}/{file}" for n, (label, file, _) in enumerate(rows, 1)),
            "image_class_labels.txt": "\n".join(f"{n} {'ab'.index(row[0]) + 1}" for n, row in enumerate(rows, 1)),
            "train_test_split.txt": "\n".join(f"{n} {1 - row[2]}" for n, row in enumerate(rows, 1)),
        }
    return files | {name: text.encode() for name, text in lists.items()}


def stl() -> Files:
    generator, files = np.random.default_rng(0), {}
    for part, count in (("train", 20), ("test", 10)):
        files[f"{part}_X.bin"] = generator.integers(0, 256, count * 3 * 96 * 96, np.uint8).tobytes()
        files[f"{part}_y.bin"] = bytes(1 + n % 10 for n in range(count))
    return files


def own() -> Files:
    return {f"{label}/{n}.png": image(10 * place + n, 20) for place, label in enumerate("abcde") for n in range(3)}


def split(files: Files, stem: str) -> tuple[Files, Files]:
    """Those in the folder `stem`, and the others."""
    inside = {name: data for name, data in files.items() if name.startswith(f"{stem}/")}
    return inside, {name: data for name, data in files.items() if name not in inside}


ARCHIVED: dict[str, tuple[str, Files, Files]] = {
    "omniglot": ("images_background.zip", *split(omniglot(), "images_background")),
    "cifar-100": ("cifar100.tar.gz", cifar(), {}),
    "cifar-fs": ("cifar-100-python.tar.gz", cifar_pickles(), {}),
    "miniimagenet": ("miniimagenet.tar.gz", mini(), {}),
    "bird": ("CUB_200_2011.tgz", photographs("bird"), {}),
    "indoor": ("indoorCVPR_09.tar", *split(photographs("indoor"), "Images")),
    "action": ("Stanford40_JPEGImages.zip", *split(photographs("action"), "JPEGImages")),
    "dog": ("images.tar", *split(photographs("dog"), "Images")),
    "stl-10": ("stl10_binary.tar.gz", stl(), {}),
}
"""By data set: the name of its archive, the files in it, and those beside it."""


# Tar archives, of which a header may say anything


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytearray:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")[-512:])
    block[124:136] = b"%011o\0" % size if 0 <= size < 8**11 else b"\x80" + size.to_bytes(11, "big", signed=True)
    return signed(block)


def signed(block: bytearray) -> bytearray:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return block


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def member(name: str, data: bytes, **options: object) -> bytes:
    return bytes(header(name, len(data), **options)) + padded(data)


def record(key: str, value: str) -> bytes:
    text = f" {key}={value}\n".encode("utf-8", "surrogateescape")
    length = len(text) + 1
    while len(str(length)) + len(text) > length:
        length += 1
    return str(length).encode() + text


def pax(data: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    return member("pax", data, kind=kind)


def tar(files: Files, top: str = "") -> bytes:
    return b"".join(member(top + name, data) for name, data in files.items())


END = bytes(1024)


def packed(path: Path, content: bytes) -> None:
    """A tar archive, compressed where its name says so."""
    path.write_bytes(content if path.suffix == ".tar" else gzip.compress(content, mtime=0))


# Zip archives, of which an entry may say anything


def entry(name: str, data: bytes, place: int, **told: int | bytes) -> tuple[bytes, bytes]:
    """A member, and its entry in the directory. told: fields of the format, `raw` for the compressed content."""
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -15)
    raw = told.get("raw", squeezer.compress(data) + squeezer.flush())
    numbers = struct.pack(
        "<III", told.get("crc", zlib.crc32(data)), told.get("packed", len(raw)), told.get("size", len(data))
    )
    shared = struct.pack("<HHHHH", 20, told.get("flags", 0), told.get("method", 8), 0, 33) + numbers
    called = name.encode("utf-8", "surrogateescape")
    local = told.get("local", called)
    first = b"PK\3\4" + shared + struct.pack("<HH", len(local), 0) + local + raw
    listed = struct.pack("<HHHHHII", len(called), 0, 0, 0, 0, told.get("mode", 0) << 16, told.get("offset", place))
    return first, b"PK\1\2" + struct.pack("<H", 3 << 8 | 20) + shared + listed + called


def directory(entries: list[tuple[bytes, bytes]], comment: bytes = b"", **told: int) -> bytes:
    """An archive of these. told: `count`, `size` and `offset` of the directory, as its end says."""
    content, listed = b"".join(first for first, _ in entries), b"".join(second for _, second in entries)
    count = min(told.get("count", len(entries)), 65535)
    end = struct.pack(
        "<HHHHIIH", 0, 0, count, count, told.get("size", len(listed)), told.get("offset", len(content)), len(comment)
    )
    return content + listed + b"PK\5\6" + end + comment


def zipped(files: Files, **told: int | bytes) -> list[tuple[bytes, bytes]]:
    """The entries of valid members."""
    entries, offset = [], 0
    for name, data in files.items():
        entries.append(entry(name, data, offset, **told))
        offset += len(entries[-1][0])
    return entries


def compressed(files: Files, method: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()
