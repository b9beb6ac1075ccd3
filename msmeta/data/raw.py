"""Raw files, which are not trusted: bounded downloads, archives extracted once, and images."""

import csv
import errno
import io
import os
import re
import socket
import stat
import struct
import tarfile
import threading
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

from msmeta.data.dataset import Allocate, Dataset, Progress, RawFile
from msmeta.errors import DataError

REACH_SECONDS = 5.0
"""Name resolution, connection and the first answer of a host, all together."""
STALL_SECONDS = 15.0
"""The longest silence in a transfer that has begun."""

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
MAX_FILES = 200_000
"""Members of an archive, or files that are read below a folder."""
MAX_BYTES = 2**28
"""Of a file."""
MAX_ARCHIVE_BYTES = 2**33
"""Of all files together that are extracted from an archive."""
MAX_PIXELS = 2**26
"""Of an image before it is resized: four bytes each are held while it is decoded."""
FORMATS = ("PNG", "JPEG", "WebP")
DECODERS = min(4, os.cpu_count() or 1)

DAMAGE = csv.Error, tarfile.TarError, zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, ValueError
"""What the standard library raises for damaged content."""
Decode = Callable[[bytes, str], np.ndarray]


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
                f"{name}: could not download {file.url} ({reason(error)}); "
                f"get its raw files elsewhere and run `msmeta data prepare {name} --from DIR`"
            ) from error
    progress("download", len(files), len(files))


def reach(url: str) -> None:
    """Asks for the head of `url`; raises OSError with the reason unless it is given within REACH_SECONDS.

    A socket timeout bounds neither name resolution nor a host with several addresses, so the question is asked in a
    thread that can be left behind.
    """
    failures: list[str] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=REACH_SECONDS).close()
        except (OSError, HTTPException, ValueError) as error:
            failures.append(reason(error))

    asking = threading.Thread(target=ask, name="reach", daemon=True)
    asking.start()
    asking.join(REACH_SECONDS)
    if asking.is_alive():
        raise OSError(f"no answer within {REACH_SECONDS:g} s")
    if failures:
        raise OSError(failures[0])


@contextmanager
def socket_timeout(seconds: float) -> Iterator[None]:
    """torchvision's download takes no timeout of its own, so the process-wide default is set while it runs."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def reason(error: BaseException) -> str:
    """What an error says, in one line for a reader."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, KeyError):
        return f"there is no {text}"
    return text.removeprefix("<urlopen error ").removesuffix(">")


@contextmanager
def readable(what: object) -> Iterator[None]:
    """Turns what reading damaged or unexpected content raises into a DataError in one line that names `what`."""
    try:
        yield
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # it is not this file that is at fault
        raise DataError(f"cannot read {what}: {reason(error)}") from error


def extracted(folder: Path, stems: Sequence[str], wanted: str, into: Path, progress: Progress) -> Path:
    """A folder with all that `folder` holds, its archives of these names extracted: itself where there is none.

    An archive `stem.zip` (.tar, .tar.gz, .tgz) becomes the folder `into/stem`, in place of a folder of this name; to
    everything else there is a link. Raises DataError as `extract` does.
    """
    archives = {}
    for stem in stems:
        if present := [path for suffix in SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()]:
            archives[stem] = present[0]
    if not archives:
        return folder
    into.mkdir()
    for done, (stem, archive) in enumerate(archives.items()):
        progress(f"extract {archive.name}", done, len(archives))
        extract(archive, into / stem, wanted)
    for path in folder.iterdir():
        if path.name not in archives and path not in archives.values():
            (into / path.name).symlink_to(path.absolute())
    return into


def extract(archive: Path, into: Path, wanted: str = ".*") -> None:
    """Extracts the files of a zip or tar archive whose names match `wanted`, however large the others are.

    Raises DataError in one line if the archive is damaged or a member is a link or a device, points out of the
    archive's folder, or is larger than MAX_BYTES, if there are more than MAX_FILES, or if all are larger than
    MAX_ARCHIVE_BYTES.
    """
    admits = _admission(archive, re.compile(wanted))
    into.mkdir(parents=True)
    with readable(archive):
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as file:
                plain = (0, stat.S_IFREG, stat.S_IFDIR)
                members = [
                    info
                    for info in file.infolist()
                    if admits(info.filename, stat.S_IFMT(info.external_attr >> 16) in plain, info.file_size)
                ]
                file.extractall(into, members)
        else:
            with tarfile.open(archive, "r:" if archive.suffix == ".tar" else "r:gz") as file:

                def keep(info: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
                    admitted = admits(info.name, info.isreg() or info.isdir(), info.size)
                    return tarfile.data_filter(info, path) if admitted else None

                file.extractall(into, filter=keep)
                # Where a header is damaged, tarfile stops as if at the end; and a checksum stands only at the very end.
                if file.fileobj.read(2**20).strip(b"\0"):
                    raise tarfile.ReadError("a header is damaged, or something follows the end")


def _admission(archive: Path, wanted: re.Pattern[str]) -> Callable[[str, bool, int], bool]:
    """A function of each member's name, whether it is a plain file or folder, and size: whether it is extracted."""
    count = total = 0

    def admits(name: str, plain: bool, size: int) -> bool:
        nonlocal count, total
        count += 1
        path = PurePosixPath(name)
        if count > MAX_FILES:
            raise DataError(f"{archive} holds more than the {MAX_FILES:,} members allowed")
        if path.is_absolute() or ".." in path.parts or "\\" in name:
            raise DataError(f"{archive}: member {name!r} points out of the archive's folder")
        if not plain:
            raise DataError(f"{archive}: member {name!r} is a link or a device, not a file")
        if not wanted.fullmatch(path.as_posix()):
            return False
        if size > MAX_BYTES:
            raise DataError(f"{archive}: member {name!r} has more than the {MAX_BYTES:,} bytes allowed")
        total += size
        if total > MAX_ARCHIVE_BYTES:
            raise DataError(f"{archive} holds more than the {MAX_ARCHIVE_BYTES:,} bytes allowed")
        return True

    return admits


def open_image(data: bytes, name: str, formats: Sequence[str] = FORMATS, mode: str = "RGB") -> Image.Image:
    """An image in one of the formats, loaded, as RGB or grey ("L") of 8 bits.

    Raises DataError in one line that names it if it is damaged.
    """
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width}x{image.height} pixels are too many")
            if image.mode[0] in "IF":  # of which Pillow would take what exceeds 255 for white
                values = np.asarray(image)
                if image.mode == "F" or values.min() < 0 or values.max() > 65535:
                    raise ValueError("its pixels are not of 8 or 16 bits")
                image = Image.fromarray(np.round(values / 257).astype(np.uint8))
            return image.convert(mode)
    except (OSError, EOFError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        known = " or ".join(filter(None, (", ".join(formats[:-1]), formats[-1])))
        why = "it has none of these formats" if data else "it is empty"
        why = why if isinstance(error, UnidentifiedImageError) else reason(error)
        raise DataError(f"{name} is not a readable {known} image: {why}") from error


def resized(image: Image.Image, side: int) -> np.ndarray:
    """An RGB image as uint8 (3, side, side), without cropping: Pillow's bilinear filter, which is antialiased."""
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


def decode_all(
    dataset: Dataset,
    folder: Path,
    names: Sequence[str],
    decode: Decode,
    progress: Progress,
    allocate: Allocate,
    unreadable: dict[str, str] | None = None,
) -> np.ndarray:
    """`decode(content, name)` of each of these files in `folder`, several at a time: uint8 (N, *dataset.shape)

    unreadable: takes the reason of each file that cannot be read; else the first one's is raised, as a DataError.
    """
    images, what = allocate((len(names), *dataset.shape), np.uint8), f"read {dataset.title}"

    def fill(place: int) -> None:
        try:
            with readable(names[place]):
                content = (folder / names[place]).read_bytes()
            images[place] = decode(content, names[place])
        except DataError as error:
            if unreadable is None:
                raise
            unreadable[names[place]] = str(error)

    pool = ThreadPoolExecutor(DECODERS)
    try:
        for done, _ in enumerate(pool.map(fill, range(len(names)))):
            progress(what, done, len(names))
        progress(what, len(names), len(names))
        return images
    finally:
        pool.shutdown(cancel_futures=True)
