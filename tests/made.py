"""Small made trees of raw files, in the layouts of the data sets."""

import io
import pickle
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from msmeta.errors import DataError

CLASSES = ["bee", "oak_tree", "apple", "sea", "train"]
"""Of a small CIFAR-100, in no order."""
FINE = sorted(CLASSES)
SAMPLES = {"train": 3, "test": 2}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def refused(match: str, call: Callable[..., object], *arguments: object) -> None:
    """Asserts that the call raises a DataError of one line that matches."""
    with pytest.raises(DataError, match=match) as error:
        call(*arguments)
    assert "\n" not in str(error.value)


class Hostile:
    """Calls a function when it is unpickled."""

    def __init__(self, call: Callable[..., object], *arguments: object):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def makes_folder(path: Path) -> Hostile:
    return Hostile(eval, f"__import__('os').mkdir({str(path)!r})")


def flip(path: Path, place: int) -> None:
    """Changes one bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def write_tar(path: Path, files: dict[str, bytes], top: str | None = None) -> Path:
    """An archive of the files in a folder, called as the archive unless `top` says how."""
    top = path.name.split(".")[0] + "/" if top is None else top
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(top + name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def image(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """An image file of uint8 (height, width, 3) or (height, width), lossless unless JPEG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return file.getvalue()


def cifar_rows() -> list[tuple[str, str, str, np.ndarray]]:
    """(part, class, stem, image (3, 32, 32)) in no order; the stems of one class do not share a first word."""
    generator = np.random.default_rng(0)
    rows = [
        (part, label, f"{stem}_s_{number:06d}", generator.integers(0, 256, (3, 32, 32), np.uint8))
        for part, count in SAMPLES.items()
        for label in CLASSES
        for number, stem in enumerate(["zebra", label, "Aster"][:count])
    ]
    random.Random(0).shuffle(rows)
    return rows


def cifar_images(classes: list[str]) -> np.ndarray:
    """What is to be read: of each class the images of train, then of test, each by file name."""
    rows = sorted(cifar_rows(), key=lambda row: row[2])
    return np.stack(
        [[row[3] for part in ("train", "test") for row in rows if row[:2] == (part, label)] for label in classes]
    )


def cifar_files() -> dict[str, bytes]:
    """CIFAR-100 with an image a file."""
    return {
        f"{part}/{label}/{stem}.webp": image(pixels.transpose(1, 2, 0), "WEBP")
        for part, label, stem, pixels in cifar_rows()
    }


def cifar_pickles(text=str) -> dict[str, bytes]:
    """The three files of CIFAR-100's Python version; `text` makes the texts."""
    files = {"meta": {text("fine_label_names"): [text(name) for name in FINE]}}
    for part in SAMPLES:
        rows = [row for row in cifar_rows() if row[0] == part]
        files[part] = {
            text("data"): np.stack([row[3].ravel() for row in rows]),
            text("fine_labels"): [FINE.index(row[1]) for row in rows],
            text("filenames"): [text(f"{row[2]}.png") for row in rows],
        }
    return {name: pickle.dumps(content, 2) for name, content in files.items()}


def mat_file(variables: dict[str, list], compress: bool = True) -> bytes:
    """A MAT-file of version 5 with cell arrays."""
    file = io.BytesIO()
    cells = {name: np.array([[text] for text in texts], object) for name, texts in variables.items()}
    savemat(file, cells, do_compression=compress)
    return file.getvalue()
