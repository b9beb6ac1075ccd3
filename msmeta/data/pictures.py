"""A user's own few pictures, made what a trained network takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from msmeta.data.decoders import Decode, decode_into
from msmeta.data.trees import matching
from msmeta.errors import DataError

FORMATS = ("PNG", "JPEG", "WebP", "BMP", "GIF", "PPM", "TIFF")
"""Those of torchvision's folders of images, and GIF."""
PICTURE = r"((?:[^/.][^/]*/)*)[^/.][^/]*\.(?i:png|jpe?g|webp|bmp|gif|p[bgp]m|tiff?)"
"""Its folder below the given one is the group."""


@dataclass(frozen=True)
class Pictures:
    """x: uint8 (n, C, side, side). files: their names below the folder, sorted. classes: the folder of each there;
    None for a picture that is in none."""

    x: Tensor
    files: list[str]
    classes: list[str | None]


def read_pictures(
    folder: Path, channels: int, side: int, squash: bool | None = None, follow_links: bool = False
) -> Pictures:
    """The pictures in a folder and in its folders, one for each class.

    squash: as `decode` has it, where it is given: for a network that was trained on a user's own
    folder. Else what is transparent becomes white. With 3 channels the middle square of a picture is taken. With 1, as
    drawings on paper: grey, a margin of the paper's shade makes them square, and darkest and lightest become black and
    white; where the paper is lighter than the ink, they are inverted, as data sets of drawings have light strokes on
    black. follow_links: as `matching` has it.
    Raises DataError in one line for a folder without pictures and for one that cannot be read or shows nothing.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is a file: give its folder" if folder.exists() else f"there is no folder {folder}")
    try:
        found = matching(folder, PICTURE, follow_links=follow_links)
        if not found:
            raise DataError(f"no pictures ({', '.join(FORMATS)}), and no folders with such")
        if deep := next((match.string for match in found if match[1].count("/") > 1), None):
            raise DataError(f"{deep} lies deeper than in the folder of a class")
        images = np.empty((len(found), channels, side, side), np.uint8)
        decode_into(images, "read", folder, [match.string for match in found], decode(channels, side, squash))
    except DataError as error:
        raise DataError(f"{folder}: {error}") from error
    x = torch.from_numpy(images)
    return Pictures(x, [match.string for match in found], [match[1].rstrip("/") or None for match in found])


def decode(channels: int, side: int, squash: bool | None) -> Decode:
    """Of a user's own images: as their EXIF data say, and what is transparent white.

    squash: all of an image is resized, with Pillow's bilinear filter, else its middle square. None: see
    `read_pictures`.
    """
    fit = ("drawing" if channels == 1 else "cut") if squash is None else "stretch" if squash else "middle"
    return Decode(FORMATS, channels, side, fit=fit, upright=True)
