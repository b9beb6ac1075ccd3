"""Raw files, which are not trusted: bounded downloads, and archives extracted once."""

import csv
import errno
import os
import re
import socket
import stat
import struct
import tarfile
import threading
import unicodedata
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NoReturn

from msmeta.data.archives import Member, tarred, zipped
from msmeta.data.dataset import Dataset, Limits, Progress, RawFile
from msmeta.errors import DataError, brief

REACH_SECONDS = 5.0
"""Name resolution, connection and the first answer of a host, all together."""
STALL_SECONDS = 15.0
"""The longest silence in a transfer that has begun."""

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
ANY = Limits()
MAX_FILES = 200_000
"""Files that are read below a folder."""
MAX_BYTES = 2**28
"""Of a file."""
MAX_NAME = 4096
"""Characters of a member's name."""

DAMAGE = (
    csv.Error, tarfile.TarError, zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, RuntimeError,
    ValueError, OverflowError, MemoryError,
)  # fmt: skip
"""What the standard library raises for damaged content."""


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
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise  # it is not this file that is at fault
        raise DataError(f"cannot read {what}: {reason(error)}") from error


@contextmanager
def opened(path: Path, most: int) -> Iterator[tuple[BinaryIO, int]]:
    """A file, open for reading, and its size. Raises ValueError if it has more bytes than `most`, or is no file.

    Devices and FIFOs, which may never begin or end, are not opened, nor waited for where one takes a file's place.
    """
    if not path.is_file():
        raise ValueError("it is not there" if not path.exists() else "it is a device or a folder, not a file")
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode):
            raise ValueError("it is a device, not a file")
        if state.st_size > most:
            raise ValueError(f"it has more than the {most:,} bytes allowed")
        yield file, state.st_size


def extracted(folder: Path, dataset: Dataset, into: Path, progress: Progress) -> Path:
    """A folder with all that `folder` holds, the archives of a data set extracted: itself where there is none.

    An archive `stem.zip` (.tar, .tar.gz, .tgz) becomes the folder `into/stem`, in place of a folder of this name; to
    everything else there is a link. Raises DataError as `extract` does.
    """
    archives = {}
    for stem in dataset.archives:
        if present := [path for suffix in SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()]:
            archives[stem] = present[0]
    if not archives:
        return folder
    into.mkdir()
    for done, (stem, archive) in enumerate(archives.items()):
        progress(f"extract {archive.name}", done, len(archives))
        extract(archive, into / stem, dataset.wanted, dataset.limits)
    for path in folder.iterdir():
        if path.name not in archives and path not in archives.values():
            (into / path.name).symlink_to(path.absolute())
    return into


def extract(archive: Path, into: Path, wanted: str = ".*", limits: Limits = ANY) -> None:
    """Extracts the files of a zip or tar archive whose names match `wanted`.

    Raises DataError in one line if the archive is damaged, if it is larger than `limits`, or if a member is a link or a
    device, points out of the archive's folder, is there twice, or has a name that cannot be shown.
    """
    admits = _admission(archive, re.compile(wanted), limits)
    into.mkdir(parents=True)
    with readable(archive), opened(archive, limits.archive) as (file, _):
        is_zip = archive.suffix == ".zip"
        for member in zipped(file, limits) if is_zip else tarred(file, limits, archive.suffix != ".tar"):
            if admits(member):
                target = into / PurePosixPath(member.name)
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as written:
                    written.writelines(member.pieces())
                if target.stat().st_size != member.size:
                    raise EOFError(f"member {member.name!r} ends too early")


def _admission(archive: Path, wanted: re.Pattern[str], limits: Limits) -> Callable[[Member], bool]:
    """Whether a member is extracted, asked of each in turn."""
    seen: set[PurePosixPath] = set()
    count = total = 0

    def refuse(member: Member, why: str) -> NoReturn:
        raise DataError(f"{archive}: member {brief(member.name)} {why}")

    def admits(member: Member) -> bool:
        nonlocal count, total
        count, total, path = count + 1, total + member.size, PurePosixPath(member.name)
        if count > limits.members:
            raise DataError(f"{archive} holds more than the {limits.members:,} members allowed")
        if total > limits.archive:
            raise DataError(f"{archive} holds more than the {limits.archive:,} bytes allowed")
        if path.is_absolute() or ".." in path.parts or "\\" in member.name:
            refuse(member, "points out of the archive's folder")
        if len(member.name) > MAX_NAME or not showable(member.name):
            refuse(member, "has a name that is too long, or with characters for control")
        if not member.plain:
            refuse(member, "is a link or a device, not a file")
        if member.folder or not wanted.fullmatch(path.as_posix()):
            return False
        if member.size > limits.member:
            refuse(member, f"has more than the {limits.member:,} bytes allowed")
        if path in seen:
            refuse(member, "is there twice")
        seen.add(path)
        return True

    return admits


def showable(name: str) -> bool:
    """Whether a name can be shown: with a character for control, a terminal may do what it asks for."""
    return all(unicodedata.category(character) != "Cc" for character in name)
