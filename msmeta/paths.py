"""Paths that a user gives: on the command line and in variables of the environment."""

from __future__ import annotations

import os
import reprlib
from contextlib import suppress
from pathlib import Path

from msmeta.errors import ConfigError

ROOTS = ("MSMETA_DATA", "MSMETA_RESULTS")
"""Variables that name folders."""


def fix_roots() -> None:
    """Makes the folders of ROOTS absolute, for processes of this command that run in other folders."""
    for variable in ROOTS:
        if chosen := os.environ.get(variable):
            os.environ[variable] = str(user_path(chosen, variable))


def user_path(text: str | Path, what: str) -> Path:
    """A path that a user gave, absolute. what: its name in the ConfigError that is raised where it can be none."""
    try:
        if not str(text):
            raise ValueError("it is empty")
        path = Path(text).expanduser().absolute()
        with suppress(FileNotFoundError):
            path.lstat()
    except (RuntimeError, OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"{what} {reprlib.repr(str(text))} is no path: {why}") from None
    return path
