"""What notebooks/explore_n.ipynb shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from msmeta.report.style import BLIND_SAFE, COLOURS, markdown


def exploration_table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of `explore.compare`, in Markdown."""
    cells = [
        [
            row["method"], f"{row['loss']:.3f}", f"{row['accuracy']:.1f}", f"{row['cosine']:.3f}",
            f"{row['ratio']:.2f}", f"{1000 * row['seconds']:.0f}", f"{row['bytes'] / 1e6:.1f}",
        ]
        for row in rows
    ]  # fmt: skip
    head = ["Method", "Query loss", "Accuracy (%)", "Cosine", "Length ratio", "Time (ms)", "Kept (MB)"]
    return markdown(head, cells)


def exploration_figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """Query loss along the inner steps, with a marker where a gradient is evaluated; time and memory beside it."""
    figure, (path, cost) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", width_ratios=(1.4, 1))
    names = [row["method"] for row in rows]
    for i, row in enumerate(rows):
        method = row["method"].replace("N = ", "")
        of_table = {"exact": "MAML", "first-order": "FO-MAML"}.get(method, f"Multi-step ({method})")
        colour = COLOURS.get(of_table, BLIND_SAFE[4])
        for place, column in enumerate(("seconds", "bytes")):
            share = row[column] / rows[0][column]
            cost.bar(place + 0.8 * (i + 0.5) / len(rows) - 0.4, share, 0.75 / len(rows), color=colour)
        if row["method"] == "first-order":  # its steps are the exact ones
            path.plot([], [], color=colour, linewidth=6, label=f"{row['method']} (steps as exact)")
        else:
            path.plot(
                *zip(*row["path"], strict=True), color=colour, marker="os^vD"[i], markersize=4, label=row["method"]
            )
    path.set(xlabel="inner step", ylabel="query loss")
    path.legend(frameon=False, fontsize="small")
    cost.set_xticks([0, 1], ["time", "memory kept"])
    cost.set(ylabel=f"relative to {names[0]}")
    for axis in (path, cost):
        axis.grid(alpha=0.3)
    plt.close(figure)
    return figure
