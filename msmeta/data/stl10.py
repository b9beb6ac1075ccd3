"""STL-10: 13,000 labelled photographs of 10 classes, 96x96, resized to 32x32 (Coates, Ng and Lee 2011)."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from msmeta.data.dataset import Allocate, Arrays, Dataset, Limits, Progress, RawFile, splits_of_images
from msmeta.data.pixels import stretched
from msmeta.data.raw import MAX_BYTES, opened, readable
from msmeta.data.splits import divide
from msmeta.data.trees import matching
from msmeta.errors import DataError

CLASSES = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
"""In the order of the official labels, which count from 1."""
PUBLISHED = {"train": 5_000, "test": 8_000}
RAW_SIDE, SIDE = 96, 32
BINARY = r"(?:.*/)?((?:train|test)_[Xy]\.bin)"
"""Those that are read: the 100,000 unlabelled images beside them are 2.8 GB."""


def build(folder: Path, progress: Progress, allocate: Allocate, dataset: Dataset, follow_links: bool) -> Arrays:
    """Reads the binary files in `folder`, the images of a class in their order there.

    Of the published training images, a tenth of each class is for validation. Images are resized with Pillow's
    bilinear filter, which is antialiased. Raises DataError if a file is missing or damaged or has another size.
    """
    where = {match[1]: folder / match.string for match in matching(folder, BINARY, {"stl10_binary"}, follow_links)}
    parts = [_part(dataset, where, part) for part in PUBLISHED]
    pixels, labels = (np.concatenate(both) for both in zip(*parts, strict=True))
    by_class = np.argsort(labels, kind="stable")
    order = by_class[divide(labels[by_class], by_class >= PUBLISHED["train"], dataset.counts["validation"])]
    images = allocate((len(order), 3, SIDE, SIDE), np.uint8)
    for done, place in enumerate(order):
        progress("resize STL-10", done, len(order))
        image = Image.fromarray(np.ascontiguousarray(pixels[place].transpose(2, 1, 0)))
        images[done] = stretched(image, SIDE).transpose(2, 0, 1)
    progress("resize STL-10", len(order), len(order))
    return Arrays(images, labels[order], list(CLASSES), order[: PUBLISHED["train"]])


def _part(dataset: Dataset, where: Mapping[str, Path], part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 3, 96, 96), each stored column by column, and labels from 0 int64 (N,) of a published part."""
    count = PUBLISHED[part]
    found = []
    for name, size in ((f"{part}_X.bin", count * 3 * RAW_SIDE * RAW_SIDE), (f"{part}_y.bin", count)):
        if name not in where:
            raise DataError(f"no {name}: STL-10 is {dataset.obtained}")
        with readable(name), opened(where[name], MAX_BYTES) as (file, length):
            if length != size:
                raise DataError(f"{name} has {length:,} bytes instead of {size:,}: get STL-10 again")
            found.append(np.frombuffer(file.read(), np.uint8))
    pixels, labels = found
    each = count // len(CLASSES)
    if np.bincount(labels).tolist() != [0] + [each] * len(CLASSES):
        raise DataError(f"{part}_y.bin does not hold {each} labels of each class from 1 to 10: get STL-10 again")
    return pixels.reshape(-1, 3, RAW_SIDE, RAW_SIDE), labels.astype(np.int64) - 1


DATASET = Dataset(
    name="stl-10",
    title="STL-10",
    licence="none stated; images of ImageNet, whose terms allow non-commercial research and education",
    source="A. Coates, A. Ng, H. Lee: cs.stanford.edu/~acoates/stl10",
    citation="coates2011stl10",
    obtained="downloaded through torchvision, or given as stl10_binary.tar.gz (.tgz, .tar, .zip, or the folder "
    "stl10_binary/) with train_X.bin, train_y.bin, test_X.bin and test_y.bin",
    classes=len(CLASSES),
    shape=(3, SIDE, SIDE),
    splits=splits_of_images(train=4_500, validation=500, test=8_000),
    build=build,
    raw_files=(
        RawFile("http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz", "91f7769df0f17e558f3565bffb0c7dfb"),
    ),
    archives=("stl10_binary",),
    wanted=BINARY,
    limits=Limits(members=1_000),
)
