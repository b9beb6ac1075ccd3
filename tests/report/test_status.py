"""The status of the reproduction, from made results."""

import pytest
from stored_runs import cell, committed, line, result

from msmeta.report import status


@pytest.fixture
def some(store):
    """All three methods on CIFAR-100 with SGD, three seeds each, and nothing else."""
    store(*({"kind": "transfer", **entry} for entry in committed()))


def test_a_cell_says_what_was_run_for_it(some):
    table = status.cells(2)
    run = line(table, "CIFAR-100, SGD, Baseline")
    assert run[1:5] == ["70.96 ±0.61", cell(table, "CIFAR-100, SGD, Baseline", "Ours (%)"), "cpu", "0, 1, 2"]
    hours = 3 * result()["provenance"]["train_seconds"] / 3600
    assert run[-1] == f"{hours:.2f}"


def test_what_was_not_run_says_so_and_comes_with_its_command(some):
    table = status.cells(2)
    assert line(table, "STL-10, SGD, Scratch")[1:] == ["65.18 ±0.91", "not run", "-", "-", "-", "-"]
    assert "msmeta train transfer --dataset stl-10 --optimizer sgd --estimator scratch --preset cpu" in table
    assert "msmeta train transfer --dataset dog --optimizer sgd --estimator scratch --preset paper" in table
    assert "--dataset cifar-100" not in table


def test_the_summary_counts_the_papers_cells(some):
    """iMAML has no number for miniImageNet 5-shot."""
    rows = [row.strip("| ").split(" | ") for row in status.summary().splitlines()[2:]]
    assert rows == [["2", "18", "3", "3"], ["3", "18", "0", "-"], ["4", "28", "0", "-"], ["5", "13", "0", "-"]]
