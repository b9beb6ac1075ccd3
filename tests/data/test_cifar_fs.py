"""CIFAR-FS from small made trees in both layouts of CIFAR-100."""

import tarfile
from dataclasses import replace

import numpy as np
import pytest
from made import CLASSES, SAMPLES, cifar_files, cifar_images, cifar_pickles, write, write_tar

from msmeta import cli
from msmeta.data import DATASETS, cifar100, load, prepare, verify
from msmeta.data import cifar_fs as module
from msmeta.errors import DataError


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(module, "CLASSES", {"train": CLASSES[:2], "validation": CLASSES[2:3], "test": CLASSES[3:]})
    monkeypatch.setattr(cifar100, "SAMPLES", SAMPLES)
    splits = {"train": range(0, 2), "validation": range(2, 3), "test": range(3, 5), "tune": range(0, 2)}
    monkeypatch.setitem(DATASETS, "cifar-fs", replace(module.DATASET, shape=(5, 5, 3, 32, 32), splits=splits))


def build(folder):
    return module.build(folder, lambda *_: None)


def test_the_split(monkeypatch):
    monkeypatch.undo()
    assert {split: len(names) for split, names in module.CLASSES.items()} == {"train": 64, "validation": 16, "test": 20}
    assert sorted(name for names in module.CLASSES.values() for name in names) == cifar100.CLASSES
    assert all(names == sorted(names) for names in module.CLASSES.values())
    assert module.DATASET.shape == (100, 600, 3, 32, 32) and sum(cifar100.SAMPLES.values()) == 600
    assert {split: len(classes) for split, classes in module.DATASET.splits.items()} == {
        "train": 64,
        "validation": 16,
        "test": 20,
        "tune": 64,
    }


def test_classes_are_in_the_order_of_the_splits(tmp_path):
    for files in (cifar_files(), cifar_pickles()):
        arrays = build(write(tmp_path / str(len(files)), files))
        assert arrays.classes == CLASSES and np.array_equal(arrays.images, cifar_images(CLASSES))


def test_both_layouts_have_the_same_hash(tmp_path):
    hashes = set()
    for name, files in {"cifar100": cifar_files(), "cifar-100-python": cifar_pickles()}.items():
        archive = write_tar(tmp_path / name / f"{name}.tar.gz", files)
        prepare("cifar-fs", archive, tmp_path / f"prepared-{name}")
        hashes.add(load("cifar-fs", tmp_path / f"prepared-{name}").hash)
        assert verify("cifar-fs", tmp_path / f"prepared-{name}").official is False
    assert len(hashes) == 1


def test_raw_files_are_those_of_torchvision():
    (file,) = module.raw_files()
    assert file.name == "cifar-100-python.tar.gz" and file.url.endswith(file.name) and len(file.md5) == 32


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match="does not hold CIFAR-100, which is downloaded"):
        build(tmp_path)


def test_the_command_line_refuses_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MSMETA_DATA", str(tmp_path / "data"))
    archive = tmp_path / "cifar100.tar.gz"
    link = tarfile.TarInfo("cifar100/train/bee/link.webp")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    for info, message in ((link, "is a link or a device"), (tarfile.TarInfo("../x.webp"), "points out of")):
        with tarfile.open(archive, "w:gz") as file:
            file.addfile(info)
        monkeypatch.setattr("sys.argv", ["msmeta", "data", "prepare", "cifar-fs", "--from", str(archive)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
        assert stop.value.code == 2 and len(lines) == 1 and message in lines[0]
    assert not list(tmp_path.glob("data/*"))
