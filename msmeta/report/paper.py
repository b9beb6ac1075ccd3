"""The paper's own numbers, as data (Kim, Park and Choi: Tables 1-6 and the figures given in the text)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from msmeta.errors import ConfigError
from msmeta.report.style import markdown
from msmeta.statistics import Mean, half_width


@dataclass(frozen=True)
class Cell:
    """One number of a table with what the table's caption says ± means; `spread` is None where it gives none.

    mean: the same with the 95 % interval of the mean that follows from ±. quoted: from another paper.
    """

    value: float
    spread: float | None
    mean: Mean
    quoted: bool

    def __str__(self) -> str:
        return f"{self.value:g}" + ("" if self.spread is None else f" ±{self.spread:g}")


@dataclass(frozen=True)
class PaperTable:
    """A table as it is printed: `cells[method][column]`, None where the paper leaves the cell empty, in its order.

    of_models: whether ± is over several trained networks, or else over test episodes of one.
    """

    caption: str
    columns: tuple[str, ...]
    cells: dict[str, dict[str, Cell | None]]
    of_models: bool

    def markdown(self) -> str:
        """The table in Markdown."""
        rows = [[method, *(cell or "-" for cell in row.values())] for method, row in self.cells.items()]
        return markdown(["Method", *self.columns], rows)


def table(number: int | str) -> PaperTable:
    """Table 1-6 of the paper, or `text`: what the text alone gives, on Bird. Raises ConfigError for another."""
    raw = _results().get(str(number))
    if raw is None:
        raise ConfigError(f"the paper has no table {number}: choose 1 to 6")
    columns = tuple(column["title"] for column in raw["columns"])
    values = {row["method"]: [value and _cell(raw, row, value) for value in row["values"]] for row in raw["rows"]}
    cells = {method: dict(zip(columns, own, strict=True)) for method, own in values.items()}
    return PaperTable(raw["caption"], columns, cells, "models" in raw)


def cells(number: int, config: Mapping[str, Any]) -> list[Cell]:
    """The numbers of Table 2-5 that belong to a config, given as a dictionary: the paper's own measurement where it has
    one, then the one that it quotes."""
    raw = _results()[str(number)]
    found = [
        _cell(raw, row, value)
        for row in raw["rows"]
        for column, value in zip(raw["columns"], row["values"], strict=True)
        if value and (row["config"] | column["config"]).items() <= config.items()
    ]
    return sorted(found, key=lambda cell: cell.quoted)


def cell(number: int, config: Mapping[str, Any]) -> Cell | None:
    """The first of these; None where the paper has none."""
    return next(iter(cells(number, config)), None)


def _cell(raw: Mapping[str, Any], row: Mapping[str, Any], value: tuple[float, float | None]) -> Cell:
    """± is a deviation of so many models, or the half-width of an interval over so many test episodes."""
    mean, spread = value
    count = raw.get("models") or raw["episodes"]
    half = half_width(spread, count) if spread is not None and "models" in raw else spread
    return Cell(mean, spread, Mean(mean, half, count), row.get("quoted", False))


@cache
def _results() -> dict[str, Any]:
    return json.loads(files("msmeta.report").joinpath("paper_results.json").read_text())
