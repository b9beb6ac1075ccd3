"""Paths that a user gives: on the command line and in variables of the environment."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from msmeta.errors import ConfigError, brief

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
        raise ConfigError(f"{what} {brief(str(text))} is no path: {why}") from None
    return path


def read_text(path: Path, most: int) -> str:
    """The text of a plain file of at most so many bytes; a pipe or a device is not opened. Raises ConfigError."""
    try:
        if not path.is_file():
            raise ValueError("it is no file" if path.exists() else "it is not there")
        with path.open("rb") as file:
            content = file.read(most + 1)
        if len(content) > most:
            raise ValueError(f"it has more than {most:,} bytes")
        return content.decode()
    except (OSError, ValueError) as error:
        why = "it is no UTF-8" if isinstance(error, UnicodeError) else getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read {path}: {why}") from None
