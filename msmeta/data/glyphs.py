"""Glyphs: random stroke characters in the shape of Omniglot, drawn by this module, for where there is no data set.

Only additions, multiplications, divisions and square roots of IEEE numbers are used, one array operation at a time
(no `pow`, no `sin`), so that the images are the same bits on every platform.
"""

from dataclasses import replace
from functools import cache

import numpy as np

from msmeta.data.dataset import Arrays, Dataset, splits_of_classes, splits_of_images

CLASSES = 600
SAMPLES = 20
SIDE = 28
SEED = 0
POINTS = 13
"""Points along a stroke, joined by straight lines; a multiple of 3 lines keeps the corners of polylines sharp."""
CURVE, CORNER, LOOP = range(3)
RGB_CLASSES = 20
RGB_SIDE = 32
RGB_DRAWINGS = {"train": 14, "validation": 2, "test": 4}
"""Of each class, in this order."""


def _bases() -> np.ndarray:
    """How four control points make a stroke, one row a point along it: (kinds, POINTS, 4).

    CURVE is a cubic Bezier curve, CORNER a polyline through the control points, LOOP a closed uniform B-spline.
    """
    t = np.arange(POINTS) / (POINTS - 1)
    s = 1 - t
    bezier = np.stack([s * s * s, 3 * t * s * s, 3 * t * t * s, t * t * t], 1)
    corner = np.clip(1 - abs(3 * t[:, None] - np.arange(4)), 0, 1)
    loop = np.zeros((POINTS, 4))
    for point, u in enumerate(4 * t):
        piece = min(int(u), 3)
        u = u - piece
        v = 1 - u
        weights = v * v * v, 3 * u * u * u - 6 * u * u + 4, 3 * v * v * v - 6 * v * v + 4, u * u * u
        for offset, weight in enumerate(weights):
            loop[point, (piece + offset) % 4] += weight / 6
    return np.stack([bezier, corner, loop])


class _Draws:
    """Random numbers of one class, a pure function of (SEED, class)."""

    def __init__(self, label: int):
        self.bits = np.random.Philox(key=np.array([SEED, label], np.uint64))

    def uniform(self, *shape: int) -> np.ndarray:
        """float64 in [0, 1)"""
        raw = self.bits.random_raw(int(np.prod(shape)))
        return ((raw >> np.uint64(11)).astype(np.float64) * 2.0**-53).reshape(shape)

    def normal(self, *shape: int) -> np.ndarray:
        """float64, zero mean and unit variance, within +-3.5: a sum of four uniform numbers."""
        a, b, c, d = self.uniform(4, *shape)
        return (a + b + c + d - 2) * 1.7320508075688772


BASES = _bases()


def _character(draws: _Draws) -> tuple[np.ndarray, np.ndarray]:
    """Kinds (strokes,) and control points (strokes, 4, 2) of a character centred on 0, its longer side 1."""
    strokes = 2 + int(3 * draws.uniform(1)[0])
    kinds = np.searchsorted([0.65, 0.85], draws.uniform(strokes))
    start, end = draws.uniform(2, strokes, 2)
    straight = draws.uniform(strokes) < 0.5
    # Half of the straight strokes stand upright or lie flat, as in most scripts.
    level, axis = straight & (draws.uniform(strokes) < 0.5), (draws.uniform(strokes) < 0.5).astype(int)
    end[level, axis[level]] = start[level, axis[level]]
    along = end - start
    across = np.stack([-along[:, 1], along[:, 0]], 1)
    bend = (draws.uniform(strokes, 2) - 0.5) * np.where(straight, 0.1, 1.8)[:, None]
    control = np.stack(
        [start, start + along / 3 + bend[:, :1] * across, end - along / 3 + bend[:, 1:] * across, end], 1
    )
    corners = np.flatnonzero(kinds == CORNER)
    control[corners, 0] = draws.uniform(strokes, 2)[corners]
    control[corners, 1] = control[corners, 0]
    control[corners, 2] = control[corners, 3]
    control[corners, 1:3, axis[corners]] = draws.uniform(strokes, 1)[corners]
    loops = kinds == LOOP
    square = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    sides = 0.15 + 0.25 * draws.uniform(strokes, 1, 2)
    control[loops] = (start[:, None] + sides * square + 0.1 * draws.normal(strokes, 4, 2))[loops]
    # A writer returns to what is drawn: most strokes begin on the one before.
    joined = draws.uniform(strokes) < 0.6
    places = (draws.uniform(strokes) * POINTS).astype(int)
    for stroke in range(1, strokes):
        if joined[stroke]:
            place = _points(BASES[kinds[stroke - 1], places[stroke]], control[stroke - 1])
            control[stroke] += place - _points(BASES[kinds[stroke], 0], control[stroke])
    low, high = control.min((0, 1)), control.max((0, 1))
    return kinds, (control - (low + high) / 2) / (high - low).max()


def _points(basis: np.ndarray, control: np.ndarray) -> np.ndarray:
    """basis (..., 4) times control points (..., 4, 2), summed in a fixed order: (..., 2)"""
    a, b, c, d = (basis[..., k, None] * control[..., k, :] for k in range(4))
    return a + b + c + d


def _draw(label: int) -> np.ndarray:
    """The SAMPLES drawings of one class: uint8 (SAMPLES, 28, 28), strokes 255 on 0."""
    draws = _Draws(label)
    kinds, control = _character(draws)
    strokes = len(kinds)
    size = 15 + 5 * draws.uniform(1)[0]
    control = control + 0.03 * draws.normal(SAMPLES, strokes, 4, 2) + 0.04 * draws.normal(SAMPLES, strokes, 1, 2)
    turn, shear, widen, grow = np.array([[0.1], [0.1], [0.12], [0.14]]) * draws.normal(4, SAMPLES)
    across, down = np.stack([1 + grow + widen, turn], 1), np.stack([shear - turn, 1 + grow - widen], 1)
    control = control[..., :1] * across[:, None, None] + control[..., 1:] * down[:, None, None]
    control = (SIDE - 1) / 2 + size * control + 1.3 * draws.normal(SAMPLES, 1, 1, 2)
    pen = 0.6 + 0.3 * draws.uniform(SAMPLES, 1, 1).astype(np.float32)

    points = _points(BASES[kinds], control[:, :, None]).astype(np.float32)  # (SAMPLES, strokes, POINTS, 2)
    ink = np.clip(pen + np.float32(0.5) - np.sqrt(_squared_distance(points)), 0, 1)
    return (255 * ink + np.float32(0.5)).astype(np.uint8)


def _squared_distance(points: np.ndarray) -> np.ndarray:
    """Of every pixel to the polylines through points (SAMPLES, strokes, POINTS, 2): float32 (SAMPLES, 28, 28)"""
    pixel = np.arange(SIDE, dtype=np.float32)
    begin, line = points[:, :, :-1], np.diff(points, axis=2)
    x, y = (pixel - begin[..., axis, None] for axis in (0, 1))  # (SAMPLES, strokes, POINTS - 1, 28)
    dx, dy = line[..., :1], line[..., 1:]  # (SAMPLES, strokes, POINTS - 1, 1)
    length = np.maximum(dx * dx + dy * dy, np.float32(1e-6))
    along_x, along_y = x * dx / length, y * dy / length
    nearest = np.full((SAMPLES, SIDE, SIDE), np.inf, np.float32)
    # One line at a time: the arrays stay in the cache, which is three times as fast as all lines at once.
    for one in np.ndindex(points.shape[1], POINTS - 1):
        at = (slice(None), *one)
        along = np.clip(along_x[at][:, None, :] + along_y[at][:, :, None], 0, 1)
        off_x = x[at][:, None, :] - along * dx[at][:, None]
        off_y = y[at][:, :, None] - along * dy[at][:, None]
        np.minimum(nearest, off_x * off_x + off_y * off_y, out=nearest)
    return nearest


@cache
def _images() -> np.ndarray:
    """All drawings (CLASSES, SAMPLES, 28, 28): about a second of work, kept for the next load."""
    return np.stack([_draw(label) for label in range(CLASSES)])


def build() -> Arrays:
    """All classes."""
    images = _images().reshape(-1, 1, SIDE, SIDE).copy()
    return Arrays(images, np.repeat(np.arange(CLASSES), SAMPLES), _names(CLASSES))


def build_rgb() -> Arrays:
    """The first classes, drawn in the middle of 32x32 pixels, the same in the three channels."""
    margin = (RGB_SIDE - SIDE) // 2
    drawings = np.stack([_draw(label) for label in range(RGB_CLASSES)])
    drawings = np.pad(drawings, [(0, 0), (0, 0), (margin, margin), (margin, margin)])
    parts = np.split(drawings, np.cumsum(list(RGB_DRAWINGS.values()))[:-1], axis=1)
    images = np.concatenate([part.reshape(-1, 1, RGB_SIDE, RGB_SIDE) for part in parts]).repeat(3, axis=1)
    labels = np.concatenate([np.repeat(np.arange(RGB_CLASSES), part.shape[1]) for part in parts])
    return Arrays(images, labels, _names(RGB_CLASSES))


def _names(classes: int) -> list[str]:
    return [f"glyph{label:03d}" for label in range(classes)]


GLYPHS = Dataset(
    name="glyphs",
    title="Glyphs (procedural)",
    licence="MIT, as this package",
    source="drawn by msmeta/data/glyphs.py",
    citation="",
    obtained="drawn when loaded, no files",
    classes=CLASSES,
    shape=(1, SIDE, SIDE),
    splits=splits_of_classes(
        SAMPLES, train=range(0, 400), test=range(400, 600), tune=range(0, 350), validation=range(350, 400)
    ),
    build=build,
    samples=SAMPLES,
    rotations=4,
    generated=True,
)

GLYPHS_RGB = replace(
    GLYPHS,
    name="glyphs-rgb",
    title="Glyphs (32x32)",
    classes=RGB_CLASSES,
    shape=(3, RGB_SIDE, RGB_SIDE),
    splits=splits_of_images(**{split: RGB_CLASSES * drawings for split, drawings in RGB_DRAWINGS.items()}),
    build=build_rgb,
    samples=None,
    rotations=1,
)
