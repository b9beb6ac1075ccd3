"""CIFAR-FS from small made trees in both layouts of CIFAR-100."""

import io
import pickle
import random
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from msmeta import cli
from msmeta.data import DATASETS, load, prepare, verify
from msmeta.data import cifar_fs as module
from msmeta.errors import DataError

CLASSES = {"train": ["bee", "oak_tree"], "validation": ["apple"], "test": ["sea", "train"]}
NAMES = ["bee", "oak_tree", "apple", "sea", "train"]
FINE = sorted(NAMES)
SAMPLES = {"train": 3, "test": 2}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(module, "CLASSES", CLASSES)
    monkeypatch.setattr(module, "SAMPLES", SAMPLES)
    splits = {"train": range(0, 2), "validation": range(2, 3), "test": range(3, 5), "tune": range(0, 2)}
    monkeypatch.setitem(DATASETS, "cifar-fs", replace(module.DATASET, shape=(5, 5, 3, 32, 32), splits=splits))


def made() -> list[tuple[str, str, str, np.ndarray]]:
    """(part, class, stem, image (3, 32, 32)) in no order; the stems of one class do not share a first word."""
    generator = np.random.default_rng(0)
    images = [
        (part, label, f"{stem}_s_{number:06d}", generator.integers(0, 256, (3, 32, 32), np.uint8))
        for part, count in SAMPLES.items()
        for label in NAMES
        for number, stem in enumerate(["zebra", label, "Aster"][:count])
    ]
    random.Random(0).shuffle(images)
    return images


def expected() -> np.ndarray:
    """Images of train, then of test, each by file name."""
    images = made()
    return np.stack(
        [
            [
                picture
                for part in ("train", "test")
                for _, picture in sorted((row[2], row[3].tolist()) for row in images if row[:2] == (part, label))
            ]
            for label in NAMES
        ]
    ).astype(np.uint8)


def image_files() -> dict[str, bytes]:
    files = {}
    for part, label, stem, pixels in made():
        file = io.BytesIO()
        Image.fromarray(pixels.transpose(1, 2, 0)).save(file, "WEBP", lossless=True)
        files[f"{part}/{label}/{stem}.webp"] = file.getvalue()
    return files


def pickles(text=str) -> dict[str, bytes]:
    """The three files of the Python version; `text` makes the texts."""
    files = {"meta": {text("fine_label_names"): [text(name) for name in FINE]}}
    for part in SAMPLES:
        rows = [row for row in made() if row[0] == part]
        files[part] = {
            text("data"): np.stack([row[3].ravel() for row in rows]),
            text("fine_labels"): [FINE.index(row[1]) for row in rows],
            text("filenames"): [text(f"{row[2]}.png") for row in rows],
        }
    return {name: pickle.dumps(content, 2) for name, content in files.items()}


def changed(name, **changes) -> dict[str, bytes]:
    files = pickles()
    return files | {name: pickle.dumps(pickle.loads(files[name]) | changes, 2)}


def write(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_tar(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(f"{path.name.removesuffix('.tar.gz')}/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def build(folder):
    return module.build(folder, lambda *_: None)


def refused(folder, match):
    with pytest.raises(DataError, match=match) as error:
        build(folder)
    assert "\n" not in str(error.value)


def assert_right(arrays):
    assert arrays.classes == NAMES and np.array_equal(arrays.images, expected()) and arrays.images.dtype == np.uint8


def test_the_split(monkeypatch):
    monkeypatch.undo()
    assert {split: len(names) for split, names in module.CLASSES.items()} == {"train": 64, "validation": 16, "test": 20}
    assert len({name for names in module.CLASSES.values() for name in names}) == 100
    assert all(names == sorted(names) for names in module.CLASSES.values())
    assert module.DATASET.shape == (100, 600, 3, 32, 32) and sum(module.SAMPLES.values()) == 600
    assert {split: len(classes) for split, classes in module.DATASET.splits.items()} == {
        "train": 64,
        "validation": 16,
        "test": 20,
        "tune": 64,
    }


def test_both_layouts_give_the_same(tmp_path):
    assert_right(build(write(tmp_path / "a", image_files())))
    assert_right(build(write(tmp_path / "b/cifar100", image_files()).parent))
    assert_right(build(write(tmp_path / "c", pickles())))
    assert_right(build(write(tmp_path / "d/cifar-100-python", pickles(str.encode)).parent))
    hashes = set()
    for name, files in {"cifar100.tar.gz": image_files(), "cifar-100-python.tar.gz": pickles()}.items():
        (tmp_path / name.split(".")[0]).mkdir()
        archive = write_tar(tmp_path / name.split(".")[0] / name, files)
        prepare("cifar-fs", archive, tmp_path / f"prepared-{name}")
        hashes.add(load("cifar-fs", tmp_path / f"prepared-{name}").hash)
        assert verify("cifar-fs", tmp_path / f"prepared-{name}").official is False
    assert len(hashes) == 1


def test_raw_files_are_those_of_torchvision():
    (file,) = module.raw_files()
    assert file.name == "cifar-100-python.tar.gz" and file.url.endswith(file.name) and len(file.md5) == 32


def test_nothing_there(tmp_path):
    refused(tmp_path, "does not hold CIFAR-100, which is downloaded")


def test_wrong_counts(tmp_path):
    files = image_files()
    missing = {name: data for name, data in files.items() if name != "test/sea/zebra_s_000000.webp"}
    message = "test has 1 images of class sea instead of 2: get it again"
    refused(write(tmp_path / "a", missing), message)
    extra = files | {"train/sea/more.webp": files["test/sea/zebra_s_000000.webp"]}
    refused(write(tmp_path / "b", extra), "train has 4 images of class sea instead of 3")
    refused(write(tmp_path / "c", files | {"train/table/more.webp": b""}), "train has a class 'table', which CIFAR-100")


def test_damaged_images(tmp_path):
    files = image_files()
    name = "train/bee/Aster_s_000002.webp"
    refused(write(tmp_path / "a", files | {name: files[name][:100]}), f"{name} is not a readable PNG")
    file = io.BytesIO()
    Image.new("RGB", (33, 32)).save(file, "PNG")
    refused(write(tmp_path / "b", files | {name: file.getvalue()}), f"{name} is 33x32 instead of 32x32")


@pytest.mark.parametrize("name", ["meta", "train", "test"])
def test_missing_or_damaged_pickle(tmp_path, name):
    files = pickles()
    damaged = files | {name: files[name][:-40]}
    refused(write_tar(tmp_path / "cifar-100-python.tar.gz", damaged).parent, f"cannot read .*cifar-100-python/{name}: ")
    del files[name]
    refused(write_tar(tmp_path / "cifar-100-python.tar.gz", files).parent, f"holds no {name}: CIFAR-100 is downloaded")


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


def test_hostile_pickle(tmp_path):
    class Hostile:
        def __reduce__(self):
            return eval, (f"__import__('os').mkdir({str(tmp_path / 'made')!r})",)

    files = pickles() | {"test": pickle.dumps({"data": Hostile()}, 2)}
    refused(write(tmp_path, files), r"cannot read .*test: it asks for (builtins|__builtin__)\.eval")
    assert not (tmp_path / "made").exists()


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
