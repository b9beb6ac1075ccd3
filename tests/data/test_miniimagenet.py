"""miniImageNet from small made trees in the layouts in circulation."""

import csv
import io
import pickle
import re
from dataclasses import replace

import made
import numpy as np
import pytest
from made import image, write, write_tar, write_zip
from PIL import Image

from msmeta.data import DATASETS, Arrays, load, prepare
from msmeta.data import miniimagenet as module
from msmeta.data.dataset import splits_of_classes

SMALL = {"train": 3, "val": 2, "test": 2}
SAMPLES = 4
CLASSES = ["n03", "n05", "n09", "n01", "n08", "n02", "n04"]
"""Sorted within the splits."""


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(module, "CLASSES", SMALL)
    monkeypatch.setattr(module, "SAMPLES", SAMPLES)
    splits = splits_of_classes(SAMPLES, train=range(3), validation=range(3, 5), test=range(5, 7), tune=range(3))
    dataset = replace(module.DATASET, classes=7, samples=SAMPLES, splits=splits)
    monkeypatch.setitem(DATASETS, "miniimagenet", dataset)


def pixels(label: str, sample: int) -> np.ndarray:
    """An image (84, 84, 3) of its own."""
    return np.random.default_rng([int(label[1:]), sample]).integers(0, 256, (84, 84, 3), np.uint8)


def tree(kind: str = "PNG", suffix: str = ".png") -> dict[str, bytes]:
    """Content of each file; the rows of the CSV files are neither sorted nor class by class."""
    files, first = {}, 0
    for split, count in SMALL.items():
        rows = []
        for sample in (2, 0, 3, 1):
            for label in reversed(CLASSES[first : first + count]):
                rows.append((f"{label}_{sample}.png", label))
                files[f"images/{label}_{sample}{suffix}"] = image(pixels(label, sample), kind)
        text = io.StringIO()
        csv.writer(text).writerows([("filename", "label"), *rows])
        files[f"{split}.csv"] = text.getvalue().encode()
        first += count
    return files


def write_pickles(folder, changes=None):
    first = 0
    for split, count in SMALL.items():
        labels = CLASSES[first : first + count]
        data = np.stack([pixels(label, sample) for label in reversed(labels) for sample in (2, 0, 3, 1)])
        rows = {label: list(range(4 * place, 4 * place + 4)) for place, label in enumerate(reversed(labels))}
        content = {"image_data": data, "class_dict": rows} | ((changes or {}) if split == "val" else {})
        (folder / f"mini-imagenet-cache-{split}.pkl").write_bytes(pickle.dumps(content))
        first += count
    return folder


def build(folder):
    return module.build(folder, lambda *_: None, dataset=DATASETS["miniimagenet"])


def refused(folder, match):
    made.refused(match, module.build, folder, lambda *_: None, np.empty, DATASETS["miniimagenet"])


def assert_right(arrays):
    assert arrays.classes == CLASSES
    assert arrays.images.shape == (7 * SAMPLES, 3, 84, 84) and arrays.images.dtype == np.uint8
    assert arrays.labels.tolist() == np.repeat(np.arange(7), SAMPLES).tolist()
    for label, found in zip(CLASSES, arrays.images.reshape(7, SAMPLES, 3, 84, 84), strict=True):
        for place, sample in enumerate((2, 0, 3, 1)):
            assert np.array_equal(found[place].transpose(1, 2, 0), pixels(label, sample))


def test_the_published_counts():
    dataset = module.DATASET
    classes = {split: dataset.classes_in(split) for split in dataset.splits}
    assert classes == {"train": 64, "validation": 16, "test": 20, "tune": 64}
    assert (dataset.classes, dataset.samples, dataset.shape) == (100, 600, (3, 84, 84))


def test_all_layouts_give_the_same(tmp_path):
    (tmp_path / "pickles").mkdir()
    assert_right(build(write(tmp_path / "itself", tree())))
    assert_right(build(write(tmp_path / "outer/miniimagenet", tree()).parent))
    assert_right(build(write_pickles(tmp_path / "pickles")))
    archives = [
        write_tar(tmp_path / "tar/miniimagenet.tar.gz", tree()),
        write_tar(tmp_path / "last/miniimagenet.tar.gz", dict(sorted(tree().items(), reverse=True))),
        write_zip(tmp_path / "zip/miniimagenet.zip", {f"miniimagenet/{name}": data for name, data in tree().items()}),
    ]
    for archive in archives:
        prepare("miniimagenet", archive, archive.parent / "data")
        data = load("miniimagenet", root=archive.parent / "data")
        images = np.concatenate([data.images[split].numpy() for split in ("train", "validation", "test")])
        assert_right(Arrays(images, np.repeat(np.arange(7), SAMPLES), CLASSES))
        assert len(data.by_class("tune")) == 3 and data.rotations == 1


def in_folders(files, place) -> dict[str, bytes]:
    """The images in a folder for each class, below `place(class)`."""
    return {
        f"{place(name[7:10])}/{name[7:10]}/{name[7:]}" if name.startswith("images/") else name: data
        for name, data in files.items()
    }


def test_a_folder_for_each_class_beside_the_lists(tmp_path):
    """As mmfewshot has it."""
    files = in_folders(tree(), lambda label: "images")
    assert "images/n03/n03_0.png" in files
    assert_right(build(write(tmp_path / "a/miniimagenet", files).parent))
    assert_right(build(write(tmp_path / "b", in_folders(tree("WEBP", ".webp"), lambda label: "images"))))
    in_list = {
        name: re.sub(rb"(n\d\d)_", rb"\1/\1_", data) if name.endswith("csv") else data for name, data in files.items()
    }
    assert_right(build(write(tmp_path / "c", in_list)))


def split_of(label):
    return ("train", "val", "test")[np.searchsorted([3, 5], CLASSES.index(label), "right")]


def test_a_folder_for_each_class_of_each_split(tmp_path):
    files = in_folders(tree(), split_of)
    assert_right(build(write(tmp_path / "lists", files)))
    plain = {name: data for name, data in files.items() if not name.endswith("csv")}
    for folder in (write(tmp_path / "a", plain), write(tmp_path / "b/miniimagenet", plain).parent):
        arrays = build(folder)
        assert arrays.classes == CLASSES
        for place, label in enumerate(CLASSES):
            for sample in range(SAMPLES):  # by name
                found = arrays.images[place * SAMPLES + sample].transpose(1, 2, 0)
                assert np.array_equal(found, pixels(label, sample))
    missing = {name: data for name, data in plain.items() if not name.startswith("val")}
    refused(write(tmp_path / "c", missing), "val has 0 classes instead of 2: get it again")


def test_images_stored_in_another_format_than_the_csv_says(tmp_path):
    assert_right(build(write(tmp_path, tree("WEBP", ".webp"))))


def test_other_sizes_are_resized_and_grey_becomes_rgb():
    wide = np.random.default_rng(0).integers(0, 256, (100, 200), np.uint8)
    found = module.decode(image(wide), "x")
    expected = Image.fromarray(wide).convert("RGB").resize((84, 84), Image.Resampling.BILINEAR)
    assert np.array_equal(found.transpose(1, 2, 0), np.asarray(expected))


def test_the_command_line_says_in_one_line_what_is_needed(tmp_path, monkeypatch, command_line):
    monkeypatch.setenv("MSMETA_DATA", str(tmp_path / "data"))
    (tmp_path / "miniimagenet.tar.gz").write_bytes(b"damaged")
    expected = {
        (): "miniimagenet cannot be downloaded: it is given with `msmeta data prepare miniimagenet --from DIR`",
        ("--from", str(tmp_path / "miniimagenet.tar.gz")): "cannot read",
        ("--from", str(tmp_path / "none")): "there is no folder",
    }
    for arguments, message in expected.items():
        status, _, error = command_line("prepare", "miniimagenet", *arguments)
        assert status == 2 and len(error.strip().splitlines()) == 1 and message in error
    assert not list(tmp_path.glob("data/*"))


def test_nothing_there(tmp_path):
    refused(tmp_path, "does not hold miniImageNet, which is given with .*--from DIR")


def test_missing_csv(tmp_path):
    write(tmp_path, tree())
    (tmp_path / "val.csv").unlink()
    refused(tmp_path, r"no val\.csv: miniImageNet is given")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"name,label\n", "columns are not filename,label"),
        (b"", "columns are not filename,label"),
        (b"filename,label\na.png\n", "line 2 lacks a filename or a label"),
        (b"filename,label\n\xff,\xfe\n", "codec can't decode"),
        (b"filename,label\n" + b"a" * 200_000, "field limit|field larger"),
    ],
)
def test_damaged_csv(tmp_path, text, message):
    refused(write(tmp_path, tree() | {"val.csv": text}), rf"cannot read .*val\.csv: .*({message})")


def change_row(files, name, old, new):
    return files | {name: files[name].replace(old, new)}


def test_wrong_counts(tmp_path):
    files = tree()
    refused(
        write(tmp_path / "a", change_row(files, "val.csv", b",n01", b",n77\r\nx.png,n01")),
        "val has 3 classes instead of 2: get it again",
    )
    refused(write(tmp_path / "b", change_row(files, "val.csv", b"n01", b"n03")), "class n03 is in two splits")
    refused(
        write(tmp_path / "c", change_row(files, "test.csv", b"n02_3.png,n02\r\n", b"")),
        "test has 3 images of class n02, 3 of them different, instead of 4: get it again",
    )
    refused(
        write(tmp_path / "d", change_row(files, "test.csv", b"n02_3.png", b"n02_1.png")),
        "test has 4 images of class n02, 3 of them different, instead of 4: get it again",
    )


@pytest.mark.parametrize("name", ["n05_9.png", "../train.csv", "/etc/passwd", "n05_9"])
def test_csv_that_names_a_missing_file(tmp_path, name):
    files = change_row(tree(), "train.csv", b"n05_2.png", name.encode())
    refused(write(tmp_path, files), f"no images/{name}, which a CSV file names")


def test_damaged_image(tmp_path):
    files = tree()
    files["images/n08_1.png"] = files["images/n08_1.png"][:500]
    refused(write(tmp_path, files), r"images/n08_1\.png is not a readable PNG, JPEG or WebP image")


def test_pickle_of_a_split_missing(tmp_path):
    (write_pickles(tmp_path) / "mini-imagenet-cache-test.pkl").unlink()
    refused(tmp_path, r"cannot read mini-imagenet-cache-test\.pkl: .*No such file")


ROWS = {"n01": [4, 5, 6, 7], "n08": [0, 1, 2, 3]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_data": [1, 2]}, "lacks image_data or class_dict"),
        ({"image_data": np.zeros((8, 84, 84), np.uint8)}, r"image_data is uint8 \(8, 84, 84\) instead of"),
        ({"image_data": np.zeros((8, 84, 84, 3), np.int64)}, "image_data is int64"),
        ({"image_data": np.zeros((8, 84, 84, 3), np.float32)}, "an array of float32 where one of integers belongs"),
        ({"class_dict": [1, 2]}, "lacks image_data or class_dict"),
        ({"class_dict": ROWS | {"n01": [4, 5, 6, 8]}}, "class n01 is not a list of rows"),
        ({"class_dict": ROWS | {"n01": [4, 5, 6, -1]}}, "class n01 is not a list of rows"),
        ({"class_dict": ROWS | {"n01": "4567"}}, "class n01 is not a list of rows"),
        ({"class_dict": ROWS | {7: [1, 2, 3, 4]}}, "int where a text belongs"),
        ({"class_dict": ROWS | {"n01": [4, 5, 6]}}, "val has 3 images of class n01"),
        ({"class_dict": {"n01": ROWS["n01"]}}, "val has 1 classes"),
    ],
)
def test_wrong_pickles(tmp_path, changes, message):
    refused(write_pickles(tmp_path, changes), message)


def test_hostile_pickle(tmp_path):
    write_pickles(tmp_path, {"image_data": made.makes_folder(tmp_path / "made")})
    refused(tmp_path, r"cannot read mini-imagenet-cache-val\.pkl: it asks for builtins\.eval")
    assert not (tmp_path / "made").exists()
