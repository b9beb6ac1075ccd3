"""A user's own folder: layouts, the split, what cannot be read, and the name that results have for it."""

import io
import json
import os
from functools import partial

import made
import numpy as np
import pytest
from made import write
from PIL import Image

from msmeta.data import FEW_SHOT, TRANSFER, EpisodeSampler, find, in_words, known_as, load, prepare, status, stored_hash
from msmeta.data.folder import parse
from msmeta.data.pictures import decode
from msmeta.data.scan import scan
from msmeta.errors import ConfigError, DataError

LABELS = [f"class {label}" for label in "abcdefghij"]
TWICE = b"filename,label\nclass a/1.png,x\n"


def content(color, kind="PNG", mode="RGB", size=(20, 16), **options) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, color).save(file, kind, **options)
    return file.getvalue()


def tree(labels=LABELS, images=5, top="") -> dict[str, bytes]:
    """Images of one colour, which is their class in red and their number in green."""
    return {
        f"{top}{label}/{number}.png": content((10 * LABELS.index(label), number, 200))
        for label in labels
        for number in range(images)
    }


def name_of(path, options="", purpose=FEW_SHOT, root=None):
    return known_as(f"folder:{path}@16{options}", purpose, root)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


def contents(data, split):
    """(class, number) of each image."""
    return [(int(image[0, 0, 0]) // 10, int(image[1, 0, 0])) for image in data.images[split]]


def refused(match, folder, options="", purpose=FEW_SHOT):
    made.refused(match, name_of, folder, options, purpose, folder.parent / "root")


def test_a_random_split_by_class(tmp_path, root):
    name = name_of(write(tmp_path / "birds", tree()), root=root)
    data, entry = load(name, root=root), find(name, root)
    assert name.startswith("folder:birds-") and name.endswith("@16") and data.title == "Folder birds"
    split = {part: {label for label, _ in contents(data, part)} for part in ("train", "validation", "test", "tune")}
    assert [len(labels) for labels in split.values()] == [6, 2, 2, 6] and split["tune"] == split["train"]
    assert set.union(*split.values()) == set(range(10))
    for part in ("train", "validation", "test"):
        images = contents(data, part)
        assert images == [(label, number) for label in sorted(split[part]) for number in range(5)]
        assert data.notes["classes"][part] == {LABELS[label]: 5 for label in sorted(split[part])}
        assert entry.classes_in(part) == len(split[part])
    assert data.notes["split"].startswith("a random fifth of the classes for the test (seed 0), a random fifth of the")
    assert data.hash == stored_hash(name, root) and entry.samples == 5
    (known,) = (own for own in status(root) if own.dataset.name == name)
    assert (known.state, known.hash) == ("prepared", data.hash)


def test_a_random_split_of_the_images_of_each_class(tmp_path, root):
    name = name_of(write(tmp_path / "birds", tree(images=25)), purpose=TRANSFER, root=root)
    data = load(name, root=root)
    counts = {split: np.bincount(labels).tolist() for split, labels in data.labels.items()}
    assert counts == {"train": [16] * 10, "validation": [4] * 10, "test": [5] * 10}
    found = [image for split in counts for image in contents(data, split)]
    assert sorted(found) == [(label, number) for label in range(10) for number in range(25)]
    assert all([label for label, _ in contents(data, split)] == data.labels[split].tolist() for split in counts)


@pytest.mark.parametrize("purpose", [FEW_SHOT, TRANSFER])
def test_folders_and_lists_of_splits_give_the_same(tmp_path, root, purpose):
    few_shot = purpose == FEW_SHOT
    own = {"train": LABELS[:6], "val": LABELS[6:8], "test": LABELS[8:]}
    parts = {part: tree(labels if few_shot else LABELS, 4, f"{part}/") for part, labels in own.items()}
    folders = parts["train"] | parts["test"] | {name.replace("val/", "Valid/"): x for name, x in parts["val"].items()}
    lists = {
        f"split/{part}.csv": ("filename,label\n" + "".join(f"{name},{name.split('/')[1]}\n" for name in files)).encode()
        for part, files in parts.items()
    }
    in_lists = {name: data for files in parts.values() for name, data in files.items()} | lists
    others = {"unlisted/x.png": content(0)}
    loaded = [
        load(name_of(write(tmp_path / str(number) / "birds", files), purpose=purpose, root=root), root=root)
        for number, files in enumerate((folders, in_lists, in_lists | others))
    ]
    assert len({data.hash for data in loaded}) == 1
    for split, part in {"train": "train", "validation": "val", "test": "test"}.items():
        labels = own[part] if few_shot else LABELS
        assert contents(loaded[0], split) == [(LABELS.index(label), n) for label in labels for n in range(4)]
    assert [data.notes["unlisted"] for data in loaded] == [0, 0, 1]
    assert loaded[0].notes["split"] == "as the folders Valid, test, train say"
    assert loaded[1].notes["split"] == "as split/test.csv, split/train.csv, split/val.csv say"


@pytest.mark.parametrize(("purpose", "train"), [(FEW_SHOT, LABELS[:5]), (TRANSFER, LABELS)])
def test_without_validation_a_fifth_of_train_is_taken(tmp_path, root, purpose, train):
    test = LABELS[5:] if purpose == FEW_SHOT else LABELS
    files = tree(train, 5, "training/") | tree(test, 2, "testing/")
    data = load(name_of(write(tmp_path / "birds", files), purpose=purpose, root=root), root=root)
    counts = [len(data.labels[split]) for split in ("train", "validation", "test")]
    assert counts == ([20, 5, 10] if purpose == FEW_SHOT else [40, 10, 20])


@pytest.mark.parametrize(
    ("files", "purpose", "why"),
    [
        ({"x.txt": b""}, FEW_SHOT, "no images .* in folders of a class each"),
        (tree() | {"loose.png": b""}, FEW_SHOT, r"loose\.png lies in no folder of a class"),
        (tree(top="train/") | {"test/loose.png": b""}, FEW_SHOT, r"test/loose\.png lies in no folder of a class"),
        (tree(top="train/") | tree(["class a"]), FEW_SHOT, "folder class a lies beside those of splits"),
        (tree(top="train/") | tree(top="val/"), TRANSFER, "it has train and val, but no test: rename one"),
        (tree(top="train/") | tree(["class j"], top="test/"), FEW_SHOT, "class class j is in train and in test, which"),
        (tree(LABELS[1:], top="train/") | tree(top="test/"), TRANSFER, "class a has images in test, none in train"),
        (tree(LABELS[:2]), FEW_SHOT, "too few classes or images: there are none for train"),
        (tree() | {"train.csv": b"filename,label\nclass a/9.png,x\n"}, FEW_SHOT, r"such as class a/9\.png: these are"),
        (tree() | {f"{part}.csv": TWICE for part in ("train", "test")}, FEW_SHOT, "name class a/1.png more than once"),
    ],
)  # fmt: skip
def test_folders_that_are_refused(tmp_path, files, purpose, why):
    refused(rf"{tmp_path}/birds: .*{why}", write(tmp_path / "birds", files), purpose=purpose)
    assert not (tmp_path / "root").exists()


def test_there_is_no_such_folder(tmp_path):
    refused("there is no folder .*/none$", tmp_path / "none")


def test_a_folder_around_all_others_and_deeper_ones(tmp_path):
    around = scan(parse(f"folder:{write(tmp_path / 'a', tree(top='images/'))}"))
    assert {label for rows in around.parts.values() for label, _ in rows} == set(LABELS)
    files = {name.replace("class", "Latin/class", 1): data for name, data in tree().items()} | tree(top="Greek/")
    deep = scan(parse(f"folder:{write(tmp_path / 'b', files)}"))
    assert len({label for rows in deep.parts.values() for label, _ in rows}) == 20
    assert ("Greek/class a", "Greek/class a/0.png") in [row for rows in deep.parts.values() for row in rows]


def test_unreadable_files_are_left_out_and_told(tmp_path, root):
    files = tree() | {"class b/3.jpg": b"", "class b/4.webp": b"<html>"}
    name = name_of(write(tmp_path / "birds", files), root=root)
    assert load(name, root=root).hash == load(name_of(write(tmp_path / "again", tree()), root=root), root=root).hash
    told = dict(in_words(find(name, root), least=6))
    assert told["unreadable"].startswith("2: class b/3.jpg is not a readable PNG")
    assert told["train"] == "30 images of 6 classes, 5 a class" and told["under 6 images"].startswith("10: class ")
    broken = {file: b"" if file.startswith("class b") else data for file, data in tree().items()}
    refused("no image of class class b for .* can be read: class b/0.png is", write(tmp_path / "broken", broken))
    parts = {f"{part}/{label}/0.png": content(7) for part in ("train", "val", "test") for label in "ab"}
    spoilt = write(tmp_path / "spoilt", parts | {f"test/{label}/0.png": b"" for label in "ab"})
    refused("no image for test can be read: test/a/0.png is", spoilt, purpose=TRANSFER)
    assert not [path for path in root.iterdir() if path.name.startswith("folder-spoilt")]


def test_images_that_are_there_twice_are_told(tmp_path, root):
    """Those that a test could meet in the training, or of two classes, stand first."""
    twice = tree() | {"class a/9.png": content((0, 3, 200)), "class b/9.png": content((20, 4, 200))}
    told = dict(in_words(find(name_of(write(tmp_path / "birds", twice), root=root), root)))["the same image"]
    one, other = told.removeprefix("2: ").split("; ")
    assert one == "class b/9.png and class c/4.png in validation and test"
    assert other == "class a/3.png and class a/9.png"
    parts = {"train/a/0.png": content(1), "train/a/1.png": content(2), "train/b/0.png": content(3)}
    parts |= {
        "test/a/0.png": content(1),
        "test/b/0.png": content(3),
        "val/a/0.png": content(4),
        "val/b/0.png": content(5),
    }
    name = name_of(write(tmp_path / "parts", parts), "+transfer", TRANSFER, root)
    told = dict(in_words(find(name, root)))["the same image"]
    assert told.startswith("2: ") and "train/a/0.png and test/a/0.png in train and test" in told
    none = dict(in_words(find(name_of(write(tmp_path / "none", tree()), root=root), root)))["the same image"]
    assert none == "none"


def test_classes_of_unlike_sizes(tmp_path, root):
    """Tasks are of the images that a class has, each once."""
    files = {name: data for name, data in tree(images=9).items() if name[6] != "c" or name < "class c/4"}
    folder = write(tmp_path / "birds", files)
    name = name_of(folder, root=root)
    data = load(name, root=root)
    split = next(part for part in ("train", "validation", "test") if "class c" in data.notes["classes"][part])
    sampler = EpisodeSampler(data, split, 2, 1, 3)
    for step in range(20):
        episodes = sampler.sample(step, 3)
        for support, query in zip(episodes.support_x, episodes.query_x, strict=True):
            images = [(*x[:2, 0, 0].mul(255).round().int().tolist(),) for x in (*support, *query)]
            assert len(set(images)) == 8 and all(number < (4 if label == 20 else 9) for label, number in images)
    with pytest.raises(ConfigError, match=rf"4 images in classes of split {split}, and \+least5 leaves these out"):
        EpisodeSampler(data, split, 2, 1, 4)
    fewer = find(name_of(folder, "+least5", root=root), root)
    assert fewer.notes["left_out"] == {"class c": 4} and fewer.samples == 9 and fewer.classes == 9


def test_every_file_a_link(tmp_path, root):
    stored = write(tmp_path / "stored", tree())
    for name in tree():
        (tmp_path / "birds" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "birds" / name).symlink_to(stored / name)
    refused(r"is a link: folder:PATH\+links reads", tmp_path / "birds")
    name = name_of(tmp_path / "birds", "+links", root=root)
    assert "links" not in name and load(name, root=root).hash == load(name_of(stored, root=root), root=root).hash


def test_the_name_has_no_path_and_follows_the_files(tmp_path, root):
    name = name_of(write(tmp_path / "a/my birds!", tree()), root=root)
    assert name.startswith("folder:my_birds_-") and name == name_of(write(tmp_path / "b/my birds!", tree()), root=root)
    assert known_as(name, FEW_SHOT, root) == name
    assert name != name_of(write(tmp_path / "a/my birds!", {"class a/9.png": content(9)}), root=root)
    assert str(tmp_path) not in (root / name.replace(":", "-") / "meta.json").read_text()
    with pytest.raises(ConfigError, match="is not for transfer: give the folder's path"):
        known_as(name, TRANSFER, root)


def test_a_file_that_changed_in_place_is_read_again(tmp_path, root):
    """Of the same size, so that the name stays."""
    folder = write(tmp_path / "birds", {name[:-3] + "bmp": content((1, 2, 3), "BMP") for name in tree()})
    name = name_of(folder, root=root)
    before, built = stored_hash(name, root), (root / name.replace(":", "-") / "images.npy").stat().st_ino
    assert name_of(folder, root=root) == name
    assert (root / name.replace(":", "-") / "images.npy").stat().st_ino == built
    changed, other, when = folder / "class a/0.bmp", folder / "class b/0.bmp", (2**30, 2**30)
    changed.write_bytes(content((1, 2, 4), "BMP"))
    os.utime(changed, when)  # as copying with its time does
    assert name_of(folder, root=root) == name and (now := stored_hash(name, root)) != before
    changed.rename(folder / "held")
    other.rename(changed)
    (folder / "held").rename(other)
    assert name_of(folder, root=root) == name and stored_hash(name, root) not in (before, now)


def test_damaged_and_missing(tmp_path, root):
    folder = write(tmp_path / "birds", tree())
    name = name_of(folder, root=root)
    made.flip(root / name.replace(":", "-") / "images.npy", -1)
    made.refused("run `msmeta data prepare folder:PATH@16` to build it again", load, name, "cpu", root)
    prepare(f"folder:{folder}@16", root=root)
    assert load(name, root=root).classes == 10
    (root / name.replace(":", "-") / "labels.npy").write_bytes(b"")
    assert [each.state for each in status(root) if each.dataset.name == name] == ["damaged"]
    made.refused(
        "Folder birds is not prepared .* run `msmeta data prepare folder:PATH@16`", load, name, "cpu", tmp_path
    )


def test_pixels():
    read = partial(decode(3, 16, False), name="x")
    left_half_red = np.zeros((16, 48, 3), np.uint8)
    left_half_red[:, :16] = [255, 0, 0]
    left_half_red[:, 16:32] = [0, 255, 0]
    image = made.image(left_half_red)
    assert (read(image) == np.array([0, 255, 0])[:, None, None]).all()  # the middle square
    squashed = decode(3, 16, True)(image, "x")
    assert squashed[0, 0, 0] == 255 and squashed[:, 0, -1].tolist() == [0, 0, 0]
    assert (read(content((9, 9, 9, 0), mode="RGBA")) == 255).all()  # transparent
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees when it is shown
    tall = np.zeros((16, 16, 3), np.uint8)
    tall[:8] = 255
    file = io.BytesIO()
    Image.fromarray(tall).save(file, "PNG", exif=exif)
    assert read(file.getvalue())[0, 8].tolist() == [0] * 8 + [255] * 8
    grey = decode(1, 16, False)(made.image(np.full((16, 16), 1000, np.uint16)), "x")
    assert grey.shape == (1, 16, 16) and (grey == 4).all()  # 1000 of 65535


@pytest.mark.parametrize(("kind", "mode"), [
    ("PNG", "1"), ("PNG", "P"), ("PNG", "LA"), ("JPEG", "L"), ("JPEG", "CMYK"), ("WEBP", "RGBA"), ("BMP", "RGB"),
    ("GIF", "P"), ("PPM", "RGB"), ("PPM", "L"), ("TIFF", "RGB"), ("TIFF", "I;16"),
])  # fmt: skip
def test_types_of_images(kind, mode):
    for channels in (1, 3):
        assert decode(channels, 16, False)(content(0, kind, mode), "x").shape == (channels, 16, 16)


@pytest.mark.parametrize("lie", [
    {"classes": {"train": {"a": "x"}}}, {"classes": []}, {"split": "\x1b[2J"}, {"left_out": {"b": -1}},
    {"unlisted": None}, {"unreadable": [5]},
])  # fmt: skip
def test_notes_that_were_written_over_are_not_shown_and_the_folder_is_damaged(tmp_path, root, lie):
    name = name_of(write(tmp_path / "birds", tree()), root=root)
    meta = root / name.replace(":", "-") / "meta.json"
    written = json.loads(meta.read_text())
    meta.write_text(json.dumps(written | {"notes": written["notes"] | lie}))
    assert not find(name, root).notes and not find(name, root).splits
    with pytest.raises(DataError, match="damaged|not those|not as"):
        load(name, root=root)
