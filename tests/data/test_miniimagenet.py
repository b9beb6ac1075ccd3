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
    return module.build(folder, lambda *_: None, np.empty, DATASETS["miniimagenet"], False)


def refused(folder, match):
    made.refused(match, module.build, folder, lambda *_: None, np.empty, DATASETS["miniimagenet"], False)


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
    refused(write(tmp_path / "c", missing), "no images val/CLASS/FILE: miniImageNet is given")


def test_images_stored_in_another_format_than_the_csv_says(tmp_path):
    assert_right(build(write(tmp_path, tree("WEBP", ".webp"))))


def test_other_sizes_are_resized_and_grey_becomes_rgb():
    wide = np.random.default_rng(0).integers(0, 256, (100, 200), np.uint8)
    found = module.decode(image(wide), "x")
    expected = Image.fromarray(wide).convert("RGB").resize((84, 84), Image.Resampling.BILINEAR)
    assert np.array_equal(found.transpose(1, 2, 0), np.asarray(expected))


def test_the_command_line_says_in_one_line_what_is_needed(tmp_path, msmeta):
    (tmp_path / "miniimagenet.tar.gz").write_bytes(b"damaged")
    expected = {
        (): "miniimagenet cannot be downloaded: it is given with `msmeta data prepare miniimagenet --from DIR`",
        ("--from", str(tmp_path / "miniimagenet.tar.gz")): "cannot read",
        ("--from", str(tmp_path / "none")): "there is no folder",
    }
    for arguments, message in expected.items():
        status, _, error = msmeta("data", "prepare", "miniimagenet", *arguments)
        assert status == 2 and len(error.strip().splitlines()) == 1 and message in error
    assert not list(tmp_path.glob("data/*"))


def test_raw_files_for_what_is_prepared_are_not_read_and_that_is_said(tmp_path, msmeta, monkeypatch):
    monkeypatch.setenv("MSMETA_DATA", str(tmp_path / "data"))
    raw = write(tmp_path / "raw", tree())
    for source, end in ((raw, "miniimagenet\n"), (tmp_path, f"it was before, so {tmp_path} was not read\n")):
        status, out, error = msmeta("data", "prepare", "miniimagenet", "--from", str(source))
        assert status == 0 and out.endswith(end), error


def test_nothing_there(tmp_path):
    refused(tmp_path, "does not hold miniImageNet, which is given with .*--from DIR")


def test_lists_whose_images_lie_elsewhere_are_not_blamed(tmp_path):
    files = tree()
    images = {f"pictures/{name.rpartition('/')[2]}": data for name, data in files.items() if not name.endswith(".csv")}
    lists = {name: data for name, data in files.items() if name.endswith(".csv")}
    refused(write(tmp_path, lists | images), "no images in images/, train/, val/ or test/: miniImageNet is given with")


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
        "val has 3 classes instead of 2: leave only what was published",
    )
    refused(
        write(tmp_path / "b", change_row(files, "val.csv", b"n01", b"n03")),
        r"class n03 is in two splits, which those of Ravi and Larochelle \(2017\) have not",
    )
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
    refused(write(tmp_path, files), f"1 of 28 images that the lists name are not there, such as {name}: get the images")


def test_damaged_image(tmp_path):
    files = tree()
    files["images/n08_1.png"] = files["images/n08_1.png"][:500]
    refused(write(tmp_path, files), r"images/n08_1\.png is not a readable PNG, JPEG or WebP image")


def test_pickle_of_a_split_missing(tmp_path):
    (write_pickles(tmp_path) / "mini-imagenet-cache-test.pkl").unlink()
    refused(tmp_path, r"no mini-imagenet-cache-test\.pkl: miniImageNet is given")


ROWS = {"n01": [4, 5, 6, 7], "n08": [0, 1, 2, 3]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_data": [1, 2]}, "image_data is neither an array nor a list of arrays"),
        ({"image_data": np.zeros((8, 84, 84), np.uint8)}, r"image_data is uint8 \(8, 84, 84\) instead of"),
        ({"image_data": np.full((8, 84, 84, 3), 256)}, "image_data is int64 from 256 to 256, not pixels"),
        ({"image_data": np.full((8, 84, 84, 3), -0.5)}, "image_data is float64 from -0.5 to -0.5, not pixels"),
        ({"image_data": np.full((8, 84, 84, 3), np.nan)}, "image_data is float64 from nan to nan, not pixels"),
        ({"image_data": [np.zeros((84, 84, 3)), np.zeros((84, 80, 3))]}, r"of 2 shapes, such as \(84, 80, 3\) and"),
        ({"class_dict": [1, 2]}, "lacks class_dict"),
        ({"class_dict": ROWS | {"n01": [4, 5, 6, 8]}}, "class n01 has row 8, of 8 images"),
        ({"class_dict": ROWS | {"n01": [4, 5, 6, -1]}}, "class n01 has row -1, of 8 images"),
        ({"class_dict": ROWS | {"n01": "4567"}}, "n01 is not a list of whole numbers"),
        ({"class_dict": ROWS | {7: [1, 2, 3, 4]}}, "int where a text belongs"),
        ({"class_dict": ROWS | {"n01": [4, 5, 6]}}, "val has 3 images of class n01"),
        ({"class_dict": {"n01": ROWS["n01"]}}, "val has 1 classes"),
    ],
)
def test_wrong_pickles(tmp_path, changes, message):
    refused(write_pickles(tmp_path, changes), message)


def of_splits():
    """For each split (classes, (class, sample) of each image in the pickles)."""
    first = 0
    for split, count in SMALL.items():
        labels = CLASSES[first : first + count]
        yield split, labels, [(label, sample) for label in reversed(labels) for sample in (2, 0, 3, 1)]
        first += count


@pytest.mark.parametrize("kind", ["float32", "float64", "fractions", "int64", "list", "float list", "by class"])
def test_pickles_of_other_kinds_of_arrays(tmp_path, kind):
    """Floats from 0 to 255 or from 0 to 1 give the pixels that they were made of."""
    make = {
        "fractions": lambda data: (data / 255).astype(np.float32),
        "list": list,
        "float list": lambda data: [image.astype(np.float32) for image in data],
        "by class": lambda data: data,
    }.get(kind, lambda data: data.astype(kind))
    for split, labels, rows in of_splits():
        data = np.stack([pixels(*row) for row in rows])
        places = {label: np.array([place for place, row in enumerate(rows) if row[0] == label]) for label in labels}
        content = {"image_data": make(data), "class_dict": places}
        if kind == "by class":
            content = {label: list(data[own]) for label, own in places.items()}
        write(tmp_path, {f"mini-imagenet-cache-{split}.pkl": pickle.dumps(content)})
    assert_right(build(tmp_path))


@pytest.mark.parametrize("named", [True, False])
def test_pickles_by_category(tmp_path, named):
    """As Gidaris and Komodakis (2018) made them, whose phases hold more images of the classes for training."""
    first = 0
    for split, labels, rows in of_splits():
        numbers = {label: first + place for place, label in enumerate(labels)}
        content = {"data": np.stack([pixels(*row) for row in rows]), "labels": [numbers[label] for label, _ in rows]}
        if named:
            content |= {"catname2label": numbers, "label2catname": dict(enumerate(labels, first))}
        name = {"train": "train_phase_train"}.get(split, split)
        write(tmp_path / "miniImageNet", {f"miniImageNet_category_split_{name}.pickle": pickle.dumps(content, 2)})
        first += len(labels)
    write(tmp_path / "miniImageNet", {"miniImageNet_category_split_train_phase_val.pickle": b"not read"})
    arrays = build(tmp_path)
    assert arrays.classes == (CLASSES if named else [f"class {number:02d}" for number in range(7)])
    assert_right(replace(arrays, classes=CLASSES))
    (tmp_path / "miniImageNet/miniImageNet_category_split_val.pickle").unlink()
    refused(tmp_path, r"no miniImageNet_category_split_val\.pickle: miniImageNet is given")


def test_lists_in_a_folder_of_their_own_and_images_in_an_archive(tmp_path):
    """The first as many repositories have them, the second as MAML's script wants it."""
    files = {f"split/{name}" if name.endswith("csv") else name: data for name, data in tree().items()}
    assert_right(build(write(tmp_path / "a", files)))
    lists = {name: data for name, data in tree().items() if name.endswith("csv")}
    for number, top in enumerate(("images/", "")):
        source = write(tmp_path / f"b{number}", lists)
        images = {top + name[7:]: data for name, data in tree().items() if name.startswith("images/")}
        write_zip(source / "images.zip", images)
        prepare("miniimagenet", source, source / "data")
        assert load("miniimagenet", root=source / "data").by_class("train").shape == (3, SAMPLES, 3, 84, 84)


def test_images_without_lists(tmp_path):
    images = {name: data for name, data in tree().items() if name.startswith("images/")}
    refused(write(tmp_path, images), r"no train\.csv: miniImageNet is given")


def test_where_every_file_is_a_link(tmp_path):
    stored = write(tmp_path / "stored", tree())
    (tmp_path / "raw/images").mkdir(parents=True)
    for name in tree():
        (tmp_path / "raw" / name).symlink_to(stored / name)
    refused(tmp_path / "raw", "is a link: --follow-links")
    prepare("miniimagenet", tmp_path / "raw", tmp_path / "a", follow_links=True)
    prepare("miniimagenet", stored, tmp_path / "b")
    assert load("miniimagenet", root=tmp_path / "a").hash == load("miniimagenet", root=tmp_path / "b").hash


def test_hostile_pickle(tmp_path):
    write_pickles(tmp_path, {"image_data": made.makes_folder(tmp_path / "made")})
    refused(tmp_path, r"cannot read mini-imagenet-cache-val\.pkl: it asks for builtins\.eval")
    assert not (tmp_path / "made").exists()
