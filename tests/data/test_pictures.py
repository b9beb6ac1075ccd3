"""A user's own pictures: classes by folder, drawings as data sets have them, and mistakes."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from msmeta import DataError
from msmeta.data.pictures import read_pictures


def drawn(path, size=(56, 56), paper="white", ink="black", mode="RGB", **options):
    """A broad cross, its upright left of the middle."""
    image = Image.new(mode, size, paper)
    draw = ImageDraw.Draw(image)
    width, height = size
    draw.line([(width / 4, height / 8), (width / 4, 7 * height / 8)], ink, 6)
    draw.line([(width / 8, height / 2), (7 * width / 8, height / 2)], ink, 6)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def test_pictures_have_the_class_of_their_folder(tmp_path):
    for name in ("b/2.png", "b/1.jpg", "a/x.webp", "loose.bmp", "a/.hidden.png", "a/notes.txt", ".git/y.png"):
        drawn(tmp_path / name) if "notes" not in name else (tmp_path / name).write_text("")
    found = read_pictures(tmp_path, 1, 28)
    assert found.files == ["a/x.webp", "b/1.jpg", "b/2.png", "loose.bmp"] and found.classes == ["a", "b", "b", None]
    assert found.x.shape == (4, 1, 28, 28) and found.x.dtype == torch.uint8


def test_drawings_become_light_strokes_on_black(tmp_path):
    drawn(tmp_path / "a.png")
    drawn(tmp_path / "b.png", paper=(200, 190, 180), ink=(120, 110, 130))  # faint, on grey paper
    drawn(tmp_path / "c.png", paper="black", ink="white")
    drawn(tmp_path / "d.png", paper=(0, 0, 0, 0), ink=(0, 0, 0, 255), mode="RGBA")  # transparent
    drawn(tmp_path / "e.png", mode="L")
    x = read_pictures(tmp_path, 1, 28).x.int()
    assert x[0, 0, 14, 20] > 240 and x[0, 0, 2, 2] == 0 and x[0, 0, 20, 7] > 240 and x[0, 0, 20, 20] == 0
    assert all((value - x[0]).abs().max() <= 2 for value in x)


def test_a_drawing_is_made_square_by_paper_and_a_photograph_by_cutting(tmp_path):
    drawn(tmp_path / "wide.png", size=(112, 56))
    grey = read_pictures(tmp_path, 1, 28).x[0, 0]
    assert grey[:5].max() == 0 and grey[-5:].max() == 0 and grey[14, 5:23].min() > 100
    photograph = np.zeros((60, 100, 3), np.uint8)
    photograph[:, :20], photograph[:, 20:80], photograph[:, 80:] = (255, 0, 0), (0, 200, 0), (0, 0, 255)
    Image.fromarray(photograph).save(tmp_path / "wide.png")
    assert (read_pictures(tmp_path, 3, 12).x[0] == torch.tensor([0, 200, 0])[:, None, None]).all()


def test_a_photograph_stands_upright(tmp_path):
    """As its camera noted it: EXIF orientation 6 is to be turned by a quarter clockwise."""
    image = np.zeros((40, 40, 3), np.uint8)
    image[:, :20] = 255  # white on the left, on top once it is turned
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(image).save(tmp_path / "a.png", exif=exif)
    x = read_pictures(tmp_path, 3, 8).x[0, 0]
    assert x[0].min() == 255 and x[-1].max() == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no pictures"),
        (lambda folder: (folder / "a.png").write_bytes(b"no picture"), "a.png is not a readable PNG"),
        (lambda folder: Image.new("L", (9, 9), 255).save(folder / "a.png"), "a.png is of one shade: nothing is drawn"),
        (lambda folder: drawn(folder / "a/b/c.png"), "a/b/c.png lies deeper than in the folder of a class"),
        (lambda folder: folder.rmdir(), "there is no folder"),
    ],
)
def test_a_mistake_is_one_line_with_the_folder(tmp_path, make, message):
    folder = tmp_path / "mine"
    folder.mkdir()
    make(folder)
    with pytest.raises(DataError, match=message) as caught:
        read_pictures(folder, 1, 28)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
