"""What was tried on purpose to lose a run or to do harm, and what held: the trials of tests/reliability by kind."""

from __future__ import annotations

from msmeta.report import provenance, stored
from msmeta.report.html import Rows, quiet

KIND = "reliability"
"""Folder of the counts in `results/`."""


def table() -> Rows:
    """Each kind of trial: how many were made, how many of them held, and the test that makes them again."""
    rows = []
    for found in stored.results(KIND):
        for own in found["metrics"]:
            rows.append([own["kind"], f"{own['tried']:,}", f"{own['held']:,}", quiet(found["config"]["test"])])
    caption = "Trials: each ends as the text above says, or it counts as not held."
    return Rows(caption, ["What was tried", "Tried", "Held", "Test"], [("", rows)], ["Tried", "Held"])


def summary() -> str:
    """How many trials were made and held, in a sentence."""
    own = [row for found in stored.results(KIND) for row in found["metrics"]]
    tried, held = (sum(row[name] for row in own) for name in ("tried", "held"))
    return f"Of {tried:,} trials of {len(own)} kinds {held:,} held." if own else "The trials were not run."


def origin() -> provenance.Line | str:
    """Where the counts come from."""
    found = {result["file"].removesuffix(".json"): result for result in stored.results(KIND)}
    return provenance.of_measurements(found, "make test-all", KIND)
