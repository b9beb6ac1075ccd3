"""Raw files: bounded downloads, and reading of archives and folders that are not trusted."""

import csv
import io
import os
import pickle
import queue
import socket
import stat
import struct
import tarfile
import threading
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np
from PIL import Image

from msmeta.data.dataset import Progress, RawFile
from msmeta.errors import DataError

REACH_SECONDS = 5.0
"""Name resolution, connection and the first answer of a host, all together."""
STALL_SECONDS = 15.0
"""The longest silence in a transfer that has begun."""

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
MAX_TAR_BYTES = 2**31
"""Of all files of one tar archive together, which are held in memory."""
MAX_PIXELS = 2**26
"""Of an image before it is resized: four bytes each are held while it is decoded."""
FORMATS = ("PNG", "JPEG", "WebP")
DECODERS = min(4, os.cpu_count() or 1)

READ_ERRORS = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    csv.Error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What the standard library raises for damaged content."""

ReadFile = Callable[[str], bytes]
Keep = Callable[[str], bool]


def download(name: str, files: tuple[RawFile, ...], folder: Path, progress: Progress) -> None:
    """Downloads `files` into `folder` with torchvision, which checks each MD5.

    Raises DataError in one line that names the URL and the way out: within REACH_SECONDS if the host cannot be
    reached, after STALL_SECONDS of silence if a transfer stalls, and if the file is not the published one.
    """
    from torchvision.datasets.utils import download_url

    for done, file in enumerate(files):
        progress(f"download {file.name}", done, len(files))
        try:
            reach(file.url)
            with socket_timeout(STALL_SECONDS):
                download_url(file.url, folder, file.name, file.md5)
        except (OSError, RuntimeError, HTTPException, ValueError) as error:
            raise DataError(
                f"{name}: could not download {file.url} ({_reason(error)}); "
                f"get its raw files elsewhere and run `msmeta data prepare {name} --from DIR`"
            ) from error
    progress("download", len(files), len(files))


def reach(url: str) -> None:
    """Asks for the head of `url`; raises OSError with the reason unless it is given within REACH_SECONDS.

    A socket timeout bounds neither name resolution nor a host with several addresses, so the question is asked in a
    thread that can be left behind.
    """
    answer: queue.SimpleQueue[str] = queue.SimpleQueue()

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=REACH_SECONDS):
                answer.put("")
        except (OSError, HTTPException, ValueError) as error:
            answer.put(_reason(error))

    threading.Thread(target=ask, name="reach", daemon=True).start()
    try:
        reason = answer.get(timeout=REACH_SECONDS)
    except queue.Empty:
        reason = f"no answer within {REACH_SECONDS:g} s"
    if reason:
        raise OSError(reason)


@contextmanager
def socket_timeout(seconds: float) -> Iterator[None]:
    """torchvision's download takes no timeout of its own, so the process-wide default is set while it runs."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.removeprefix("<urlopen error ").removesuffix(">")


def find_tree(folder: Path, stem: str) -> Path | None:
    """The archive `folder/stem.zip` (.tar, .tar.gz, .tgz), else the extracted `folder/stem/`, else None."""
    for suffix in SUFFIXES:
        if (archive := folder / f"{stem}{suffix}").is_file():
            return archive
    return folder / stem if (folder / stem).is_dir() else None


@contextmanager
def open_tree(folder: Path, stem: str, max_files: int, max_bytes: int) -> Iterator[tuple[list[str], ReadFile]]:
    """Opens what `find_tree` finds as `open_path` does, and yields only names `stem/...`.

    Raises DataError in one line as `open_path` does, and if there is no such tree.
    """
    tree = find_tree(folder, stem)
    if tree is None:
        raise DataError(f"{folder} holds neither {stem}.zip ({', '.join(SUFFIXES[1:])}) nor a folder {stem}/")
    with open_path(tree, max_files, max_bytes) as (names, read):
        yield [name for name in names if name.startswith(f"{stem}/")], read


@contextmanager
def open_path(
    tree: Path, max_files: int, max_bytes: int, keep: Keep = lambda name: True
) -> Iterator[tuple[list[str], ReadFile]]:
    """Opens an archive or a folder without extracting anything.

    Yields the sorted names of its files (below a folder, with the name of that folder first) and a function that reads
    one of them, in any thread. A tar archive cannot be read out of order, so its files are held in memory. Files whose
    names are not to `keep` are left out, however large. Raises DataError in one line if an archive is damaged, or if a
    member is a link or a device, points out of the tree, or is larger than `max_bytes`; the function, if what it reads
    is damaged.
    """
    with ExitStack() as stack:
        if tree.is_dir():
            with readable(tree):
                paths = _files(tree.resolve().parent, tree.resolve(), max_files, max_bytes, keep)
            names: Iterable[str] = paths

            def read(name: str) -> bytes:
                with readable(paths[name]):
                    return paths[name].read_bytes()

        elif tree.suffix == ".zip":
            with readable(tree):
                file = stack.enter_context(zipfile.ZipFile(tree))
                names = infos = _members(tree, file, max_files, max_bytes, keep)

            def read(name: str) -> bytes:
                with readable(f"{tree}, member {name}"):
                    return file.read(infos[name])

        else:
            with readable(tree):
                names = contents = _tar_contents(tree, max_files, max_bytes, keep)
            read = contents.__getitem__
        yield sorted(names), read


@contextmanager
def readable(what: object) -> Iterator[None]:
    """Turns what reading damaged or unexpected content raises into a DataError in one line that names `what`."""
    try:
        yield
    except READ_ERRORS as error:
        raise DataError(f"cannot read {what}: {_reason(error)}") from error


def open_rgb(data: bytes, name: str, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """An image in one of the formats, loaded, as RGB. Raises DataError in one line that names it if it is damaged."""
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width}x{image.height} pixels are too many")
            return image.convert("RGB")
    except (OSError, EOFError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        known = f"{', '.join(formats[:-1])} or {formats[-1]}"
        raise DataError(f"{name} is not a readable {known} image: {_reason(error)}") from error


def decode_all(
    files: list[list[str]], decode: Callable[[str], np.ndarray], images: np.ndarray, what: str, progress: Progress
) -> None:
    """Fills `images` (classes, samples, ...) with `decode` of the `files` of each class, a class a thread at a time."""

    def fill(label: int) -> None:
        for sample, file in enumerate(files[label]):
            images[label, sample] = decode(file)

    pool = ThreadPoolExecutor(DECODERS)
    try:
        for done, _ in enumerate(pool.map(fill, range(len(files)))):
            progress(what, done, len(files))
        progress(what, len(files), len(files))
    finally:
        pool.shutdown(cancel_futures=True)


class PickledArray:
    """What `load_pickle` gives for a NumPy array: the integers are in `values`."""

    values = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, fortran, data = state
        self.values = np.frombuffer(data, kind.dtype).reshape(shape, order="F" if fortran else "C")


class _PickledType:
    """Stands for numpy.dtype: little-endian integers only."""

    def __init__(self, code: str | bytes, *_: object):
        self.dtype = {"u1": np.dtype("u1"), "i4": np.dtype("<i4"), "i8": np.dtype("<i8")}[as_text(code)]

    def __setstate__(self, state: tuple) -> None:
        if as_text(state[1]) not in "<|":
            raise ValueError("an array is not little-endian")


def _from_buffer(data: bytes, kind: _PickledType, shape: tuple[int, ...], order: str) -> PickledArray:
    """Stands for numpy's function of pickle protocol 5."""
    array = PickledArray()
    array.__setstate__((1, shape, kind, as_text(order) == "F", data))
    return array


STAND_INS: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy", "ndarray"): PickledArray,
    ("numpy", "dtype"): _PickledType,
    # Protocols before 3 have no bytes and write them as encoded text.
    ("_codecs", "encode"): lambda text, encoding: text.encode("latin1"),
}
for _core in ("numpy.core", "numpy._core"):
    STAND_INS[f"{_core}.multiarray", "_reconstruct"] = lambda *_: PickledArray()
    STAND_INS[f"{_core}.numeric", "_frombuffer"] = _from_buffer


class _Unpickler(pickle.Unpickler):
    """Knows stand-ins for what a NumPy array of integers needs, and no real function or class at all."""

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        if (module, name) not in STAND_INS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which data have no need of")
        return STAND_INS[module, name]


def load_pickle(file: BinaryIO, name: str) -> dict[str, object]:
    """The dictionary of plain values and integer arrays (PickledArray) in a pickle, which can execute nothing.

    Texts of pickles from Python 2 come as bytes, but for the keys: see `as_text`. Raises DataError in one line.
    """
    try:
        content = _Unpickler(file, encoding="bytes").load()
        return {as_text(key): value for key, value in content.items()}
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DataError(f"cannot read {name}: {_reason(error)}") from error


def as_text(value: str | bytes) -> str:
    """A text that a pickle holds as text or, written by Python 2, as bytes."""
    if not isinstance(value, str | bytes):
        raise ValueError(f"it has a {type(value).__name__} where a text belongs")
    return value if isinstance(value, str) else value.decode()


def _members(
    archive: Path, file: zipfile.ZipFile, max_files: int, max_bytes: int, keep: Keep
) -> dict[str, zipfile.ZipInfo]:
    """The regular files to keep of a zip archive by name, each member checked."""
    infos = file.infolist()
    if len(infos) > max_files:
        raise DataError(f"{archive} holds {len(infos):,} members, more than the {max_files:,} allowed")
    for info in infos:
        plain = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR)
        _check_member(archive, info.filename, plain, info.file_size if keep(info.filename) else 0, max_bytes)
    return {info.filename: info for info in infos if keep(info.filename) and not info.is_dir()}


def _tar_contents(archive: Path, max_files: int, max_bytes: int, keep: Keep) -> dict[str, bytes]:
    """The regular files to keep of a tar archive by name, each member checked before it is read, in one pass."""
    contents: dict[str, bytes] = {}
    total = 0
    with tarfile.open(archive, "r:" if archive.suffix == ".tar" else "r:gz") as file:
        for count, info in enumerate(file, 1):
            if count > max_files:
                raise DataError(f"{archive} holds more than the {max_files:,} members allowed")
            name = PurePosixPath(info.name).as_posix()
            size = info.size if keep(name) else 0
            _check_member(archive, info.name, info.isreg() or info.isdir(), size, max_bytes)
            total += size
            if total > MAX_TAR_BYTES:
                raise DataError(f"{archive} holds more than {MAX_TAR_BYTES:,} bytes: extract it and give the folder")
            if info.isreg() and keep(name):
                contents[name] = file.extractfile(info).read()
        # Where a header is damaged, tarfile stops as if at the end; and a checksum stands only at the very end.
        if file.fileobj.read(2**20).strip(b"\0"):
            raise tarfile.ReadError("a header is damaged, or something follows the end")
    return contents


def _check_member(archive: Path, name: str, plain: bool, size: int, max_bytes: int) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise DataError(f"{archive}: member {name!r} points out of the archive's folder")
    if not plain:
        raise DataError(f"{archive}: member {name!r} is a link or a device, not a file")
    if size > max_bytes:
        raise DataError(f"{archive}: member {name!r} has more than the {max_bytes:,} bytes allowed")


def _files(folder: Path, extracted: Path, max_files: int, max_bytes: int, keep: Keep) -> dict[str, Path]:
    """The regular files to keep below `extracted` by name relative to `folder`, links not followed but refused."""
    files: dict[str, Path] = {}
    waiting = [extracted]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                name = Path(entry.path).relative_to(folder).as_posix()
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                elif not keep(name):
                    continue
                elif not entry.is_file(follow_symlinks=False):
                    raise DataError(f"{entry.path} is a link or a device, not a file")
                elif entry.stat(follow_symlinks=False).st_size > max_bytes:
                    raise DataError(f"{entry.path} has more than the {max_bytes:,} bytes allowed")
                else:
                    files[name] = Path(entry.path)
        if len(files) > max_files:
            raise DataError(f"{extracted} holds more than the {max_files:,} files allowed")
    return files
