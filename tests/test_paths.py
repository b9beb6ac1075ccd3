"""Paths that a user gives."""

import os
from pathlib import Path

import pytest

from msmeta import ConfigError, machine, paths


def test_paths_that_can_be_none_are_one_line():
    assert paths.user_path("here", "--from") == Path.cwd() / "here"
    assert paths.user_path("~/here", "--from") == Path.home() / "here"
    for text in ("~nobody-of-this-name/x", "é" * 5000, "a\0b", ""):
        with pytest.raises(ConfigError, match="^--from '.*' is no path: ") as caught:
            paths.user_path(text, "--from")
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_folders_that_variables_name_are_resolved_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MSMETA_DATA", "mine")
    monkeypatch.setenv("MSMETA_RESULTS", "")
    paths.fix_roots()
    assert (os.environ["MSMETA_DATA"], os.environ["MSMETA_RESULTS"]) == (str(tmp_path / "mine"), "")
    monkeypatch.chdir("/")
    assert machine.root("MSMETA_DATA", "data") == tmp_path / "mine"
