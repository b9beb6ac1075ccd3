"""Raw files to arrays on disk, once; arrays on disk to tensors on a device, checked each time."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from msmeta.data.dataset import Arrays, Dataset, LabelledDataset, Labels, Progress
from msmeta.data.raw import download
from msmeta.data.registry import DATASETS, LABELLED, find, find_few_shot
from msmeta.errors import ConfigError, DataError

IMAGES, LABELS, META = "images.npy", "labels.npy", "meta.json"


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
    images: Mapping[str, int]
    """Number of images of each split."""
    samples: int | None
    """Images of a class; None for labelled images, whose classes need not be equal in size."""
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
    if _status(dataset, root, whole=True).state == "prepared":
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
        known = {IMAGES, LABELS, META}
        if folder.exists() and (others := sorted({path.name for path in folder.iterdir()} - known)):
            raise DataError(f"{folder} holds something else ({others[0]}): move it, the folder will be replaced")
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=root, ignore_cleanup_errors=True) as work:
            if source is None:
                source = Path(work, "raw")
                download(name, dataset.raw_files(), source, progress)
            built = Path(work, "built")
            _write(dataset, source, built, progress)
            if folder.exists():
                folder.rename(Path(work, "damaged"))
            built.rename(folder)
    except OSError as error:
        raise DataError(f"{name}: cannot write {error.filename or root}: {error.strerror or error}") from error
    return folder


def load(name: str, root: Path | None = None, device: str | torch.device = "cpu") -> ClassImages:
    """The images of a data set for few-shot tasks on `device`.

    Raises DataError in one line that names the file and the way out if the data set is not prepared or is damaged,
    ConfigError if there is no such data set for few-shot tasks.
    """
    dataset = find_few_shot(name)
    arrays, hashed, _ = _read(dataset, data_root() if root is None else Path(root))
    images = torch.from_numpy(arrays.images).to(device)
    splits = {split: images[classes.start : classes.stop] for split, classes in dataset.splits.items()}
    return ClassImages(dataset.name, dataset.title, splits, dataset.rotations, hashed)


def verify(name: str, root: Path | None = None) -> Status:
    """Hashes a data set again. Raises DataError in one line if it is absent or damaged."""
    status = _status(find(name), data_root() if root is None else Path(root), whole=True)
    if status.problem:
        raise DataError(status.problem)
    return status


def status(root: Path | None = None) -> list[Status]:
    """The state of each registered data set: hashed again, but for mapped ones, whose labels alone are."""
    root = data_root() if root is None else Path(root)
    return [_status(dataset, root, whole=False) for dataset in (*DATASETS.values(), *LABELLED.values())]


def digest(arrays: Arrays) -> str:
    """SHA-256 of shape, type, class names and images, in hexadecimal."""
    header = [list(arrays.images.shape), str(arrays.images.dtype), arrays.classes]
    sha = hashlib.sha256(json.dumps(header).encode())
    sha.update(np.ascontiguousarray(arrays.images))
    return sha.hexdigest()


def digest_labels(labels: Labels) -> str:
    """SHA-256 of class names and labels, in hexadecimal."""
    sha = hashlib.sha256(json.dumps(labels.classes).encode())
    sha.update(labels.labels.astype("<i8"))
    return sha.hexdigest()


def digest_labelled(images: np.ndarray, labels: Labels) -> str:
    """SHA-256 of shape, type, class names, labels and images, in hexadecimal."""
    header = [list(images.shape), str(images.dtype), digest_labels(labels)]
    sha = hashlib.sha256(json.dumps(header).encode())
    sha.update(np.ascontiguousarray(images))
    return sha.hexdigest()


def read_labelled(
    dataset: LabelledDataset, root: Path, whole: bool = False
) -> tuple[np.ndarray, Labels, str, bool | None]:
    """Images and labels of a data set for transfer, their hash, and whether they come from the official archives.

    The labels are checked against their hash, and the images against theirs where they are read into memory. Mapped
    images are 1 to 4 GB, too much to hash at each load: of these only size, shape and type are checked, unless they
    are to be hashed as a `whole`. Raises DataError in one line if the data set is not prepared or is damaged.
    """
    if dataset.generated:
        images = np.empty(dataset.shape, np.uint8)
        labels = dataset.build(None, images, _silent)
        return images, labels, digest_labelled(images, labels), None
    meta = _read_meta(dataset, root)
    file = root / dataset.name / LABELS
    with _intact(dataset, file):
        labels = Labels(np.array(_mapped(file, dataset.shape[:1], np.int64)), meta.classes)
        if digest_labels(labels) != meta.labels_hash:
            raise ValueError("their hash is not the one noted when it was prepared")
    file = root / dataset.name / IMAGES
    with _intact(dataset, file):
        images = _mapped(file, dataset.shape, np.uint8)
        if not dataset.mapped:
            images = np.array(images)
        if (whole or not dataset.mapped) and digest_labelled(images, labels) != meta.hash:
            raise ValueError("its hash is not the one noted when it was prepared")
    return images, labels, meta.hash, meta.official


def _silent(what: str, done: int, total: int) -> None:
    pass


def _write(dataset: Dataset | LabelledDataset, source: Path, folder: Path, progress: Progress) -> None:
    folder.mkdir()
    if isinstance(dataset, LabelledDataset):
        images = _allocate(folder / IMAGES, dataset.shape)
        built = dataset.build(source, images, progress)
        images.flush()
        np.save(folder / LABELS, built.labels)
        hashes = {"hash": digest_labelled(images, built), "labels_hash": digest_labels(built)}
    else:
        built = dataset.build(source, progress)
        np.save(folder / IMAGES, built.images)
        hashes = {"hash": digest(built)}
    published = {file.name: file.md5 for file in dataset.raw_files()}
    found = {name: _md5(source / name) if (source / name).is_file() else None for name in published}
    meta = {
        "name": dataset.name,
        **hashes,
        "raw_md5": found,
        "official": found == published if published else None,
        "splits": _ranges(dataset),
        "classes": built.classes,
    }
    (folder / META).write_text(json.dumps(meta, indent=1) + "\n")


def _allocate(file: Path, shape: tuple[int, ...]) -> np.memmap:
    """A new uint8 array that is mapped to a file."""
    images = np.lib.format.open_memmap(file, "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):
        # Where a disk becomes full, writing to a mapped file with holes ends the process; this raises OSError before.
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
    return images


class _Meta(NamedTuple):
    """What was noted when a data set was prepared."""

    hash: str
    labels_hash: str | None
    official: bool | None
    classes: list[str]


def _read_meta(dataset: Dataset | LabelledDataset, root: Path) -> _Meta:
    folder = root / dataset.name
    if not (folder / META).exists() and not (folder / IMAGES).exists():
        raise DataError(
            f"{dataset.title} is not prepared in {root}: run `msmeta data prepare {dataset.name}`, "
            "with `--from DIR` if you have its raw files"
        )
    with _intact(dataset, folder / META):
        meta = json.loads((folder / META).read_text())
        if meta["splits"] != _ranges(dataset):
            raise ValueError("its splits are not those of this version")
        labels_hash = meta["labels_hash"] if isinstance(dataset, LabelledDataset) else None
        return _Meta(meta["hash"], labels_hash, meta["official"], meta["classes"])


def _read(dataset: Dataset, root: Path) -> tuple[Arrays, str, bool | None]:
    """The arrays of a data set for few-shot tasks; their hash, checked; whether they come from official archives."""
    if dataset.generated:
        arrays = dataset.build(None, _silent)
        return arrays, digest(arrays), None
    meta = _read_meta(dataset, root)
    file = root / dataset.name / IMAGES
    with _intact(dataset, file):
        arrays = Arrays(np.array(_mapped(file, dataset.shape, np.uint8)), meta.classes)
        if digest(arrays) != meta.hash:
            raise ValueError("its hash is not the one noted when it was prepared")
    return arrays, meta.hash, meta.official


def _mapped(file: Path, shape: tuple[int, ...], kind: type[np.generic]) -> np.ndarray:
    """An array file, mapped. Raises ValueError, OSError or EOFError if it is not that."""
    # Mapped even if it is to be read: the shape in a damaged header is then held against the size of the file, not
    # allocated. Copy-on-write rather than read-only, since torch warns of arrays that cannot be written.
    mapped = np.load(file, mmap_mode="c", allow_pickle=False)
    if mapped.shape != shape or mapped.dtype != kind:
        raise ValueError(f"it holds {mapped.dtype} {mapped.shape} instead of {np.dtype(kind)} {shape}")
    return mapped


@contextmanager
def _intact(dataset: Dataset | LabelledDataset, file: Path) -> Iterator[None]:
    """Turns what a damaged file raises into a DataError in one line."""
    try:
        yield
    except (OSError, EOFError, ValueError, TypeError, KeyError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise DataError(
            f"{file} is damaged ({reason}): run `msmeta data prepare {dataset.name}` to build it again"
        ) from error


def _status(dataset: Dataset | LabelledDataset, root: Path, whole: bool) -> Status:
    folder = None if dataset.generated else root / dataset.name
    files = [] if folder is None else [folder / name for name in (IMAGES, LABELS, META) if (folder / name).is_file()]
    state, hashed, official, problem = "generated" if dataset.generated else "prepared", None, None, None
    try:
        if isinstance(dataset, LabelledDataset):
            _, _, hashed, official = read_labelled(dataset, root, whole)
        else:
            _, hashed, official = _read(dataset, root)
    except DataError as error:
        state, problem = "damaged" if files else "absent", str(error)
    if isinstance(dataset, LabelledDataset):
        classes, images = dict.fromkeys(dataset.counts, dataset.way), dict(dataset.counts)
        samples, rotations = None, 1
    else:
        classes = {split: len(labels) for split, labels in dataset.splits.items()}
        samples, rotations = dataset.shape[1], dataset.rotations
        images = {split: samples * count for split, count in classes.items()}
    return Status(
        name=dataset.name,
        title=dataset.title,
        state=state,
        folder=folder,
        bytes=sum(file.stat().st_size for file in files),
        classes=classes,
        images=images,
        samples=samples,
        rotations=rotations,
        hash=hashed,
        official=official,
        problem=problem,
    )


def _ranges(dataset: Dataset | LabelledDataset) -> dict[str, list[int]]:
    return {split: [part.start, part.stop] for split, part in dataset.splits.items()}


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
