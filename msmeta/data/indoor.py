"""Indoor: MIT Indoor Scenes, 67 kinds of rooms, of which 6,700 photographs are used (Quattoni and Torralba 2009)."""

import re
from pathlib import Path, PurePosixPath

import numpy as np

from msmeta.data.dataset import LabelledDataset, Labels, Progress, not_published
from msmeta.data.photographs import SIDE, STORED, Photograph, fill, open_raw

WAY = 67
COUNTS = {"train": 4_360, "validation": 1_000, "test": 1_340}
PARTS = (("Images", "indoorCVPR_09"),)
LISTS = ("TrainImages.txt", "TestImages.txt")
FILES = re.compile(rf"(?:.*/)?(Images/[^/]+/[^/.][^/]*|{'|'.join(map(re.escape, LISTS))})")
OBTAINED = (
    "given with `msmeta data prepare indoor --from DIR`, where DIR holds the folder Images/ extracted from "
    "indoorCVPR_09.tar, TrainImages.txt and TestImages.txt"
)


def build(folder: Path | None, images: np.ndarray, progress: Progress) -> Labels:
    """Fills `images`; those that the lists do not name are left out. Raises DataError in one line as `fill` does."""
    with open_raw(DATASET.title, folder, OBTAINED, PARTS, FILES) as raw:
        photographs = [
            Photograph(PurePosixPath(line).parent.name, f"Images/{line}", name == "TestImages.txt")
            for name in LISTS
            for line in raw.lines(name)
        ]
        return fill(raw, photographs, WAY, COUNTS, images, progress)


DATASET = LabelledDataset(
    name="indoor",
    title="Indoor",
    licence="for research purposes only",
    source="MIT Indoor Scenes: A. Quattoni, A. Torralba: web.mit.edu/torralba/www/indoor.html",
    citation="quattoni2009indoor",
    obtained=OBTAINED,
    raw_files=not_published,  # there is no published checksum
    way=WAY,
    stored=STORED,
    side=SIDE,
    counts=COUNTS,
    build=build,
)
