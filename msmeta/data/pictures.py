"""A user's own few pictures, made what a trained network takes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from msmeta.data.raw import open_image, readable, resized
from msmeta.data.trees import matching
from msmeta.errors import DataError

FORMATS = ("PNG", "JPEG", "WebP", "BMP", "GIF", "PPM", "TIFF")
"""Those of torchvision's folders of images, and GIF."""
PICTURE = r"(?i:((?:[^/.][^/]*/)*)[^/.][^/]*\.(?:png|jpe?g|webp|bmp|gif|p[bgp]m|tiff?))"
"""Its folder below the given one is the group."""


@dataclass(frozen=True)
class Pictures:
    """x: uint8 (n, C, side, side). files: their names below the folder, sorted. classes: the folder of each there;
    None for a picture that is in none."""

    x: Tensor
    files: list[str]
    classes: list[str | None]


def read_pictures(folder: Path, channels: int, side: int, squash: bool | None = None) -> Pictures:
    """The pictures in a folder and in its folders, one for each class.

    squash: as `decoded` has it, which reads them where it is given: for a network that was trained on a user's own
    folder. Else what is transparent becomes white. With 3 channels the middle square of a picture is taken. With 1, as
    drawings on paper: grey, a margin of the paper's shade makes them square, and darkest and lightest become black and
    white; where the paper is lighter than the ink, they are inverted, as data sets of drawings have light strokes on
    black.
    Raises DataError in one line for a folder without pictures and for one that cannot be read or shows nothing.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    try:
        found = matching(folder, PICTURE)
        if not found:
            raise DataError(f"no pictures ({', '.join(FORMATS)}), and no folders with such")
        if deep := next((match.string for match in found if match[1].count("/") > 1), None):
            raise DataError(f"{deep} lies deeper than in the folder of a class")
        images = [_read(folder, match.string, channels, side, squash) for match in found]
    except DataError as error:
        raise DataError(f"{folder}: {error}") from error
    x = torch.from_numpy(np.stack(images))
    return Pictures(x, [match.string for match in found], [match[1].rstrip("/") or None for match in found])


def decoded(data: bytes, name: str, shape: tuple[int, int, int], squash: bool) -> np.ndarray:
    """An image of a user's own data set, uint8 of `shape` (channels, height, width). Raises DataError.

    Its middle square or, with `squash`, all of it is resized, with Pillow's bilinear filter.
    """
    channels, *size = shape
    image = _as_shown(data, name).convert("L" if channels == 1 else "RGB")
    fit = image.resize if squash else partial(ImageOps.fit, image)
    return np.asarray(fit(size, Image.Resampling.BILINEAR)).reshape(*size, channels).transpose(2, 0, 1)


def _as_shown(data: bytes, name: str) -> Image.Image:
    """Turned as its EXIF data say, and what is transparent white."""
    image = ImageOps.exif_transpose(open_image(data, name, FORMATS, "RGBA"))
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _read(folder: Path, name: str, channels: int, side: int, squash: bool | None) -> np.ndarray:
    with readable(name):
        content = (folder / name).read_bytes()
    if squash is not None:
        return decoded(content, name, (channels, side, side), squash)
    image = _as_shown(content, name)
    if channels == 3:
        return resized(ImageOps.fit(image.convert("RGB"), (min(image.size),) * 2), side)
    return _drawing(image.convert("L"), name, side)


def _drawing(image: Image.Image, name: str, side: int) -> np.ndarray:
    """Light strokes on black, uint8 (1, side, side)."""
    grey = np.asarray(image, np.float32)
    low, high = grey.min(), grey.max()
    if low == high:
        raise DataError(f"{name} is of one shade: nothing is drawn there")
    grey = (grey - low) / (high - low)
    paper = np.median(np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]]))
    ink = 255 * (1 - grey if paper > 0.5 else grey)
    square = ImageOps.pad(Image.fromarray(ink.astype(np.uint8)), (max(ink.shape),) * 2, color=0)
    return np.asarray(square.resize((side, side), Image.Resampling.LANCZOS))[None].copy()
