"""Accuracy against how strongly a method transfers."""

from dataclasses import replace

import pytest
from stored_runs import line, result, row_of

from msmeta import runs
from msmeta.experiments.transfer import TransferConfig
from msmeta.report import transfer_strength
from msmeta.report.picture import series


def run(method, accuracy, seed=0, weight=1.0, kind="transfer", **changes):
    """A run of SGD with this mean λ after each epoch, rising to it or falling by as much as its first is above."""
    made = result(method, accuracy, seed, optimizer="sgd")
    made["config"] = runs.plain(replace(TransferConfig(**made["config"]), **changes))
    looks = len(made["curve"]["epoch"])
    made["curve"]["pair_weight"] = [weight + 0.1, *[weight] * (looks - 2), weight - 0.1]
    return made | {"kind": kind}


def test_each_method_stands_beside_the_runs_without_theta_that_transfer_as_strongly(store):
    store(
        *(run("Multi-step", accuracy, seed, 0.44) for seed, accuracy in enumerate((39, 41, 43))),
        *(run("0-step", accuracy, seed, beta=0.22) for seed, accuracy in enumerate((39.1, 41, 42.9))),
        *(run("0-step", 60, seed, beta=0.5) for seed in range(3)),
        *(run("First-order", 30, seed, 0.1) for seed in range(3)),
        *(run("Scratch", 99, seed) | {"curve": result("Scratch", 99)["curve"]} for seed in range(3)),
        run("Baseline", 99, beta=0.1),  # not the preset's
    )
    table = transfer_strength.table("sgd")
    found = row_of(table, "", "Multi-step")
    assert (found["β times mean λ"], found["T = 0 as strong: β"]) == ("0.220 ±0.000", "0.22")
    assert found["Accuracy (%)"] == "41.00 ±4.97" and found["Accuracy of it (%)"] == "41.00 ±4.72"
    assert found["Less it (points)"] == "+0.00 ±0.25, held, n = 3, p = 0.002"  # t = 17.3, 2 degrees of freedom
    assert [row[0] for _, rows in table.groups for row in rows] == ["Multi-step", "First-order"]
    assert row_of(table, "", "First-order")["Less it (points)"] == "not run"


def test_the_figure_has_the_best_run_of_each_beta(store):
    store(
        *(run("0-step", a, beta=b, lr=lr, kind="transfer-tuning", evaluate_on="validation")
          for a, b, lr in ((30, 0.5, 0.03), (20, 0.5, 0.1), (28, 0.1, 0.03), (35, 2.0, 0.03))),
        run("Multi-step", 25, weight=0.4, kind="transfer-tuning", evaluate_on="validation"),
    )  # fmt: skip
    (axis,) = transfer_strength.figure("sgd").axes
    fixed, ours = series(axis)
    assert fixed.x == pytest.approx([0.1, 0.5, 2.0]) and fixed.y == [28, 30, 35]
    assert (ours.label, ours.x, ours.y) == ("Multi-step", [pytest.approx(0.2)], [25])


def test_shorter_and_fewer_steps_stand_between_the_methods_with_the_same_rates(store):
    own = {"lr": 0.1, "meta_lr": 1e-5, "kind": "transfer-tuning", "evaluate_on": "validation"}
    store(
        run("Baseline", 34, weight=0.9, **own),
        run("Multi-step", 30, weight=0.7, **own),
        run("Multi-step", 20, weight=0.3, **own | {"lr": 0.3}),
        run("0-step", 20, **own),
        run("Multi-step", 33, weight=0.75, transfer_rate=0.5, **own),
        run("1-step", 32, weight=0.65, **own),
        run("Baseline", 35, weight=0.95, inner_beta=0.5, **own),
    )
    table = transfer_strength.causes_table("sgd")
    assert len(table.splitlines()) == 2 + 5
    assert line(table, "| Baseline |")[-1] == "100" and line(table, "Baseline, inner β 0.5")[-1] == "125"
    assert line(table, "Multi-step |")[1:] == ["0.1", "1e-05", "0.350", "30.00", "0"]
    assert line(table, "Multi-step, 0.5·lr")[3:] == ["0.375", "33.00", "25"]
    assert line(table, "1-step")[3:] == ["0.325", "32.00", "-25"]
    words = transfer_strength.causes_words("sgd")
    assert "*the longer way* against it (25), *no answer* for it (-25), *too strong* not run." in words
    store(run("Multi-step", 33, weight=0.85, inner_beta=0.5, **own), run("1-step", 32, seed=1, weight=0.99, **own))
    words = transfer_strength.causes_words("sgd")
    assert "*no answer* against it (60), *too strong* for it (75)." in words


def test_without_runs_it_says_so(store):
    store(run("0-step", 30, kind="transfer-tuning", evaluate_on="validation"))
    assert transfer_strength.figure("sgd").startswith("No figure")
    assert transfer_strength.table("sgd").startswith("No table")
    assert transfer_strength.causes_table("sgd").startswith("Not run")
    assert transfer_strength.causes_words("sgd").count("not run") == 3
