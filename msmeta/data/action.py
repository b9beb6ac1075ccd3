"""Action: Stanford 40 Actions, 9,532 photographs of people in 40 actions (Yao et al. 2011)."""

import re
from pathlib import Path

import numpy as np

from msmeta.data.dataset import LabelledDataset, Labels, Progress, not_published
from msmeta.data.photographs import SIDE, STORED, Photograph, fill, open_raw
from msmeta.errors import DataError

WAY = 40
COUNTS = {"train": 3_600, "validation": 400, "test": 5_532}
PARTS = (
    ("JPEGImages", "Stanford40_JPEGImages", "Stanford40"),
    ("ImageSplits", "Stanford40_ImageSplits", "Stanford40"),
)
FILES = re.compile(r"(?:.*/)?(JPEGImages/[^/.][^/]*|ImageSplits/[^/.][^/]*_(?:train|test)\.txt)")
LIST = re.compile(r"ImageSplits/(.+)_(train|test)\.txt")
OBTAINED = (
    "given with `msmeta data prepare action --from DIR`, where DIR holds Stanford40_JPEGImages.zip and "
    "Stanford40_ImageSplits.zip (or the folders JPEGImages/ and ImageSplits/)"
)


def build(folder: Path | None, images: np.ndarray, progress: Progress) -> Labels:
    """Fills `images`; the classes are those of which there are lists, ImageSplits/CLASS_train.txt and _test.txt.

    Raises DataError in one line as `fill` does, and if there is no list.
    """
    with open_raw(DATASET.title, folder, OBTAINED, PARTS, FILES) as raw:
        lists = [(name, *match.groups()) for name in raw.files if (match := LIST.fullmatch(name))]
        if not lists:
            raise DataError(f"{folder} holds no ImageSplits/CLASS_train.txt: {DATASET.title} is {OBTAINED}")
        photographs = [
            Photograph(action, f"JPEGImages/{line}", part == "test")
            for name, action, part in lists
            for line in raw.lines(name)
        ]
        return fill(raw, photographs, WAY, COUNTS, images, progress)


DATASET = LabelledDataset(
    name="action",
    title="Action",
    licence="none stated; its authors ask to be cited",
    source="Stanford 40 Actions: B. Yao, X. Jiang, A. Khosla, A. L. Lin, L. Guibas, L. Fei-Fei: "
    "vision.stanford.edu/Datasets/40actions.html",
    citation="yao2011action",
    obtained=OBTAINED,
    raw_files=not_published,  # there is no published checksum
    way=WAY,
    stored=STORED,
    side=SIDE,
    counts=COUNTS,
    build=build,
)
