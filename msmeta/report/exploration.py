"""What notebooks/explore_n.ipynb shows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from msmeta.report.picture import COLOUR, Picture, panels, styled
from msmeta.report.style import COLOURS, table_of

Rows = Sequence[dict[str, Any]]  # of `explore.compare`, the exact one first


def table(rows: Rows) -> str:
    """Each estimator's numbers, in Markdown."""
    return table_of(
        "Method | Query loss | Accuracy (%) | Cosine | Length ratio | Time (ms) | Memory (MB)",
        (
            f"{_name(row)} | {row['loss']:.3f} | {row['accuracy']:.1f} | {row['cosine']:.3f} | {row['ratio']:.2f} | "
            f"{1000 * row['seconds']:.0f} | {row['bytes'] / 1e6:.1f}"
            for row in rows
        ),
    )


@styled
def figure(rows: Rows) -> Picture:
    """Query loss along the inner steps, with a marker where a gradient is evaluated; time and memory beside it."""
    figure, ((path, cost),) = panels(2)
    methods = {None: "FO-MAML", 1: "MAML", **{n: f"Multi-step ({n})" for n in (2, 4, 8)}}
    colours, markers = (
        itertools.cycle(COLOUR[own] for own in ("rust", "teal", "brown", "olive", "grey")),
        itertools.cycle("os^vD"),
    )
    for i, row in enumerate(rows):
        colour = COLOURS[methods[row["window"]]] if row["window"] in methods else next(colours)
        if row["window"] is not None:  # first-order takes the exact steps
            path.plot(*zip(*row["path"], strict=True), color=colour, marker=next(markers), label=_name(row))
        shares, width = [row[name] / rows[0][name] for name in ("seconds", "bytes")], 0.8 / len(rows)
        places = [place + width * (i + 0.5) - 0.4 for place in (0, 1)]
        cost.bar(places, shares, 0.94 * width, color=colour)
        at = {"xytext": (0, 3), "textcoords": "offset points", "rotation": 90, "ha": "center", "color": colour}
        for end in zip(places, shares, strict=True):
            cost.annotate(_name(row), end, **at)
    path.set(xlabel="inner step", ylabel="query loss")
    cost.set_xticks([0, 1], ["time", "memory"])
    cost.set(ylabel="relative to exact")
    cost.margins(y=0.3)
    return figure.label_lines()


def _name(row: dict[str, Any]) -> str:
    return {None: "first-order", 1: "exact"}.get(row["window"], f"N = {row['window']}")
