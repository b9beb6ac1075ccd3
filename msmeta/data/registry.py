"""The data sets that this version reads, one line each."""

from pathlib import Path

from msmeta import machine
from msmeta.data import cifar100, folder, glyphs, miniimagenet, omniglot, photographs, stl10
from msmeta.data.dataset import TRANSFER, Dataset
from msmeta.errors import ConfigError, brief

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        omniglot.DATASET,
        miniimagenet.DATASET,
        cifar100.CIFAR_FS,
        glyphs.GLYPHS,
        cifar100.CIFAR_100,
        stl10.DATASET,
        photographs.BIRD,
        photographs.INDOOR,
        photographs.ACTION,
        photographs.DOG,
        glyphs.GLYPHS_RGB,
    )
}

TABLE_6: dict[str, dict[str, int]] = {
    name: {**dataset.counts, "total": dataset.size}
    for name, dataset in DATASETS.items()
    if dataset.purpose == TRANSFER and not dataset.generated
}
"""The paper's Table 6: images of `train`, `validation` and `test`, and their `total`, by name."""


def names(purpose: str) -> tuple[str, ...]:
    """The data sets for FEW_SHOT or TRANSFER."""
    return tuple(name for name, dataset in DATASETS.items() if dataset.purpose == purpose)


def data_root() -> Path:
    """`$MSMETA_DATA`, else `data/` of the checkout, else `data/` here."""
    return machine.root("MSMETA_DATA", "data")


def find(name: str, root: Path | None = None) -> Dataset:
    """The registry entry called `name`, or that of a user's own folder, whose counts are known if it is prepared.

    root: where that is. Raises ConfigError in one line that lists the names there are.
    """
    if folder.is_folder(name):
        return folder.stored(name, root or data_root())
    if name not in DATASETS:
        raise ConfigError(f"unknown data set {brief(name)}: choose one of {', '.join(DATASETS)} or folder:PATH")
    return DATASETS[name]


def like(name: str) -> str:
    """The registered data set whose presets hold: itself or, of a user's own folder, one of such images."""
    return folder.like(name) if folder.is_folder(name) else name
