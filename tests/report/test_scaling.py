"""Slopes, figure and errors of the cost model, from points that are made by it."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from msmeta import report
from msmeta.experiments.few_shot.costs import Cell
from msmeta.experiments.few_shot.plan import Rates
from msmeta.experiments.few_shot.tally import Tally

RATES = Rates(1e-11, 0.0, 0.0, 0.0, 0.0, 1.5, 0.0, 4e8)
BASE = Cell("multistep", 1, 5, 1, 8, filters=4, tasks=1, task_chunk=1)


def row(cell, factor, value, flops, held, fitted=False, off=(1.0, 1.0)):
    counted = Tally(flops, 0, 0, 0, 0, held, 0)
    found = {"seconds": off[0] * RATES.seconds(counted), "bytes": off[1] * RATES.growth(counted)}
    return {"turned": [[factor, value]], **asdict(cell), **found, "tally": asdict(counted), "fitted": fitted}


@pytest.fixture
def result():
    """Time goes as T², memory as T; exact and first-order."""
    rows = [
        row(replace(BASE, steps=steps, estimator=name), "steps", steps, 1e9 * steps**2, 1e6 * steps, steps == 4)
        for name in ("multistep", "first-order")
        for steps in (2, 4, 8, 16)
    ]
    return {"config": {}, "rates": asdict(RATES), "metrics": rows}


def test_slopes_are_those_of_the_points_beside_the_counted_ones(result):
    table = report.scaling.slopes(result).splitlines()
    assert table[2:] == [
        f"| inner steps T | {name} | 2.00 ±0.00 | 2.00 | 2.00 | 1.00 ±0.00 | 1.00 | 1.00 |"
        for name in ("MAML", "FO-MAML")
    ]
    for each, factor in zip(result["metrics"][:4], (1, 2, 1, 2), strict=True):
        each["seconds"] *= factor
    x, y = np.log([2, 4, 8, 16]), np.log([1, 2, 1, 2])
    slope = 2 + np.cov(x, y)[0, 1] / np.var(x, ddof=1)
    found, half = report.scaling.slope([2, 4, 8, 16], [each["seconds"] for each in result["metrics"][:4]])
    rest = y - y.mean() - (slope - 2) * (x - x.mean())
    assert found == pytest.approx(slope)
    assert half == pytest.approx(4.302653 * np.sqrt((rest @ rest) / 2 / ((x - x.mean()) @ (x - x.mean()))), rel=1e-5)
    assert report.scaling.slope([1, 2], [1, 8]) == (3.0, None)


def test_a_point_that_belongs_to_a_factor_twice_counts_once(result):
    """As T = 1 does, where N = 1 is N = T."""
    result["metrics"][0]["turned"] *= 2
    assert [line.values for line in report.scaling.lines(result, "steps") if line.label == "MAML"] == [[2, 4, 8, 16]]


def test_the_model_is_judged_by_points_that_it_was_not_fitted_to(result):
    rows = result["metrics"]
    rows[0]["seconds"] *= 2  # predicted at half of it
    rows[2]["bytes"] /= 1.05
    checked = [line for line in report.scaling.errors(result).splitlines() if "checked on" in line]
    assert checked[0].split(" | ")[1:4] == ["6", "8.3", "25.0"] and checked[0].endswith("| -50 to +0 | 15 | 83 |")
    assert checked[1].endswith("| +0 to +5 | 10 | 100 |")
    assert (
        report.scaling.worst(result, "seconds", 1).splitlines()[2].startswith("| MAML | 2 | 5-way 1-shot | 4 | 1 / 1 |")
    )
    assert report.scaling.worst(result, "bytes", 1).splitlines()[2].endswith("| +5 |")
    assert report.scaling.scatter(result) == pytest.approx(1.05)


def test_the_figure_has_points_and_a_thin_line_of_the_law(result):
    figure = report.scaling.figure(result, ["steps", "window"])
    time, memory = figure.axes[:2]
    points, law = time.lines[0], time.lines[1]
    assert list(points.get_xdata()) == [2, 4, 8, 16]
    assert list(points.get_ydata()) == pytest.approx([1e3 * each["seconds"] for each in result["metrics"][:4]])
    assert law.get_linewidth() < 1 and list(law.get_ydata()) == pytest.approx(list(points.get_ydata()))
    assert time.get_xscale() == memory.get_yscale() == "log" and memory.get_xlabel() == "inner steps T"


def test_what_was_not_measured_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path))
    assert report.scaling.stored() is None
