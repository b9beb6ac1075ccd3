"""CIFAR-100 from small made trees in both layouts, and from the real archive where it is at hand."""

import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made import (
    CLASSES,
    FINE,
    SAMPLES,
    cifar_files,
    cifar_images,
    cifar_pickles,
    image,
    write,
    write_tar,
)

from msmeta.data import LABELLED, load_labelled, prepare, verify
from msmeta.data import cifar100 as module
from msmeta.errors import DataError

REAL = Path(os.environ.get("MSMETA_CIFAR100_RAW", Path(__file__).parents[3] / "shared/data/raw")) / "cifar100.tar.gz"
HASH = "ddb1c6dac15241a060856cf27affccdf646962e4d51d089a616e6cfca3893ae9"


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(module, "CLASSES", FINE)
    monkeypatch.setattr(module, "SAMPLES", SAMPLES)
    counts = {"train": 10, "validation": 5, "test": 10}
    monkeypatch.setattr(module, "COUNTS", counts)
    monkeypatch.setitem(LABELLED, "cifar-100", replace(module.DATASET, way=5, counts=counts))


def changed(name, **changes) -> dict[str, bytes]:
    files = cifar_pickles()
    return files | {name: pickle.dumps(pickle.loads(files[name]) | changes, 2)}


def read(folder, classes=CLASSES):
    return module.read_classes(folder, classes, lambda *_: None)


def refused(folder, match):
    with pytest.raises(DataError, match=match) as error:
        read(folder)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("small")
def test_both_layouts_give_the_same(tmp_path):
    folders = [
        write(tmp_path / "a", cifar_files()),
        write(tmp_path / "b/cifar100", cifar_files()).parent,
        write(tmp_path / "c", cifar_pickles()),
        write(tmp_path / "d/cifar-100-python", cifar_pickles(str.encode)).parent,
        write_tar(tmp_path / "e/cifar100.tar.gz", cifar_files()).parent,
        write_tar(tmp_path / "f/cifar-100-python.tar.gz", cifar_pickles()).parent,
    ]
    for folder in folders:
        images = read(folder)
        assert images.dtype == np.uint8 and np.array_equal(images, cifar_images(CLASSES))
        prepare("cifar-100", folder, tmp_path / "prepared" / folder.name)
    assert len({load_labelled("cifar-100", root).hash for root in (tmp_path / "prepared").iterdir()}) == 1


@pytest.mark.usefixtures("small")
def test_validation_is_a_part_of_each_class_of_the_training_images(tmp_path):
    prepare("cifar-100", write(tmp_path / "raw", cifar_files()), tmp_path)
    data, expected = load_labelled("cifar-100", tmp_path), cifar_images(FINE)
    assert data.labels["train"].tolist() == np.repeat(np.arange(5), 2).tolist()
    assert data.labels["validation"].tolist() == list(range(5))
    assert np.array_equal(data.images["test"].numpy(), expected[:, 3:].reshape(-1, 3, 32, 32))
    for label in range(5):
        of_class = [data.images[split][data.labels[split] == label].numpy() for split in ("train", "validation")]
        assert sorted(x.tobytes() for x in np.concatenate(of_class)) == sorted(x.tobytes() for x in expected[label, :3])


def test_the_classes_are_those_of_torchvision():
    assert len(set(module.CLASSES)) == 100 and sorted(module.CLASSES) == module.CLASSES
    (file,) = module.raw_files()
    assert file.name == "cifar-100-python.tar.gz" and file.url.endswith(file.name) and len(file.md5) == 32


@pytest.mark.skipif(not REAL.exists(), reason=f"{REAL} is not there")
def test_the_real_archive(tmp_path):
    prepare("cifar-100", REAL, tmp_path)
    assert verify("cifar-100", tmp_path).hash == HASH
    data = load_labelled("cifar-100", tmp_path)
    assert {split: len(images) for split, images in data.images.items()} == module.COUNTS
    for split, each in {"train": 450, "validation": 50, "test": 100}.items():
        assert data.labels[split].bincount().tolist() == [each] * 100


@pytest.mark.usefixtures("small")
def test_nothing_there(tmp_path):
    refused(tmp_path, "does not hold CIFAR-100, which is downloaded")


@pytest.mark.usefixtures("small")
def test_wrong_counts(tmp_path):
    files = cifar_files()
    missing = {name: data for name, data in files.items() if name != "test/sea/zebra_s_000000.webp"}
    message = "test has 1 images of class sea instead of 2: get it again"
    refused(write(tmp_path / "a", missing), message)
    extra = files | {"train/sea/more.webp": files["test/sea/zebra_s_000000.webp"]}
    refused(write(tmp_path / "b", extra), "train has 4 images of class sea instead of 3")
    refused(write(tmp_path / "c", files | {"train/table/more.webp": b""}), "train has a class 'table', which CIFAR-100")


@pytest.mark.usefixtures("small")
def test_damaged_images(tmp_path):
    files = cifar_files()
    name = "train/bee/Aster_s_000002.webp"
    refused(write(tmp_path / "a", files | {name: files[name][:100]}), f"{name} is not a readable PNG")
    wide = image(np.zeros((32, 33, 3), np.uint8))
    refused(write(tmp_path / "b", files | {name: wide}), f"{name} is 33x32 instead of 32x32")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["meta", "train", "test"])
def test_missing_or_damaged_pickle(tmp_path, name):
    files = cifar_pickles()
    damaged = files | {name: files[name][:-40]}
    refused(write_tar(tmp_path / "cifar-100-python.tar.gz", damaged).parent, f"cannot read .*cifar-100-python/{name}: ")
    del files[name]
    refused(write_tar(tmp_path / "cifar-100-python.tar.gz", files).parent, f"holds no {name}: CIFAR-100 is downloaded")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("meta", {"fine_label_names": 7}, "lacks fine_label_names"),
        ("meta", {"fine_label_names": [7]}, "int where a text belongs"),
        ("meta", {"fine_label_names": FINE[:4]}, "a label has no name"),
        ("meta", {"fine_label_names": [*FINE[:4], "zoo"]}, "a class 'zoo', which CIFAR-100 has not"),
        ("train", {"data": 7}, "lacks data"),
        ("train", {"data": np.zeros((15, 3072), np.int64)}, "lacks data"),
        ("train", {"data": np.zeros((15, 3071), np.uint8)}, "do not fit together"),
        ("train", {"fine_labels": [0] * 14}, "do not fit together"),
        ("test", {"filenames": ["a.png"] * 9}, "do not fit together"),
        ("test", {"filenames": [7] * 10}, "int where a text belongs"),
        ("test", {"fine_labels": [-1] * 10}, "a label has no name"),
        ("test", {"fine_labels": [0] * 10}, "test has 0 images of class bee instead of 2"),
    ],
)
def test_wrong_pickles(tmp_path, name, changes, message):
    refused(write(tmp_path, changed(name, **changes)), message)


@pytest.mark.usefixtures("small")
def test_hostile_pickle(tmp_path):
    class Hostile:
        def __reduce__(self):
            return eval, (f"__import__('os').mkdir({str(tmp_path / 'made')!r})",)

    files = cifar_pickles() | {"test": pickle.dumps({"data": Hostile()}, 2)}
    refused(write(tmp_path, files), r"cannot read .*test: it asks for (builtins|__builtin__)\.eval")
    assert not (tmp_path / "made").exists()
