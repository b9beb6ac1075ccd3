"""Figures as vector pictures: their labels, colours, words and twins."""

import itertools
import json
import re
import xml.etree.ElementTree as ElementTree
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text

from msmeta.report.picture import PALETTE, panels, series, spread, styled
from msmeta.report.style import COLOURS, METHODS

STATIC = Path(__file__).parents[2] / "book" / "_static"
CSS = (STATIC / "plots.css").read_text()


@styled
def picture():
    figure, axes = panels(2, title="A <title>", share=True, interactive=True)
    for axis in axes[0]:
        axis.errorbar([1, 2, 4], [0.5, 0.75, 1.0], [0.1, np.nan, 0.2], label="MAML", color=COLOURS["MAML"])
        axis.plot([1, 2, 4], [0.4, 0.6, 0.99], label="Reptile", color=COLOURS["Reptile"])
        axis.plot([1, 2], [0.2, 0.2], color="grey")
        axis.set(xscale="log", xlabel="steps", ylabel="accuracy (%)", title="1.23456 & more", ylim=(0, 2))
    return figure.label_lines()


def test_each_line_is_labelled_at_its_end_and_no_label_covers_another():
    figure = picture()
    for axis, drawing in zip(figure.axes, figure.panels, strict=True):
        texts = sorted(axis.texts, key=lambda text: text.get_text())
        assert [text.get_text() for text in texts] == ["MAML", "Reptile"]
        assert [text.get_color() for text in texts] == [COLOURS["MAML"], COLOURS["Reptile"]]
        assert texts[0].xy == (4, 1.0)
        drawing.draw_without_rendering()
        boxes = [Text.get_window_extent(text) for text in texts]  # without the line to it
        assert boxes[0].y0 >= boxes[1].y1 - 2 and boxes[0].x0 > axis.get_window_extent().x1
        assert boxes[0].x1 <= drawing.bbox.x1  # within the panel


def test_labels_move_as_little_as_they_must():
    assert spread([0.1, 0.5, 0.9], 0.1) == pytest.approx([0.1, 0.5, 0.9])
    assert spread([0.5, 0.5], 0.2) == pytest.approx([0.4, 0.6])
    assert spread([1.0, 0.95, 0.0], 0.2) == pytest.approx([1.0, 0.8, 0.0])
    assert sorted(spread([0.5] * 9, 0.2)) == pytest.approx([0.2 * i for i in range(9)])  # there is no room for all


def test_the_picture_is_vector_with_text_words_and_the_pages_colours():
    figure = picture()
    one, other = figure.svg()
    for svg in (one, other):
        texts = [
            "".join(each.itertext()) for each in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
        ]
        assert {"1.23456 & more", "MAML", "Reptile", "accuracy (%)"} <= set(texts)
        assert f"var(--plot-ink,{COLOURS['MAML']})" in svg and "<image" not in svg and "matplotlib.org" not in svg
        sizes = [float(size) for size in re.findall(r"font-size: ([\d.]+)px", svg)]
        width = float(re.search(r'width="([\d.]+)pt"', svg)[1])
        assert min(sizes) * min(1, 328 * 0.75 / width) >= 8  # points, on a phone of 360 pixels with its margins
    page = figure._repr_html_()
    assert "A &lt;title&gt;" in page and page.count('role="img"') == 2
    words = "1.23456 & more: accuracy (%) against steps. At the right: Reptile 0.99, MAML 1"
    assert page.count(words.replace("&", "&amp;")) == 2


def test_the_twin_has_the_pictures_numbers():
    figure = picture()
    for panel, axis in zip(figure.twin()["concat"], figure.axes, strict=True):
        values = panel["data"]["values"]
        first, second, _ = (value for value in values if value["method"] == "MAML")
        assert first == {"method": "MAML", "x": 1.0, "y": 0.5, "low": 0.4, "high": 0.6}
        assert second == {"method": "MAML", "x": 2.0, "y": 0.75}  # whose interval is not known
        for own in series(axis):
            assert [(v["x"], v["y"]) for v in values if v["method"] == own.label] == list(
                zip(own.x, own.y, strict=True)
            )
        assert len(values) == 6
    script = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', figure._repr_html_())[1]
    assert json.loads(script) == json.loads(json.dumps(figure.twin()))


def test_colours_are_legible_and_apart_for_those_who_lack_red_or_green():
    """Contrast as of WCAG 2; deuteranopia and protanopia after Machado, Oliveira and Fernandes (2009)."""
    sight = {
        "all": np.eye(3),
        "no green": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
        "no red": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    }
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])

    def linear(colour):
        channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)

    def lab(colour, seen):
        x, y, z = np.cbrt(xyz @ np.clip(np.array(seen) @ linear(colour), 0, 1) / [0.9505, 1, 1.089])
        return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

    names = {light: name for name, (light, _) in PALETTE.items()}
    used = [names[COLOURS[method]] for method in METHODS]
    for i, page in enumerate(("#ffffff", "#121212")):
        for name, colours in PALETTE.items():
            a, b = sorted((xyz[1] @ linear(colour) + 0.05 for colour in (colours[i], page)), reverse=True)
            assert a / b > (3 if name in ("grey", "purple", "pink", "rust") and i else 4.5), (name, page)
        for seen in sight.values():
            pairs = itertools.combinations([PALETTE[name][i] for name in used], 2)
            assert min(np.linalg.norm(lab(a, seen) - lab(b, seen)) for a, b in pairs) > 15


def test_the_style_sheet_has_the_palettes_dark_colours():
    assert dict(re.findall(r"--plot-(\w+): (#\w+);", CSS)) == {
        name: dark for name, (light, dark) in PALETTE.items() if dark != light
    }


def test_the_other_drawings_have_the_palettes_colours():
    """Methods in the animated figure, and windows in the front page's drawing, by the colours of figures."""
    explore = files("msmeta.report").joinpath("explore.css").read_text()
    methods = {"exact": "MAML", "multistep": "Multi-step (4)", "first_order": "FO-MAML", "reptile": "Reptile",
               "implicit": "iMAML"}  # fmt: skip
    dark = dict(PALETTE.values())
    for name, method in methods.items():
        light = COLOURS[method]
        assert re.findall(rf"--{name}: (#\w+);", explore) == [light, dark[light]]
    windows = {"windows": PALETTE["blue"], "windows-2": PALETTE["brown"]}
    book = (STATIC / "book.css").read_text()
    for name, colours in windows.items():
        assert tuple(re.findall(rf"--ms-{name}: (#\w+);", book)) == colours


def test_a_picture_is_saved_for_readers_of_plain_files(tmp_path):
    picture().save_png(tmp_path / "picture.png")
    from matplotlib.image import imread

    image = imread(tmp_path / "picture.png")
    assert image.shape[:2] == (324, 816) and (image[0, 0, :3] == 1).all() and image[..., :3].min() < 0.2
