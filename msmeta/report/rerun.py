"""What the page on rerunning shows: every notebook's parameters, and time and disk of each preset."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from msmeta import runs
from msmeta.experiments.config import PRESETS
from msmeta.experiments.finished import KINDS
from msmeta.report import stored
from msmeta.report.style import Result, find_benchmark, markdown, origin


def parameters(notebooks: Path) -> str:
    """A table for each notebook of the folder, or one for several with the same parameters, in Markdown.

    Name, type and default are as in the notebook's cell of parameters, the description is the comment there: what
    `papermill --help-notebook` prints.
    """
    from papermill import inspect_notebook

    found = {path.stem: inspect_notebook(str(path)) for path in sorted(notebooks.glob("*.ipynb"))}
    names = sorted(found, key=lambda name: [str(found[name]), name])
    groups = [list(group) for _, group in groupby(names, key=lambda name: str(found[name]))]
    return "\n\n".join(_parameters(group, found[group[0]].values()) for group in sorted(groups))


def _parameters(names: list[str], known: Iterable[dict[str, str]]) -> str:
    rows = [[f"`{p['name']}: {p['inferred_type_name']} = {p['default']}`", p["help"]] for p in known]
    return "\n\n".join([f"**{', '.join(names)}**", markdown(["parameter", "what it is"], rows)])


def presets() -> str:
    """Minutes and bytes of a book of each preset, as measured, and hours and bytes of the committed runs; Markdown."""
    heads = ["preset", "a book takes", "its pages and live runs", "committed runs", "hours of training", "their size"]
    books = {name: find_benchmark(f"benchmarks/book-{name}") for name in PRESETS}
    rows = [[f"`{name}`", *_book(name, books[name]), *_committed(name)] for name in PRESETS]
    notes = [f"`{name}`: {origin(result)}. {_recipes(result)}" for name, result in books.items() if result]
    return "\n\n".join([markdown(heads, rows), *notes])


def _book(preset: str, result: Result | None) -> tuple[str, str]:
    if result is None:
        return f"not measured: `msmeta bench books --preset {preset}`", "-"
    found = result["metrics"]
    return f"{found['seconds'] / 60:.1f} minutes", _megabytes(found["page_bytes"] + found["result_bytes"])


def _recipes(result: Result) -> str:
    own = {name.partition("/")[2]: s for name, s in result["metrics"]["pages"].items() if name.startswith("recipes/")}
    slowest = max(own, key=own.__getitem__)
    return f"Of its {len(own)} recipes the slowest, `{slowest}`, ran in {own[slowest]:.0f} seconds."


def _committed(preset: str) -> tuple[str, str, str]:
    own = [result for kind in KINDS for result in stored.results(kind) if result["config"]["preset"] == preset]
    if not own:
        return "none" if preset in runs.COMMITTED_PRESETS else "-", "-", "-"
    hours = sum(result["provenance"]["train_seconds"] for result in own) / 3600
    files = (path for kind in KINDS for path in (runs.results_root() / kind).glob(f"*-{preset}-*.json"))
    return f"{len(own):,}", f"{hours:.1f}", _megabytes(sum(path.stat().st_size for path in files))


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"
