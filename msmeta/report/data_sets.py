"""Table 6: the data sets of meta-transfer, the paper's counts beside those of the arrays that are prepared here."""

from __future__ import annotations

from msmeta import data
from msmeta.report import paper
from msmeta.report.html import Cell, Rows, quiet
from msmeta.report.tables import prepare_command

SPLITS = ("train", "validation", "test", "total")


def counts(name: str) -> dict[str, int] | None:
    """Images of each split of a data set, by its labels, and their total; None where it is not prepared.

    Raises DataError where it is damaged.
    """
    if not (data.data_root() / name).is_dir():
        return None
    own = {split: len(labels) for split, labels in data.load(name).labels.items()}
    return own | {"total": sum(own.values())}


def table_6() -> Rows:
    """The paper's counts and, in a second line, ours where the data set is prepared."""
    printed, rows = paper.table(6), []
    for name, own in zip(data.TABLE_6, printed.cells.values(), strict=True):
        reported, counted = [int(cell.value) for cell in own.values()], counts(name)
        title, numbers = data.find(name).title, [f"{count:,}" for count in reported]
        rows.append([title, *numbers, _checked(name, reported, counted)])
    heads = ["Dataset", *printed.columns, "Counted in the arrays prepared here"]
    return Rows(printed.caption, heads, [("", rows)], printed.columns, "table-6")


def _checked(name: str, reported: list[int], counted: dict[str, int] | None) -> Cell:
    if counted is None:
        return quiet(f"not here: {prepare_command(name)}")
    ours = [counted[split] for split in SPLITS]
    return Cell("the same" if ours == reported else " / ".join(f"{count:,}" for count in ours))
