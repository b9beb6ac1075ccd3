"""CIFAR-FS: the 100 classes of CIFAR-100, 600 images each, divided for few-shot learning (Bertinetto et al. 2019)."""

from pathlib import Path

from msmeta.data.cifar100 import OBTAINED, SIDE, raw_files, read_classes
from msmeta.data.dataset import Arrays, Dataset, Progress

CLASSES = {
    split: names.split()
    for split, names in {
        "train": (
            "apple aquarium_fish bear bee bottle bowl boy bridge bus can castle caterpillar chair clock cloud "
            "cockroach couch cup dinosaur dolphin elephant forest girl hamster house kangaroo keyboard lawn_mower lion "
            "lizard lobster mountain mouse mushroom oak_tree orange orchid palm_tree pear pine_tree plate porcupine "
            "possum rabbit raccoon ray road seal shrew skunk skyscraper snake spider squirrel streetcar sunflower "
            "tank tiger train trout tulip turtle willow_tree wolf"
        ),
        "validation": (
            "beaver beetle butterfly camel cattle crab crocodile flatfish lamp maple_tree motorcycle otter sea shark "
            "television tractor"
        ),
        "test": (
            "baby bed bicycle chimpanzee fox leopard man pickup_truck plain poppy rocket rose snail sweet_pepper table "
            "telephone wardrobe whale woman worm"
        ),
    }.items()
}


def build(folder: Path | None, progress: Progress) -> Arrays:
    """The classes of CIFAR-100 in the order of the splits, training and test images together.

    Raises DataError as `cifar100.read_classes` does.
    """
    classes = [label for labels in CLASSES.values() for label in labels]
    return Arrays(read_classes(folder, classes, progress), classes)


DATASET = Dataset(
    name="cifar-fs",
    title="CIFAR-FS",
    licence="none stated; CIFAR-100 is free to use with citation of Krizhevsky (2009)",
    source="A. Krizhevsky, V. Nair, G. Hinton: www.cs.toronto.edu/~kriz/cifar.html; classes divided by L. Bertinetto, "
    "J. F. Henriques, P. H. S. Torr, A. Vedaldi: github.com/bertinetto/r2d2",
    citation="bertinetto2019cifarfs",
    obtained=OBTAINED,
    shape=(100, 600, 3, SIDE, SIDE),
    splits={
        "train": range(0, 64),
        "validation": range(64, 80),
        "test": range(80, 100),
        "tune": range(0, 64),
    },
    rotations=1,
    raw_files=raw_files,
    build=build,
)
