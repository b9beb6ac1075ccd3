"""Names, colours and small helpers that all tables and figures share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axis import Axis

from msmeta import idle, runs
from msmeta.errors import UserError
from msmeta.report import stored
from msmeta.report.frame import commit_in_words, device_in_words
from msmeta.report.picture import COLOUR

Result = dict[str, Any]

METHODS = ("MAML", "Multi-step (2)", "Multi-step (4)", "Multi-step (8)", "FO-MAML", "iMAML", "Reptile")
_COLOURS = ("ink", "green", "blue", "purple", "pink", "brown", "olive")
COLOURS = {method: COLOUR[name] for method, name in zip(METHODS, _COLOURS, strict=True)}
MARKERS = dict(zip(METHODS, "ov^Ds*P", strict=True))

TRANSFER_METHODS = (
    "Scratch", "0-step", "1-step", "1-step, 2·lr", "Baseline", "Multi-step", "3-step", "3-step Est. (3)", "First-order",
    "Replayed reverse",
)  # fmt: skip
"""Those of Section 5.1, in the order of the tables here; the exact and the first-order one have MAML's colours."""
_COLOURS = ("olive", "teal", "brown", "rust", "ink", "blue", "purple", "green", "pink", "grey")
COLOURS |= {method: COLOUR[name] for method, name in zip(TRANSFER_METHODS, _COLOURS, strict=True)}
MARKERS |= dict(zip(TRANSFER_METHODS, "xph*ovD^sP", strict=True))


def drawn(method: str) -> dict[str, Any]:
    """Colour and marker of a method, the same on every page."""
    return {"color": COLOURS.get(method), "marker": MARKERS.get(method)}


def plain_ticks(axis: Axis, places: Sequence[float]) -> None:
    """Ticks of a logarithmic axis as plain numbers, only those that lie within what is drawn."""
    low, high = axis.get_view_interval()
    inside = [place for place in places if low <= place <= high]
    axis.set_ticks(inside, labels=[f"{place:g}" for place in inside])
    axis.set_ticks([], minor=True)


def show(*parts: Any) -> None:
    """Shows pictures, and text as Markdown, in a notebook."""
    from IPython.display import Markdown, display

    for part in filter(None, parts):
        display(Markdown(part) if isinstance(part, str) else part)


def find_benchmarks(name: str) -> list[Result]:
    """Stored results of a benchmark, such as `benchmarks/few_shot_step`: a GPU's and a processor's, as far as there."""
    places = (runs.results_root() / f"{name}{end}.json" for end in (runs.ON_GPU, ""))
    return [*filter(None, map(stored.find, places))]


def find_benchmark(name: str) -> Result | None:
    """The first of these, None for none."""
    return next(iter(find_benchmarks(name)), None)


def stored_benchmark(name: str, command: str | None = None) -> Result:
    """The first of these. command: what makes it. Raises UserError where it was not run."""
    return next(iter(stored_benchmarks(name, command).values()))


def stored_benchmarks(name: str, command: str | None = None) -> dict[str, Result]:
    """All of these by their device. command: what makes them. Raises UserError where it was not run."""
    if found := find_benchmarks(name):
        return {result["provenance"]["device"]: result for result in found}
    raise UserError(f"results/{name}.json is not there: run python {command or f'{name}.py'}")


def origin(result: Mapping[str, Any] | pd.Series) -> str:
    """Where a result, or a row of a frame, was measured, in words, and whether other processes disturbed that."""
    where = result.get("provenance", result)
    commit = ("commit " if where["commit"] else "") + commit_in_words(where)
    return f"{device_in_words(where)}, torch {where['torch']}, {commit}{disturbance(where)}"


def disturbance(*provenances: Mapping[str, Any] | pd.Series) -> str:
    """What to add where one of some measurements was not known to be alone on its machine; nothing where all were."""
    seen = [own.get("others", 0.0) for own in provenances]  # a training watches nobody
    others = max((own for own in seen if own is not None), default=0.0)
    if None in seen and others <= idle.IDLE:
        return ", where others' work cannot be seen"
    return f", while others took up to {others:.2f} cores: to be measured again" if others > idle.IDLE else ""


def measured_with(result: Result | None) -> str:
    """The same as a sentence, with the size of a few-shot meta-iteration; nothing of what was not measured."""
    if result is None:
        return ""
    config = result["config"]
    size = f"; {config['filters']} filters, {config['tasks']} tasks" if "filters" in config else ""
    return f"Measured with: {origin(result)}{size}."


def markdown(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table, or a sentence where it would be empty."""
    return table_of(" | ".join(head), (" | ".join(map(str, row)) for row in rows))


def table_of(head: str, rows: Iterable[str]) -> str:
    """The same of a head and rows as they stand in Markdown: `Method | time (s)`."""
    lines = [head, " | ".join(["---"] * (1 + head.count(" | "))), *rows]
    return "\n".join(f"| {line} |" for line in lines) if len(lines) > 2 else "No run yet."
