"""Errors as they are shown."""

import sys

import pytest

from msmeta import cli
from msmeta.errors import DataError, one_line, script

STRANGE = "a\x1b[2J\x1b]0;title\x07\n\x9b31m\u202eb\udcff.png"
SHOWN = r"a\x1b[2J\x1b]0;title\x07 \x9b31m\u202eb\udcff.png"


def test_what_a_terminal_would_obey_is_written_out():
    assert one_line(STRANGE) == SHOWN and one_line(" π ±\n\t0.5 é\u3042") == "π ± 0.5 é\u3042"


def test_every_place_that_prints_an_error_writes_it_out(capsys, monkeypatch):
    def fail():
        raise DataError(STRANGE)

    monkeypatch.setattr(sys, "argv", ["msmeta", "data"])
    monkeypatch.setattr(cli, "app", lambda **options: fail())
    for call, name in ((cli.main, "msmeta"), (lambda: script(fail), sys.argv[0])):
        with pytest.raises(SystemExit) as ended:
            call()
        assert ended.value.code == 2 and capsys.readouterr().err == f"{name}: {SHOWN}\n"
