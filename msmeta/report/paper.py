"""The paper's own numbers, as data (Kim, Park and Choi: Tables 1-6 and the figures given in the text)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from msmeta.errors import ConfigError


@dataclass(frozen=True)
class Cell:
    """One number of a table with what the table's caption says ± means; `spread` is None where it gives none."""

    value: float
    spread: float | None


@dataclass(frozen=True)
class PaperTable:
    """A table: `cells[method][column]`, None where the paper leaves the cell empty. Rows in the paper's order."""

    caption: str
    columns: tuple[str, ...]
    cells: dict[str, dict[str, Cell | None]]


@cache
def _results() -> dict[str, Any]:
    return json.loads(files("msmeta.report").joinpath("paper_results.json").read_text())


def without_transfer_steps() -> dict[str, Cell]:
    """`accuracy` (%) and `seconds_per_epoch` of T = 0 on Bird with Adam, from the text of Appendix H."""
    return {name: Cell(*_results()["appendix_H_T0"][name]) for name in ("accuracy", "seconds_per_epoch")}


def first_order_accuracy() -> Cell:
    """Accuracy (%) of the first-order variant on Bird, from the text of Section 5.1."""
    return Cell(*_results()["section_5_1_first_order"]["values"][0])


@cache
def table(number: int) -> PaperTable:
    """Table 1-5 of the paper. Raises ConfigError for another number."""
    known = _results()
    if number not in range(1, 6):
        raise ConfigError(f"the paper has no table {number} of results: choose 1 to 5")
    raw = known[f"table_{number}"]
    columns = tuple(raw["columns"])
    cells = {
        row["method"]: {
            column: None if cell is None else Cell(*cell) for column, cell in zip(columns, row["values"], strict=True)
        }
        for row in raw["rows"]
    }
    return PaperTable(raw["caption"], columns, cells)
