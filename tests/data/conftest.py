"""Glyphs, and small made data sets of each kind."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from msmeta.data import DATASETS, Arrays, Dataset, Images, load, prepare
from msmeta.data.dataset import splits_of_classes, splits_of_images


@pytest.fixture(scope="session")
def glyphs() -> Images:
    return load("glyphs")


COUNTS = {"train": 30, "validation": 6, "test": 9}
"""Images of three classes in `pictures` and `photographs`."""


@pytest.fixture
def small(monkeypatch):
    """Made data sets: `pictures`, read into memory, `photographs`, mapped and to be cropped, `drawings`, for few-shot
    tasks, and `again`, a view of `pictures`, class by class."""

    def build(labels, folder, progress, allocate, dataset, follow_links):
        images = allocate((len(labels), *dataset.shape), np.uint8)
        progress("read", 0, 1)
        images[:] = np.random.default_rng(0).integers(0, 256, images.shape, np.uint8)
        return Arrays(images, labels, list("abc"))

    def entry(name, shape, splits, labels, **options):
        described = {"title": name.title(), "licence": "", "source": "", "citation": "", "obtained": "given"}
        made = partial(build, labels)
        entry = Dataset(name, **described, classes=3, shape=shape, splits=splits, **{"build": made} | options)
        monkeypatch.setitem(DATASETS, name, entry)

    def by_class(arrays):
        order = np.argsort(arrays.labels, kind="stable")
        return Arrays(arrays.images[order], arrays.labels[order], arrays.classes)

    in_splits = np.concatenate([np.repeat(np.arange(3), count // 3) for count in COUNTS.values()])
    entry("pictures", (3, 32, 32), splits_of_images(**COUNTS), in_splits)
    entry("photographs", (3, 40, 40), splits_of_images(**COUNTS), in_splits, crop=32)
    classes = splits_of_classes(15, train=range(2), test=range(2, 3), tune=range(1), validation=range(1, 2))
    entry("drawings", (1, 8, 8), classes, np.repeat(np.arange(3), 15), samples=15, rotations=4)
    entry("again", (3, 32, 32), classes, in_splits, samples=15, build=by_class, view_of="pictures")


@pytest.fixture
def root(small, tmp_path) -> Path:
    """A data root with all of them prepared."""
    for name in ("pictures", "photographs", "drawings", "again"):
        prepare(name, tmp_path, tmp_path / "data")
    return tmp_path / "data"
