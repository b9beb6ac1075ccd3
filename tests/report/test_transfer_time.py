"""Time of meta-transfer from a stored benchmark: extrapolated epochs, what a window saves, what a step costs."""

import json

import pytest
from stored_runs import cell, committed, line, of, result

from msmeta.report import transfer_time
from msmeta.report.transfer_time import epoch_seconds


def times_result():
    """What benchmarks/transfer_step.py stores, with numbers of this test's: 1 + T seconds, less with a window."""
    methods = [("scratch", 2, 1, 0.5), *(("multistep", *own) for own in (
        (0, 1, 1.0), (1, 1, 2.0), (2, 1, 3.0), (2, 2, 2.4), (3, 1, 4.5), (2, 1, 4.0),
    ))]  # fmt: skip
    rows = [
        {
            "side": side, "optimizer": optimizer, "estimator": estimator, "steps": steps, "window": window,
            "replayed": seconds == 4.0, "precision": "float32", "batch": batch, "seconds": seconds,
            "seconds_all": [seconds - 0.1, seconds, seconds + 0.1], "bytes": 5e8, "floor_seconds": seconds / 2,
        }
        for side, batch in ((32, 128), (224, 8))
        for optimizer in ("sgd", "adam")
        for estimator, steps, window, seconds in methods
    ]  # fmt: skip
    baselines = [row for row in rows if row["seconds"] == 3.0]
    rows += [row | {"precision": "bf16", "seconds": 1.5, "seconds_all": [1.5]} for row in baselines]
    origin = {"device": "a processor, 2 cores", "threads": 2, "torch": "2", "commit": "abcdefghi"}
    return {"config": {}, "metrics": rows, "provenance": origin}


def test_times_come_from_the_benchmark_a_gpus_where_there_is_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path))
    assert transfer_time.measured() is None
    names = ("saved_table", "epoch_table", "steps_cost", "epoch_bars", "by_steps")
    for text in (getattr(transfer_time, name)(None) for name in names):
        assert text.startswith("Not run: `python benchmarks/transfer_step.py`")
    assert transfer_time.times_table(None, 224, "sgd").startswith("Not run")
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    for name in ("transfer_step", "transfer_step-cuda"):
        (folder / f"{name}.json").write_text(json.dumps({**times_result(), "config": {"name": name}}))
    assert transfer_time.measured()["config"]["name"] == "transfer_step-cuda"
    (folder / "transfer_step-cuda.json").write_text("{")
    assert transfer_time.measured()["config"]["name"] == "transfer_step"
    assert transfer_time.measured() and capsys.readouterr().out.count("transfer_step-cuda.json is damaged") == 1


def test_an_epoch_is_extrapolated_from_the_papers_minibatches():
    stored = times_result()
    table = transfer_time.times_table(stored, 224, "sgd")
    epoch = 3.0 * (4994 // 64) * 64 / 8
    assert cell(table, "Baseline", "seconds an epoch of Bird") == f"{epoch:.1f}"
    assert cell(table, "Baseline", "hours for 200 epochs") == f"{epoch * 200 / 3600:.1f}"
    assert cell(table, "Multi-step", "ratio to the Baseline") == "0.80"
    assert cell(table, "Multi-step", "T / N") == "2 / 2" and cell(table, "Scratch", "T / N") == "-"
    assert cell(table, "Multi-step", "ms an iteration") == "2400 ±100"
    assert cell(table, "Baseline, bf16", "ratio to the Baseline") == "0.50"
    assert cell(table, "Multi-step", "times the floor") == "2.0" and cell(table, "Multi-step", "memory (MB)") == "500"
    assert epoch_seconds({"seconds": 3.0, "batch": 128}, "cifar-100") == pytest.approx(3.0 * (45000 // 128))
    assert transfer_time.times_table({**stored, "metrics": []}, 224, "sgd").startswith("Not run")


def test_what_a_window_saves_stands_beside_the_papers_share():
    stored = times_result()
    table = transfer_time.saved_table(stored)
    shares = [100 * (1 - (2.4 + d) / (3 + d)) for d in (-0.1, 0.1)]
    text = f"20 % ({shares[1]:.0f} to {shares[0]:.0f})"
    assert line(table, "224x224", "SGD")[2:] == [text, "40 % (39 to 41)", "35 %"]
    assert line(table, "32x32", "Adam")[4] == "-"
    assert line(transfer_time.epoch_table(stored), "Bird")[1:4] == ["224x224", "4,994", "78 of 64"]
    assert line(transfer_time.epoch_table(stored), "Bird")[6:] == ["20 %", "35 % (Table 1, SGD)"]
    small = {**stored, "metrics": [row for row in stored["metrics"] if row["side"] == 32]}
    assert line(transfer_time.epoch_table(small), "Dog")[4:7] == ["not run", "not run", "not run"]
    panels = transfer_time.epoch_bars(stored).axes
    assert [label.get_text() for label in panels[1].get_xticklabels()] == ["Bird", "Indoor", "Action", "Dog"]
    assert panels[0].patches[0].get_height() == pytest.approx(3.0 * 351)
    assert panels[0].texts[0].get_text() == "-20 %"
    assert len(transfer_time.epoch_bars(small).axes) == 1


def test_time_by_steps_says_what_each_step_adds():
    stored = times_result()
    assert cell(transfer_time.steps_cost(stored), "224x224", "T = 0 (ms)") == "1000"
    assert line(transfer_time.steps_cost(stored), "32x32")[2:] == ["+1000", "+1000", "+1500"]
    panel = transfer_time.by_steps(stored).axes[0]
    assert [tuple(point) for point in panel.lines[0].get_xydata()] == [(0, 1000), (1, 2000), (2, 3000), (3, 4500)]
    assert panel.get_title() == "224x224, minibatches of 8"
    table = transfer_time.run_times_table(of(*committed()))
    assert line(table, "Multi-step")[4:7] == ["500", "10.0", "1.00"]
    fast = result("0-step")
    fast["metrics"]["seconds_per_epoch"] = 4.0
    table = transfer_time.run_times_table(of(*committed(), fast))
    assert [line(table, method)[6] for method in ("0-step", "Baseline", "Multi-step")] == ["0.40", "1.00", "1.00"]
    on_gpu = [result(method, seed=seed, device="a GPU") for method in ("Baseline", "Multi-step") for seed in (3, 4)]
    for run, seconds in zip(on_gpu, (1.0, 1.0, 0.6, 0.6), strict=True):
        run["metrics"]["seconds_per_epoch"] = seconds
    table = transfer_time.run_times_table(of(*committed(), *on_gpu))
    found = [row for row in table.splitlines() if "| Multi-step |" in row]
    assert [row.split(" | ")[-4:] for row in found] == [
        ["500", "10.0", "1.00", "a processor, 2 threads |"], ["500", "0.6", "0.60", "a GPU, 2 threads |"],
    ]  # fmt: skip
    assert "epochs" not in transfer_time.run_times_table(of(*committed(), result("Scratch", epochs=24)))
    live = of(*(result(method, preset="quick", epochs=1) for method in ("Scratch", "Baseline", "Multi-step")))
    assert len(transfer_time.run_times_table(live).splitlines()) == 2 + 3  # fewer epochs than the preset's: still shown


def test_what_was_timed_once_or_with_one_number_of_steps_is_said_and_not_drawn():
    stored = times_result()
    once = [row | {"seconds_all": row["seconds_all"][:1]} for row in stored["metrics"]]
    assert line(transfer_time.saved_table({**stored, "metrics": once}), "224x224", "SGD")[2:4] == ["20 %", "40 %"]
    two_steps = {**stored, "metrics": [row for row in once if row["steps"] == 2]}
    assert transfer_time.by_steps(two_steps) == "No figure against T: one T alone was timed."
    assert transfer_time.epoch_bars({**stored, "metrics": []}).startswith("Not run")
    assert transfer_time.steps_cost(two_steps) == "No run yet."
