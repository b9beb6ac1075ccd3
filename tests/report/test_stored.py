"""Results that do not fit are left out of the pages, with a line on them."""

import json

from msmeta.report import stored, style
from msmeta.report.frame import FEW_SHOT
from msmeta.report.frame import stored as frame_of


def test_what_does_not_fit_is_left_out_and_said_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path))
    strange = {"config": {}, "metrics": {}, "provenance": {"device": "\x1b[2J<script>"}}
    for name in ("few-shot/x", "evaluations/y", "benchmarks/z"):
        path = tmp_path / f"{name}.json"
        path.parent.mkdir()
        path.write_text(json.dumps(strange))
    for _ in range(2):
        assert frame_of(FEW_SHOT, "few-shot").empty and stored.results("evaluations") == stored.all_of(False) == []
        assert style.find_benchmark("benchmarks/z") is None
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all(line.startswith("left out: result ") for line in lines)
    assert not any("\x1b" in line for line in lines) and "short line of plain text" in lines[0]
