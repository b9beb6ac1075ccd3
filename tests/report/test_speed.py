"""Tables of the speed of a meta-iteration from stored results."""

import json
from dataclasses import replace

import pytest

from msmeta import UserError, report
from msmeta.experiments import few_shot, transfer


def test_a_step_is_shown_beside_others_codes_as_a_multiple_of_the_plain_loop(tmp_path, monkeypatch):
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path))
    with pytest.raises(UserError, match="few_shot_step.json is not there: run python benchmarks/few_shot_step.py"):
        report.stored_benchmark("benchmarks/few_shot_step")
    names = [f"{kind} {name}" for name in (1, 2, 4, 8, "first-order") for kind in ("plain", "msmeta")]
    metrics = {name: {"seconds": 3.0 / (i + 1), "bytes": 1e6 * i, "floor_seconds": 0.1} for i, name in enumerate(names)}
    metrics["higher 1"] = {"seconds": 3.3, "bytes": 2.5e7, "floor_seconds": 0.1}
    result = {"config": {}, "metrics": metrics, "peers": {"higher": "0.2.1"}}
    table = report.speed.step_table(result).splitlines()
    assert table[0] == "| Method | plain loop | higher | TorchOpt | msmeta | floor |"
    assert table[2] == "| MAML | 1.00 (3.00 s) | 1.10 (3.30 s) | not run | 0.50 (1.50 s) | 0.03 (0.10 s) |"
    assert table[6] == "| Multi-step (8) | 0.14 (0.43 s) | - | - | 0.12 (0.38 s) | 0.03 (0.10 s) |"
    assert "| MAML | 0 | 25 | not run | 1 |" in report.speed.step_memory(result)
    line = "Others' codes: higher 0.2.1; they have no windows. TorchOpt: not run, `pip install -e '.[bench]' && "
    assert report.speed.peers_line(result) == line + "msmeta bench few_shot_step`."
    assert report.speed.peers_line(result | {"peers": {"higher": "1", "torchopt": "2"}}).endswith("no windows.")
    assert report.speed.peers_line({}).startswith("higher, TorchOpt: not run")
    assert report.speed.step_ratio(result, "msmeta 2", "plain 1") == "0.25"


@pytest.mark.parametrize(
    ("watched", "words"),
    [({}, ""), ({"others": 0.1}, ""), ({"others": 0.11}, ", while others took up to 0.11 cores: to be measured again"),
     ({"others": None}, ", where others' work cannot be seen")],
)  # fmt: skip
def test_a_measurement_that_others_disturbed_is_shown_as_such(watched, words):
    provenance = {"device": "a processor", "threads": 2, "torch": "2", "commit": None, **watched}
    assert report.origin({"provenance": provenance}) == "a processor, 2 threads, torch 2, no commit" + words


def test_tables_of_the_convolutions_and_of_a_graph_show_the_stored_times(tmp_path, monkeypatch):
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path))
    assert report.speed.graph_table().startswith("Not run: `python benchmarks/few_shot_graph.py`")
    assert report.speed.convolutions_table() == "No run yet."
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    origin = {"device": "a processor", "threads": 2, "torch": "2", "commit": "abcdefghi-dirty", "others": 0.234}

    rows = [{"formulation": "grouped", "first": 0.0123, "second": 0.0045}]
    stored = {"config": {"precision": "bf16"}, "metrics": rows, "provenance": origin}
    (folder / "convolutions-bf16.json").write_text(json.dumps(stored))
    table = report.speed.convolutions_table()
    assert "| a processor, bf16 | grouped | 12.30 | 4.50 | abcdefg with changes that no commit holds: to be" in table
    assert "while others took up to 0.23 cores" in table

    row = {"estimator": "multistep", "window": 1, "precision": "tf32", "seconds": 0.004, "floor_seconds": 0.001,
           "bytes": 5e8, "cosine": 0.999999, "relative_difference": 1.5e-3}  # fmt: skip
    stored = {"config": {}, "metrics": [row], "provenance": origin | {"device": "a GPU"}}
    (folder / "few_shot_graph-cuda.json").write_text(json.dumps(stored))
    assert report.speed.graph_table().startswith(
        "Measured with: a GPU, 2 threads, torch 2, commit abcdefg with changes"
    )
    assert report.speed.graph_table().endswith("| MAML | tf32 | 4.00 | 4.0 | 500 | 0.999999 | 1.5e-03 |")
    stored["metrics"] += [row | {"window": n, "precision": "float32", "seconds": n / 1000} for n in (1, 4, 8)]
    (folder / "few_shot_graph-cuda.json").write_text(json.dumps(stored))
    said = "in float32: MAML 5 ms at the most, measured 1.0; Multi-step (8) 2 ms at the most, measured 8.0."
    assert report.speed.graph_table().endswith(said)


def test_seconds_of_an_iteration_are_found_by_all_that_they_depend_on(tmp_path, monkeypatch):
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path))
    windows = few_shot.preset_config("cpu", "omniglot", 5, 1, "multistep", 8)
    adam = transfer.preset_config("cpu", "cifar-100", "multistep", "adam", window=2)
    assert report.speed.seconds_per_iteration(windows) is None
    assert report.speed.seconds_table("few-shot") == "Not run: `msmeta bench seconds`, on an idle machine."
    rows = [
        {"experiment": kind, "work": config.work(), "threads": threads, "seconds": seconds / threads}
        for kind, config, seconds in (("few-shot", windows, 0.5), ("transfer", adam, 3.0))
        for threads in (1, 2)
    ]
    del rows[0]["work"]["samples"]  # as if the field had come later, with a default
    (tmp_path / "benchmarks").mkdir()
    longer = {"work": replace(windows, steps=16, window=16).work(), "seconds": 9.0}  # no run of the preset's own
    stored = {"config": {}, "metrics": [*rows, rows[0] | longer], "provenance": {}}
    (tmp_path / "benchmarks" / "seconds.json").write_text(json.dumps(stored))
    assert report.speed.seconds_per_iteration(replace(windows, seed=3, lr=9.0, iterations=7)) == 0.5
    assert report.speed.seconds_per_iteration(windows, 2) == 0.25
    assert report.speed.seconds_per_iteration(windows, 4) is None
    assert report.speed.seconds_per_iteration(replace(adam, epochs=3, transfer_rate=2.0)) == 3.0
    for name, value in (("window", 4), ("filters", 64), ("tasks", 8), ("dataset", "glyphs"), ("shot", 5)):
        assert report.speed.seconds_per_iteration(replace(windows, **{name: value})) is None
    assert report.speed.seconds_table("few-shot").splitlines() == [
        "**Omniglot**",
        "",
        "| Method | 5-way 1-shot |",
        "| --- | --- |",
        "| Multi-step (8) | 0.500 / 0.250 |",
    ]
    assert "Multi-step (8) | 0.500 | 2 | 0.250 | 2.00 |" in report.speed.cores_table()
    assert "| Multi-step | 3.000 / 1.500 |" in report.speed.seconds_table("transfer")
