"""Omniglot from small made trees."""

import io
import re
from dataclasses import replace

import made
import numpy as np
import pytest
from made import write, write_zip
from PIL import Image

from msmeta.data import DATASETS, load, prepare, verify
from msmeta.data import omniglot as module
from msmeta.data.dataset import splits_of_classes
from msmeta.errors import DataError

FIRST_FIVE = [1261, 404, 476, 1172, 1212]
PARTS = ("images_background", "images_evaluation")
SMALL = dict(zip(PARTS, (6, 4), strict=True))
DRAWINGS = 3


def png(side: int = 105, mode: str = "1", draw=(40, 40, 60, 60)) -> bytes:
    image = Image.new(mode, (side, side), 1 if mode == "1" else 255)
    image.paste(0, draw)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(module, "CHARACTERS", SMALL)
    monkeypatch.setattr(module, "DRAWINGS", DRAWINGS)
    splits = splits_of_classes(DRAWINGS, train=range(7), test=range(7, 10), tune=range(6), validation=range(6, 7))
    entry = replace(module.DATASET, classes=10, samples=DRAWINGS, splits=splits)
    monkeypatch.setitem(DATASETS, "omniglot", entry)


def tree() -> dict[str, bytes]:
    """Drawings of their own, below the folder of a part."""
    files = {}
    for part, count in SMALL.items():
        for character, drawing in np.ndindex(count, DRAWINGS):
            alphabet = f"{part[7:]}_{character // 4}_(made)"
            name = f"{part}/{alphabet}/character{character % 4 + 1:02d}/{character:04d}_{drawing:02d}.png"
            left, top, bottom = 10 * character, 10 * drawing, 60 + 30 * PARTS.index(part)
            files[name] = png(draw=(left, top, left + 20, bottom))
    return files


def zips(folder, files):
    for part in SMALL:
        write_zip(folder / f"{part}.zip", {name: data for name, data in files.items() if name.startswith(part)})
    return folder


def build(folder, follow_links=False):
    return module.build(folder, lambda *_: None, np.empty, DATASETS["omniglot"], follow_links)


def refused(folder, match):
    made.refused(re.escape(match), build, folder)


def test_each_image_is_the_drawing_its_class_name_says(tmp_path):
    arrays, files = build(write(tmp_path, tree())), tree()
    assert len(set(arrays.classes)) == 10 and arrays.labels.tolist() == [c for c in range(10) for _ in range(DRAWINGS)]
    for place, (label, image) in enumerate(zip(arrays.labels, arrays.images, strict=True)):
        names = sorted(name for name in files if f"/{arrays.classes[label]}/" in name)
        with Image.open(io.BytesIO(files[names[place % DRAWINGS]])) as drawing:
            grey = drawing.convert("L").resize((28, 28), Image.Resampling.LANCZOS)
        assert np.array_equal(image[0], 255 - np.array(grey))


def test_archives_and_folders_give_the_same(tmp_path):
    for name, folder in {"a": zips(tmp_path / "zips", tree()), "b": write(tmp_path / "folders", tree())}.items():
        prepare("omniglot", folder, tmp_path / name)
    assert verify("omniglot", tmp_path / "a").hash == verify("omniglot", tmp_path / "b").hash
    assert load("omniglot", root=tmp_path / "a").by_class("train").shape == (7, DRAWINGS, 1, 28, 28)


@pytest.mark.parametrize("around", ["omniglot-py/", "python/", "omniglot-master/python/", "images_background/"])
def test_folders_in_folders(tmp_path, around):
    """As torchvision and the authors' repository have them, and as archives are extracted that hold a folder of their
    own name."""
    doubled = around == "images_background/"
    files = {(name.split("/")[0] + "/" if doubled else around) + name: data for name, data in tree().items()}
    assert build(write(tmp_path / "a", files)).classes == build(write(tmp_path / "b", tree())).classes
    refused(
        write(tmp_path / "c", files | tree()),
        f"images_background is there more than once, in images_background/ and in {around}images_background/: leave",
    )


def test_where_every_drawing_is_a_link(tmp_path):
    stored = write(tmp_path / "stored", tree())
    for name in tree():
        (tmp_path / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "raw" / name).symlink_to(stored / name)
    found = build(tmp_path / "raw", follow_links=True)
    assert np.array_equal(found.images, build(stored).images)


def test_a_part_may_be_a_link_to_a_folder_of_another_name(tmp_path):
    write(tmp_path / "shared", tree())
    (tmp_path / "raw").mkdir()
    for part in SMALL:
        (tmp_path / "shared" / part).rename(tmp_path / "shared" / f"{part}_v1")
        (tmp_path / "raw" / part).symlink_to(tmp_path / "shared" / f"{part}_v1")
    assert len(build(tmp_path / "raw").classes) == 10


def test_the_real_counts(monkeypatch):
    monkeypatch.undo()
    assert sum(module.CHARACTERS.values()) == 1623 and module.DATASET.samples == module.DRAWINGS == 20
    classes = {split: module.DATASET.classes_in(split) for split in module.DATASET.splits}
    assert classes == {"train": 1200, "test": 423, "tune": 1100, "validation": 100}
    assert module.DATASET.rotations == 4


def test_the_split_is_fixed_for_ever():
    order = module.split_order(1623)
    assert sorted(order) == list(range(1623))
    assert order[:5] == FIRST_FIVE


def test_decode_gives_strokes_on_black():
    image = module.decode(png(), "x")
    assert image.shape == (1, 28, 28) and image.dtype == np.uint8
    assert image[0, 13, 13] > 250 and image[0, 0, 0] == 0
    assert np.array_equal(image, module.decode(png(mode="L"), "x"))
    assert len(np.unique(module.decode(png(draw=(41, 41, 60, 60)), "x"))) > 2  # Lanczos, not nearest


def test_decode_refuses_damage():
    whole = png()
    pixels_end = len(whole) - 24  # after these come checksums and the end mark, which no pixel needs
    for damaged in [whole[:end] for end in range(0, pixels_end, 3)] + [b"GIF89a", png(side=104), png(side=2_000)]:
        made.refused(r"a/b\.png is ", module.decode, damaged, "a/b.png")


def test_damaged_trees(tmp_path):
    files = tree()
    name = next(iter(files))
    missing = {other: data for other, data in files.items() if other != name}
    refused(write(tmp_path / "truncated", files | {name: files[name][:60]}), f"{name} is not a readable PNG image: ")
    refused(write(tmp_path / "missing", missing), "has 2 images of class background_0_(made)/character01, 2 of them")
    refused(write(tmp_path / "more", files | {f"{name[:-6]}99.png": png()}), "4 of them different, instead of 3")
    linked = write(tmp_path / "linked", missing)
    (linked / name).symlink_to(write(tmp_path / "elsewhere", {"x.png": png()}) / "x.png")
    refused(linked, f"{name} is a link: --follow-links")
    fewer = {other: data for other, data in files.items() if "character02" not in other or PARTS[0] in other}
    refused(write(tmp_path / "fewer", fewer), "images_evaluation has 3 classes instead of 4: get it again")


def test_missing_archive(tmp_path):
    (zips(tmp_path, tree()) / "images_evaluation.zip").unlink()
    with pytest.raises(DataError, match=f"{tmp_path}: no drawings images_evaluation/.*: Omniglot is downloaded"):
        prepare("omniglot", tmp_path, tmp_path / "data")
