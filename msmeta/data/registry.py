"""The data sets that this version reads: one module each, one line each."""

from msmeta.data import action, bird, cifar100, cifar_fs, dog, glyphs, indoor, miniimagenet, omniglot, stl10
from msmeta.data.dataset import Dataset, LabelledDataset
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
"""For few-shot tasks."""

LABELLED: dict[str, LabelledDataset] = {
    dataset.name: dataset
    for dataset in (
        cifar100.DATASET,
        stl10.DATASET,
        bird.DATASET,
        indoor.DATASET,
        action.DATASET,
        dog.DATASET,
        glyphs.LABELLED,
    )
}
"""For transfer."""

TABLE_6: dict[str, dict[str, int]] = {
    name: {**dataset.counts, "total": sum(dataset.counts.values())}
    for name, dataset in LABELLED.items()
    if not dataset.generated
}
"""The paper's Table 6: images of `train`, `validation` and `test`, and their `total`, by name."""


def find(name: str) -> Dataset | LabelledDataset:
    """The registry entry called `name`. Raises ConfigError in one line that lists the names there are."""
    if entry := DATASETS.get(name) or LABELLED.get(name):
        return entry
    raise ConfigError(f"unknown data set {name!r}: choose one of {', '.join([*DATASETS, *LABELLED])}")


def find_few_shot(name: str) -> Dataset:
    """As `find`, and raises ConfigError as well if `name` is a data set for transfer."""
    if name in LABELLED:
        raise ConfigError(f"{name} is for transfer, not for few-shot tasks: choose one of {', '.join(DATASETS)}")
    return find(name)


def find_labelled(name: str) -> LabelledDataset:
    """As `find`, and raises ConfigError as well if `name` is a data set for few-shot tasks."""
    if name in DATASETS:
        raise ConfigError(f"{name} is for few-shot tasks, not for transfer: choose one of {', '.join(LABELLED)}")
    return find(name)
