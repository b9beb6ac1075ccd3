"""The data sets that this version reads, one line each."""

from msmeta.data import cifar100, glyphs, miniimagenet, omniglot, photographs, stl10
from msmeta.data.dataset import TRANSFER, Dataset
from msmeta.errors import ConfigError

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


def find(name: str) -> Dataset:
    """The registry entry called `name`. Raises ConfigError in one line that lists the names there are."""
    if name not in DATASETS:
        raise ConfigError(f"unknown data set {name!r}: choose one of {', '.join(DATASETS)}")
    return DATASETS[name]
