"""Errors that a user can mend. The command line prints their one line and exits with status 2 (or `exit_status`)."""

import reprlib
import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake that the user can mend: its message is one line that says what, where and what to do."""

    exit_status = 2


class DataError(UserError):
    """A data set is missing, damaged, or could not be obtained."""


class ConfigError(UserError):
    """An argument, an option, a combination of them, or what a user's function returned is impossible."""


class DivergedError(UserError):
    """A loss or a meta-gradient is NaN or infinite."""

    exit_status = 3


class WriteError(UserError):
    """A file cannot be written: the disk is full, the quota used up, the folder read-only. What was there stays."""

    exit_status = 3


class Interrupted(UserError):
    """The user ended a command early; the message says how it goes on."""

    exit_status = 130


LONGEST = 1500
"""Characters of an error that are shown."""
_REPR = reprlib.Repr()
_REPR.maxlevel = 2  # a few lines of YAML make values that no memory can spell out


def brief(value: object) -> str:
    """A value in an error: its `repr` in one line, cut short however large or deep it is."""
    return " ".join(_REPR.repr(value).split())


def one_line(text: object) -> str:
    """As a terminal may show it: names in archives, files and results are strangers', so what no letter is, such as the
    escape sequences that a terminal obeys, is written out."""
    line = " ".join(str(text).split())
    line = line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in line)


def script(main: Callable[[], None]) -> None:
    """Runs a script's `main`; an error that the user can mend ends it with its one line and its exit status."""
    try:
        main()
    except UserError as error:
        print(f"{sys.argv[0]}: {one_line(error)}", file=sys.stderr)
        sys.exit(error.exit_status)
