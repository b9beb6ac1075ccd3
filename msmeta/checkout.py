"""The checkout whose code runs."""

from __future__ import annotations

import subprocess
from functools import cache

from msmeta import machine

DIRTY = "-dirty"
"""Marks a commit whose code is not all that ran."""


@cache
def commit() -> str | None:
    """The checkout's commit when this was first asked, marked where its code differs; None outside a checkout.

    A training and a benchmark ask before they begin: later the checkout may have moved on from the code that runs.
    """
    folder = machine.repository()
    if folder is None or not (folder / ".git").exists():
        return None
    try:
        git = ["git", "-C", str(folder)]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", "msmeta", "benchmarks"], capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + (DIRTY if changed.stdout.strip() else "")
