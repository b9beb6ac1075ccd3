"""The page of trials, from made counts."""

import json

import pytest
import torch
from stored_runs import row_of

from msmeta import runs
from msmeta.report import reliability


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """Stores counts as tests/reliability does."""
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path))
    for kind, tried, held in (("bits flipped", 1200, 1199), ("kills", 40, 40)):
        config, metrics = {"kind": kind, "test": f"test_{kind}"}, [{"kind": kind, "tried": tried, "held": held}]
        runs.save_measurement(f"reliability/{kind}.json", config, metrics, torch.device("cpu"))


def test_each_kind_of_trial_has_its_counts_and_its_command(counted):
    found = row_of(reliability.table(), "", "bits flipped")
    assert (found["Tried"], found["Held"]) == ("1,200", "1,199")
    assert found["Test"] == "test_bits flipped"
    assert reliability.summary() == "Of 1,240 trials of 2 kinds 1,239 held."
    line = reliability.origin()
    assert line.files == ["reliability/bits flipped.json", "reliability/kills.json"]
    assert list(line.rows["held"]) == [1199, 40] and "Random images" not in line.said


def test_counts_that_cannot_be_are_left_out(counted, tmp_path, capsys):
    path = tmp_path / "reliability" / "kills.json"
    for lie in ({"held": 41}, {"tried": -5}, {"held": "40"}):
        result = json.loads(path.read_text())
        path.write_text(json.dumps(result | {"metrics": [result["metrics"][0] | lie]}))
        assert reliability.summary() == "Of 1,200 trials of 1 kinds 1,199 held."
        assert "kills.json is damaged" in capsys.readouterr().out
        path.write_text(json.dumps(result))


def test_without_counts_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path))
    assert reliability.summary() == "The trials were not run." and reliability.origin() == ""
