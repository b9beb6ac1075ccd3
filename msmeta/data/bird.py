"""Bird: CUB-200-2011, 11,788 photographs of 200 species of birds (Wah et al. 2011)."""

import re
from pathlib import Path, PurePosixPath

import numpy as np

from msmeta.data.dataset import LabelledDataset, Labels, Progress, not_published
from msmeta.data.photographs import SIDE, STORED, Photograph, fill, open_raw
from msmeta.errors import DataError

WAY = 200
COUNTS = {"train": 4_994, "validation": 1_000, "test": 5_794}
PARTS = (("CUB_200_2011", "images"),)
LISTS = ("images.txt", "image_class_labels.txt", "train_test_split.txt")
FILES = re.compile(rf"(?:.*/)?(images/[^/]+/[^/.][^/]*|{'|'.join(map(re.escape, LISTS))})")
OBTAINED = (
    "given with `msmeta data prepare bird --from DIR`, where DIR holds CUB_200_2011.tgz (.tar.gz, .tar, .zip, or the "
    f"folder) with {', '.join(LISTS)} and images/"
)


def build(folder: Path | None, images: np.ndarray, progress: Progress) -> Labels:
    """Fills `images`. Raises DataError in one line as `fill` does, and if a list is missing or not as published."""
    with open_raw(DATASET.title, folder, OBTAINED, PARTS, FILES) as raw:
        paths, numbers, training = (raw.column(name) for name in LISTS)
        if not paths.keys() == numbers.keys() == training.keys():
            raise DataError(f"{folder}: {', '.join(LISTS)} do not number the same images: get Bird again")
        if not set(training.values()) <= {"0", "1"}:
            raise DataError(f"{folder}: train_test_split.txt has a value that is neither 0 nor 1: get Bird again")
        species = {(numbers[image], PurePosixPath(path).parent.name) for image, path in paths.items()}
        if not len(species) == len(dict(species)) == len({name for _, name in species}):
            raise DataError(f"{folder}: images.txt and image_class_labels.txt do not agree: get Bird again")
        photographs = [
            Photograph(PurePosixPath(path).parent.name, f"images/{path}", training[image] == "0")
            for image, path in paths.items()
        ]
        return fill(raw, photographs, WAY, COUNTS, images, progress)


DATASET = LabelledDataset(
    name="bird",
    title="Bird",
    licence="non-commercial research and education; the photographers keep the copyright of the images",
    source="CUB-200-2011: C. Wah, S. Branson, P. Welinder, P. Perona, S. Belongie: "
    "www.vision.caltech.edu/datasets/cub_200_2011",
    citation="wah2011cub",
    obtained=OBTAINED,
    raw_files=not_published,  # its place has moved more than once
    way=WAY,
    stored=STORED,
    side=SIDE,
    counts=COUNTS,
    build=build,
)
