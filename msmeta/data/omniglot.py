"""Omniglot: 1,623 handwritten characters of 50 alphabets, each drawn by 20 people (Lake et al. 2015)."""

from pathlib import Path

import numpy as np

from msmeta.data.dataset import Allocate, Arrays, Dataset, Limits, Progress, RawFile, splits_of_classes
from msmeta.data.decoders import Decode, decode_all
from msmeta.data.splits import shuffled
from msmeta.data.trees import grouped, matching
from msmeta.errors import DataError

CHARACTERS = {"images_background": 964, "images_evaluation": 659}
DRAWINGS = 20
RAW_SIDE = 105
SIDE = 28
SPLIT_SEED = 1
DRAWING = r"(.*/)?([^/.][^/]*/character\d+)/[^/.][^/]*\.png"
"""Below the folder of a part: what lies between, and the character, `Alphabet/characterNN`."""
WITHIN = ("omniglot-py", "omniglot", "omniglot-master", "python")
"""Folders that torchvision and the authors' repository have around those of the parts."""
decode = Decode(("PNG",), 1, SIDE, exact=RAW_SIDE, fit="lanczos", negative=True)
"""One drawing, strokes 255 on 0."""
URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"


def build(folder: Path, progress: Progress, allocate: Allocate, dataset: Dataset, follow_links: bool) -> Arrays:
    """Reads the two parts in `folder`, the characters in the order of the split, the drawings of each by file name.

    Images are 28x28, strokes 255 on 0. MAML's script asks Pillow for Lanczos, which Pillow replaces by the nearest
    pixel for 1-bit images such as these; here they are made grey first, so that Lanczos is what is done.
    Raises DataError if a part is missing, a count is not the official one, or an image cannot be decoded.
    """
    characters: list[tuple[str, list[str]]] = []
    for part, expected in CHARACTERS.items():
        found = matching(folder, f"((?:.*/)?{part}/){DRAWING}", {part, *WITHIN}, follow_links)
        if not found:
            raise DataError(f"no drawings {part}/ALPHABET/characterNN/*.png: Omniglot is {dataset.obtained}")
        if len(copies := sorted({match[1] + (match[2] or "") for match in found})) > 1:
            raise DataError(f"{part} is there more than once, in {copies[0]} and in {copies[1]}: leave one of them")
        characters += grouped(part, [(match[3], match.string) for match in found], expected, DRAWINGS).items()

    characters = [characters[place] for place in split_order(len(characters))]
    names = [name for _, files in characters for name in files]
    images = decode_all(dataset, folder, names, decode, progress, allocate)
    labels = np.repeat(np.arange(len(characters)), DRAWINGS)
    return Arrays(images, labels, [character for character, _ in characters], names=names)


def split_order(count: int) -> list[int]:
    """A seeded permutation of the characters in alphabetical order."""
    return shuffled(count, SPLIT_SEED).tolist()


DATASET = Dataset(
    name="omniglot",
    title="Omniglot",
    licence="MIT",
    source="B. M. Lake, R. Salakhutdinov, J. B. Tenenbaum: github.com/brendenlake/omniglot, folder python/",
    citation="lake2015omniglot",
    obtained="downloaded through torchvision, or given as the two archives (or folders) images_background "
    "and images_evaluation",
    classes=sum(CHARACTERS.values()),
    shape=(1, SIDE, SIDE),
    splits=splits_of_classes(
        DRAWINGS, train=range(0, 1200), test=range(1200, 1623), tune=range(0, 1100), validation=range(1100, 1200)
    ),
    build=build,
    raw_files=(
        RawFile(f"{URL}/images_background.zip", "68d2efa1b9178cc56df9314c21c6e718"),
        RawFile(f"{URL}/images_evaluation.zip", "6b91aef0f799c5bb55b94e3f2daec811"),
    ),
    archives=tuple(CHARACTERS),
    limits=Limits(members=100_000, member=2**20, archive=2**28),
    repeated=1,  # six dots of Braille
    samples=DRAWINGS,
    rotations=4,
)
