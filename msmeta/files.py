"""Files and folders that appear whole or not at all, and what killed processes leave of them."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import re
import resource
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from msmeta.errors import UserError, WriteError


def write(path: Path, content: bytes, error: type[UserError] = WriteError) -> None:
    """Writes a file whole or not at all, and onto the disk. Raises `error` as `write_errors`."""
    with replacing(path, len(content), error) as temporary:
        put(temporary, content)


def put(path: Path, content: bytes) -> None:
    """Writes a file, onto the disk. Raises OSError."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # where some file systems first say that they are full


@contextmanager
def replacing(path: Path, size: int | None = None, error: type[UserError] = WriteError) -> Iterator[Path]:
    """A temporary name beside `path` that takes its place if the block ends well and vanishes if it does not.

    Such files of killed processes are removed. size: bytes that it is to have, if known. Raises `error` as
    `write_errors`.
    """
    with write_errors(path, size, error):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        temporary = _temporary(path)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def write_errors(path: Path, size: int | None = None, error: type[UserError] = WriteError) -> Iterator[None]:
    """Turns an OSError within the block into `error`: one line with the path, the reason, and what room there is."""
    try:
        yield
    except OSError as failure:
        raise error(f"cannot write {path}: {reason(failure, path, size)}") from failure


def reason(failure: OSError, path: Path, size: int | None = None) -> str:
    """Why a path cannot be written, in words. size: bytes that were to be written, if known."""
    room = [] if size is None else [f"{size:,} bytes needed"]
    with suppress(OSError):
        room.append(f"{shutil.disk_usage(_existing(path)).free:,} free")
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if failure.errno == errno.EFBIG and limit != resource.RLIM_INFINITY:
        room.append(f"{limit:,} allowed (ulimit -f)")
    return f"{failure.strerror or failure}" + (f" ({', '.join(room)})" if room else "")


def require_room(path: Path, size: int, count: int = 1) -> None:
    """Raises WriteError where a file of `size` bytes could not be written there, or not `count` of them.

    Makes no folder: where there is none yet, the one above is looked at.
    """
    with write_errors(path, size * count):
        folder = _existing(path)
        if shutil.disk_usage(folder).free < size * count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        remove_leftovers(folder / path.name)
        temporary = _temporary(folder / path.name)
        try:
            with temporary.open("wb") as file:
                if hasattr(os, "posix_fallocate"):  # which asks the disk, its quota and the limits of this process
                    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)  # of one file
                    most = size * count if limit == resource.RLIM_INFINITY else min(size * count, limit)
                    os.posix_fallocate(file.fileno(), 0, max(size, most))
        finally:
            temporary.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Removes the temporary files of processes that were killed while they wrote `path`."""
    for found in path.parent.glob(f".{glob.escape(path.name)}.*"):
        number = found.name.rpartition(".")[2]
        if re.fullmatch("[0-9]+", number) and not _alive(int(number)):
            with suppress(OSError):
                found.unlink()


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Keeps a file that says, while this process lives, that it is at work. what: it is, for the error.

    Raises UserError where another process has it. The system drops a lock with its process, however that ends.
    """
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _lock_file(path, what)
    with file:
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink(missing_ok=True)
            fcntl.flock(file, fcntl.LOCK_UN)  # forked children hold it as well


@contextmanager
def working_folder(name: str, parent: Path) -> Iterator[Path]:
    """A new folder `.NAME-xxxxxxxx` in `parent`, which goes with the block; those of killed processes go before.

    A folder is locked for as long as its process lives: the system drops a lock with its process, however that ends.
    Raises OSError.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as kept:
        remove_folders(name, parent)
        with _locked(parent, wait=True):  # so that it is not taken for a leftover before it is locked
            work = tempfile.TemporaryDirectory(prefix=f".{name}-", dir=parent, ignore_cleanup_errors=True)
            folder = Path(kept.enter_context(work))
            kept.enter_context(_locked(folder))
        yield folder


def remove_folders(name: str, parent: Path) -> None:
    """Removes the working folders of killed processes."""
    for found in parent.glob(f".{glob.escape(name)}-*"):
        if re.fullmatch("[a-z0-9_]{8}", found.name[len(f".{name}-") :]):
            with suppress(OSError), _locked(parent, wait=True), _locked(found, needed=True):
                shutil.rmtree(found, ignore_errors=True)


def _lock_file(path: Path, what: str) -> IO[bytes]:
    """The file, locked by this process, whose number it holds. Raises UserError where another process has it."""
    while True:
        file = path.open("a+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                file.seek(0)
                raise UserError(f"{what} by process {file.read().decode() or '?'}: wait for its end") from None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                file.truncate(0)
                with suppress(OSError):  # on a full disk an empty file is locked as well
                    file.write(str(os.getpid()).encode())
                return file
        file.close()  # its holder removed it before it was locked here


@contextmanager
def _locked(folder: Path, wait: bool = False, needed: bool = False) -> Iterator[None]:
    """Raises OSError where another process has the lock, or where a `needed` one cannot be had, as on some networks."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            if needed:
                raise
        yield
    finally:
        os.close(file)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")


def _alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _existing(path: Path) -> Path:
    return next(folder for folder in path.absolute().parents if folder.exists())
