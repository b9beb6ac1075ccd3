"""Dog: Stanford Dogs, 20,580 photographs of ImageNet of 120 breeds of dogs (Khosla et al. 2011)."""

import re
from pathlib import Path, PurePosixPath

import numpy as np

from msmeta.data.dataset import LabelledDataset, Labels, Progress, not_published
from msmeta.data.mat import read_texts
from msmeta.data.photographs import SIDE, STORED, Photograph, fill, open_raw
from msmeta.data.raw import readable

WAY = 120
COUNTS = {"train": 10_800, "validation": 1_200, "test": 8_580}
PARTS = (("Images", "images"), ("lists",))
LISTS = ("train_list.mat", "test_list.mat")
FILES = re.compile(rf"(?:.*/)?(Images/[^/]+/[^/.][^/]*|{'|'.join(map(re.escape, LISTS))})")
OBTAINED = (
    "given with `msmeta data prepare dog --from DIR`, where DIR holds images.tar (or the folder Images/) and lists.tar "
    "(or train_list.mat and test_list.mat)"
)


def build(folder: Path | None, images: np.ndarray, progress: Progress) -> Labels:
    """Fills `images`. Raises DataError in one line as `fill` does, and if a list is missing or damaged."""
    with open_raw(DATASET.title, folder, OBTAINED, PARTS, FILES) as raw:
        photographs = []
        for name in LISTS:
            with readable(f"{folder}, {name}"):
                listed = read_texts(raw.read_list(name), "file_list")
            photographs += [
                Photograph(PurePosixPath(file).parent.name, f"Images/{file}", name == "test_list.mat")
                for file in listed
            ]
        return fill(raw, photographs, WAY, COUNTS, images, progress)


DATASET = LabelledDataset(
    name="dog",
    title="Dog",
    licence="ImageNet's terms of access: non-commercial research and education; not to be passed on",
    source="Stanford Dogs: A. Khosla, N. Jayadevaprakash, B. Yao, L. Fei-Fei: "
    "vision.stanford.edu/aditya86/ImageNetDogs",
    citation="khosla2011dog",
    obtained=OBTAINED,
    raw_files=not_published,  # there is no published checksum
    way=WAY,
    stored=STORED,
    side=SIDE,
    counts=COUNTS,
    build=build,
)
