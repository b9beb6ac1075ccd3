"""Tables of the speed of a meta-iteration from stored results."""

import json

import pytest

from msmeta import UserError, report


def test_speed_tables_show_the_stored_times_as_ratios_to_the_plain_loop(tmp_path, monkeypatch):
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path))
    with pytest.raises(UserError, match="few_shot_step.json is not there: run python benchmarks/few_shot_step.py"):
        report.stored_benchmark("benchmarks/few_shot_step")
    assert report.speed.graph_table().startswith("Not run: `python benchmarks/few_shot_graph.py`")
    assert report.speed.convolutions_table() == "No run yet."
    names = [f"{kind} {name}" for name in (1, 2, 4, 8, "first-order") for kind in ("plain", "msmeta")]
    metrics = {name: {"seconds": 3.0 / (i + 1), "bytes": 1e6 * i, "floor_seconds": 0.1} for i, name in enumerate(names)}
    origin = {"device": "a processor", "threads": 2, "torch": "2", "commit": "abcdefghi-dirty"}
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    stored = {"config": {}, "metrics": metrics, "provenance": origin}
    (folder / "few_shot_step.json").write_text(json.dumps(stored))
    table = report.speed.step_table(report.stored_benchmark("benchmarks/few_shot_step"))
    assert "| MAML | 3.00 | 1.00 | 1.50 | 0.50 | 15.0 | 0 | 1 |" in table
    assert "| Multi-step (8) | 0.43 | 0.14 | 0.38 | 0.12 | 3.8 | 6 | 7 |" in table
    assert report.speed.step_ratio(report.stored_benchmark("benchmarks/few_shot_step"), "msmeta 2", "plain 1") == "0.25"

    rows = [{"formulation": "grouped", "first": 0.0123, "second": 0.0045}]
    stored = {"config": {"precision": "bf16"}, "metrics": rows, "provenance": origin}
    (folder / "convolutions-cpu-bf16.json").write_text(json.dumps(stored))
    table = report.speed.convolutions_table()
    assert "| a processor, bf16 | grouped | 12.30 | 4.50 | abcdefg with changes that no commit holds" in table

    row = {"estimator": "multistep", "window": 1, "precision": "tf32", "seconds": 0.004, "floor_seconds": 0.001,
           "bytes": 5e8, "cosine": 0.999999, "relative_difference": 1.5e-3}  # fmt: skip
    stored = {"config": {}, "metrics": [row], "provenance": origin | {"device": "a GPU"}}
    (folder / "few_shot_graph-cuda.json").write_text(json.dumps(stored))
    assert report.speed.graph_table().startswith(
        "Measured with: a GPU, 2 threads, torch 2, commit abcdefg with changes"
    )
    assert "| MAML | tf32 | 4.00 | 4.0 | 500 | 0.999999 | 1.5e-03 |" in report.speed.graph_table()
