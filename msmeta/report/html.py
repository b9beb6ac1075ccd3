"""Tables of results as HTML: numbers aligned, rows in groups, the best bold, and a caption with the paper's number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from msmeta.statistics import Verdict, plus_minus

MARKS = {Verdict.HELD: "✓", Verdict.FAILED: "✗", Verdict.UNDECIDED: "?", Verdict.NOT_RUN: "–"}
"""Verdicts told apart without colour."""
_CLASSES = dict(zip(Verdict, ("held", "failed", "undecided", "not-run"), strict=True))


class Cell(str):
    """Text of a cell, with HTML where it is more than that text."""

    html: str

    def __new__(cls, text: str, html: str | None = None) -> Cell:
        cell = super().__new__(cls, text)
        cell.html = escape(text) if html is None else html
        return cell


def interval(mean: float, half: float | None, form: str = ".2f", best: bool = False) -> Cell:
    """A mean and its interval, aligned with those above and below; bold where it is the best."""
    value, margin = f"{mean:{form}}", "" if half is None else f"±{half:{form.lstrip('+')}}"
    shown = f"<strong>{value}</strong>" if best else value
    return Cell(plus_minus(mean, half, form), f'{shown}<span class="half">{margin}</span>')


def quiet(text: str) -> Cell:
    """What is not there, as "not run"."""
    return Cell(text, f'<span class="quiet">{escape(text)}</span>')


def lines(*cells: Cell) -> Cell:
    """Cells one below the other in one."""
    return Cell("; ".join(cells), "<br>".join(cell.html for cell in cells)) if cells else quiet("–")


def verdict(found: Verdict, said: str = "") -> Cell:
    """A verdict with its mark, which colour-blind readers can tell apart. said: beside it."""
    text = f"{found}{said and f', {said}'}"
    html = f'<span class="verdict {_CLASSES[found]}"><span aria-hidden="true">{MARKS[found]}</span> {found}</span>'
    return Cell(text, html + (f'<br><span class="quiet">{escape(said)}</span>' if said else ""))


def link(text: str, page: str) -> Cell:
    """A link to a page of the book."""
    return Cell(text, f'<a href="{page}.html">{escape(text)}</a>')


@dataclass(frozen=True)
class Rows:
    """A table. In the book it is numbered as in the paper where `name` is such as `table-4`.

    groups: rows under a title of their own, which is empty where there is but one group; the first cell of a row is its
    head. numbers: heads of the columns to align to the right.
    """

    caption: str
    heads: Sequence[str]
    groups: Sequence[tuple[str, Sequence[Sequence[str]]]]
    numbers: Sequence[str] = ()
    name: str = ""

    def __str__(self) -> str:
        """As text, the title of its group before each row."""
        lines = [
            self.heads,
            *([f"{title}: {row[0]}" if title else row[0], *row[1:]] for title, rows in self.groups for row in rows),
        ]
        return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)

    __repr__ = __str__

    def _inner(self) -> str:
        heads = "".join(f'<th scope="col"{self._class(head)}>{escape(head)}</th>' for head in self.heads)
        bodies = (self._body(title, rows) for title, rows in self.groups)
        return "\n".join([f"<thead><tr>{heads}</tr></thead>", *bodies])

    def _body(self, title: str, rows: Sequence[Sequence[str]]) -> str:
        lines = (
            [f'<tr class="group"><th scope="rowgroup" colspan="{len(self.heads)}">{escape(title)}</th></tr>']
            if title
            else []
        )
        for first, *others in rows:
            cells = zip(self.heads[1:], others, strict=True)
            shown = "".join(f"<td{self._class(head)}>{_html(cell)}</td>" for head, cell in cells)
            lines.append(f'<tr><th scope="row">{_html(first)}</th>{shown}</tr>')
        return "\n".join(["<tbody>", *lines, "</tbody>"])

    def _class(self, head: str) -> str:
        return ' class="number"' if head in self.numbers else ""

    def _repr_html_(self) -> str:
        """For JupyterLab."""
        return f"<table><caption>{escape(self.caption)}</caption>{self._inner()}</table>"

    def _repr_markdown_(self) -> str:
        """For the book, whose directive `rows` (book/_ext/paper_numbers.py) gives a table its number."""
        name = [f":name: {self.name}"] if self.name else []
        return "\n".join([f"```{{rows}} {self.caption}", *name, "", self._inner(), "```"])


def _html(cell: object) -> str:
    return cell.html if isinstance(cell, Cell) else escape(str(cell))
