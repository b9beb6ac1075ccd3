"""Raw files: bounded downloads, and reading of archives and folders that are not trusted."""

import os
import queue
import socket
import stat
import threading
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPException
from pathlib import Path, PurePosixPath

from msmeta.data.dataset import Progress, RawFile
from msmeta.errors import DataError

REACH_SECONDS = 5.0
"""Name resolution, connection and the first answer of a host, all together."""
STALL_SECONDS = 15.0
"""The longest silence in a transfer that has begun."""

ReadFile = Callable[[str], bytes]


def download(name: str, files: tuple[RawFile, ...], folder: Path, progress: Progress) -> None:
    """Downloads `files` into `folder` with torchvision, which checks each MD5.

    Raises DataError in one line that names the URL and the way out: within REACH_SECONDS if the host cannot be
    reached, after STALL_SECONDS of silence if a transfer stalls, and if the file is not the published one.
    """
    from torchvision.datasets.utils import download_url

    for done, file in enumerate(files):
        progress(f"download {file.name}", done, len(files))
        try:
            _reach(file.url)
            with _socket_timeout(STALL_SECONDS):
                download_url(file.url, folder, file.name, file.md5)
        except (OSError, RuntimeError, HTTPException, ValueError) as error:
            raise DataError(
                f"{name}: could not download {file.url} ({_reason(error)}); "
                f"get its raw files elsewhere and run `msmeta data prepare {name} --from DIR`"
            ) from error
    progress("download", len(files), len(files))


def _reach(url: str) -> None:
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
def _socket_timeout(seconds: float) -> Iterator[None]:
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


@contextmanager
def open_tree(folder: Path, stem: str, max_files: int, max_bytes: int) -> Iterator[tuple[list[str], ReadFile]]:
    """Opens `folder/stem.zip`, else the extracted `folder/stem/`, without extracting anything.

    Yields the sorted names of its files (`stem/...`) and a function that reads one of them. Raises DataError in one
    line if neither is there, if the archive is damaged, or if a member is a link or a device, points out of the tree,
    or is larger than `max_bytes`; the function, if what it reads is damaged.
    """
    archive, extracted = folder / f"{stem}.zip", folder / stem
    if archive.is_file():
        with ExitStack() as stack:
            with _readable(archive):
                file = stack.enter_context(zipfile.ZipFile(archive))
                infos = _members(archive, file, max_files, max_bytes)

            def read(name: str) -> bytes:
                with _readable(f"{archive}, member {name}"):
                    return file.read(infos[name])

            yield sorted(name for name in infos if name.startswith(f"{stem}/")), read
    elif extracted.is_dir():
        with _readable(extracted):
            paths = _files(folder, extracted, max_files, max_bytes)

        def read(name: str) -> bytes:
            with _readable(paths[name]):
                return paths[name].read_bytes()

        yield sorted(paths), read
    else:
        raise DataError(f"{folder} holds neither {archive.name} nor a folder {stem}/")


@contextmanager
def _readable(what: object) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"cannot read {what}: {_reason(error)}") from error


def _members(archive: Path, file: zipfile.ZipFile, max_files: int, max_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """The regular files of an archive by name, each member checked."""
    infos = file.infolist()
    if len(infos) > max_files:
        raise DataError(f"{archive} holds {len(infos):,} members, more than the {max_files:,} allowed")
    for info in infos:
        path = PurePosixPath(info.filename)
        kind = stat.S_IFMT(info.external_attr >> 16)
        if path.is_absolute() or ".." in path.parts or "\\" in info.filename:
            raise DataError(f"{archive}: member {info.filename!r} points out of the archive's folder")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise DataError(f"{archive}: member {info.filename!r} is a link or a device, not a file")
        if info.file_size > max_bytes:
            raise DataError(f"{archive}: member {info.filename!r} has more than the {max_bytes:,} bytes allowed")
    return {info.filename: info for info in infos if not info.is_dir()}


def _files(folder: Path, extracted: Path, max_files: int, max_bytes: int) -> dict[str, Path]:
    """The regular files below `extracted` by their name relative to `folder`, links not followed but refused."""
    files: dict[str, Path] = {}
    waiting = [extracted]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                elif not entry.is_file(follow_symlinks=False):
                    raise DataError(f"{entry.path} is a link or a device, not a file")
                elif entry.stat(follow_symlinks=False).st_size > max_bytes:
                    raise DataError(f"{entry.path} has more than the {max_bytes:,} bytes allowed")
                else:
                    files[Path(entry.path).relative_to(folder).as_posix()] = Path(entry.path)
        if len(files) > max_files:
            raise DataError(f"{extracted} holds more than the {max_files:,} files allowed")
    return files
