"""STL-10 from small made binary files in the official layout."""

from dataclasses import replace

import numpy as np
import pytest
from made import write, write_tar, write_zip
from PIL import Image
from torchvision.datasets import STL10

from msmeta.data import DATASETS, load, prepare, raw, verify
from msmeta.data import stl10 as module
from msmeta.data.dataset import splits_of_images
from msmeta.errors import DataError

PUBLISHED = {"train": 40, "test": 20}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(module, "PUBLISHED", PUBLISHED)
    splits = splits_of_images(train=30, validation=10, test=20)
    monkeypatch.setitem(DATASETS, "stl-10", replace(module.DATASET, splits=splits))


def made(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 96 rows, 96 columns, 3) and labels from 1 of a published part, the classes mixed."""
    generator = np.random.default_rng(len(part))
    count = PUBLISHED[part]
    small = generator.integers(0, 256, (count, 6, 4, 3), np.uint8)
    return small.repeat(16, 1).repeat(24, 2), generator.permutation(np.arange(count) % 10 + 1).astype(np.uint8)


def files() -> dict[str, bytes]:
    """Each channel column by column, as published; and unlabelled images, which are not read."""
    content = {"unlabeled_X.bin": bytes(3_000_000), "class_names.txt": b"airplane\n"}
    for part in PUBLISHED:
        images, labels = made(part)
        content[f"{part}_X.bin"], content[f"{part}_y.bin"] = images.transpose(0, 3, 2, 1).tobytes(), labels.tobytes()
    return content


def resized(images: np.ndarray) -> np.ndarray:
    """(N, 3, 32, 32)"""
    small = [np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR)) for image in images]
    return np.stack(small).transpose(0, 3, 1, 2)


def refused(folder, match):
    with pytest.raises(DataError, match=match) as error:
        prepare("stl-10", folder, folder / "data")
    assert "\n" not in str(error.value)
    assert not (folder / "data" / "stl-10").exists()


def test_what_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(raw, "MAX_BYTES", 2_000_000)  # too little for the unlabelled images
    folders = [
        write(tmp_path / "a", files()),
        write(tmp_path / "b/stl10_binary", files()).parent,
        write_tar(tmp_path / "c/stl10_binary.tar.gz", files()).parent,
        write_zip(tmp_path / "d/stl10_binary.zip", files()).parent,
    ]
    for folder in folders:
        prepare("stl-10", folder, tmp_path / "prepared" / folder.name)
        assert verify("stl-10", tmp_path / "prepared" / folder.name).state == "prepared"
    data, *others = (load("stl-10", root=tmp_path / "prepared" / folder.name) for folder in folders)
    assert {other.hash for other in others} == {data.hash}
    images, labels = made("test")
    order = np.argsort(labels, kind="stable")
    assert np.array_equal(data.images["test"].numpy(), resized(images[order]))
    assert data.labels["test"].tolist() == (labels[order] - 1).tolist()
    images, labels = made("train")
    stored = np.concatenate([data.images[split] for split in ("train", "validation")])
    assert np.array_equal(stored, resized(images)[np.load(tmp_path / "prepared/a/stl-10/order.npy")])
    assert (
        data.labels["validation"].tolist() == list(range(10)) and data.labels["train"].bincount().tolist() == [3] * 10
    )
    of_label = {resized(image[None]).tobytes(): label - 1 for image, label in zip(images, labels, strict=True)}
    for split in ("train", "validation"):
        found = [of_label.pop(image.numpy().tobytes()) for image in data.images[split]]
        assert found == data.labels[split].tolist()
    assert not of_label


def test_the_folder_of_torchvision(tmp_path, monkeypatch):
    """Its own class reads the same images and labels from it."""
    write(tmp_path / "stl10_binary", files())
    monkeypatch.setattr(STL10, "_check_integrity", lambda self: True)  # of the published files
    prepare("stl-10", tmp_path, tmp_path / "data")
    data, theirs = load("stl-10", root=tmp_path / "data"), STL10(str(tmp_path), "test")
    images = resized(theirs.data.transpose(0, 2, 3, 1))
    order = np.argsort(theirs.labels, kind="stable")
    assert np.array_equal(data.images["test"].numpy(), images[order])
    assert data.labels["test"].tolist() == theirs.labels[order].tolist()


def test_real_counts(monkeypatch):
    monkeypatch.undo()
    assert module.PUBLISHED == {"train": 4_500 + 500, "test": 8_000}


def test_nothing_there(tmp_path):
    refused(tmp_path, f"{tmp_path}: no train_X.bin: STL-10 is downloaded")


@pytest.mark.parametrize("name", ["train_y.bin", "test_X.bin"])
def test_missing_or_damaged(tmp_path, name):
    content = files()
    data = content.pop(name)
    refused(write_tar(tmp_path / "a/stl10_binary.tar.gz", content).parent, f"no {name}: STL-10 is downloaded")
    refused(write(tmp_path / "b/stl10_binary", content | {name: data[:-1]}).parent, f"{name} has .* bytes instead of")
    archive = write_tar(tmp_path / "c/stl10_binary.tar.gz", content | {name: data})
    archive.write_bytes(archive.read_bytes()[:-2000])
    refused(archive.parent, "cannot read .*stl10_binary.tar.gz")


@pytest.mark.parametrize("label", [0, 11, 3])
def test_wrong_labels(tmp_path, label):
    labels = made("test")[1]
    labels[labels == 5] = label
    content = files() | {"test_y.bin": labels.tobytes()}
    refused(write(tmp_path / "stl10_binary", content).parent, "test_y.bin does not hold 2 labels of each class")
