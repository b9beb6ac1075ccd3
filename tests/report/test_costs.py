"""Figures 2 and 5 and their table from stored results."""

import json

import pytest

from msmeta import UserError, report
from msmeta.experiments.few_shot import costs


def measured(ways_and_shots, methods, steps):
    """What benchmarks/few_shot_costs.py stores, made by the cost model itself."""
    model = costs.CostModel(3e-4, 8e-4, 5e5, 2e5)
    cells = [
        costs.Cell(*costs.METHODS[m], w, s, t, filters=8, tasks=2)
        for w, s in ways_and_shots
        for m in methods
        for t in steps
    ]
    rows = [{**vars(c), "seconds": model.seconds(c), "bytes": model.bytes(c, 2), "tasks_at_once": 2} for c in cells]
    return {"config": {}, "metrics": rows, "provenance": {"device": "a processor, 2 cores"}}


def test_figure_and_table_show_the_stored_numbers(tmp_path, monkeypatch):
    stored = measured(costs.ALL, costs.METHODS, (1, 8))
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path))
    with pytest.raises(UserError, match="run python benchmarks/few_shot_costs.py"):
        report.stored_benchmark("benchmarks/few_shot_costs")
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "few_shot_costs.json").write_text(json.dumps(stored))
    result = report.stored_benchmark("benchmarks/few_shot_costs")
    figure = report.costs.figure(result)
    assert [axis.get_title() for axis in figure.axes[::2]] == [f"{w}-way {s}-shot" for w, s in costs.ALL]
    assert figure.axes[0].get_ylabel() == "growth of peak resident set (MB)"
    line = next(line for line in figure.axes[1].lines if line.get_color() == report.style.COLOURS["MAML"])
    wanted = [
        1000 * row["seconds"]
        for row in stored["metrics"]
        if (row["estimator"], row["window"], row["way"], row["shot"]) == ("multistep", 1, 5, 1)
    ]
    assert list(line.get_ydata()) == wanted
    table = report.costs.table(result, 5, 1)
    maml = next(line for line in table.splitlines() if line.startswith("| MAML"))
    assert f"| 115 | 40 | 16 | {wanted[-1]:.0f} | {wanted[-1]:.0f} |" in maml and maml.endswith("| 0 / 0 | 0 / 0 |")
    faster = (115 * 3 + 40 * 8) / (85 * 3 + 10 * 8)
    assert f"Multi-step (4) is **{faster:.2f} times as fast** as MAML" in report.costs.saving(result, 5, 1)
    stored["provenance"]["device"] = "a GPU"
    (tmp_path / "benchmarks" / "few_shot_costs-cuda.json").write_text(json.dumps(stored))
    of_gpu, of_processor = report.stored_benchmarks("benchmarks/few_shot_costs").items()
    assert of_processor == ("a processor, 2 cores", result)
    assert of_gpu[0] == "a GPU" and report.costs.figure(of_gpu[1]).axes[0].get_ylabel() == "peak memory (MB)"


def test_rounds_have_bars_of_their_intervals():
    result = measured([(5, 1)], ["MAML"], [2, 4])
    for row in result["metrics"]:
        row["seconds_all"] = [0.9 * row["seconds"], row["seconds"], 1.1 * row["seconds"]]
    memory, time = report.costs.figure(result).axes
    half = 4.302653 / 3**0.5  # of Student's t with two degrees of freedom, for a standard deviation of a tenth
    for (_, low), (_, high) in time.containers[0][2][0].get_segments():
        assert (high - low) / (high + low) == pytest.approx(0.1 * half)
    assert all(low == high for (_, low), (_, high) in memory.containers[0][2][0].get_segments())


def test_one_number_of_steps_makes_no_curve_and_few_cells_no_fit():
    words = report.costs.figure(measured([(5, 1)], ["MAML", "FO-MAML", "iMAML"], [2]))
    assert isinstance(words, str) and "only one number of inner steps was measured" in words
    few = measured([(5, 1)], ["MAML"], [2, 4])
    (row,) = report.costs.table(few, 5, 1).splitlines()[2:]
    assert row.split(" | ")[5] == "-" and row.endswith("| - | - | - |")
    assert report.costs.constants(few, 5, 1) == "5-way 1-shot: too few measurements for the cost model."
    memory, _ = report.costs.figure(few).axes
    assert [list(line.get_xdata()) for line in memory.lines if len(line.get_xdata())] == [[2, 4]]  # and no dotted line
    assert report.costs.table(few, 20, 1) == "No run yet."


def test_memory_that_did_not_grow_is_no_share_to_be_off_by():
    result = measured([(5, 1)], ["MAML", "FO-MAML"], [2, 4])
    for row in result["metrics"][:2]:
        row["bytes"] = 0
    maml, first_order = report.costs.table(result, 5, 1).splitlines()[2:]
    assert maml.endswith("| 0 / 0 | - |") and first_order.endswith("| 0 / 0 | 0 / 0 |")
