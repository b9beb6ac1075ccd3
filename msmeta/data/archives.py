"""The members of archives that are not trusted, one after the other: nothing is allocated that a header asks for.

Python's own readers keep a record of each member, and of a tar archive whole headers whatever their size.
"""

import gzip
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from msmeta.data.dataset import Limits

BLOCK, PIECE = 512, 2**20
MAX_HEADER = 2**20
"""Bytes of a header that lengthens a tar archive's own, such as a long name."""
OWN = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
HEADERS = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XGLTYPE, *OWN)
FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
END, END_SIZE = b"PK\5\6", 22
"""Of a zip archive: the record at its end, which a comment may follow."""
LARGE, LARGE_SIZE, LOCATOR_SIZE = b"PK\6\6", 56, 20
"""The record before it where there are many or large members, and what lies between the two."""
ENTRY = struct.Struct("<4s24xHHH12x")
"""Of a zip archive's directory: its mark, and the lengths of the name, of extra fields and of a comment."""


@dataclass(frozen=True)
class Member:
    """pieces: of the content, which is gone once the next member is asked for. plain: neither a link nor a device."""

    name: str
    size: int
    folder: bool
    plain: bool
    pieces: Callable[[], Iterator[bytes]]


def zipped(file: BinaryIO, limits: Limits) -> Iterator[Member]:
    """The members of a zip archive. Raises what DAMAGE names where it is damaged or its directory is too long."""
    _check_directory(file, limits)
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"member {info.filename!r} is compressed in a way that no published data set is")
            kind = stat.S_IFMT(info.external_attr >> 16)
            plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)

            def pieces(info: zipfile.ZipInfo = info) -> Iterator[bytes]:
                with archive.open(info) as member:
                    while piece := member.read(PIECE):
                        yield piece

            yield Member(info.filename, info.file_size, info.is_dir(), plain, pieces)


def _check_directory(file: BinaryIO, limits: Limits) -> None:
    """Counts the entries of a zip archive's directory, which ZipFile reads whole whatever its end says of them."""
    size = file.seek(0, 2)
    start = file.seek(max(0, size - END_SIZE - 2**16 - LARGE_SIZE - LOCATOR_SIZE))
    tail = file.read()
    end = len(tail) - END_SIZE  # ZipFile looks for it where it is if there is no comment, and then for the last one
    if tail[end : end + 4] != END or tail[-2:] != b"\0\0":
        end = tail.rfind(END)
    large = end - LOCATOR_SIZE - LARGE_SIZE
    if end < 0:
        raise zipfile.BadZipFile("it is no zip archive, or ends too early")
    length = struct.unpack_from("<I", tail, end + 12)[0] if end + END_SIZE <= len(tail) else 0
    if large >= 0 and tail[large : large + 4] == LARGE:
        end, length = large, struct.unpack_from("<Q", tail, large + 40)[0]
    if length > start + end:
        raise zipfile.BadZipFile("its directory is longer than the archive")
    file.seek(start + end - length)
    for count in range(limits.members + 1):
        entry = file.read(ENTRY.size) if length >= ENTRY.size else b""
        if len(entry) < ENTRY.size:
            return
        mark, *lengths = ENTRY.unpack(entry)
        if mark != b"PK\1\2":
            return  # ZipFile says so
        if count == limits.members:
            raise ValueError(f"it holds more than the {limits.members:,} members allowed")
        file.seek(sum(lengths), 1)
        length -= ENTRY.size + sum(lengths)


def tarred(file: BinaryIO, limits: Limits, compressed: bool) -> Iterator[Member]:
    """The members of a tar archive. Raises what DAMAGE names where it is damaged or a header is too large."""
    stream = gzip.GzipFile(fileobj=file) if compressed else file
    told: dict[str, str] = {}
    headers = 0
    while (block := stream.read(BLOCK) if stream.tell() else _taken(stream, BLOCK)).strip(b"\0"):
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        if info.size < 0:
            raise tarfile.ReadError("a size is less than nothing")
        if info.type in HEADERS:
            headers += info.size + BLOCK
            if info.size > MAX_HEADER or headers > limits.archive:
                raise tarfile.ReadError(f"a header has more than the {MAX_HEADER:,} bytes allowed")
            text = _taken(stream, info.size + -info.size % BLOCK)[: info.size]
            if info.type == tarfile.GNUTYPE_LONGNAME:
                told["path"] = text.rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif info.type in OWN:
                told |= _records(text)
            continue
        name, size = told.get("path", info.name), _size(told, info)
        folder, sparse = info.isdir(), any(key.startswith("GNU.sparse") for key in told)
        content = _Content(stream, 0 if folder else size)
        yield Member(name, content.left, folder, (folder or info.type in FILES) and not sparse, content.pieces)
        for _ in content.pieces():
            pass
        _taken(stream, -size % BLOCK if not folder else 0)
        told = {}
    # A checksum stands only at the very end; and where a header is damaged, what looks like the end may not be it.
    while rest := stream.read(PIECE):
        headers += len(rest)
        if rest.strip(b"\0") or headers > limits.archive:
            raise tarfile.ReadError("a header is damaged, or something follows the end")


class _Content:
    """The next bytes of a stream, as many as are left of a member."""

    def __init__(self, stream: BinaryIO, left: int) -> None:
        self.stream, self.left = stream, left

    def pieces(self) -> Iterator[bytes]:
        while self.left:
            piece = _taken(self.stream, min(self.left, PIECE))
            self.left -= len(piece)
            yield piece


def _taken(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError("it ends too early")
    return data


def _size(told: dict[str, str], info: tarfile.TarInfo) -> int:
    text = told.get("size", str(info.size))
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise tarfile.ReadError("a size is no number")
    return int(text)


def _records(text: bytes) -> dict[str, str]:
    """Lines `LENGTH KEY=VALUE`, of which LENGTH counts all."""
    found, at = {}, 0
    while at < len(text):
        space = text.find(b" ", at, at + 9)
        length = int(text[at:space]) if text[at:space].isdigit() and space > 0 else 0
        key, sign, value = text[space + 1 : at + length - 1].partition(b"=")
        if not sign or text[at + length - 1 : at + length] != b"\n":
            raise tarfile.ReadError("a header is damaged")
        if key in (b"path", b"size") or key.startswith(b"GNU.sparse"):
            found[key.decode()] = value.decode("utf-8", "surrogateescape")
        at += length
    return found
