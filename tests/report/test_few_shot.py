"""Tables and figures from stored results: what is shown, and under which name."""

import json
import statistics

import pytest

from msmeta import ConfigError, report, runs
from msmeta.experiments import few_shot
from msmeta.report import paper


def result(method_window=("multistep", 4), preset="cpu", way=5, seed=0, dataset="omniglot", accuracy=95.0, **changes):
    """A stored result as training would write it; its numbers are this test's."""
    config = few_shot.preset_config(preset, dataset, way, 1, *method_window, seed=seed, **changes)
    return {
        "config": runs.plain(config),
        "method": few_shot.label(config),
        "setting": few_shot.setting(config),
        "metrics": {
            "iterations": 1000, "meta_iterations_per_second": 3.0, "accuracy": accuracy, "accuracy_ci95": 0.5,
            "right_answers": [70, 72, 74], "answers_per_episode": 75,
            **({"windowed_accuracy": 94.0, "windowed_accuracy_ci95": 0.6} if config.window != 1 else {}),
        },
        "log": {"iteration": [], "seconds": [], "loss": [], "accuracy": []},
        "curve": {
            "iteration": [125, 250], "seconds": [40.0, 80.0], "accuracy": [80.0, 90.0], "accuracy_ci95": [1, 1],
            "right_answers": [[60, 60], [67, 68]],
        },
        "data": {"name": dataset, "title": dataset.title(), "hash": "0"},
        "provenance": {"train_seconds": 180.0, "device": "a processor", "threads": 2, "torch": "2", "commit": "abc"},
    }  # fmt: skip


def cell(table, method, column):
    lines = [[part.strip() for part in line.strip("|").split("|")] for line in table.splitlines()]
    (row,) = [line for line in lines if line[0] == method]
    return row[lines[0].index(column)]


def test_papers_table_is_the_papers():
    table = report.paper_table(4)
    assert cell(table, "Multi-step (8)", "20-way 1-shot") == "94.24 ±0.95"
    assert cell(table, "FO-MAML (ours)", "20-way 1-shot") == "90.53 ±1.13"
    assert len(table.splitlines()) == 2 + 9
    assert paper.table(5).cells["iMAML"]["5-way 5-shot"] is None
    with pytest.raises(ConfigError, match="no table 7"):
        paper.table(7)


def test_measured_table_prefers_the_full_protocol_and_labels_the_rest(store):
    store(result(), result(("multistep", 1)), result(("multistep", 1), "paper", accuracy=99.0))
    table = report.measured_table(4)
    assert cell(table, "Multi-step (4)", "5-way 1-shot") == "95.00 ±0.50 (cpu)"
    assert cell(table, "MAML", "5-way 1-shot") == "99.00 ±0.50 (paper)"
    assert cell(table, "FO-MAML", "5-way 1-shot") == cell(table, "MAML", "20-way 5-shot") == "not run"


def test_seeds_are_averaged_and_counted(store):
    store(result(seed=0, accuracy=94.0), result(seed=1, accuracy=96.0))
    assert cell(report.measured_table(4), "Multi-step (4)", "5-way 1-shot") == "95.00 ±0.50 (cpu, 2 seeds)"


def test_other_data_and_other_settings_never_stand_in_the_table(store):
    store(result(dataset="glyphs"), result(filters=8), result(preset="quick"), result(evaluate_on="validation"))
    assert cell(report.measured_table(4), "Multi-step (4)", "5-way 1-shot") == "not run"


def test_results_from_before_a_field_was_added_still_count(store):
    entry = result()
    del entry["config"]["image_size"], entry["config"]["precision"]
    store(entry)
    assert cell(report.measured_table(4), "Multi-step (4)", "5-way 1-shot") == "95.00 ±0.50 (cpu)"
    assert "| 32 | 8 |" in report.conditions(report.committed())


def test_what_was_not_run_comes_with_its_command(store):
    store(result())
    commands = report.missing_commands("cpu", 4)
    assert commands.count("msmeta train few-shot") == 4 * 7 - 1
    line = "--dataset omniglot --way 5 --shot 1 --estimator multistep --window 4 --preset cpu"
    assert line not in commands and line.replace("way 5", "way 20") in commands


def test_tuning_table_shows_each_rate_tried_and_marks_the_presets(store, tmp_path):
    own = few_shot.preset_config("cpu", "omniglot", 5, 1, "multistep", 4)
    tried = [
        (("multistep", 4), {"lr": own.lr, "meta_lr": own.meta_lr, "accuracy": 90.0}),
        (("multistep", 4), {"lr": 0.8, "meta_lr": own.meta_lr, "accuracy": 85.0}),
        (("multistep", 4), {"lr": own.lr, "meta_lr": own.meta_lr / 10, "accuracy": 80.0}),
        (("first-order", 1), {"lr": 0.8, "accuracy": 70.0}),
    ]
    for method, changes in tried:
        entry = result(method, evaluate_on="validation", **changes)
        runs.Run("few-shot-tuning", "t", "cpu", entry.pop("config"), tmp_path).save_result(entry)
    slow, windows, first_order = report.tuning_table().splitlines()[2:]
    assert slow == f"| 5-way 1-shot | Multi-step (4) | 1,000 | {own.meta_lr / 10:g} | 80.00 ±0.50 | - |"
    assert windows == f"| 5-way 1-shot | Multi-step (4) | 1,000 | {own.meta_lr:g} | **90.00 ±0.50** | 85.00 ±0.50 |"
    assert first_order.startswith("| 5-way 1-shot | FO-MAML | 1,000 |") and first_order.endswith("| - | 70.00 ±0.50 |")


def test_live_glyphs_stand_beside_no_number_of_the_paper():
    table = report.live_table([result(preset="quick"), result(("first-order", 1), "quick", dataset="glyphs")], 4)
    assert cell(table, "Omniglot 5-way 1-shot", "Paper (%)") == "98.97 ±1.02"
    assert cell(table, "Glyphs 5-way 1-shot", "Paper (%)") == "-"


def test_conditions_name_all_that_moves_accuracy():
    table = report.conditions([result()])
    (row,) = table.splitlines()[2:]
    assert report.conditions([]) == report.comparison([]) == "No run yet."
    for value in (
        "32",
        "8",
        "/ 0.9 / 0.0001",
        "adam 0.01",
        "1,000",
        "180",
        "94.00 ±0.60",
        "a processor, 2 threads",
        "abc",
    ):
        assert f" {value}" in row, value


def test_learning_curves_draw_each_run_to_its_end_in_the_methods_colour():
    found = [result(("multistep", 1), way=20), result(way=20)]
    figure = report.learning_curves(found, "title")
    by_iteration, by_time = figure.axes
    assert [line.get_color() for line in by_iteration.lines] == [report.COLOURS[r["method"]] for r in found]
    assert list(by_iteration.lines[0].get_xdata()) == [125, 250, 1000]
    assert list(by_time.lines[0].get_xdata()) == [40, 80, 180] and list(by_time.lines[0].get_ydata()) == [80, 90, 95]
    assert by_time.get_xlabel() == "training time (s)" and by_iteration.get_ylabel() == "test accuracy (%)"


def test_comparison_is_paired_at_equal_time_and_aligned_at_equal_iterations():
    base, other = result(("multistep", 1)), result()
    other["metrics"]["right_answers"] = [73, 72, 74]  # +3, 0, 0 of 75: 4/3 points on average
    base["curve"] = {name: values[:1] for name, values in base["curve"].items()}
    other["curve"]["right_answers"][0] = [60, 57]  # at 125 iterations: 0, -3 of 75
    maml, windows = report.comparison([other, base]).splitlines()[2:]
    assert maml.endswith("| 95.00 ±0.50 | - | - | - |")
    spread = 1.96 * 4 / 3**0.5 / 3**0.5  # differences 4, 0, 0: standard deviation 4/√3
    earlier = 1.96 * 4 / 2**0.5 / 2**0.5  # differences 0, -4: standard deviation 4/√2
    assert f"| +1.33 ±{spread:.2f} | -2.00 ±{earlier:.2f} | 125 |" in windows


def claim(table, difference):
    """(paper, ours at equal time, ours at equal iterations) of one line."""
    (row,) = [line.strip("| ").split(" | ") for line in table.splitlines() if difference in line]
    return row[3:]


def with_answers(method_window, answers, **changes):
    entry = result(method_window, way=20, **changes)
    entry["metrics"] |= {"right_answers": answers, "answers_per_episode": 300}
    return entry


def test_claims_are_tested_against_their_bound_on_both_sides():
    """20-way 1-shot, N = 4: the paper claims more than 5 points over FO-MAML, and 0.4 at the most less than MAML."""
    windows = with_answers(("multistep", 4), [260, 262, 264, 266])
    first_order = with_answers(("first-order", 1), [230, 230, 235, 233])  # differences 30, 32, 29, 33: 10.33 points
    maml = with_answers(("multistep", 1), [264, 265, 268, 269])  # -4, -3, -4, -3: -1.17 points
    table = report.claims_table(4, [windows, first_order, maml])
    paper_figure, ours, _ = claim(table, "Multi-step (4) less FO-MAML, 20-way 1-shot")
    error = 1.96 * statistics.stdev([10, 32 / 3, 29 / 3, 11]) / 2
    assert paper_figure == "+5.22" and ours == f"+10.33 ±{error:.2f}, p < 0.001: holds"
    paper_figure, ours, _ = claim(table, "Multi-step (4) less MAML, 20-way 1-shot")
    assert paper_figure == "-0.05" and ours.startswith("-1.17 ±") and ours.endswith("p < 0.001: does not hold")
    assert claim(table, "Multi-step (8) less MAML, 20-way 1-shot")[1:] == ["not run", "not run"]
    short = {**maml, "curve": {name: [] for name in maml["curve"]}}
    table = report.claims_table(4, [windows, short])
    assert claim(table, "Multi-step (4) less MAML, 20-way 1-shot")[2] == "too few iterations to compare"
    wide = with_answers(("multistep", 4), [200, 300, 280, 290])
    assert claim(report.claims_table(4, [wide, maml]), "Multi-step (4) less MAML, 20-way 1-shot")[1].endswith(
        "undecided"
    )
    assert report.claims_table(4, [], only=("no", "such", "claim")) == "No run yet."


def test_p_value_is_that_of_a_normal_distribution():
    """Difference 1 ± 0.51 (one standard error) against a bound of 0: z = 1.96 has p = 0.05."""
    shift = 1.0
    half = shift / 1.96 * 2**0.5  # of two values: standard error half·√2/√2 = half ... chosen for z = 1.96
    mean, error = report.pooled([[shift - half / 2**0.5, shift + half / 2**0.5]])
    assert mean == pytest.approx(shift) and mean / error == pytest.approx(1.96)


def test_seeds_add_their_spread_to_the_error():
    alone = report.pooled([[1.0, 3.0, 2.0]])
    same = report.pooled([[1.0, 3.0, 2.0]] * 2)
    apart = report.pooled([[0.0, 2.0, 1.0], [2.0, 4.0, 3.0]])
    assert alone == same == (2.0, pytest.approx((1 / 3) ** 0.5))
    assert apart == (2.0, pytest.approx((1 / 3 + 2 / 2) ** 0.5))  # seeds' means 1 and 3: variance 2, of two


def test_accuracy_over_time_draws_a_panel_a_setting_and_names_each_method_once():
    found = [result(("multistep", 1), way=20), result(way=20), result()]
    figure = report.accuracy_over_time(report.by_setting(found))
    assert [axis.get_title() for axis in figure.axes] == ["5-way 1-shot", "20-way 1-shot"]
    line = figure.axes[1].containers[1].lines[0]
    assert list(line.get_xdata()) == [40, 80, 180] and list(line.get_ydata()) == [80, 90, 95]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["MAML", "Multi-step (4)"]


def test_groups_come_in_the_papers_order():
    groups = report.by_setting([result(way=20), result(("first-order", 1)), result(("multistep", 1)), result()])
    assert list(groups) == ["5-way 1-shot", "20-way 1-shot"]
    assert [r["method"] for r in groups["5-way 1-shot"]] == ["MAML", "Multi-step (4)", "FO-MAML"]


def test_live_runs_use_what_data_there_are_and_say_so(tmp_path, monkeypatch, store):
    monkeypatch.setenv("MSMETA_DATA", str(tmp_path / "data"))
    said = []
    found, why = report.train_live(
        "smoke", "omniglot", [5], [1], report.few_shot_methods([1, 4], ["first-order"]), 2, 0, "cpu", False, said.append
    )
    assert [entry["method"] for entry in found] == ["MAML", "Multi-step (4)", "FO-MAML"] and len(said) == 3
    assert {entry["data"]["name"] for entry in found} == {"glyphs"} and "not Omniglot" in why
    assert "400 classes for meta-training and 200 others" in report.data_in_words("glyphs")
    path = next((tmp_path / "live" / "few-shot").glob("*multistep-4*"))
    assert json.loads(path.read_text()) == found[1]
