"""Omniglot from its archives, real ones where they are at hand (see conftest.py)."""

import io
import json
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from msmeta.data import DATASETS
from msmeta.data import omniglot as module
from msmeta.errors import DataError

FIRST_FIVE = [1261, 404, 476, 1172, 1212]
PARTS = ("images_background", "images_evaluation")


def png(side: int = 105, mode: str = "1", draw=(40, 40, 60, 60)) -> bytes:
    image = Image.new(mode, (side, side), 1 if mode == "1" else 255)
    image.paste(0, draw)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def quick_decode(monkeypatch):
    """Decoding is most of the time, and not what these tests are about."""
    monkeypatch.setattr(module, "decode", lambda data, name: np.full((28, 28), len(data) % 256, np.uint8))


@pytest.fixture(scope="session")
def extracted(made_zips, tmp_path_factory):
    """The made archives as folders; files with equal content are one file on disk."""
    folder = tmp_path_factory.mktemp("extracted")
    same = {}
    for part in PARTS:
        with zipfile.ZipFile(made_zips / f"{part}.zip") as archive:
            for info in archive.infolist():
                path = folder / info.filename
                path.parent.mkdir(parents=True, exist_ok=True)
                if info.CRC in same:
                    path.hardlink_to(same[info.CRC])
                else:
                    path.write_bytes(archive.read(info))
                    same[info.CRC] = path
    return folder


@pytest.fixture
def drawing(extracted):
    """The first drawing that is decoded, put back after the test."""
    path = sorted(extracted.glob("images_evaluation/*/*/*.png"))[(module.split_order(1623)[0] - 964) * 20]
    kept = path.with_suffix(".kept")
    path.rename(kept)
    shutil.copyfile(kept, path)
    yield path
    path.unlink(missing_ok=True)
    kept.rename(path)


def build(folder):
    return module.build(folder, lambda *_: None)


def test_counts_of_the_official_splits(omniglot):
    assert {split: tuple(images.shape) for split, images in omniglot.images.items()} == {
        "train": (1200, 20, 1, 28, 28),
        "test": (423, 20, 1, 28, 28),
        "tune": (1100, 20, 1, 28, 28),
        "validation": (100, 20, 1, 28, 28),
    }
    assert omniglot.rotations == 4


def test_splits_are_views_and_disjoint_where_they_must_be(omniglot):
    train, tune, validation = (omniglot.images[split] for split in ("train", "tune", "validation"))
    assert train.untyped_storage().data_ptr() == omniglot.images["test"].untyped_storage().data_ptr()
    assert torch.equal(train[:1100], tune) and torch.equal(train[1100:], validation)
    splits = DATASETS["omniglot"].splits
    assert not set(splits["train"]) & set(splits["test"]) and not set(splits["tune"]) & set(splits["validation"])


def test_each_image_is_the_drawing_its_class_name_says(raw, prepared, omniglot):
    classes = json.loads((prepared / "omniglot/meta.json").read_text())["classes"]
    assert len(set(classes)) == 1623
    everything = torch.cat([omniglot.images["train"], omniglot.images["test"]])
    for part in PARTS:
        with zipfile.ZipFile(raw / f"{part}.zip") as archive:
            names = sorted(archive.namelist())
            for label in range(0, 1623, 70):
                files = [name for name in names if name.startswith(f"{part}/{classes[label]}/") and name[-1] != "/"]
                for sample, file in enumerate(files):
                    with Image.open(io.BytesIO(archive.read(file))) as image:
                        grey = image.convert("L").resize((28, 28), Image.Resampling.LANCZOS)
                    assert torch.equal(everything[label, sample, 0], 255 - torch.from_numpy(np.array(grey)))


def test_the_split_is_fixed_for_ever():
    order = module.split_order(1623)
    assert sorted(order) == list(range(1623))
    assert order[:5] == FIRST_FIVE


def test_archives_and_folders_give_the_same(made_zips, extracted, quick_decode):
    zipped, unzipped = build(made_zips), build(extracted)
    assert zipped.classes == unzipped.classes
    assert np.array_equal(zipped.images, unzipped.images)


def test_decode_gives_strokes_on_black():
    image = module.decode(png(), "x")
    assert image.shape == (28, 28) and image.dtype == np.uint8
    assert image[13, 13] > 250 and image[0, 0] == 0
    assert np.array_equal(image, module.decode(png(mode="L"), "x"))
    assert len(np.unique(module.decode(png(draw=(41, 41, 60, 60)), "x"))) > 2  # Lanczos, not nearest


def test_decode_refuses_damage():
    whole = png()
    pixels_end = len(whole) - 24  # after these come checksums and the end mark, which no pixel needs
    for damaged in [whole[:end] for end in range(0, pixels_end, 3)] + [b"GIF89a", png(side=104), png(side=2_000)]:
        with pytest.raises(DataError, match=r"a/b\.png is ") as error:
            module.decode(damaged, "a/b.png")
        assert "\n" not in str(error.value)


def test_truncated_png(extracted, drawing):
    drawing.write_bytes(drawing.read_bytes()[:200])
    with pytest.raises(DataError, match=f"{drawing.name} is not a readable PNG"):
        build(extracted)


def test_missing_drawing(extracted, drawing):
    drawing.unlink()
    with pytest.raises(DataError, match="has 19 drawings instead of 20"):
        build(extracted)


def test_drawing_too_many(extracted, drawing):
    extra = drawing.with_name("0000_21.png")
    shutil.copyfile(drawing, extra)
    try:
        with pytest.raises(DataError, match="has 21 drawings instead of 20"):
            build(extracted)
    finally:
        extra.unlink()


def test_linked_drawing(extracted, drawing):
    target = drawing.with_suffix(".kept")
    drawing.unlink()
    drawing.symlink_to(target)
    with pytest.raises(DataError, match="is a link"):
        build(extracted)


def test_missing_character(made_zips, tmp_path):
    shutil.copy(made_zips / "images_background.zip", tmp_path)
    with (
        zipfile.ZipFile(made_zips / "images_evaluation.zip") as whole,
        zipfile.ZipFile(tmp_path / "images_evaluation.zip", "w") as part,
    ):
        for info in whole.infolist()[:-20]:
            part.writestr(info, whole.read(info))
    with pytest.raises(DataError, match="has 658 characters, Omniglot has 659 there"):
        build(tmp_path)


def test_missing_archive(made_zips, tmp_path):
    shutil.copy(made_zips / "images_background.zip", tmp_path)
    with pytest.raises(DataError, match=r"neither images_evaluation\.zip .* nor"):
        build(tmp_path)


def test_raw_files_are_those_of_torchvision():
    from torchvision.datasets import Omniglot

    files = module.raw_files()
    assert [file.name for file in files] == ["images_background.zip", "images_evaluation.zip"]
    assert all(file.url.startswith(Omniglot.download_url_prefix) and len(file.md5) == 32 for file in files)
