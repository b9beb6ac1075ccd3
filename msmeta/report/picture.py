"""Figures of the book: vector pictures in panels of one size, with labels at their lines, in the page's own colours."""

from __future__ import annotations

import hashlib
import html
import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.image
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression

WIDTH, HEIGHT = 3.4, 2.7
"""Inches of a panel: two fill the text of a page, one that of a phone."""
PALETTE = {
    "ink": ("#1a1a1a", "#f2f2f2"),
    "blue": ("#235fd0", "#87caf9"),
    "green": ("#1b5541", "#22fa84"),
    "purple": ("#61067c", "#c442f7"),
    "pink": ("#ba0f7f", "#de3e8c"),
    "brown": ("#7b5c2d", "#e98320"),
    "olive": ("#807700", "#fafd09"),
    "rust": ("#59200a", "#c66252"),
    "teal": ("#0a7a8a", "#12b5c9"),
    "grey": ("#6b7280", "#9aa0a6"),
}
"""Colours on light and on dark pages. The first eight were found by a search that kept each at a contrast of 4.5 with
the page and them apart from each other for readers who lack red or green (Machado et al., 2009)."""
COLOUR = {name: light for name, (light, _) in PALETTE.items()}
_LINE = 10.5  # points from one label to the next

styled = matplotlib.style.context("msmeta.report.msmeta")
"""Draws what a function draws by the style sheet, and leaves the caller's own settings alone."""


@dataclass(frozen=True)
class Series:
    """A labelled line of a panel; `low` and `high` are the ends of its error bars, None where it has none."""

    label: str
    colour: str
    x: list[float]
    y: list[float]
    low: list[float] | None = None
    high: list[float] | None = None


class Picture:
    """Panels, which a page puts beside or below each other as there is room, under a title.

    interactive: whether a reader can have them drawn by Vega, to zoom and to read values off (`twin`). words: of each
    panel, for readers who do not see it; else made from its axes.
    """

    def __init__(
        self, panels: list[Figure], title: str = "", interactive: bool = False, words: list[str] | None = None
    ) -> None:
        self.panels, self.title, self.interactive, self._words = panels, title, interactive, words

    @property
    def axes(self) -> list[Axes]:
        """Of all panels, colour bars left out."""
        return [figure.axes[0] for figure in self.panels]

    def label_lines(self) -> Picture:
        """Writes each label at the end of its line, in its colour, none over another; the picture itself."""
        for axis in self.axes:
            _label_lines(axis)
        return self

    def twin(self) -> dict[str, Any]:
        """The same lines as a Vega-Lite specification."""
        panels = [_vega(axis) for axis in self.axes]
        return {"$schema": "https://vega.github.io/schema/vega-lite/v6.json", "concat": panels, "columns": 2}

    def svg(self) -> list[str]:
        """Each panel, its colours as CSS variables with those of a light page as fallback."""
        return [_svg(figure) for figure in self.panels]

    def save_png(self, path: str | Path) -> None:
        """The panels side by side on white."""
        images = []
        for figure in self.panels:
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=120, facecolor="white")
            images.append(matplotlib.image.imread(io.BytesIO(buffer.getvalue())))
        matplotlib.image.imsave(path, np.hstack(images), format="png")

    def _repr_html_(self) -> str:
        title = f'<p class="plot-title">{html.escape(self.title)}</p>' if self.title else ""
        words = self._words or [_words(axis) for axis in self.axes]
        panels = [svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(own)}" ', 1)
                  for svg, own in zip(self.svg(), words, strict=True)]  # fmt: skip
        place = f'<div class="plot-panels" style="display:flex;flex-wrap:wrap">{"".join(panels)}</div>'
        twin = ""
        if self.interactive:
            specification = json.dumps(self.twin(), separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
            twin = (
                '<div class="plot-twin" hidden></div>'
                '<button type="button" class="plot-switch" aria-pressed="false" hidden>'
                "Interactive: zoom, read values</button>"
                f'<script type="application/json" class="plot-specification">{specification}</script>'
                f'<script type="application/json" class="plot-palette">{json.dumps(COLOUR)}</script>'
            )
        return f'<div class="plot">{title}{place}{twin}</div>'


def panels(
    columns: int = 1,
    rows: int = 1,
    title: str = "",
    share: bool = False,
    interactive: bool = False,
    height: float = HEIGHT,
) -> tuple[Picture, Any]:
    """A picture and the axes (rows, columns) of its panels. share: whether those of a row have one scale of y."""
    figures = [Figure(figsize=(WIDTH, height)) for _ in range(columns * rows)]
    axes = np.empty((rows, columns), dtype=object)
    for i, figure in enumerate(figures):
        row, column = divmod(i, columns)
        axes[row, column] = figure.add_subplot(sharey=axes[row, 0] if share and column else None)
    return Picture(figures, title, interactive), axes


def series(axis: Axes) -> Iterator[Series]:
    """The labelled lines of a panel."""
    for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
        bars = isinstance(handle, ErrorbarContainer)
        line = handle.lines[0] if bars else handle
        if not hasattr(line, "get_xydata") or not len(points := np.asarray(line.get_xydata(), float)):
            continue
        low = high = None
        if bars and handle.has_yerr:
            segments = handle.lines[2][-1].get_segments()  # without a place where an end is not known
            ends = [own[:, 1] if np.shape(own) == (2, 2) else (np.nan, np.nan) for own in segments]
            low, high = (list(map(float, end)) for end in zip(*ends, strict=True))
        yield Series(label, to_hex(line.get_color()), *(list(map(float, own)) for own in points.T), low, high)


def _label_lines(axis: Axes) -> None:
    found = [(own, end) for own in series(axis) if (end := _end(own, axis))]
    if not found:
        return
    axis.figure.draw_without_rendering()  # for the height of the axes
    gap = _LINE / (axis.get_window_extent().height / axis.figure.dpi * 72)
    places = [axis.transAxes.inverted().transform(axis.transData.transform(end))[1] for _, end in found]
    for (own, end), place in zip(found, spread(places, gap), strict=True):
        axis.annotate(
            own.label, end, (1.05, place), xycoords="data", textcoords="axes fraction", color=own.colour, va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": own.colour, "linewidth": 0.6, "alpha": 0.6, "shrinkA": 1,
                        "relpos": (0, 0.5)},
        )  # fmt: skip


def _end(own: Series, axis: Axes) -> tuple[float, float] | None:
    """The last point of a line that is drawn."""
    inside = _inside(own, axis)
    return inside[-1] if inside else None


def _inside(own: Series, axis: Axes) -> list[tuple[float, float]]:
    ends = [sorted(limits) for limits in (axis.get_xlim(), axis.get_ylim())]
    points = zip(own.x, own.y, strict=True)
    return [p for p in points if all(a <= v <= b for v, (a, b) in zip(p, ends, strict=True))]


def spread(places: list[float], gap: float) -> list[float]:
    """Places in [0, 1], or as near as there is room, at least `gap` apart and as near to these as can be."""
    order = np.argsort(places, kind="stable")
    steps = gap * np.arange(len(places))
    room = max(0.0, 1 - steps[-1])
    nearest = isotonic_regression(np.array(places)[order] - steps).x.clip(0, room) + steps
    found = np.empty(len(places))
    found[order] = nearest
    return found.tolist()


def _words(axis: Axes) -> str:
    title, y, x = axis.get_title(), axis.get_ylabel(), axis.get_xlabel()
    what = " against ".join(filter(None, [y, x]))
    return ". ".join(filter(None, [": ".join(filter(None, [" ".join(title.split()), what])), _values(axis)]))


def _values(axis: Axes) -> str:
    """Of lines where they are farthest to the right, of bars their heights, of a heat map the range."""
    found = [(own.label, max(inside)) for own in series(axis) if (inside := _inside(own, axis))]
    if found:
        return "At the right: " + ", ".join(f"{label} {end[1]:.4g}" for label, end in found)
    bars = [own for own in axis.containers if isinstance(own, BarContainer)]
    if bars:
        heights = ", ".join(f"{bar.get_height():.4g}" for own in bars for bar in own)
        return f"Bars from the left, of one kind after another: {heights}"
    maps = [own.get_array() for own in axis.collections if isinstance(own, QuadMesh)]
    return f"Values from {maps[0].min():.2f} to {maps[0].max():.2f}" if maps else ""


@styled
def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg ") :], flags=re.DOTALL)
    text = re.sub(r">\s+<", "><", re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL))
    text = re.sub(r"<[^>]+>", lambda tag: _short(tag[0]), text)
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", text)
    mark = hashlib.sha256(text.encode()).hexdigest()[:8]  # names of this picture alone, whatever else a page shows
    text = re.sub(r'(url\(#|href="#| id=")', rf"\g<1>{mark}-", text)
    for name, (light, _) in PALETTE.items():
        text = text.replace(light, f"var(--plot-{name},{light})")
    return _classes(text.strip(), mark)


def _classes(text: str, mark: str) -> str:
    """Styles that come again and again become classes, which makes half of the text."""
    count = Counter(re.findall(r' style="([^"]+)"', text))
    names = {style: f"p{mark}{i}" for i, (style, often) in enumerate(count.most_common()) if often > 2}
    text = re.sub(r' style="([^"]+)"', lambda f: f' class="{names[f[1]]}"' if f[1] in names else f[0], text)
    rules = "".join(f".{name}{{{style}}}" for style, name in names.items())
    return text.replace("<defs>", f"<defs><style>{rules}</style>", 1)


def _short(tag: str) -> str:
    """A hundredth of a point is enough, and the page has its own letters."""
    return re.sub(r"font-family: [^;]*;", "font-family: sans-serif;", re.sub(r"(\.\d\d)\d+", r"\1", tag)).replace(
        "\n", ""
    )


def _six(value: float) -> float:
    """Six digits, more than anybody reads."""
    return float(f"{value:.6g}")


def _vega(axis: Axes) -> dict[str, Any]:
    values, colours = [], {}
    for own in series(axis):
        ends = itertools.repeat((None, None)) if own.low is None else zip(own.low, own.high, strict=True)
        for x, y, (low, high) in zip(own.x, own.y, ends, strict=False):
            row = {"method": own.label, "x": _six(x), "y": _six(y)}
            bar = {} if low is None or not np.isfinite([low, high]).all() else {"low": _six(low), "high": _six(high)}
            values += [row | bar] if np.isfinite([x, y]).all() else []
        colours[own.label] = next((f"var(--plot-{n})" for n, c in COLOUR.items() if c == own.colour), own.colour)

    def channel(name: str, label: str, scale: str, limits: tuple[float, float]) -> dict[str, Any]:
        kind = {"linear": {"zero": False}, "log": {"type": "log"}, "symlog": {"type": "symlog", "constant": 1}}[scale]
        low, high = sorted(map(float, limits))
        kind = kind | {"domain": [low, high], "nice": False}
        return {"field": name, "type": "quantitative", "title": label, "scale": kind}

    x = channel("x", axis.get_xlabel(), axis.get_xscale(), axis.get_xlim())
    y = channel("y", axis.get_ylabel(), axis.get_yscale(), axis.get_ylim())
    colour = {"field": "method", "title": None, "scale": {"domain": [*colours], "range": [*colours.values()]}}
    shown = {"condition": {"param": "chosen", "value": 1}, "value": 0.12}
    tooltip = [{"field": "method", "title": "method"}]
    tooltip += [{"field": own["field"], "title": own["title"], "format": ",.4~g"} for own in (x, y)]
    if any("low" in row for row in values):
        tooltip += [{"field": end, "title": f"95 % interval, {end}", "format": ",.4~g"} for end in ("low", "high")]
    common = {"x": x, "color": colour, "opacity": shown}
    bars = common | {"y": y | {"field": "low"}, "y2": {"field": "high"}}
    layers = [
        {"mark": {"type": "rule", "clip": True}, "encoding": bars,
         "transform": [{"filter": "isValid(datum.low)"}]},
        {"mark": {"type": "line", "clip": True}, "encoding": common | {"y": y}},
        {"mark": {"type": "point", "filled": True, "size": 45, "clip": True},
         "encoding": common | {"y": y, "tooltip": tooltip},
         "params": [{"name": "zoom", "select": "interval", "bind": "scales"}]},
    ]  # fmt: skip
    chosen = {"name": "chosen", "select": {"type": "point", "fields": ["method"]}, "bind": "legend"}
    layers[1]["params"] = [chosen]
    title = " ".join(axis.get_title().split())
    return {"title": title, "data": {"values": values}, "layer": layers, "width": 250, "height": 200}
