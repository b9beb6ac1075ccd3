"""The data sets that this version reads: one module each, one line each."""

from msmeta.data import cifar_fs, glyphs, miniimagenet, omniglot
from msmeta.data.dataset import Dataset
from msmeta.errors import ConfigError

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        omniglot.DATASET,
        miniimagenet.DATASET,
        cifar_fs.DATASET,
        glyphs.DATASET,
    )
}


def find(name: str) -> Dataset:
    """The registry entry called `name`. Raises ConfigError in one line that lists the names there are."""
    if name not in DATASETS:
        raise ConfigError(f"unknown data set {name!r}: choose one of {', '.join(DATASETS)}")
    return DATASETS[name]
