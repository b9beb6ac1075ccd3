"""Figures of meta-transfer and what the meta-networks learn: the numbers shown, and what is too little to draw."""

import statistics

import pytest
from stored_runs import cell, committed, of, result

from msmeta.experiments import transfer
from msmeta.report import transfer as report
from msmeta.report import transfer_figures


def test_comparison_is_at_equal_epochs_and_in_equal_time(monkeypatch):
    """A Baseline epoch takes 10 s here and one of Multi-step 20 s; the longer Scratch has 24 epochs of 10 s by then.

    On an idle machine an epoch of Multi-step takes 3 s and all others 2 s."""
    monkeypatch.setattr(transfer_figures, "seconds_per_epoch", lambda config: None)
    results = of(*committed(), result("Scratch", 45.0, epochs=36))
    table = transfer_figures.comparison(results)
    assert cell(table, "Multi-step", "less the Baseline's (points)").startswith("-0.10 ±0.25, p = ")
    assert cell(table, "Baseline", "less the Baseline's (points)") == "-"
    assert cell(table, "Multi-step", "in Multi-step's time (%)") == "41.90 ±2.37"
    assert cell(table, "Scratch, 36 epochs", "in Multi-step's time (%)") == f"{46 - 36 + 24:.2f}"
    by_epoch, by_time = transfer_figures.curves(results, "title").axes
    first = by_epoch.containers[0].lines[0]  # Scratch
    assert list(first.get_xdata()) == list(range(1, 13)) and list(first.get_ydata()) == [21 + i for i in range(12)]
    assert by_epoch.get_xlim()[1] == pytest.approx(12.6)
    assert list(by_time.containers[3].lines[0].get_xdata()) == [20 * i for i in range(1, 13)]  # Multi-step
    assert [c.lines[0].get_linestyle() for c in by_epoch.containers] == ["-", "--", "-", "-"]
    assert by_time.get_xlabel() == "training time (s)"
    monkeypatch.setattr(transfer_figures, "seconds_per_epoch", lambda config: 1.0 + config.window)
    table = transfer_figures.comparison(results)
    assert cell(table, "Scratch, 36 epochs", "in Multi-step's time (%)") == f"{46 - 36 + 18:.2f}"
    _, idle = transfer_figures.curves(results, "title", idle=True).axes
    assert list(idle.containers[3].lines[0].get_xdata()) == [3 * i for i in range(1, 13)]
    assert idle.get_xlabel() == "training time on one idle core (s)"


def test_what_the_meta_networks_learn_is_a_mean_over_seeds():
    results = committed()
    table = transfer_figures.movement_table(of(*results))
    assert cell(table, "Baseline", "‖θ - θ₀‖, what") == "3.00 ±2.48"
    assert cell(table, "Baseline", "smallest and largest pair") == "1.00 to 1.25"
    means = [(1 + 0.5 + seed / 2 + 1.25) / 3 for seed in range(3)]
    text = f"{means[1]:.2f} ±{4.3027 * statistics.stdev(means) / 3**0.5:.2f}"
    assert cell(table, "Baseline", "λ, mean over pairs") == text
    assert cell(table, "Baseline", "test accuracy (%)") == "41.00 ±2.48"
    axes = transfer_figures.pairs_figure(of(*results)).axes
    assert [axis.get_title() for axis in axes[:2]] == ["λ, Baseline (3 seeds)", "λ, Multi-step (3 seeds)"]
    assert [text.get_text() for text in axes[0].texts[:3]] == ["1.00", "1.00", "1.25"]
    transfer_figures.pairs_figure(of(result("0-step")))
    for entry, pairs in zip(results[3:], (0, 1, 2), strict=False):  # the Baseline's, one pair off with each seed more
        entry["metrics"]["pair_weights"] = [[0.0] * pairs + [1.0] * (3 - pairs), [1.0] * 3]
    table = transfer_figures.movement_table(of(*results[3:6]))
    assert cell(table, "Baseline", "pairs that are off") == "1.0 ±2.5 of 6"


def test_change_of_the_gradient_is_compared_in_parts_of_the_training(store):
    """The change falls from 0.5 to 0.14 in ten points of the log, a hundredth more with each seed."""
    store(*committed(), result("First-order"), result(epochs=3))
    chosen = transfer_figures.change_runs(report.committed())
    assert list(chosen["label"]) == ["Baseline"] * 3
    words = transfer_figures.change_words(chosen)
    assert "CIFAR-100, SGD: the change **falls**, from 0.510 ±0.025" in words
    assert "to 0.150 ±0.025 in the last" in words
    falling = committed()[3:6]
    rising = [e | {"log": e["log"] | {"gradient_change": [0.1 * i for i in range(1, 11)]}} for e in falling]
    assert "**rises**, from 0.100 ±0.000" in transfer_figures.change_words(of(*rising))
    assert words.endswith("It is largest, 0.510, in tenth 1 of 10.")
    both = of(falling[0], rising[1])
    assert "**falls with some seeds, not with others**" in transfer_figures.change_words(both)
    still = [e | {"log": e["log"] | {"gradient_change": [0.0] * 10}} for e in falling]  # where every pair is off
    assert "**stays the same**, from 0.000 ±0.000 in the first" in transfer_figures.change_words(of(*still))
    assert "in the last (n = 3)" in transfer_figures.change_words(of(*still))  # and no ratio to zero
    table = transfer_figures.change_table(chosen)
    assert cell(table, "5", "CIFAR-100, SGD, n = 3") == "0.350 ±0.025"
    epochs = chosen["epochs"].iloc[0]
    assert cell(table, "1", "CIFAR-100, SGD: η / η₀ (Eq. 55)") == "1.000"
    preset = transfer.preset_config("cpu", "cifar-100", "multistep")
    last = preset.dynamics(int(0.95 * epochs)).lr / preset.lr
    assert cell(table, "10", "CIFAR-100, SGD: η / η₀ (Eq. 55)") == f"{last:.3f}"
    figure = transfer_figures.change_figure(of(*falling, result(optimizer="adam")))
    assert [axis.get_title() for axis in figure.axes] == ["CIFAR-100, SGD", "CIFAR-100, Adam"]
    assert list(figure.axes[0].lines[3].get_ydata()) == pytest.approx([0.51 - 0.04 * i for i in range(10)])
    store(result(preset="paper"))
    assert list(transfer_figures.change_runs(report.committed())["preset"]) == ["paper"]


def test_accuracy_by_steps_joins_the_exact_ones_and_sets_estimates_beside_what_they_stand_for():
    values = {"0-step": 20, "1-step": 30, "1-step, 2·lr": 31, "Baseline": 40, "Multi-step": 39, "3-step": 42,
              "3-step Est. (3)": 41, "First-order": 25, "Scratch": 10}  # fmt: skip
    results = [result(m, a + s, s, optimizer="adam") for m, a in values.items() for s in (0, 1)]
    longer = result("Scratch", 90, epochs=24, optimizer="adam")
    axis = transfer_figures.accuracy_by_steps(of(*results, longer), "title").axes[0]
    assert [tuple(point) for point in axis.lines[0].get_xydata()] == [(0, 20.5), (1, 30.5), (2, 40.5), (3, 42.5)]
    assert list(axis.get_xticks()) == [0, 1, 2, 3]
    table = transfer_figures.accuracy_by_steps_table(of(*results))
    column = "less that of what it stands for (points)"
    assert cell(table, "3-step Est. (3)", column).startswith("3-step: -1.00 ±0.00")
    assert cell(table, "1-step, 2·lr", column).startswith("Multi-step: -8.00")
    assert cell(table, "0-step", column) == "-" and cell(table, "0-step", "T / N") == "0 / 1"


def test_a_single_point_is_no_curve_and_no_trend():
    """As in the smoke preset: one epoch, and a log of one point, of one seed."""
    run = result(preset="smoke", dataset="glyphs-rgb")
    run["log"] = {name: values[-1:] for name, values in run["log"].items()}
    single = of(run)
    assert transfer_figures.change_figure(single).startswith("No curve")
    assert "too few points to compare" in transfer_figures.change_words(single)
    assert "falls" not in transfer_figures.change_words(single) and "rises" not in transfer_figures.change_words(single)
    assert cell(transfer_figures.change_table(single), "1", "Glyphs (32x32), SGD, n = 1") == "-"
    assert transfer_figures.curves(single, "Live run").startswith("Live run: no curve")
    assert transfer_figures.accuracy_by_steps(single, "Live run").startswith("Live run: no figure against T")
    assert transfer_figures.pairs_figure(of(result("Scratch"))).startswith("No pairs")


def test_nothing_is_drawn_of_no_runs():
    for figure in (transfer_figures.curves, transfer_figures.accuracy_by_steps):
        assert "no " in figure(of(), "title")
    assert transfer_figures.change_figure(of()).startswith("No curve") and transfer_figures.change_words(of()) == ""
    tables = ("change_table", "comparison", "movement_table", "accuracy_by_steps_table")
    assert {getattr(transfer_figures, name)(of()) for name in tables} == {"No run yet."}
    assert transfer_figures.change_runs(of()).empty and transfer_figures.pairs_figure(of()).startswith("No pairs")


def test_live_runs_of_other_epochs_and_steps_are_drawn():
    """Whatever number of epochs a reader sets: all rows have it, so none of them was given more."""
    found = of(*(result(method, preset="quick", epochs=3) for method in ("0-step", "1-step", "Baseline", "Scratch")))
    (axis,) = transfer_figures.accuracy_by_steps(found, "title").axes
    assert [tuple(point) for point in axis.lines[0].get_xydata()] == [(0, 40), (1, 40), (2, 40)]
    assert len(transfer_figures.accuracy_by_steps_table(found).splitlines()) == 2 + 4
    by_epoch, _ = transfer_figures.curves(found, "title").axes
    assert {c.lines[0].get_linestyle() for c in by_epoch.containers} == {"-"}
