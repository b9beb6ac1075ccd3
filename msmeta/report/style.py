"""Names, colours and small helpers that all tables and figures share."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

import seaborn as sns
from matplotlib.axis import Axis

from msmeta import runs
from msmeta.errors import ConfigError, UserError
from msmeta.report.frame import commit_in_words

Result = dict[str, Any]

METHODS = ("MAML", "Multi-step (2)", "Multi-step (4)", "Multi-step (8)", "FO-MAML", "iMAML", "Reptile")
BLIND_SAFE = sns.color_palette("colorblind")
COLOURS = {method: BLIND_SAFE[i] for method, i in zip(METHODS, (7, 0, 2, 1, 3, 4, 5), strict=True)}
MARKERS = dict(zip(METHODS, "ov^Ds*P", strict=True))

TRANSFER_METHODS = (
    "Scratch", "0-step", "1-step", "1-step, 2·lr", "Baseline", "Multi-step", "3-step", "3-step Est. (3)", "First-order",
    "Replayed reverse",
)  # fmt: skip
"""Those of Section 5.1, in the order of the tables here; the exact and the first-order one have MAML's colours."""
_TRANSFER_COLOURS = ((0.15, 0.15, 0.15), *(BLIND_SAFE[i] for i in (9, 4, 1, 7, 0, 5, 2, 3, 6)))
COLOURS |= dict(zip(TRANSFER_METHODS, _TRANSFER_COLOURS, strict=True))
MARKERS |= dict(zip(TRANSFER_METHODS, "xph*ovD^sP", strict=True))


def check_parameters(history: Sequence[str], known: Sequence[str]) -> None:
    """Refuses parameters that the notebook does not have; papermill itself only warns of them.

    history: the sources of the cells run so far, IPython's `In`. Papermill's own cell begins with "# Parameters".
    Raises ConfigError.
    """
    injected = [ast.parse(source) for source in history if source.startswith("# Parameters\n")]
    given = [
        target.id
        for cell in injected
        for line in cell.body
        if isinstance(line, ast.Assign)
        for target in line.targets
        if isinstance(target, ast.Name)
    ]
    if unknown := [name for name in given if name not in known]:
        raise ConfigError(f"unknown parameter {', '.join(unknown)}: this notebook has {', '.join(known)}")


def stored_benchmark(name: str, script: str) -> Result:
    """A result of a script in benchmarks/. Raises UserError where it was not run."""
    path = runs.results_root() / name
    if not path.exists():
        raise UserError(f"results/{name} is not there: run python benchmarks/{script}")
    return runs.read_result(path)


def origin(result: Result) -> str:
    """Where a result was measured, in words."""
    where = result["provenance"]
    return f"{where['device']}, {where['threads']} threads, torch {where['torch']}, commit {commit_in_words(where)}"


def plain_ticks(axis: Axis, places: Sequence[float]) -> None:
    """Ticks of a logarithmic axis as plain numbers, only those that lie within what is drawn."""
    low, high = axis.get_view_interval()
    inside = [place for place in places if low <= place <= high]
    axis.set_ticks(inside, labels=[f"{place:g}" for place in inside])
    axis.set_ticks([], minor=True)


def accuracy_text(found: dict[str, Any], at: int | None = None) -> str:
    """Of a run's metrics, or of point `at` of its learning curve."""
    values = [found[name] if at is None else found[name][at] for name in ("accuracy", "accuracy_ci95")]
    return f"{values[0]:.2f} ±{values[1]:.2f}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table, or a sentence where it would be empty."""
    if not rows:
        return "No run yet."
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
