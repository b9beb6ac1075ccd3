"""The four data sets of photographs from small made trees in the layouts in which they are published."""

import io
from dataclasses import replace
from pathlib import Path

import made
import numpy as np
import pytest
from made import image, mat_file, write, write_tar, write_zip
from PIL import Image
from scipy.io import loadmat
from torchvision.datasets import ImageFolder

from msmeta.data import DATASETS, load, photographs, prepare, verify
from msmeta.data.dataset import splits_of_images

CLASSES = {
    "bird": ["001.Albatross", "002.Bunting", "010.Crow"],
    "indoor": ["bakery", "inside_bus", "winecellar"],
    "action": ["applauding", "blowing_bubbles", "jumping"],
    "dog": ["n01-Pug", "n02-Toy_terrier", "n10-Boxer"],
}
COUNTS = {"train": 7, "validation": 5, "test": 6}
"""Of 4 training and 2 test images a class; 5 of 12 do not divide by 3."""


DOG_LIST = mat_file({"file_list": ["n01-Pug/n01-Pug_0.jpg"]})


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name in CLASSES:
        monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], classes=3, splits=splits_of_images(**COUNTS)))


def rows(name: str) -> list[tuple[str, str, bool]]:
    """(class, file name, whether for test), neither class by class nor sorted."""
    return [(label, f"{label}_{number}.jpg", number % 3 == 0) for number in range(6) for label in CLASSES[name][::-1]]


def pixels(name: str, file: str) -> np.ndarray:
    """(height, width, 3), or grey, of its own, in no common size."""
    generator = np.random.default_rng(list(f"{name}{file}".encode()))
    shape = generator.integers(10, 40, 2)
    return generator.integers(0, 256, shape if file.endswith("_4.jpg") else (*shape, 3), np.uint8)


def tree(name: str, listed: list[tuple[str, str, bool]] | None = None) -> dict[str, bytes]:
    """Content of each file. The lists may name others than the images that are there."""
    listed = rows(name) if listed is None else listed
    pictures = {(label, file): image(pixels(name, file)) for label, file, _ in rows(name)}

    def text(lines) -> bytes:
        return "".join(f"{line}\r\n" for line in lines).encode()

    if name == "bird":
        numbers = {label: place for place, label in enumerate(dict.fromkeys(label for label, _, _ in listed), 1)}
        lists = {
            "images.txt": text(f"{number} {label}/{file}" for number, (label, file, _) in enumerate(listed, 1)),
            "image_class_labels.txt": text(f"{n} {numbers[label]}" for n, (label, _, _) in enumerate(listed, 1)),
            "train_test_split.txt": text(f"{n} {1 - test:d}" for n, (_, _, test) in enumerate(listed, 1)),
            "attributes/large.txt": bytes(1000),
        }
        return {f"images/{label}/{file}": data for (label, file), data in pictures.items()} | lists
    if name == "action":
        parts: dict[str, list[str]] = {}
        for label, file, test in listed:
            parts.setdefault(f"ImageSplits/{label}_{'test' if test else 'train'}.txt", []).append(file)
        everything = {"ImageSplits/train.txt": b"other\n", "ImageSplits/actions.txt": b"action_name\n"}
        everything["__MACOSX/ImageSplits/._jumping_train.txt"] = b"\0"
        lists = {part: text(files) for part, files in parts.items()}
        return {f"JPEGImages/{file}": data for (_, file), data in pictures.items()} | lists | everything
    parts = {"Train": [], "Test": []}
    for label, file, test in listed:
        parts["Test" if test else "Train"].append(f"{label}/{file}")
    if name == "indoor":
        lists = {f"{part}Images.txt": text(lines) for part, lines in parts.items()}
    else:
        lists = {
            f"{part.lower()}_list.mat": mat_file({"annotation_list": lines, "file_list": lines})
            for part, lines in parts.items()
        }
    unused = {f"Images/{CLASSES[name][0]}/not_listed.jpg": b"damaged"}
    return {f"Images/{label}/{file}": data for (label, file), data in pictures.items()} | unused | lists


def split(files: dict[str, bytes], folder: str) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The files in a folder, and the others."""
    inside = {name: data for name, data in files.items() if name.startswith(f"{folder}/")}
    return inside, {name: data for name, data in files.items() if name not in inside}


def folders(name: str, root) -> list:
    """The tree in each layout that is read."""
    files = tree(name)
    plain = write(root / "plain", files)
    if name == "bird":
        write_tar(root / "tgz/CUB_200_2011.tgz", files)
        write_zip(root / "zip/CUB_200_2011.zip", {f"CUB_200_2011/{file}": data for file, data in files.items()})
        write(root / "folder/CUB_200_2011", files)
        return [plain, root / "tgz", root / "zip", root / "folder"]
    if name == "action":
        images, others = split(files, "JPEGImages")
        write_zip(root / "zips/Stanford40_JPEGImages.zip", images)
        write_zip(root / "zips/Stanford40_ImageSplits.zip", others)
        write_zip(root / "one/Stanford40.zip", files)
        return [plain, root / "zips", root / "one"]
    images, others = split(files, "Images")
    if name == "indoor":
        write_tar(root / "tar/indoorCVPR_09.tar", images, top="")
        return [plain, write(root / "tar", others)]
    write_tar(root / "tar/images.tar", images, top="")
    write_tar(root / "tar/lists.tar", others, top="")
    write(root / "lists/lists", others)
    return [plain, root / "tar", write(root / "lists", images)]


def expected(name: str, file: str) -> np.ndarray:
    """(3, 256, 256)"""
    picture = Image.fromarray(pixels(name, file)).convert("RGB")
    return np.asarray(picture.resize((256, 256), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


def refused(name, folder, match):
    made.refused(match, prepare, name, folder, folder.parent / "data")
    assert not list(folder.parent.glob("data/*")) and not list(folder.parent.glob("data/.*"))


@pytest.mark.parametrize("name", ["bird", "dog"])
def test_the_order_is_that_of_torchvisions_folder_of_training_images(tmp_path, name):
    """For which the authors of L2T-ww wrote their lists."""
    train = {f"{label}/{file}": image(pixels(name, file)) for label, file, testing in rows(name) if not testing}
    listed = [path for path, _ in ImageFolder(write(tmp_path / "train", train)).samples]
    prepare(name, folders(name, tmp_path / "raw")[0], tmp_path)
    data, order = load(name, root=tmp_path), np.load(tmp_path / name / "order.npy")
    stored = np.concatenate([data.images[split] for split in ("train", "validation")])
    assert np.array_equal(stored, [expected(name, Path(listed[place]).name) for place in order])


@pytest.mark.parametrize("name", CLASSES)
def test_what_is_read_from_each_layout(tmp_path, name):
    hashes = set()
    for folder in folders(name, tmp_path):
        root = tmp_path / "prepared" / folder.name
        prepare(name, folder, root)
        status = verify(name, root)
        assert status.state == "prepared"
        hashes.add(status.hash)
    assert len(hashes) == 1
    data = load(name, root=root)
    assert data.side == 224 and data.classes == 3
    test = [(label, file) for label, file, testing in sorted(rows(name)) if testing]
    assert np.array_equal(data.images["test"].numpy(), np.stack([expected(name, file) for _, file in test]))
    assert data.labels["test"].tolist() == [CLASSES[name].index(label) for label, _ in test]
    assert data.labels["validation"].bincount().tolist() == [2, 2, 1]
    left = {expected(name, file).tobytes(): label for label, file, testing in rows(name) if not testing}
    for part in ("train", "validation"):
        found = [left.pop(picture.numpy().tobytes()) for picture in data.images[part]]
        assert [CLASSES[name].index(label) for label in found] == data.labels[part].tolist()
    assert not left


@pytest.mark.parametrize("name", CLASSES)
def test_missing_lists(tmp_path, name):
    lists = [file for file in tree(name) if file.endswith((".txt", ".mat")) and "large" not in file]
    for place, missing in enumerate(lists if name != "action" else []):
        files = {file: data for file, data in tree(name).items() if file != missing}
        title = DATASETS[name].title
        refused(name, write(tmp_path / str(place), files), rf"no {missing}: {title} is given with .* --from DIR")
    (tmp_path / "empty").mkdir()
    refused(name, tmp_path / "empty", f"no .*: {DATASETS[name].title} is given with")


@pytest.fixture
def lists_in_this_process(monkeypatch):
    """A process for each is most of the time, and not what these tests are about."""

    def texts(path):
        return [cell.item() for cell in loadmat(path)["file_list"].ravel()]

    monkeypatch.setattr(photographs, "_matlab_texts", texts)


@pytest.mark.usefixtures("lists_in_this_process")
@pytest.mark.parametrize("name", CLASSES)
def test_lists_that_do_not_agree_with_the_counts(tmp_path, name):
    listed = rows(name)
    label, file, _ = listed[0]
    refused(name, write(tmp_path / "a", tree(name, listed[1:])), "the lists name 5 test images, .* has 6: get .* again")
    refused(name, write(tmp_path / "b", tree(name, listed[:-1])), "name 11 training images, .* has 12: get .* again")
    refused(name, write(tmp_path / "c", tree(name, [*listed, (label, file, True)])), f"{file} 2 times: get .* again")
    refused(name, write(tmp_path / "d", tree(name, [*listed, (label, "x.jpg", True)])), "no .*x.jpg, which")
    lists = {path: data for path, data in tree(name).items() if not path.endswith(".jpg")}
    refused(name, write(tmp_path / "g", lists), "no .*, which a list names: .* is given with")
    fewer = [row for row in listed if row[0] != label]
    refused(name, write(tmp_path / "e", tree(name, fewer)), "the lists name 2 classes, .* has 3: get .* again")
    other = tree(name, [*listed[1:], ("more", file, True)])
    if name == "action":
        refused(name, write(tmp_path / "f", other), "the lists name 4 classes")
    else:
        refused(name, write(tmp_path / "f", other), f"no .*more/{file}, which a list names")


@pytest.mark.usefixtures("lists_in_this_process")
@pytest.mark.parametrize("name", CLASSES)
def test_damaged_images(tmp_path, name):
    files = tree(name)
    place = next(file for file in files if file.endswith("_2.jpg"))
    for number, damaged in enumerate((files[place][:60], b"<html>")):
        folder = write(tmp_path / str(number), files | {place: damaged})
        refused(name, folder, f"{place} is not a readable JPEG, PNG, WebP, GIF or BMP image")


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "BMP", "WEBP"])
def test_an_image_in_another_format_than_its_name_says(tmp_path, kind):
    files = tree("indoor")
    files["Images/bakery/bakery_0.jpg"] = image(pixels("indoor", "bakery_0.jpg"), kind)
    prepare("indoor", write(tmp_path / "raw", files), tmp_path)
    with Image.open(io.BytesIO(files["Images/bakery/bakery_0.jpg"])) as picture:
        resized = picture.convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
    first = load("indoor", root=tmp_path).images["test"][0]
    assert np.array_equal(first.numpy(), np.asarray(resized).transpose(2, 0, 1))


def test_a_folder_may_be_a_link_to_one_of_another_name(tmp_path):
    files = tree("indoor")
    write(tmp_path / "shared", files)
    (tmp_path / "shared/Images").rename(tmp_path / "shared/stored")
    write(tmp_path / "raw", split(files, "Images")[1])
    (tmp_path / "raw/Images").symlink_to(tmp_path / "shared/stored")
    prepare("indoor", tmp_path / "raw", tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images.txt": b"1\n"}, "images.txt has a line that is not a number of its own and a value"),
        ({"images.txt": b"\xff"}, "cannot read .*images.txt"),
        ({"train_test_split.txt": b"1 1\n1 1\n"}, "train_test_split.txt has a line that is not a number of its own"),
        ({"train_test_split.txt": b"1 1\n"}, "do not number the same images: get Bird again"),
        ({"train_test_split.txt": b"".join(b"%d 2\n" % n for n in range(1, 19))}, "neither 0 nor 1: get Bird again"),
        ({"image_class_labels.txt": b"".join(b"%d 1\n" % n for n in range(1, 19))}, "do not agree: get Bird again"),
        ({"image_class_labels.txt": b"".join(b"%d %d\n" % (n, n) for n in range(1, 19))}, "do not agree: get Bird"),
    ],
)
def test_lists_of_bird_that_do_not_agree(tmp_path, changes, message):
    refused("bird", write(tmp_path / "raw", tree("bird") | changes), message)


@pytest.mark.parametrize("data", [b"", DOG_LIST[:-9], mat_file({"files": ["a/b.jpg"]}), mat_file({"file_list": [7.5]})])
def test_damaged_lists_of_dog(tmp_path, data):
    files = tree("dog") | {"train_list.mat": data}
    refused("dog", write(tmp_path / "raw", files), "cannot read train_list.mat: .*no list of texts `file_list` in it")


def test_a_list_that_ends_the_process_of_its_reader(tmp_path):
    """SciPy 1.17 does that with one byte changed; whether or not it does, the answer is one line."""
    damaged = bytearray(mat_file({"file_list": ["n02-Pug/n02_1.jpg", "x"]}, compress=False))
    damaged[240] ^= 0xFF
    files = tree("dog") | {"train_list.mat": bytes(damaged)}
    refused("dog", write(tmp_path / "raw", files), "cannot read train_list.mat: .*no list of texts `file_list` in it")


def test_a_list_that_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(photographs, "MAX_LIST_BYTES", 100)
    refused("dog", write(tmp_path / "raw", tree("dog")), "train_list.mat has more than the 100 bytes allowed")


def test_a_file_outside_is_not_read(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(image(np.zeros((9, 9, 3), np.uint8)))
    listed = [*rows("indoor")[1:], ("..", "../secret.jpg", True)]
    refused("indoor", write(tmp_path / "raw", tree("indoor", listed)), "no Images/../../secret.jpg")
