"""Raw files to arrays on disk, once; arrays on disk to tensors on a device, checked each time."""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from msmeta import files, paths
from msmeta.data import folder, l2t_ww
from msmeta.data.dataset import SEEDED, Arrays, Dataset, Progress, ViewAlone
from msmeta.data.images import Images, Selected
from msmeta.data.raw import download, extracted, reason
from msmeta.data.registry import DATASETS, data_root, find
from msmeta.data.scan import scan
from msmeta.data.trees import require_distinct
from msmeta.errors import ConfigError, DataError

IMAGES, LABELS, META, ORDER = "images.npy", "labels.npy", "meta.json", "order.npy"
FILES = {IMAGES, LABELS, META, ORDER}
NOTED = ("classes", "hash", "labels_hash")


@dataclass(frozen=True)
class Status:
    """What is known of one data set on this machine."""

    dataset: Dataset
    state: str
    """`prepared`, `generated` (nothing to prepare), `absent` or `damaged`"""
    bytes: int
    """On disk."""
    hash: str | None
    problem: str | None
    """The one line of the error, where absent or damaged."""


def prepare(
    name: str,
    source: Path | str | None = None,
    root: Path | None = None,
    progress: Progress = lambda *_: None,
    follow_links: bool = False,
) -> Path:
    """Turns the raw files of a data set into arrays in `root/name` and returns that folder; of a view, those it views.

    What the authors of L2T-ww published is had as `l2t_ww.prepare` says.

    `source` is the folder with the raw files, or one of these files; without it they are downloaded. Links in it are
    followed below its first level if `follow_links` (see `trees.matching`). Returns at once
    if the data set is there and intact; a damaged one is built again. The folder appears whole or not at all.
    Raises DataError in one line if the raw files cannot be had or read or the arrays cannot be written, ConfigError if
    there is nothing to prepare.
    """
    root = Path(root or data_root())
    if source is not None:
        source = paths.user_path(source, "--from")
    if name in l2t_ww.PUBLISHED:
        return l2t_ww.prepare(name, source, root, progress)
    dataset, state = _found(name, root), None
    if folder.is_path(name):
        given = folder.parse(name)
        found = scan(replace(given, links=given.links or follow_links))
        dataset, source, state = found.dataset, found.folder, found.state
    if dataset.generated:
        raise ConfigError(f"{name} needs no preparation: it is {dataset.obtained}")
    if dataset.view_of:
        try:
            return prepare(dataset.view_of, source, root, progress, follow_links)
        except ViewAlone:
            dataset = dataset.alone()
    place = root / dataset.stored_as
    files.remove_folders(dataset.stored_as, root)
    known = _found(dataset.name, root) if state else dataset
    if (not state or known.notes.get("state") == state) and _status(known, root, whole=True).state == "prepared":
        return place
    if source is not None:
        source = source.parent if source.is_file() else source
        if not source.is_dir():
            raise DataError(f"{name}: there is no folder {source} to read raw files from")
    elif not dataset.raw_files:
        raise DataError(f"{name} cannot be downloaded: it is {dataset.obtained}")
    try:
        if place.exists() and (others := sorted({path.name for path in place.iterdir()} - FILES)):
            raise DataError(f"{place} holds something else ({others[0]}): move it, the folder will be replaced")
        with files.working_folder(dataset.stored_as, root) as work:
            if source is None:
                source = work / "downloaded"
                download(name, dataset.raw_files, source, progress)
            built = _build(dataset, source, work, progress, follow_links)
            if place.exists():
                place.rename(work / "damaged")
            built.rename(place)
    except OSError as error:
        at, size = Path(error.filename or root), dataset.size * math.prod(dataset.shape)
        raise DataError(f"{name}: cannot write {at}: {files.reason(error, at, size)}") from error
    return place


def load(name: str, device: str | torch.device = "cpu", root: Path | None = None, split: str = SEEDED) -> Images:
    """The images of a data set on `device`, those for training divided by SEEDED or by L2T_WW.

    Images stored as 256x256 are left on disk: of these only size, shape and type are checked, not the hash, which
    would take as long as an epoch; `msmeta data verify` checks it. Raises DataError in one line that names the file
    and the way out if the data set or its split is not prepared or is damaged, ConfigError if there is no such one.
    """
    root = Path(root or data_root())
    dataset = _found(name, root)
    own = _divided(dataset, root, split)
    arrays, hashed = _read(dataset, root)
    images, labels = torch.from_numpy(arrays.images), torch.from_numpy(arrays.labels).to(device)
    if not dataset.mapped:
        images = images.to(device)

    def of(split: str, tensor: torch.Tensor) -> torch.Tensor | Selected:
        if split not in own:
            return tensor[dataset.splits[split].start : dataset.splits[split].stop]
        places = torch.from_numpy(own[split])
        return Selected(tensor, places) if tensor is images and dataset.mapped else tensor[places.to(tensor.device)]

    return Images(
        name=dataset.name,
        title=dataset.title,
        classes=dataset.classes,
        side=dataset.side,
        images={split: of(split, images) for split in dataset.splits},
        labels={split: of(split, labels) for split in dataset.splits},
        hash=_hash_of_split(hashed, own),
        rotations=dataset.rotations,
        notes={name: value for name, value in dataset.notes.items() if name != "state"},
    )


def stored_hash(name: str, root: Path | None = None, split: str = SEEDED) -> str:
    """The hash of a data set that is here, as `load` gives it, but as it was noted: no image is read.

    Of what is generated, and of a view, the arrays are made and hashed, once. Raises DataError as `load`.
    """
    root = Path(root or data_root())
    dataset = _found(name, root)
    hashed = None if dataset.generated else _read_meta(find(dataset.view_of or name, root), root)["hash"]
    if dataset.generated or dataset.view_of:
        hashed = _made_hash(name, root, hashed)
    return _hash_of_split(hashed, _divided(dataset, root, split))


def _divided(dataset: Dataset, root: Path, split: str) -> dict[str, np.ndarray]:
    """Where the images of the splits are that lie otherwise than SEEDED has them: none, or `train` and `validation`."""
    l2t_ww.require_split(dataset.name, split)
    if split == SEEDED:
        return {}
    _read_meta(dataset, root)
    file = root / dataset.name / ORDER
    if not file.exists():
        raise DataError(
            f"{dataset.name} was prepared from a copy, or by a version, that does not tell the order of its published "
            f"files: move {file.parent} away and run `msmeta data prepare {dataset.name}` with the official files, or "
            f"use split {SEEDED!r}"
        )
    with _intact(dataset, file):
        order = np.array(_mapped(file, (dataset.splits["test"].start,), np.int64))
        if not np.array_equal(np.sort(order), np.arange(len(order))):
            raise ValueError("it is no order")
    return l2t_ww.divide(dataset, root, order)


def _hash_of_split(hashed: str, own: dict[str, np.ndarray]) -> str:
    """The hash of images that are divided otherwise than SEEDED has them."""
    if not own:
        return hashed
    sha = hashlib.sha256(hashed.encode())
    for split, places in own.items():
        sha.update(f"{split} {len(places)}".encode() + places.astype("<i8").tobytes())
    return sha.hexdigest()


@cache
def _made_hash(name: str, root: Path, noted: str | None) -> str:
    """noted: the hash of what is viewed, so that a view of other images is hashed anew."""
    return _read(_found(name, root), root)[1]


def verify(name: str, root: Path | None = None) -> Status:
    """Hashes a data set again. Raises DataError in one line if it is absent or damaged."""
    root = Path(root or data_root())
    status = _status(_found(name, root), root, whole=True)
    if status.problem:
        raise DataError(status.problem)
    return status


def status(root: Path | None = None) -> list[Status]:
    """The state of each registered data set and of each folder that is prepared.

    Hashed again, but for mapped ones, whose labels alone are.
    """
    root = Path(root or data_root())
    own = (path.parent.name.replace("-", ":", 1) for path in sorted(root.glob(f"folder-*/{META}")))
    return [_status(_found(name, root), root, whole=False) for name in [*DATASETS, *filter(folder.is_known, own)]]


def digest(arrays: Arrays) -> str:
    """SHA-256 of shape, type, class names, labels and images, in hexadecimal."""
    header = [list(arrays.images.shape), str(arrays.images.dtype), digest_labels(arrays.labels, arrays.classes)]
    sha = hashlib.sha256(json.dumps(header).encode())
    sha.update(np.ascontiguousarray(arrays.images))
    return sha.hexdigest()


def digest_labels(labels: np.ndarray, classes: list[str]) -> str:
    """SHA-256 of class names and labels, in hexadecimal."""
    sha = hashlib.sha256(json.dumps(classes).encode())
    sha.update(labels.astype("<i8"))
    return sha.hexdigest()


def _found(name: str, root: Path) -> Dataset:
    """The registry's entry; of a view that has arrays of its own here, as such."""
    dataset = find(name, root)
    return dataset.alone() if dataset.view_of and (root / name / META).exists() else dataset


def _build(dataset: Dataset, source: Path, work: Path, progress: Progress, follow_links: bool) -> Path:
    """The arrays of a data set in a new folder in `work`, from raw files in `source`."""
    folder = work / "built"
    folder.mkdir()
    raw = extracted(source, dataset, work / "raw", progress)
    try:
        arrays = dataset.build(raw, progress, partial(_allocate, folder / IMAGES), dataset, follow_links)
        require_distinct(dataset, arrays)
    except DataError as error:  # which names files as they are called in their folder
        raise type(error)(f"{dataset.name}, {source}: {error}") from error
    np.save(folder / LABELS, arrays.labels)
    if arrays.order is not None:
        np.save(folder / ORDER, arrays.order.astype(np.int64))
    meta = {
        "name": dataset.name,
        "hash": digest(arrays),
        "labels_hash": digest_labels(arrays.labels, arrays.classes),
        "splits": _ranges(arrays.splits or dataset.splits),
        "classes": arrays.classes,
        **({"notes": arrays.notes} if arrays.notes else {}),
    }
    (folder / META).write_text(json.dumps(meta, indent=1) + "\n")
    return folder


def _allocate(file: Path, shape: tuple[int, ...], kind: type[np.generic]) -> np.memmap:
    """A new array that is mapped to a file, in place of one that there may be, whose array stays."""
    file.unlink(missing_ok=True)
    images = np.lib.format.open_memmap(file, "w+", kind, shape)
    if hasattr(os, "posix_fallocate"):
        # Where a disk becomes full, writing to a mapped file with holes ends the process; this raises OSError before.
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
    return images


def _read(dataset: Dataset, root: Path, whole: bool = False) -> tuple[Arrays, str]:
    """The arrays of a data set and their hash.

    The labels are checked against their hash, and the images against theirs where they are read into memory. Mapped
    images are 1 to 4 GB, too much to hash at each load: of these only size, shape and type are checked, unless they
    are to be hashed as a `whole`. Raises DataError in one line if the data set is not prepared or is damaged.
    """
    if dataset.generated:
        arrays = dataset.build()
        return arrays, digest(arrays)
    if dataset.view_of:
        arrays = dataset.build(_read(find(dataset.view_of), root, whole)[0])
        return arrays, digest(arrays)
    folder, meta = root / dataset.stored_as, _read_meta(dataset, root)
    classes, hashed, labels_hash = (meta[key] for key in NOTED)
    with _intact(dataset, folder / LABELS):
        labels = np.array(_mapped(folder / LABELS, (dataset.size,), np.int64))
        if digest_labels(labels, classes) != labels_hash:
            raise ValueError("their hash is not the one noted when it was prepared")
    with _intact(dataset, folder / IMAGES):
        images = _mapped(folder / IMAGES, (dataset.size, *dataset.shape), np.uint8)
        arrays = Arrays(images if dataset.mapped else np.array(images), labels, classes)
        if (whole or not dataset.mapped) and digest(arrays) != hashed:
            raise ValueError("its hash is not the one noted when it was prepared")
    return arrays, hashed


def _read_meta(dataset: Dataset, root: Path) -> dict[str, Any]:
    """NOTED, of a data set that was prepared. Raises DataError in one line."""
    folder = root / dataset.stored_as
    if not (folder / META).exists() and not (folder / IMAGES).exists():
        command = f"run `msmeta data prepare {dataset.given or dataset.name}`"
        command += "" if dataset.given else ", with `--from DIR` if you have its raw files"
        raise DataError(f"{dataset.title} is not prepared in {root}: {command}")
    with _intact(dataset, folder / META):
        meta = json.loads((folder / META).read_text())
        if meta["splits"] != _ranges(dataset.splits):
            raise ValueError("its splits are not those of this version")
        return {key: meta[key] for key in NOTED}


def _mapped(file: Path, shape: tuple[int, ...], kind: type[np.generic]) -> np.ndarray:
    """An array file, mapped. Raises ValueError, OSError or EOFError if it is not that."""
    # Mapped even if it is to be read: the shape in a damaged header is then held against the size of the file, not
    # allocated. Copy-on-write rather than read-only, since torch warns of arrays that cannot be written.
    mapped = np.lib.format.open_memmap(file, "c")
    if mapped.shape != shape or mapped.dtype != kind:
        raise ValueError(f"it holds {mapped.dtype} {mapped.shape} instead of {np.dtype(kind)} {shape}")
    return mapped


@contextmanager
def _intact(dataset: Dataset, file: Path) -> Iterator[None]:
    """Turns what a damaged file raises into a DataError in one line."""
    try:
        if file.exists() and not file.is_file():
            raise ValueError("it is a device or a folder, not a file")
        yield
    except (OSError, EOFError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{file} is damaged, or of another version ({reason(error)}): "
            f"run `msmeta data prepare {dataset.given or dataset.name}` to build it again"
        ) from error


def _status(dataset: Dataset, root: Path, whole: bool) -> Status:
    folder = root / (dataset.view_of or dataset.stored_as)
    files = [folder / name for name in (IMAGES, LABELS, META) if not dataset.generated and (folder / name).is_file()]
    state, hashed, problem = "generated" if dataset.generated else "prepared", None, None
    try:
        hashed = _read(dataset, root, whole)[1]
    except DataError as error:
        state, problem = "damaged" if files else "absent", str(error)
    return Status(dataset, state, sum(file.stat().st_size for file in files), hashed, problem)


def _ranges(splits: Mapping[str, range]) -> dict[str, list[int]]:
    return {split: [part.start, part.stop] for split, part in splits.items()}
