"""Raw files to arrays on disk, once; arrays on disk to tensors on a device, checked each time."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from msmeta.data.dataset import Arrays, Dataset, Progress
from msmeta.data.raw import download
from msmeta.data.registry import DATASETS, find
from msmeta.errors import ConfigError, DataError

IMAGES, META = "images.npy", "meta.json"


@dataclass(frozen=True)
class ClassImages:
    """Images in classes on a device. The splits are views of one tensor."""

    name: str
    title: str
    images: Mapping[str, Tensor]
    """For each split uint8 (classes, samples, channels, height, width)."""
    rotations: int
    """4 where each class turned by 90, 180 and 270 degrees is a class as well, else 1."""
    hash: str
    """SHA-256 of the images and class names, in hexadecimal."""

    def shrunk(self, side: int) -> "ClassImages":
        """The same images `side` pixels high and wide, each the mean of a square of pixels; the hash stays.

        Raises ConfigError where `side` does not divide the images' side.
        """
        height, width = self.images["train"].shape[-2:]
        if side < 1 or height != width or height % side:
            raise ConfigError(f"image_size={side} is impossible: {self.name} has {height}x{width} images")
        done: dict[tuple[int, int], Tensor] = {}  # two splits may be the same images
        for images in self.images.values():
            key = images.data_ptr(), len(images)
            if key not in done:
                classes = [F.avg_pool2d(each.float(), height // side).round().to(torch.uint8) for each in images]
                done[key] = torch.stack(classes)
        splits = {name: done[images.data_ptr(), len(images)] for name, images in self.images.items()}
        return replace(self, images=splits)


@dataclass(frozen=True)
class Status:
    """What is known of one data set on this machine."""

    name: str
    title: str
    state: str
    """`prepared`, `generated` (nothing to prepare), `absent` or `damaged`"""
    folder: Path | None
    bytes: int
    """On disk."""
    classes: Mapping[str, int]
    """Number of classes of each split, before rotations."""
    samples: int
    """Images of a class."""
    rotations: int
    hash: str | None
    official: bool | None
    """Whether it was read from archives with the published checksums; None where that does not apply."""
    problem: str | None
    """The one line of the error, where absent or damaged."""


def data_root() -> Path:
    """`$MSMETA_DATA`, else `data/` of the checkout that holds the current folder, else `data/` here."""
    if chosen := os.environ.get("MSMETA_DATA"):
        return Path(chosen).expanduser()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "pyproject.toml").is_file() and (folder / "msmeta").is_dir() and (folder / "data").is_dir():
            return folder / "data"
    return here / "data"


def prepare(name: str, source: Path | None = None, root: Path | None = None, progress: Progress | None = None) -> Path:
    """Turns the raw files of a data set into arrays in `root/name` and returns that folder.

    `source` is the folder with the raw files, or one of these files; without it they are downloaded. Returns at once
    if the data set is there and intact; a damaged one is built again. The folder appears whole or not at all.
    Raises DataError in one line if the raw files cannot be had or read or the arrays cannot be written, ConfigError if
    there is nothing to prepare.
    """
    dataset = find(name)
    if dataset.generated:
        raise ConfigError(f"{name} needs no preparation: it is {dataset.obtained}")
    root = data_root() if root is None else Path(root)
    folder = root / name
    if _status(dataset, root).state == "prepared":
        return folder
    if source is None and not dataset.raw_files():
        raise DataError(f"{name} cannot be downloaded: it is {dataset.obtained}")
    if source is not None:
        source = Path(source).expanduser()
        source = source.parent if source.is_file() else source
        if not source.is_dir():
            raise DataError(f"{name}: there is no folder {source} to read raw files from")
    progress = progress or _silent
    try:
        if folder.exists() and (others := sorted({path.name for path in folder.iterdir()} - {IMAGES, META})):
            raise DataError(f"{folder} holds something else ({others[0]}): move it, the folder will be replaced")
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=root, ignore_cleanup_errors=True) as work:
            if source is None:
                source = Path(work, "raw")
                download(name, dataset.raw_files(), source, progress)
            built = Path(work, "built")
            _write(dataset, dataset.build(source, progress), source, built)
            if folder.exists():
                folder.rename(Path(work, "damaged"))
            built.rename(folder)
    except OSError as error:
        raise DataError(f"{name}: cannot write {error.filename or root}: {error.strerror or error}") from error
    return folder


def load(name: str, root: Path | None = None, device: str | torch.device = "cpu") -> ClassImages:
    """The images of a data set on `device`.

    Raises DataError in one line that names the file and the way out if the data set is not prepared or is damaged.
    """
    dataset = find(name)
    if dataset.generated:
        arrays = dataset.build(None, _silent)
        hashed = digest(arrays)
    else:
        arrays, hashed, _ = _read(dataset, data_root() if root is None else Path(root))
    images = torch.from_numpy(arrays.images).to(device)
    splits = {split: images[classes.start : classes.stop] for split, classes in dataset.splits.items()}
    return ClassImages(dataset.name, dataset.title, splits, dataset.rotations, hashed)


def verify(name: str, root: Path | None = None) -> Status:
    """Hashes a data set again. Raises DataError in one line if it is absent or damaged."""
    status = _status(find(name), data_root() if root is None else Path(root))
    if status.problem:
        raise DataError(status.problem)
    return status


def status(root: Path | None = None) -> list[Status]:
    """The state of each registered data set, hashed again."""
    root = data_root() if root is None else Path(root)
    return [_status(dataset, root) for dataset in DATASETS.values()]


def digest(arrays: Arrays) -> str:
    """SHA-256 of shape, type, class names and images, in hexadecimal."""
    header = [list(arrays.images.shape), str(arrays.images.dtype), arrays.classes]
    sha = hashlib.sha256(json.dumps(header).encode())
    sha.update(np.ascontiguousarray(arrays.images))
    return sha.hexdigest()


def _silent(what: str, done: int, total: int) -> None:
    pass


def _write(dataset: Dataset, arrays: Arrays, source: Path, folder: Path) -> None:
    published = {file.name: file.md5 for file in dataset.raw_files()}
    found = {name: _md5(source / name) if (source / name).is_file() else None for name in published}
    meta = {
        "name": dataset.name,
        "hash": digest(arrays),
        "raw_md5": found,
        "official": found == published if published else None,
        "splits": _ranges(dataset),
        "classes": arrays.classes,
    }
    folder.mkdir()
    np.save(folder / IMAGES, arrays.images)
    (folder / META).write_text(json.dumps(meta, indent=1) + "\n")


def _read(dataset: Dataset, root: Path) -> tuple[Arrays, str, bool | None]:
    """The arrays of a prepared data set, their hash (checked), and whether they come from the official archives."""
    folder = root / dataset.name
    if not (folder / META).exists() and not (folder / IMAGES).exists():
        raise DataError(
            f"{dataset.title} is not prepared in {root}: run `msmeta data prepare {dataset.name}`, "
            "with `--from DIR` if you have its raw files"
        )
    file = folder / META
    try:
        meta = json.loads(file.read_text())
        if meta["splits"] != _ranges(dataset):
            raise ValueError("its splits are not those of this version")
        classes, expected, official = meta["classes"], meta["hash"], meta["official"]
        file = folder / IMAGES
        # Mapped first: the shape in a damaged header is then held against the size of the file, not allocated.
        mapped = np.load(file, mmap_mode="r", allow_pickle=False)
        if mapped.shape != dataset.shape or mapped.dtype != np.uint8:
            raise ValueError(f"it holds {mapped.dtype} {mapped.shape} instead of uint8 {dataset.shape}")
        arrays = Arrays(np.array(mapped), classes)
        if digest(arrays) != expected:
            raise ValueError("its hash is not the one noted when it was prepared")
    except (OSError, EOFError, ValueError, TypeError, KeyError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise DataError(
            f"{file} is damaged ({reason}): run `msmeta data prepare {dataset.name}` to build it again"
        ) from error
    return arrays, expected, official


def _status(dataset: Dataset, root: Path) -> Status:
    folder = None if dataset.generated else root / dataset.name
    state, size, hashed, official, problem = "generated", 0, None, None, None
    if folder is None:
        hashed = digest(dataset.build(None, _silent))
    else:
        files = [folder / name for name in (IMAGES, META) if (folder / name).is_file()]
        size = sum(file.stat().st_size for file in files)
        try:
            _, hashed, official = _read(dataset, root)
            state = "prepared"
        except DataError as error:
            state, problem = "damaged" if files else "absent", str(error)
    return Status(
        name=dataset.name,
        title=dataset.title,
        state=state,
        folder=folder,
        bytes=size,
        classes={split: len(classes) for split, classes in dataset.splits.items()},
        samples=dataset.shape[1],
        rotations=dataset.rotations,
        hash=hashed,
        official=official,
        problem=problem,
    )


def _ranges(dataset: Dataset) -> dict[str, list[int]]:
    return {split: [classes.start, classes.stop] for split, classes in dataset.splits.items()}


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
