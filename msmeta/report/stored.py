"""The stored results that fit, which every table and figure is made from; of the others there is a line on the page."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

from msmeta.errors import UserError, one_line
from msmeta.experiments import finished, stored


def leave_out(error: UserError) -> None:
    """Says, once a page, which file is left out and why."""
    _say(one_line(f"left out: {error}"))


_say = cache(print)
results = partial(stored.results, leave_out=leave_out)
"""All results of a kind: `stored.results`."""
all_of = partial(finished.all_of, leave_out=leave_out)
"""The runs of the tables: `finished.all_of`."""


def find(path: Path) -> dict[str, Any] | None:
    """The result of a file; None where there is none that fits."""
    return next(finished.fitting([path] if path.exists() else [], leave_out, stored.read), None)
