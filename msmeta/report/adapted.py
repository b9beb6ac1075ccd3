"""A network adapted to a user's pictures: which network a page takes, and a picture sheet of what it answers."""

from __future__ import annotations

import math
from itertools import zip_longest
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from msmeta import machine
from msmeta.experiments import finished, registry
from msmeta.experiments.few_shot.adapted import Adapted
from msmeta.experiments.finished import Finished
from msmeta.report import few_shot, stored
from msmeta.report.picture import COLOUR, Picture, styled
from msmeta.report.style import markdown

ACROSS, MOST_ROWS = 7, 12
"""Pictures in a row, and rows of query pictures at the most."""
HEAD, HEIGHT = 0.6, 1.45
"""Of a part's title and of a row, in inches; a row is as wide as it has pictures."""
RIGHT, WRONG, GREY = COLOUR["blue"], COLOUR["pink"], COLOUR["grey"]
USUAL = {"dataset": "omniglot", "way": 5, "shot": 1, **few_shot.multi_step(4)}
"""Of the network that a page takes."""


def shipped() -> Path:
    """The drawings that come with the notebook, in folders `support` and `query`."""
    return (machine.repository() or Path()) / "notebooks" / "characters"


def learner(run: str | None, preset: str, device: str = "auto") -> tuple[Finished, str]:
    """A run whose θ is here, and a sentence on it: the one of this name; else a committed one of USUAL; else one that
    is trained now, with the preset, on glyphs where Omniglot cannot be had and in the smoke preset."""
    if run is not None:
        found = finished.few_shot_run(run)
        return found, f"The network is that of the stored run `{found.name}`, {_scores(found)}."
    committed = [each for each in stored.all_of(live=False) if _is_usual(each)]
    if committed:
        found = max(committed, key=lambda each: each.result["metrics"]["accuracy"])
        return found, f"The network is that of the committed run `{found.name}`, {_scores(found)}."
    own = {name: [value] for name, value in USUAL.items() if name in ("way", "shot")}
    trained, why = few_shot.train(preset, USUAL["dataset"], [few_shot.multi_step(4)], device, False, **own)
    found = finished.read(registry.place(trained["config"].iloc[0]).result_path)
    return found, f"No committed θ is here, so a network was trained now, for a short time, {_scores(found)}. {why}"


def _is_usual(run: Finished) -> bool:
    return run.theta_path.exists() and all(getattr(run.config, name, None) == own for name, own in USUAL.items())


def _scores(run: Finished) -> str:
    title, metrics = run.result["data"]["title"], run.result["metrics"]
    return (
        f"{run.module.label(run.config)} on {title}, {run.module.setting(run.config)}: {metrics['accuracy']:.1f} % on "
        f"its {run.config.evaluate_on} classes after {metrics['iterations']:,} meta-iterations"
    )


@styled
def sheet(found: Adapted, title: str = "") -> Picture:
    """The support set, then the query pictures with class and confidence, and whether the answer is right where the
    picture lies in the folder of its class. Of more pictures than fit, the first are shown."""
    support = [(x, _short(str(own)), GREY) for x, own in zip(found.support.x, found.support.classes, strict=True)]
    query = []
    sure = found.probabilities.max(1).values.tolist()
    for x, own, answer, share in zip(found.query.x, found.query.classes, found.answers, sure, strict=True):
        mark, colour = ("", GREY) if own is None else ("✓ ", RIGHT) if own == answer else ("✗ ", WRONG)
        query.append((x, f"{mark}{_short(answer)}\n{100 * share:.0f} %", colour))
    parts = {"Support set": support, "Query pictures: answer and confidence": query}
    heights = [HEAD + HEIGHT * min(MOST_ROWS, math.ceil(len(part) / ACROSS)) for part in parts.values()]
    figure = Figure(figsize=(ACROSS, sum(heights)))
    for head, part, below in zip(parts, parts.values(), figure.subfigures(2, 1, height_ratios=heights), strict=True):
        shown = part[: ACROSS * MOST_ROWS]
        more = f" (the first {len(shown)} of {len(part)})" if len(shown) < len(part) else ""
        below.suptitle("\n".join(filter(None, [title, head + more])), fontsize=11, x=0.005, ha="left")
        title = ""
        grid = below.subplots(math.ceil(len(shown) / ACROSS), ACROSS, squeeze=False).ravel()
        for axis, drawn in zip_longest(grid, shown):
            _draw(axis, *drawn) if drawn else axis.set_axis_off()
    words = "; ".join(
        f"{head}: {', '.join(own.replace(chr(10), ' ') for _, own, _ in part)}" for head, part in parts.items()
    )
    return Picture([figure], words=[words])


def table(found: Adapted) -> str:
    """The answers as a table in Markdown, of as many pictures as the sheet shows."""
    confidences = found.probabilities.max(1).values.tolist()
    rows = zip(found.query.files, found.query.classes, found.answers, confidences, strict=True)
    lines = [[f"`{file}`", own or "-", answer, f"{100 * sure:.0f}"] for file, own, answer, sure in rows]
    return markdown(["Picture", "Folder", "Answer", "Confidence (%)"], lines[: ACROSS * MOST_ROWS])


def _draw(axis: Axes, x: Tensor, text: str, colour: str) -> None:
    """A picture (C, H, W), drawings as ink on paper, in a frame below its text."""
    if len(x) == 1:
        axis.imshow(255 - x[0].numpy(), cmap="gray", vmin=0, vmax=255)
    else:
        axis.imshow(np.moveaxis(x.numpy(), 0, 2))
    axis.grid(False)
    axis.set(xticks=[], yticks=[])
    axis.set_title(text, fontsize=9, color=colour, pad=3)
    for spine in axis.spines.values():
        spine.set(color=colour, linewidth=1.5, visible=True)


def _short(name: str) -> str:
    return name if len(name) <= 14 else f"{name[:13]}…"
