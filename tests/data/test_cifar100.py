"""CIFAR-100 and CIFAR-FS from small made trees in both layouts."""

import pickle
import tarfile
from dataclasses import replace

import made
import numpy as np
import pytest
from made import (
    CLASSES,
    FINE,
    SAMPLES,
    cifar_files,
    cifar_images,
    cifar_pickles,
    cifar_rows,
    image,
    write,
    write_tar,
    write_zip,
)

from msmeta.data import DATASETS, load, prepare, status, stored_hash, verify
from msmeta.data import cifar100 as module
from msmeta.data.dataset import splits_of_classes, splits_of_images


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(module, "CLASSES", FINE)
    monkeypatch.setattr(module, "SAMPLES", SAMPLES)
    counts = {"train": 10, "validation": 5, "test": 10}
    monkeypatch.setattr(module, "VALIDATION", counts["validation"])
    few_shot = {"train": CLASSES[:2], "validation": CLASSES[2:3], "test": CLASSES[3:]}
    monkeypatch.setattr(module, "FEW_SHOT_CLASSES", few_shot)
    monkeypatch.setitem(DATASETS, "cifar-100", replace(module.CIFAR_100, classes=5, splits=splits_of_images(**counts)))
    splits = splits_of_classes(5, train=range(2), validation=range(2, 3), test=range(3, 5), tune=range(2))
    monkeypatch.setitem(DATASETS, "cifar-fs", replace(module.CIFAR_FS, classes=5, samples=5, splits=splits))


def changed(name, **changes) -> dict[str, bytes]:
    files = cifar_pickles()
    return files | {name: pickle.dumps(pickle.loads(files[name]) | changes, 2)}


def refused(folder, match):
    made.refused(match, module.build, folder, lambda *_: None, np.empty, DATASETS["cifar-100"], False)


@pytest.mark.usefixtures("small")
def test_both_layouts_give_the_same(tmp_path):
    plain = [
        write(tmp_path / "a", cifar_files()),
        write(tmp_path / "b/cifar100", cifar_files()).parent,
        write(tmp_path / "c", cifar_pickles()),
        write(tmp_path / "d/cifar-100-python", cifar_pickles(str.encode)).parent,
    ]
    archives = [
        write_tar(tmp_path / "e/cifar100.tar.gz", cifar_files()).parent,
        write_tar(tmp_path / "f/cifar-100-python.tar.gz", cifar_pickles()).parent,
    ]
    for folder in (*plain, *archives):
        prepare("cifar-100", folder, tmp_path / "prepared" / folder.name)
    for name in ("cifar-100", "cifar-fs"):
        assert len({load(name, root=root).hash for root in (tmp_path / "prepared").iterdir()}) == 1


@pytest.mark.usefixtures("small")
def test_the_order_of_the_official_file_is_kept(tmp_path):
    prepare("cifar-100", write(tmp_path / "raw", cifar_pickles()), tmp_path / "a")
    data, rows = load("cifar-100", root=tmp_path / "a"), pickle.loads(cifar_pickles()["train"])["data"]
    order = np.load(tmp_path / "a/cifar-100/order.npy")
    assert np.array_equal(
        np.concatenate([data.images[s] for s in ("train", "validation")]).reshape(15, -1), rows[order]
    )
    prepare("cifar-100", write(tmp_path / "files", cifar_files()), tmp_path / "b")  # of which nobody can tell it
    assert not (tmp_path / "b/cifar-100/order.npy").exists()


@pytest.mark.usefixtures("small")
def test_cifar_fs_has_the_classes_in_the_order_of_its_splits_and_the_published_images(tmp_path):
    prepare("cifar-fs", write(tmp_path / "raw", cifar_pickles()), tmp_path)
    data, expected = load("cifar-fs", root=tmp_path), cifar_images(CLASSES)
    for split, part in {"train": slice(2), "validation": slice(2, 3), "test": slice(3, 5), "tune": slice(2)}.items():
        assert np.array_equal(data.by_class(split).numpy(), expected[part])
    assert [path.name for path in tmp_path.glob("cifar*")] == ["cifar-100"]


def test_the_split_of_cifar_fs():
    classes = module.FEW_SHOT_CLASSES
    assert {split: len(names) for split, names in classes.items()} == {"train": 64, "validation": 16, "test": 20}
    assert len(set(module.CLASSES)) == 100 and sorted(module.CLASSES) == module.CLASSES
    assert all(names == sorted(names) for names in classes.values())
    dataset = module.CIFAR_FS
    sizes = {split: dataset.classes_in(split) for split in dataset.splits}
    assert sizes == {"train": 64, "validation": 16, "test": 20, "tune": 64}


@pytest.mark.usefixtures("small")
def test_validation_is_a_part_of_each_class_of_the_training_images(tmp_path):
    prepare("cifar-100", write(tmp_path / "raw", cifar_files()), tmp_path)
    data, expected = load("cifar-100", root=tmp_path), cifar_images(FINE)
    assert data.labels["train"].tolist() == np.repeat(np.arange(5), 2).tolist()
    assert data.labels["validation"].tolist() == list(range(5))
    assert np.array_equal(data.images["test"].numpy(), expected[:, 3:].reshape(-1, 3, 32, 32))
    for label in range(5):
        of_class = [data.images[split][data.labels[split] == label].numpy() for split in ("train", "validation")]
        assert sorted(x.tobytes() for x in np.concatenate(of_class)) == sorted(x.tobytes() for x in expected[label, :3])


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("layout", ["", "cifar100"])
def test_other_layouts_are_refused_with_those_that_are_read(tmp_path, layout):
    for label in CLASSES if layout else ():
        write(tmp_path / layout / label, {f"{label}_s_000000.png": image(np.zeros((32, 32, 3), np.uint8))})
    refused(tmp_path, "does not hold CIFAR-100, which is downloaded .* train/CLASS/ and test/CLASS/")


@pytest.mark.usefixtures("small")
def test_wrong_counts(tmp_path):
    files = cifar_files()
    missing = {name: data for name, data in files.items() if name != "test/sea/zebra_s_000000.webp"}
    message = "test has 1 images of class sea, 1 of them different, instead of 2: get it again"
    refused(write(tmp_path / "a", missing), message)
    extra = files | {"train/sea/more.webp": files["test/sea/zebra_s_000000.webp"]}
    refused(write(tmp_path / "b", extra), "train has 4 images of class sea")
    more = files | {"train/table/more.webp": b""}
    refused(write(tmp_path / "c", more), "train has a class 'table', which CIFAR-100 has not")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("layout", ["", "cifar100/"])
def test_splits_of_classes_are_no_layout_of_it_whole_as_they_may_be(tmp_path, layout):
    black = image(np.zeros((32, 32, 3), np.uint8))
    files = {f"{layout}{part}/sea/{part}.png": black for part in ("train", "val", "test")}
    refused(write(tmp_path, files), f"{layout}val/ is no part of CIFAR-100, which is downloaded .* test/CLASS/")


def authors_files() -> dict[str, bytes]:
    """CIFAR-FS as its authors give it."""
    splits = {"train": CLASSES[:2], "val": CLASSES[2:3], "test": CLASSES[3:]}
    files = {f"splits/bertinetto/{part}.txt": "\n".join(names).encode() + b"\n" for part, names in splits.items()}
    images = ((label, f"{part}_{stem}", pixels.transpose(1, 2, 0)) for part, label, stem, pixels in cifar_rows())
    return files | {f"data/{label}/{stem}.png": image(pixels) for label, stem, pixels in images}


@pytest.mark.usefixtures("small")
def test_cifar_fs_as_its_authors_give_it(tmp_path):
    in_zip = {f"cifar100/{name}": data for name, data in authors_files().items()}
    for number, folder in enumerate((
        write(tmp_path / "a/cifar100", authors_files()).parent,
        write(tmp_path / "b", authors_files()),
        write_zip(tmp_path / "c/cifar100.zip", in_zip).parent,
    )):  # fmt: skip
        root = tmp_path / f"data{number}"
        assert prepare("cifar-fs", folder, root) == root / "cifar-fs"
        assert prepare("cifar-fs", folder, root) == root / "cifar-fs" and not (root / "cifar-100").exists()
        data = load("cifar-fs", root=root)
        rows = {(label, f"{part}_{stem}"): pixels for part, label, stem, pixels in cifar_rows()}
        expected = np.stack([[rows[key] for key in sorted(rows) if key[0] == label] for label in CLASSES])
        for split, part in {"train": slice(2), "validation": slice(2, 3), "test": slice(3, 5)}.items():
            assert np.array_equal(data.by_class(split).numpy(), expected[part])
        assert data.hash == stored_hash("cifar-fs", root) == verify("cifar-fs", root).hash
    (entry,) = (entry for entry in status(root) if entry.dataset.name == "cifar-fs")
    assert entry.state == "prepared" and entry.bytes > 25 * 3072


@pytest.mark.usefixtures("small")
def test_what_cifar_fs_alone_has_not(tmp_path):
    files = authors_files()
    why = "does not say which images CIFAR-100 has for the test: CIFAR-FS alone can be prepared from it"
    refused(write(tmp_path / "a/cifar100", files).parent, why)
    for number, (changes, message) in enumerate((
        ({"splits/bertinetto/val.txt": b"bee"}, r"splits/bertinetto/val\.txt has other classes than CIFAR-FS"),
        ({"data/bee/more.png": b""}, "data has 6 images of class bee, .* leave only"),
        ({"data/zoo/more.png": b""}, "data has a class 'zoo', which CIFAR-100 has not"),
    )):  # fmt: skip
        made.refused(message, prepare, "cifar-fs", write(tmp_path / str(number), files | changes), tmp_path / "data")
    renamed = {name.replace("data/bee/", "data/zoo/"): data for name, data in files.items()}
    unknown = write(tmp_path / "renamed", renamed)
    made.refused("a class 'zoo', which CIFAR-100 has not$", prepare, "cifar-fs", unknown, tmp_path / "data")
    assert not list(tmp_path.glob("data/*"))


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
    refused(write(tmp_path / "a/cifar-100-python", damaged).parent, f"cannot read cifar-100-python/{name}: ")
    del files[name]
    refused(write(tmp_path / "b/cifar-100-python", files).parent, f"no {name}: CIFAR-100 is downloaded")


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
        ("test", {"fine_labels": [0] * 10}, "test has 1 classes instead of 5: get it again"),
    ],
)
def test_wrong_pickles(tmp_path, name, changes, message):
    refused(write(tmp_path, changed(name, **changes)), message)


@pytest.mark.usefixtures("small")
def test_hostile_pickle(tmp_path):
    files = cifar_pickles() | {"test": pickle.dumps({"data": made.makes_folder(tmp_path / "made")}, 2)}
    refused(write(tmp_path, files), r"cannot read .*test: it asks for (builtins|__builtin__)\.eval")
    assert not (tmp_path / "made").exists()


@pytest.mark.usefixtures("small")
def test_the_command_line_refuses_in_one_line(tmp_path, msmeta):
    archive = tmp_path / "cifar100.tar.gz"
    link = tarfile.TarInfo("cifar100/train/bee/link.webp")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    for info, message in ((link, "is a link or a device"), (tarfile.TarInfo("../x.webp"), "points out of")):
        with tarfile.open(archive, "w:gz") as file:
            file.addfile(info)
        status, _, error = msmeta("data", "prepare", "cifar-fs", "--from", str(archive))
        assert status == 2 and len(error.strip().splitlines()) == 1 and message in error
    assert not list(tmp_path.glob("data/*"))
