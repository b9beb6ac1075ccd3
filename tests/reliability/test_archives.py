"""Archives that are hostile or damaged: each is refused by the command in one line, and leaves nothing."""

from __future__ import annotations

import gzip
import lzma
import random
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import made
import small
from attempts import SECRET, Case, digests, prepared, refused_or_same
from small import END, directory, entry, header, member, packed, pax, record, signed, tar, zipped

# What a tar archive may be, made of its files


def lengthened(name: bytes, size: int | None = None) -> bytes:
    """A GNU header for the name of the next member."""
    block = header("././@LongLink", len(name) if size is None else size, tarfile.GNUTYPE_LONGNAME)
    return bytes(block) + small.padded(name)


def sparse(name: str) -> bytes:
    block = header(name, 512, tarfile.GNUTYPE_SPARSE)
    block[386:398], block[398:410], block[483:495] = b"00000000000\0", b"00000001000\0", b"77777777777\0"
    return bytes(signed(block)) + bytes(512)


def with_field(name: str, start: int, data: bytes) -> bytes:
    block = header(name, 3)
    block[start : start + len(data)] = data
    return bytes(signed(block)) + small.padded(b"abc")


def many(name: str, count: int) -> bytes:
    """So many members of no size, which compress well."""
    return bytes(header(name)) * count


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> bytes:
    return bytes(header(name, 0, kind, target))


SPARSE = record("GNU.sparse.major", "1") + record("GNU.sparse.realsize", str(2**60))
NAME = "{first}"
TARS: dict[str, Callable[[str], bytes]] = {
    "a path upwards": lambda name: member(f"../{SECRET}", b"x"),
    "a path upwards within": lambda name: member(f"{name}/../../../../{SECRET}", b"x"),
    "an absolute path": lambda name: member(f"/tmp/{SECRET}", b"x"),
    "a path of Windows": lambda name: member(f"..\\{SECRET}", b"x"),
    "a long name upwards": lambda name: lengthened(f"../{SECRET}".encode()) + member("x", b"x"),
    "a path of PAX upwards": lambda name: pax(record("path", f"../{SECRET}")) + member("x", b"x"),
    "a symbolic link": lambda name: link(name + "2", f"../../{SECRET}"),
    "a hard link": lambda name: link(name + "2", f"../../{SECRET}", tarfile.LNKTYPE),
    "a folder that is a link": lambda name: link("out", "../..") + member(f"out/{SECRET}", b"x"),
    "a FIFO": lambda name: bytes(header(name + "2", 0, tarfile.FIFOTYPE)),
    "a device": lambda name: bytes(header(name + "2", 0, tarfile.CHRTYPE)),
    "a disk": lambda name: bytes(header(name + "2", 0, tarfile.BLKTYPE)),
    "a kind that nobody knows": lambda name: bytes(header(name + "2", 0, b"Q")),
    "a member twice": lambda name: member(name, b"x"),
    "a member twice by another path": lambda name: member("./" + name.replace("/", "//"), b"x"),
    "a member twice by PAX": lambda name: pax(record("path", name)) + member("x.png", b"x"),
    "a PAX header of 100,000 digits": lambda name: pax(b"1" * 100_000) + member("x", b""),
    "a PAX header of 900,000 records": lambda name: pax(b"6 a=b\n" * 150_000 + b"7 a=b\n") + member("x", b""),
    "a PAX header of 8 GiB": lambda name: bytes(header("pax", 2**33, tarfile.XHDTYPE)) + bytes(10**6),
    "a PAX header of a tebibyte": lambda name: bytes(header("pax", 2**40, tarfile.XHDTYPE)),
    "a global PAX header of 8 GiB": lambda name: bytes(header("pax", 2**33, tarfile.XGLTYPE)) + bytes(10**6),
    "a PAX record that is longer than its header": lambda name: pax(b"999 path=a\n") + member("x", b""),
    "a PAX record of no length": lambda name: pax(b"0 path=a\n") + member("x", b""),
    "a PAX record without an end": lambda name: pax(b"8 path=aa") + member("x", b""),
    "a size of PAX that is none": lambda name: pax(record("size", "-5")) + member(name + "2", b"abc"),
    "a size of PAX of 4,000 digits": lambda name: pax(record("size", "9" * 4_000)) + member(name + "2", b"abc"),
    "a size of PAX of a tebibyte": lambda name: pax(record("size", str(2**40))) + member(name + "2", b"abc"),
    "a sparse file of PAX": lambda name: pax(SPARSE) + member(name + "2", b"1\n"),
    "a sparse file": lambda name: sparse(name + "2"),
    "a long name of 8 GiB": lambda name: lengthened(b"x", 2**33),
    "a long link of 8 GiB": lambda name: bytes(header("././@LongLink", 2**33, tarfile.GNUTYPE_LONGLINK)) + bytes(10**6),
    "a name of 100,000 letters": lambda name: lengthened(b"a/" * 50_000) + member("x", b"x"),
    "a name that clears the terminal": lambda name: member(name[:-4] + "\x1b[2J\x1b]0;mine\x07.png", b"x"),
    "a name of two lines": lambda name: lengthened(f"{name}\nmsmeta: all is well.png".encode()) + member("x", b"x"),
    "a name that a terminal turns": lambda name: pax(record("path", f"/\u202e\x9b31m{name}")) + member("x", b"x"),
    "a member of an exbibyte": lambda name: bytes(header(name + "2", 2**60)) + bytes(10_000),
    "a member of 2 GiB that is not there": lambda name: bytes(header(name + "2", 2**31)),
    "a size below nothing": lambda name: bytes(header(name + "2", -512)),
    "a size that is no number": lambda name: with_field(name + "2", 124, b"99999999999\0"),
    "a checksum that is wrong": lambda name: bytes(header(name + "2")[:-1]) + b"\1",
    "a header of noise": lambda name: random.Random(name).randbytes(512),
    "something after the end": lambda name: END + member(name + "2", b"x"),
}  # fmt: skip
SKIPPED = bytes(header("not/read.txt", 2**31))
"""A member that no data set asks for."""


def tar_of(files: small.Files, more: bytes, first: bool) -> bytes:
    return more + tar(files) + END if first else tar(files) + more + END


def tar_cases() -> list[Case]:
    cases = []
    for place, (name, make) in enumerate(TARS.items()):
        for dataset in of_kind(False)[place % 2 :: 2]:
            archive, files, others = small.ARCHIVED[dataset]
            more = make(next(iter(files)))
            cases.append(
                archived(dataset, name, lambda path, files=files, more=more: packed(path, tar_of(files, more, False)))
            )
    for name, content in BOMBS.items():
        cases.append(
            archived(
                "stl-10" if "members" in name else "cifar-100",
                name,
                lambda path, content=content: path.write_bytes(content()),
            )
        )
    return cases


def of_kind(is_zip: bool) -> list[str]:
    return [name for name, (archive, *_) in small.ARCHIVED.items() if archive.endswith(".zip") == is_zip]


def archived(dataset: str, name: str, write: Callable[[Path], object]) -> Case:
    archive, _, others = small.ARCHIVED[dataset]
    return Case(dataset, name, lambda raw: write(made.write(raw, others) / archive))


def zeros(count: int) -> bytes:
    """So many times 16 MiB of zeros, as gzip has them: members in a row are one file."""
    return gzip.compress(bytes(2**24), 9) * count


BOMBS: dict[str, Callable[[], bytes]] = {
    "2 GiB to be passed over": lambda: gzip.compress(SKIPPED) + zeros(128),
    "half a GiB three times": lambda: (gzip.compress(bytes(header("a.txt", 2**29))) + zeros(32)) * 3,
    "2 GiB after the end": lambda: gzip.compress(tar(small.cifar()) + END) + zeros(128),
    "100,000 members": lambda: gzip.compress(many("a.txt", 100_000) + END),
    "names of 1 MiB for 1,000 members": lambda: gzip.compress(lengthened(b"a" * 2**20)) * 1_100,
    "a header cut off": lambda: gzip.compress(tar(small.cifar()) + bytes(header("a.txt"))[:300]),
    "a long name cut off": lambda: gzip.compress(tar(small.cifar()) + lengthened(b"a" * 1000)[:-200]),
    "a member cut off": lambda: gzip.compress(tar(small.cifar())[:-200]),
    "an archive in the archive": lambda: gzip.compress(gzip.compress(tar(small.cifar()) + END)),
    "another compression": lambda: lzma.compress(tar(small.cifar()) + END),
    "noise": lambda: random.Random(1).randbytes(10_000),
    "noise that begins like gzip": lambda: b"\x1f\x8b\x08\0" + random.Random(2).randbytes(10_000),
    "nothing": lambda: b"",
    "a wrong checksum": lambda: gzip.compress(tar(small.cifar()) + END)[:-8] + bytes(8),
    "a wrong length": lambda: gzip.compress(tar(small.cifar()) + END)[:-4] + bytes(4),
    "something after the archive": lambda: gzip.compress(tar(small.cifar()) + END) + b"something",
    "a page instead of the archive": lambda: b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "a zip archive of this name": lambda: small.compressed(small.cifar(), zipfile.ZIP_DEFLATED),
}


def damaged_lzma() -> bytes:
    content = bytearray(small.compressed({"images_background/a/x.png": bytes(range(256)) * 20}, zipfile.ZIP_LZMA))
    content[65:95] = b"\xff" * 30
    return bytes(content)


def overlapping(files: small.Files) -> bytes:
    """Many entries whose content is the same bytes."""
    first, listed = entry(next(iter(files)), bytes(900_000), 0)
    entries = [(first, listed)] + [
        (b"", entry(f"images_background/a/character01/{n}.png", bytes(900_000), 0)[1]) for n in range(400)
    ]
    return directory(entries)


def large(files: small.Files, **told: int) -> bytes:
    """With a record for many members, which says what it likes of the directory."""
    content = directory(zipped(files))
    record = struct.pack(
        "<QHHIIQQQQ",
        44,
        45,
        45,
        0,
        0,
        told.get("count", 1),
        told.get("count", 1),
        told.get("size", 100),
        told.get("offset", 0),
    )
    locator = b"PK\6\7" + struct.pack("<IQI", 0, len(content) - 22, 1)
    return content[:-22] + b"PK\6\6" + record + locator + content[-22:]


def with_mode(mode: int) -> Callable[[small.Files], bytes]:
    return lambda files: directory(
        [*zipped(files), entry(next(iter(files)) + "2", b"/etc/passwd", whole(files), mode=mode | 0o644)]
    )


def whole(files: small.Files) -> int:
    """Where the next member begins."""
    return sum(len(first) for first, _ in zipped(files))


def plus(name: str, data: bytes = b"x", **told: object) -> Callable[[small.Files], bytes]:
    """A member more; NAME stands for that of the first."""
    return lambda files: directory(
        [*zipped(files), entry(name.replace(NAME, next(iter(files))), data, whole(files), **told)]
    )


def noise(length: int) -> bytes:
    return random.Random(length).randbytes(length)


ZIPS: dict[str, Callable[[small.Files], bytes]] = {
    "a path upwards": plus(f"../{SECRET}"),
    "a path upwards within": plus(f"{NAME}/../../../../{SECRET}"),
    "an absolute path": plus(f"/tmp/{SECRET}"),
    "a path of Windows": plus(f"..\\..\\{SECRET}"),
    "a drive of Windows": plus(f"C:\\{SECRET}"),
    "a symbolic link": with_mode(stat.S_IFLNK),
    "a FIFO": with_mode(stat.S_IFIFO),
    "a device": with_mode(stat.S_IFCHR),
    "a disk": with_mode(stat.S_IFBLK),
    "a socket": with_mode(stat.S_IFSOCK),
    "a member twice": plus(NAME),
    "a member twice by another path": plus(f"./{NAME}"),
    "an encrypted member": plus(f"{NAME}.png", flags=1),
    "a strongly encrypted member": plus(f"{NAME}.png", flags=0x41),
    "a patch": plus(f"{NAME}.png", flags=0x20),
    "bzip2": lambda files: small.compressed(files, zipfile.ZIP_BZIP2),
    "LZMA": lambda files: small.compressed(files, zipfile.ZIP_LZMA),
    "damaged LZMA": lambda files: damaged_lzma(),
    "LZMA with a dictionary of 4 GiB": plus(f"{NAME}.png", method=14, raw=b"\t\4\5\0]\xff\xff\xff\xff" + bytes(50)),
    "a compression that nobody knows": plus(f"{NAME}.png", method=97),
    "a member of 4 GiB": plus(f"{NAME}.png", size=2**32 - 2),
    "a member that is larger than it says": plus(f"{NAME}.png", bytes(2**26), size=100),
    "a member that is smaller than it says": plus(f"{NAME}.png", size=1_000),
    "a member that ends after the archive": plus(f"{NAME}.png", bytes(10_000), packed=2**31, raw=b"\0\x10"),
    "a wrong checksum": plus(f"{NAME}.png", crc=1),
    "another name at the member": plus(f"{NAME}.png", local=b"other"),
    "a member elsewhere": plus(f"{NAME}.png", offset=2**31),
    "damaged compression": plus(f"{NAME}.png", raw=b"\xff" * 50),
    "a name that clears the terminal": plus(f"{NAME}\x1b[2J\x1b]0;mine\x07.png"),
    "a name of two lines": plus(f"{NAME}\nmsmeta: all is well.png"),
    "a name that is no UTF-8": plus(f"{NAME}\udcff\udcfe.png", flags=0x800),
    "a name of 60,000 letters": plus("a/" * 30_000),
    "members that overlap": overlapping,
    "a directory of 4 GiB": lambda files: directory(zipped(files), size=2**32 - 2),
    "a directory of no length": lambda files: directory(zipped(files), size=0),
    "a directory elsewhere": lambda files: directory(zipped(files), offset=2**31),
    "a directory of noise": lambda files: directory([(first, noise(len(listed))) for first, listed in zipped(files)]),
    "a large directory of an exbibyte": lambda files: large(files, size=2**60),
    "a large directory elsewhere": lambda files: large(files, offset=2**60),
    "an end in the comment": lambda files: directory(zipped(files), b"PK\5\6" + bytes(30)),
    "half an end": lambda files: directory(zipped(files))[:-10],
    "only an end": lambda files: b"PK\5\6" + bytes(18),
    "nothing": lambda files: b"",
    "a tar archive of this name": lambda files: tar(files) + END,
    "noise": lambda files: noise(20_000),
    "a page instead of the archive": lambda files: b"<!DOCTYPE html><html><body>404</body></html>",
}  # fmt: skip


def crowd(path: Path) -> None:
    """100,001 members of no size, which ZipFile would keep a record of each."""
    entries = [entry("a.txt", b"", 0, raw=b"", method=0)]
    listed = entries[0][1]
    path.write_bytes(directory([(entries[0][0], listed)] + [(b"", listed)] * 100_000))


def zip_cases() -> list[Case]:
    cases = [archived("omniglot", "100,001 members", crowd)]
    for name, make in ZIPS.items():
        for dataset in of_kind(True):
            _, files, _ = small.ARCHIVED[dataset]
            if name != "members that overlap" or dataset == "omniglot":
                cases.append(
                    archived(dataset, name, lambda path, make=make, files=files: path.write_bytes(make(files)))
                )
    return cases


CASES = tar_cases() + zip_cases()


def test_hostile_archives(trials, refuses):
    assert len(CASES) > 150 and len({repr(case) for case in CASES}) == len(CASES)
    trials("hostile archives (paths upwards, links, bombs, headers of any size)", CASES, refuses)


# Damage: whatever changes in a file, it is refused, or what it held is read


def valid(path: Path, files: small.Files) -> bytes:
    if path.suffix == ".zip":
        return directory(zipped(files))
    packed(path, tar(files) + END)
    return path.read_bytes()


@dataclass(frozen=True)
class Damage:
    """kind: `bit` is flipped, or the file `ends`, at this share of its length."""

    dataset: str
    kind: str
    share: float


def damage_cases() -> list[Damage]:
    generator = random.Random("damage")
    checked = [name for name, (archive, *_) in small.ARCHIVED.items() if not archive.endswith(".tar")]  # by checksums
    return [
        Damage(generator.choice(checked), generator.choice(["bit", "bit", "ends"]), generator.random())
        for _ in range(150)
    ]


def test_damaged_archives(trials, bounded, folders):
    whole: dict[str, list[str]] = {}

    def attempt(damage: Damage) -> str | None:
        archive, files, _ = small.ARCHIVED[damage.dataset]

        def write(path: Path, kind: str = damage.kind) -> None:
            content = bytearray(valid(path, files))
            place = int(damage.share * 8 * len(content))
            if kind == "bit":
                content[place // 8] ^= 1 << place % 8
            path.write_bytes(content[: place // 8] if kind == "ends" else content)

        if damage.dataset not in whole:
            folder = next(folders)
            status, said = prepared(bounded, folder, archived(damage.dataset, "", lambda path: write(path, "none")))
            assert status == 0, said
            whole[damage.dataset] = digests(folder)
        return refused_or_same(bounded, next(folders), archived(damage.dataset, "", write), whole[damage.dataset])

    trials("archives with a bit flipped or cut off: refused, or the same arrays", damage_cases(), attempt)
