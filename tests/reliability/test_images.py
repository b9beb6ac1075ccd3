"""Images that are hostile or damaged, where a data set's own belong."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import made
import numpy as np
import small
from attempts import Case, prepared
from PIL import Image


def chunk(kind: bytes, data: bytes, length: int | None = None) -> bytes:
    told = len(data) if length is None else length
    return struct.pack(">I", told) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, kind: int = 2) -> bytes:
    """Chunks of a PNG after its header."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


PIXEL = chunk(b"IDAT", zlib.compress(b"\0"))


def bomb(size: int) -> bytes:
    """Zeros of this many bytes, compressed."""
    squeezer, piece = zlib.compressobj(9), bytes(2**20)
    return b"".join(squeezer.compress(piece) for _ in range(size // 2**20)) + squeezer.flush()


def webp(kind: bytes, data: bytes) -> bytes:
    body = b"WEBP" + kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def animated(width: int, height: int) -> bytes:
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return webp(b"VP8X", b"\2\0\0\0" + sides)


def jpeg(width: int, height: int) -> bytes:
    frame = struct.pack(">BHHB", 8, height, width, 3) + b"\1\x22\0\2\x11\1\3\x11\1"
    return (
        b"\xff\xd8\xff\xc0"
        + struct.pack(">H", len(frame) + 2)
        + frame
        + b"\xff\xda\0\x0c\3\1\0\2\x11\3\x11\0\x3f\0"
        + b"\0" * 50
        + b"\xff\xd9"
    )


def tiff(*tags: tuple[int, int, int, int]) -> bytes:
    """Tag, type, count and value of each entry."""
    return (
        b"II*\0\x08\0\0\0"
        + struct.pack("<H", len(tags))
        + b"".join(struct.pack("<HHII", *tag) for tag in tags)
        + bytes(4)
    )


def gif(width: int, height: int) -> bytes:
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", width, height, 0, 0, 0)
        + b","
        + struct.pack("<HHHHB", 0, 0, width, height, 0)
        + b"\2\2\x44\1\0;"
    )


def bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IIIIiiHHIIiiII", 200, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(100)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def half(kind: str) -> bytes:
    whole = small.image(1, 84, kind)
    return whole[: len(whole) // 2]


IMAGES: dict[str, Callable[[], bytes]] = {
    "PNG of 10 gigapixels": lambda: png(100_000, 100_000, PIXEL),
    "PNG of 100 megapixels": lambda: png(10_000, 10_000, PIXEL),
    "PNG of 2^31 - 1 squared": lambda: png(2**31 - 1, 2**31 - 1, PIXEL),
    "PNG of a line of 2^31 - 1": lambda: png(2**31 - 1, 1, PIXEL),
    "PNG of 60 megapixels without content": lambda: png(8_000, 7_500, PIXEL),
    "PNG of 60 megapixels that are there": lambda: png(8_000, 8_000, chunk(b"IDAT", bomb(8_000 * 24_001)[:-20])),
    "PNG of no pixels": lambda: png(0, 0, PIXEL),
    "PNG without content": lambda: png(84, 84),
    "PNG of a depth that is none": lambda: png(84, 84, PIXEL, depth=77),
    "PNG of a colour type that is none": lambda: png(84, 84, PIXEL, kind=77),
    "PNG with a text of 100 MB": lambda: png(105, 105, chunk(b"zTXt", b"a\0\0" + bomb(10**8)), PIXEL),
    "PNG with 200 texts of 1 MB": lambda: png(105, 105, *[chunk(b"zTXt", b"a\0\0" + bomb(2**20)[:-5])] * 200, PIXEL),
    "PNG with an international text of 100 MB": lambda: png(
        105, 105, chunk(b"iTXt", b"a\0\1\0\0\0" + bomb(10**8)), PIXEL
    ),
    "PNG with a profile of 100 MB": lambda: png(105, 105, chunk(b"iCCP", b"a\0\0" + bomb(10**8)), PIXEL),
    "PNG with a chunk of 2 GiB": lambda: png(105, 105, chunk(b"tEXt", b"a", 2**31 - 1)),
    "PNG with a chunk of less than nothing": lambda: png(105, 105, chunk(b"tEXt", b"a", 2**32 - 1)),
    "PNG with a broken checksum": lambda: small.image(1, 105)[:20] + b"\xff" + small.image(1, 105)[21:],
    "PNG with damaged compression": lambda: png(105, 105, chunk(b"IDAT", b"\xff" * 100)),
    "PNG with a palette of nothing": lambda: png(105, 105, PIXEL, kind=3),
    "APNG of 4 billion frames": lambda: png(
        105, 105, chunk(b"acTL", struct.pack(">II", 2**32 - 1, 0)), chunk(b"fcTL", bytes(26))
    ),
    "JPEG of 4 gigapixels": lambda: jpeg(65_535, 65_535),
    "JPEG of 65 megapixels without content": lambda: jpeg(8_190, 8_190)[:-40],
    "JPEG of no lines": lambda: jpeg(84, 0),
    "JPEG without anything": lambda: b"\xff\xd8\xff\xd9",
    "JPEG of one marker": lambda: b"\xff\xd8" + b"\xff" * 10**6,
    "JPEG with a segment of nothing": lambda: b"\xff\xd8\xff\xe1\0\0" + bytes(100),
    "JPEG with EXIF of noise": lambda: b"\xff\xd8\xff\xe1\x03\xeaExif\0\0" + random.Random(1).randbytes(994),
    "WebP of 268 megapixels": lambda: animated(16_383, 16_383),
    "WebP of 2^24 squared": lambda: animated(2**24, 2**24),
    "WebP, lossless, of 268 megapixels": lambda: webp(b"VP8L", b"\x2f\xfe\xff\xff\x0f" + bytes(100)),
    "WebP, lossy, of 268 megapixels": lambda: webp(b"VP8 ", b"\x10\0\0\x9d\x01\x2a\xff\x3f\xff\x3f" + bytes(100)),
    "WebP of a chunk of 4 GiB": lambda: b"RIFF\xff\xff\xff\xffWEBPVP8L\xff\xff\xff\xff\x2f" + bytes(100),
    "WebP without anything": lambda: b"RIFF\4\0\0\0WEBP",
    "GIF of 4 gigapixels": lambda: gif(65_535, 65_535),
    "BMP of 4 exapixels": lambda: bmp(2**31 - 1, 2**31 - 1),
    "BMP of less than no lines": lambda: bmp(84, -(2**31)),
    "TIFF of 4 exapixels": lambda: tiff(
        (256, 4, 1, 2**31 - 1), (257, 4, 1, 2**31 - 1), (258, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, 8)
    ),
    "TIFF with a tag of 4 GiB": lambda: tiff((256, 4, 1, 84), (257, 4, 1, 84), (700, 1, 2**32 - 1, 8)),
    "TIFF with a circle of directories": lambda: tiff((256, 4, 1, 84))[:-4] + struct.pack("<I", 8),
    "PPM of 10 gigapixels": lambda: b"P6 100000 100000 255\n" + bytes(100),
    "PPM of a number of a million digits": lambda: b"P6 " + b"9" * 10**6,
    "half a PNG": lambda: half("PNG"),
    "half a JPEG": lambda: half("JPEG")[:300],
    "half a WebP": lambda: half("WEBP"),
    "half a GIF": lambda: half("GIF")[:60],
    "PostScript, which would be run": lambda: (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 84 84\n(executed) (w) file\n"
    ),
    "PDF": lambda: b"%PDF-1.4\n1 0 obj\n",
    "SVG": lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><image href='../secret.png'/></svg>",
    "a page instead of the image": lambda: b"<!DOCTYPE html><html>404</html>",
    "an icon": lambda: saved(Image.new("RGB", (84, 84)), "ICO"),
    "a picture of Photoshop": lambda: (
        b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 30_000, 30_000, 8, 3) + bytes(100)
    ),
    "floating point": lambda: saved(Image.fromarray(np.ones((84, 84), np.float32)), "TIFF"),
    "a link as git has it": lambda: b"../../../secret.png",
    "a pointer of Git LFS": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "noise": lambda: random.Random(9).randbytes(5_000),
    "nothing": lambda: b"",
}
PLACES = {
    "omniglot": (small.omniglot(), "images_background/Greek/character01/0000.png"),
    "cifar-100": ({f"cifar100/{name}": data for name, data in small.cifar().items()}, "cifar100/train/bee/0.png"),
    "miniimagenet": (small.mini(), "images/n1_0.png"),
    "bird": (small.photographs("bird"), "images/a/a_0.jpg"),
    "folder": (small.own() | {f"{label}/{n}.png": b"" for label in "abcde" for n in (1, 2)}, "a/0.png"),
}
"""By data set: the raw files, and the image that is replaced; of the folder the only one of its class to be read."""


def written(raw: Path, dataset: str, content: bytes) -> None:
    files, name = PLACES[dataset]
    made.write(raw, files | {name: content})


def cases() -> list[Case]:
    return [
        Case(dataset, name, lambda raw, dataset=dataset, make=make: written(raw, dataset, make()))
        for place, (name, make) in enumerate(IMAGES.items())
        for dataset in list(PLACES)[place % 2 :: 2]
    ]


def test_hostile_images(trials, refuses):
    trials("hostile images (sizes, decompression, other formats)", cases(), refuses)


def test_damaged_images(trials, bounded, folders):
    """What is damaged may still be an image, if another: it is read or refused, and the command goes on."""
    generator = random.Random("images")
    kinds = ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"]
    damages = [(generator.choice(kinds), generator.randint(1, 20), generator.random()) for _ in range(150)]

    def attempt(damage: tuple[str, int, float]) -> str | None:
        kind, flips, seed = damage
        content, noise = bytearray(small.image(1, 64, kind)), random.Random(seed)
        for _ in range(flips):
            content[int(len(content) * noise.random() ** 3)] ^= 1 << noise.randrange(8)  # mostly in the header
        dataset = "folder" if kind in ("GIF", "BMP", "TIFF", "PPM") else "miniimagenet"
        status, said = prepared(
            bounded, next(folders), Case(dataset, "", lambda raw: written(raw, dataset, bytes(content)))
        )
        return None if status == 0 or status == 2 and said.count("\n") == 1 else f"status {status}: {said[-300:]}"

    trials("images with bits flipped: read or refused", damages, attempt)
