"""The paper's own numbers, as data (Kim, Park and Choi: Tables 1-5 and the figures given in the text)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from msmeta.errors import ConfigError
from msmeta.report.style import markdown


@dataclass(frozen=True)
class Cell:
    """One number of a table with what the table's caption says ± means; `spread` is None where it gives none."""

    value: float
    spread: float | None

    def __str__(self) -> str:
        return f"{self.value:g}" + ("" if self.spread is None else f" ±{self.spread:g}")


@dataclass(frozen=True)
class PaperTable:
    """A table as it is printed: `cells[method][column]`, None where the paper leaves the cell empty, in its order."""

    columns: tuple[str, ...]
    cells: dict[str, dict[str, Cell | None]]

    def markdown(self) -> str:
        """The table in Markdown."""
        rows = [[method, *(cell or "-" for cell in row.values())] for method, row in self.cells.items()]
        return markdown(["Method", *self.columns], rows)


def table(number: int | str) -> PaperTable:
    """Table 1-5 of the paper, or `text`: what the text alone gives, on Bird. Raises ConfigError for another."""
    raw = _results().get(str(number))
    if raw is None:
        raise ConfigError(f"the paper has no table {number} of results: choose 1 to 5")
    columns = tuple(column["title"] for column in raw["columns"])
    values = {row["method"]: [value and Cell(*value) for value in row["values"]] for row in raw["rows"]}
    cells = {method: dict(zip(columns, own, strict=True)) for method, own in values.items()}
    return PaperTable(columns, cells)


def cell(number: int, config: Mapping[str, Any]) -> Cell | None:
    """The number of Table 2-5 that belongs to a config, given as a dictionary; None where the paper has none.

    The paper's own measurement where it has one, else the one that it quotes.
    """
    raw = _results()[str(number)]
    for row in sorted(raw["rows"], key=lambda row: row.get("quoted", False)):
        for column, value in zip(raw["columns"], row["values"], strict=True):
            if value and (row["config"] | column["config"]).items() <= config.items():
                return Cell(*value)
    return None


@cache
def _results() -> dict[str, Any]:
    return json.loads(files("msmeta.report").joinpath("paper_results.json").read_text())
