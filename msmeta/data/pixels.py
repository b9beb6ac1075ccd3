"""Image files to pixels. Run as a program, it decodes files in a process of its own, which a damaged one can end.

It imports nothing of msmeta, so that such a process starts at once. Its limits are looked at in an image's header,
before anything is decoded; what a decoder takes all the same is bounded by the system.
"""

import io
import json
import os
import signal
import stat
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 2**26
"""Of an image before it is resized: four bytes each are held while it is decoded, several times."""
MAX_BYTES = 2**28
"""Of a file."""
MEMORY = 2**31
"""Bytes of address space that a process may have."""
SECONDS = 60
"""Of a processor's time, for an image."""


class Unreadable(ValueError):
    """What is wrong with an image, in the words that follow its name."""


class Recipe(NamedTuple):
    """How the pixels of an image are made: uint8 (channels, side, side).

    formats: of Pillow, others are refused. channels: 1 (grey) or 3. exact: the side that images have to have. fit: one
    of FITS. upright: turned as their EXIF data say, what is transparent made white. negative: black becomes white.
    """

    formats: tuple[str, ...]
    channels: int
    side: int
    exact: int | None = None
    fit: str = "stretch"
    upright: bool = False
    negative: bool = False

    def pixels(self, data: bytes) -> np.ndarray:
        """uint8 (channels, side, side) of an image file's content. Raises Unreadable."""
        try:
            image = self._loaded(data)
            made = FITS[self.fit](image, self.side)
        except Unreadable:
            raise
        except Exception as error:  # decoders raise nearly anything
            raise Unreadable(f"is not a readable {self._known()} image: {_reason(error, data)}") from error
        made = made.reshape(self.side, self.side, self.channels).transpose(2, 0, 1)
        return 255 - made if self.negative else made

    def _known(self) -> str:
        return " or ".join(filter(None, (", ".join(self.formats[:-1]), self.formats[-1])))

    def _loaded(self, data: bytes) -> Image.Image:
        """RGB or grey ("L"), 8 bits; of an animated image the first."""
        self._admit(*_size_of_webp(data))
        with Image.open(io.BytesIO(data), formats=self.formats) as image:
            self._admit(*image.size)
            if image.mode[0] in "IF":  # of which Pillow would take what exceeds 255 for white
                values = np.asarray(image)
                if image.mode == "F" or values.min() < 0 or values.max() > 65535:
                    raise ValueError("its pixels are not of 8 or 16 bits")
                image = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
            if self.upright:
                image = ImageOps.exif_transpose(image.convert("RGBA"))
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return image.convert("L" if self.channels == 1 else "RGB")

    def _admit(self, width: int, height: int) -> None:
        if width * height > MAX_PIXELS:
            raise ValueError(f"{width}x{height} pixels are too many")
        if self.exact and width and (width, height) != (self.exact, self.exact):
            raise Unreadable(f"is {width}x{height} instead of {self.exact}x{self.exact}")


def _size_of_webp(data: bytes) -> tuple[int, int]:
    """Width and height, of which Pillow makes a canvas when it opens a file; (0, 0) of another format."""
    kind, body = data[:4] + data[8:16], data[20:30]
    if kind == b"RIFFWEBPVP8X" and len(body) == 10:
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"RIFFWEBPVP8L" and len(body) == 10:
        bits = int.from_bytes(body[1:5], "little")
        return bits % 2**14 + 1, (bits >> 14) % 2**14 + 1
    if kind == b"RIFFWEBPVP8 " and len(body) == 10:
        return int.from_bytes(body[6:8], "little") % 2**14, int.from_bytes(body[8:10], "little") % 2**14
    return 0, 0


def _reason(error: Exception, data: bytes) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it has none of these formats" if data else "it is empty"
    if isinstance(error, MemoryError):
        return f"it takes more than the {MEMORY:,} bytes of memory allowed"
    return " ".join(str(error).split()) or type(error).__name__


def stretched(image: Image.Image, side: int) -> np.ndarray:
    """An RGB image as uint8 (side, side, 3), without cropping: Pillow's bilinear filter, which is antialiased."""
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


def _lanczos(image: Image.Image, side: int) -> np.ndarray:
    return np.asarray(image.resize((side, side), Image.Resampling.LANCZOS))


def _middle(image: Image.Image, side: int) -> np.ndarray:
    return np.asarray(ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR))


def _cut(image: Image.Image, side: int) -> np.ndarray:
    return stretched(ImageOps.fit(image, (min(image.size),) * 2), side)


def _drawing(image: Image.Image, side: int) -> np.ndarray:
    """Light strokes on black, from a drawing on paper."""
    grey = np.asarray(image, np.float32)
    low, high = grey.min(), grey.max()
    if low == high:
        raise Unreadable("is of one shade: nothing is drawn there")
    grey = (grey - low) / (high - low)
    paper = np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]]))
    ink = 255 * (1 - grey if paper > 0.5 else grey)
    return _lanczos(ImageOps.pad(Image.fromarray(ink.astype(np.uint8)), (max(ink.shape),) * 2, color=0), side)


FITS: dict[str, Callable[[Image.Image, int], np.ndarray]] = {
    "stretch": stretched,
    "lanczos": _lanczos,
    "middle": _middle,
    "cut": _cut,
    "drawing": _drawing,
}
"""How an image becomes a square: all of it, with Pillow's bilinear filter or Lanczos'; its middle, resized at once or
after it is cut out; or as strokes on paper, which has a margin added."""


def main() -> None:
    """Answers each line of standard input, `[recipe, paths]`, with a line and the pixels of each file."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to this process too: the other one ends it
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    _limit("RLIMIT_AS", MEMORY)
    _limit("RLIMIT_CORE", 0)
    for line in sys.stdin.buffer:
        recipe, paths = json.loads(line)
        for path in paths:
            _limit("RLIMIT_CPU", int(time.process_time()) + SECONDS)
            made, why = b"", None
            try:
                made = Recipe(*recipe).pixels(_content(path)).tobytes()
            except (OSError, ValueError) as error:
                told = getattr(error, "strerror", None) or error
                why = str(error) if isinstance(error, Unreadable) else f"cannot be read: {told}"
            answers.write(json.dumps([why, len(made)]).encode() + b"\n" + made)
            answers.flush()


def _limit(what: str, value: int) -> None:
    with suppress(ImportError, AttributeError, OSError, ValueError):  # where the system has no such limit, or a lower
        import resource

        kind = getattr(resource, what)
        resource.setrlimit(kind, (value, resource.getrlimit(kind)[1]))


def _content(path: str) -> bytes:
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode) or state.st_size > MAX_BYTES:
            raise ValueError(f"it is a device, or has more than the {MAX_BYTES:,} bytes allowed")
        return file.read()


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        main()
