"""Tables and figures from stored results: what is shown, and under which name."""

import json
import math
import statistics

import pytest
import stored_runs
from scipy import stats
from stored_runs import cell, row_of

from msmeta import ConfigError
from msmeta.experiments import few_shot
from msmeta.report import few_shot as report
from msmeta.report import few_shot_time, live, paper
from msmeta.report.frame import FEW_SHOT, frame
from msmeta.statistics import detectable


def result(method_window=("multistep", 4), preset="cpu", way=5, seed=0, dataset="omniglot", accuracy=95.0, **changes):
    """A stored result as training would write it; its numbers are this test's.

    ± of the three episodes, whose deviation is 2.67 %, is 6.62: t = 4.303 with two degrees of freedom.
    """
    config = few_shot.preset_config(preset, dataset, way, 1, *method_window, seed=seed, **changes)
    metrics = {
        "iterations": 1000, "meta_iterations_per_second": 3.0, "accuracy": accuracy,
        "right_answers": [70, 72, 74], "answers_per_episode": 75,
        "windowed_accuracy": 94.0, "windowed_accuracy_sd": 0.6 * 3**0.5 / 4.3027,
    }  # fmt: skip
    curve = {
        "iteration": [125, 250], "seconds": [40.0, 80.0], "accuracy": [80.0, 90.0],
        "right_answers": [[60, 60], [67, 68]],
    }  # fmt: skip
    return stored_runs.few_shot(config, metrics, curve)


def of(*results):
    return frame(FEW_SHOT, results)


def test_papers_table_is_the_papers():
    table = paper.table(4).markdown()
    assert cell(table, "Multi-step (8)", "20-way 1-shot") == "94.24 ±0.95"
    assert cell(table, "FO-MAML (ours)", "20-way 1-shot") == "90.53 ±1.13"
    assert len(table.splitlines()) == 2 + 9
    assert cell(paper.table(5).markdown(), "iMAML", "5-way 5-shot") == "-"
    assert cell(paper.table(1).markdown(), "Multi-step", "ratio") == "0.65"
    with pytest.raises(ConfigError, match="no table 7"):
        paper.table(7)


def test_a_config_finds_the_papers_own_number_before_the_one_it_quotes():
    def found(way, *method_window):
        return paper.cell(4, vars(few_shot.preset_config("cpu", "omniglot", way, 1, *method_window)))

    assert str(found(20, "multistep", 1)) == "95.8 ±0.81" and str(found(5, "multistep", 8)) == "98.7 ±1.03"
    assert str(found(20, "first-order")) == "90.53 ±1.13" and str(found(5, "reptile")) == "97.68 ±0.04"
    assert found(10, "multistep", 1) is found(5, "multistep", (3, 5)) is found(5, "multistep", (4, 4)) is None
    printed = {name.partition(" (ours)")[0] for name in paper.table(4).cells}
    assert printed == {few_shot.label(few_shot.preset_config("cpu", "omniglot", 5, 1, **m)) for m in report.methods()}


def test_measured_table_prefers_the_full_protocol_and_labels_the_rest(store):
    store(result(), result(("multistep", 1)), result(("multistep", 1), "paper", accuracy=99.0))
    table = report.side_by_side(4, "omniglot")
    assert row_of(table, "5-way 1-shot", "Multi-step (4)")["Measured (%)"] == "95.00 ±6.62"
    assert row_of(table, "5-way 1-shot", "Multi-step (4)")["Preset"] == "cpu"
    maml = row_of(table, "5-way 1-shot", "MAML")
    assert maml["Measured (%)"] == "99.00 ±6.62" and maml["Preset"] == "paper" and maml["Seeds"] == "1"
    assert "<strong>" in maml["Measured (%)"].html
    assert row_of(table, "5-way 1-shot", "FO-MAML")["Measured (%)"] == "not run"
    assert row_of(table, "20-way 5-shot", "MAML")["Measured (%)"] == "not run"


def test_the_papers_own_number_and_the_one_that_it_quotes_stand_beside_ours(store):
    """Their difference has Welch's interval, of 3 episodes here and of 600 there."""
    store(result(("multistep", 1)))
    row = row_of(report.side_by_side(4, "omniglot"), "5-way 1-shot", "MAML")
    assert row["Paper (%)"] == "99.10 ±0.77; 98.7 ±0.4 †"
    errors = [6.6243 / stats.t.ppf(0.975, 2), 0.77 / stats.t.ppf(0.975, 599)]
    variances = [error**2 for error in errors]
    freedom = sum(variances) ** 2 / (variances[0] ** 2 / 2 + variances[1] ** 2 / 599)
    half = stats.t.ppf(0.975, freedom) * sum(variances) ** 0.5
    assert row["Difference"] == f"-4.10 ±{half:.2f}"
    of_other_data = report.side_by_side(5, "cifar-fs")
    assert of_other_data.name == "" and report.side_by_side(5, "miniimagenet").name == "table-5"
    assert row_of(of_other_data, "CIFAR-FS, 5-way 1-shot", "MAML")["Paper (%)"] == "–"


def test_several_seeds_have_the_interval_of_their_mean(store):
    """94 and 96: standard error 1, and t = 12.706 with one degree of freedom."""
    store(result(seed=0, accuracy=94.0), result(seed=1, accuracy=96.0))
    row = row_of(report.side_by_side(4, "omniglot"), "5-way 1-shot", "Multi-step (4)")
    assert row["Measured (%)"] == "95.00 ±12.71" and row["Seeds"] == "2"
    said, _, table = report.conditions(report.committed(dataset="omniglot")).partition("\n\n")
    assert "seeds 0, 1;" in said and cell(table, "5-way 1-shot, Multi-step (4)", "accuracy (%)") == "95.00 ±12.71"


def test_a_single_episode_has_no_interval():
    entry = result()
    entry["metrics"] |= {"right_answers": [75]}
    assert "| 95.00 (no interval) |" in report.live_table(of(entry), 4)


def test_other_data_and_other_settings_never_stand_in_the_table(store):
    store(result(dataset="glyphs"), result(filters=8), result(preset="quick"), result(evaluate_on="validation"))
    assert row_of(report.side_by_side(4, "omniglot"), "5-way 1-shot", "Multi-step (4)")["Measured (%)"] == "not run"


def test_results_from_before_a_field_was_added_still_count(store):
    entry = result()
    del entry["config"]["image_size"], entry["config"]["precision"]
    store(entry)
    assert row_of(report.side_by_side(4, "omniglot"), "5-way 1-shot", "Multi-step (4)")["Measured (%)"] == "95.00 ±6.62"
    assert "shrunk 32; tasks / T / T at test 4 / 8 / 8;" in report.conditions(report.committed(dataset="omniglot"))


def test_what_was_not_run_comes_with_its_command(store):
    store(result())
    commands = report.commands("cpu", 4, "omniglot")
    assert commands.count("msmeta train few-shot") == 4 * 7 - 1
    assert commands.splitlines()[1] == "msmeta data prepare omniglot"
    assert report.commands("cpu", 5, "cifar-fs").splitlines()[1] == "msmeta data prepare cifar-fs"
    assert report.commands("cpu", 5, "miniimagenet").splitlines()[1] == "msmeta data prepare miniimagenet --from DIR"
    line = "--dataset omniglot --way 5 --shot 1 --estimator multistep --window 4 --preset cpu\n"
    assert line not in commands and line.replace("way 5", "way 20") in commands


def test_live_glyphs_stand_beside_no_number_of_the_paper():
    runs = of(result(preset="quick"), result(("first-order", 1), "quick", dataset="glyphs"))
    assert cell(report.live_table(runs, 4), "Omniglot, 5-way 1-shot", "Paper (%)") == "98.97 ±1.02"
    assert cell(report.live_table(runs, 4), "Glyphs, 5-way 1-shot", "Paper (%)") == "-"


def test_live_runs_of_several_seeds_stand_in_one_row_with_their_interval():
    table = report.live_table(of(result(accuracy=94.0), result(seed=1, accuracy=96.0)), 4)
    assert cell(table, "Omniglot, 5-way 1-shot", "seeds") == "0, 1"
    assert cell(table, "Omniglot, 5-way 1-shot", "Live run (%)") == "95.00 ±12.71"


def test_conditions_name_all_that_moves_accuracy():
    said, _, table = report.conditions(of(result())).partition("\n\n")
    for value in (
        "data Omniglot", "preset cpu", "seeds 0", "shrunk 32", "tasks / T / T at test 4 / 8 / 8",
        "weight decay sgd 0.1 / 0.9 / 0.0001", "meta optimiser, lr adam 0.003", "iterations 1,000",
        "device a processor, 2 threads", "torch 2", "commit abc",
    ):  # fmt: skip
        assert f"{value};" in said.replace("abc.", "abc;"), value
    assert table.splitlines()[2:] == ["| 5-way 1-shot, Multi-step (4) | the last | 94.00 ±0.60 | 180 | 95.00 ±6.62 |"]
    assert report.conditions(of()) == "No run yet."


def test_outcomes_stand_in_their_rows_and_where_runs_were_made_in_none():
    runs = of(result(), result(("first-order", 1)))
    runs["selected_iteration"], runs["select_every"], runs["device"] = [math.nan, 250.0], 250, ["a processor", "a GPU"]
    said, _, table = report.conditions(runs).partition("\n\n")
    assert cell(table, "5-way 1-shot, Multi-step (4)", "tested") == "the last" and "device" not in said + table
    assert cell(table, "5-way 1-shot, FO-MAML", "tested") == "250"


def claim(table, difference):
    """(paper, ours at equal iterations, ours at equal time, what 3 and 5 seeds would show) of the first such line."""
    row, *_ = [row for _, rows in table.groups for row in rows if row[0].startswith(difference)]
    return row[1:]


@pytest.fixture(autouse=True)
def one_second(monkeypatch):
    """Every iteration takes a second, so that equal iterations are equal time."""
    monkeypatch.setattr(few_shot_time, "seconds_per_iteration", lambda config: 1.0)


AT_THE_END = ", after 1,000 iterations", ", at 1,000 and 1,000, 100 % of the time"


def with_answers(method_window, answers, **changes):
    entry = result(method_window, way=20, **changes)
    entry["metrics"] |= {"right_answers": answers, "answers_per_episode": 300}
    return entry


WINDOWS = [260, 262, 264, 266]
FIRST_ORDER = [230, 230, 235, 233]  # differences 30, 32, 29, 33 of 300: 10.33 points
EXACT = [264, 265, 268, 269]  # -4, -3, -4, -3: -1.17 points


def test_one_seed_gives_a_difference_over_episodes_and_no_verdict():
    """20-way 1-shot, N = 4: the paper claims more than 5 points over FO-MAML, and 0.4 at the most less than MAML."""
    windows, maml = with_answers(("multistep", 4), WINDOWS), with_answers(("multistep", 1), EXACT)
    table = report.claims_table(4, of(windows, with_answers(("first-order", 1), FIRST_ORDER), maml))
    paper_figure, _, ours, power = claim(table, "Multi-step (4) less FO-MAML, Omniglot, 20-way 1-shot")
    error = 3.1824 * statistics.stdev([10, 32 / 3, 29 / 3, 11]) / 2  # t with 3 degrees of freedom
    assert paper_figure == "+5.22" and ours == f"+10.33 ±{error:.2f}, 4 episodes{AT_THE_END[1]}" and power == "–"
    paper_figure, later, ours, _ = claim(table, "Multi-step (4) less MAML, Omniglot, 20-way 1-shot")
    assert paper_figure == "-0.05" and ours.startswith("-1.17 ±")
    assert later == ours.replace(AT_THE_END[1], AT_THE_END[0])
    assert not any(word in str(table) for word in ("p =", "p <", "held", "undecided"))
    assert claim(table, "Multi-step (8) less MAML, Omniglot, 20-way 1-shot")[1:] == ["not run", "not run", "–"]
    short = {**maml, "curve": {name: [] for name in maml["curve"]}}
    short["metrics"] = maml["metrics"] | {"iterations": 900}
    table = report.claims_table(4, of(windows, short))
    assert claim(table, "Multi-step (4) less MAML, Omniglot, 20-way 1-shot")[1] == "not run: no point in common"
    only = (report.multi_step(4), report.MAML, (20, 1))
    assert [len(rows) for _, rows in report.claims_table(4, of(windows, maml), only).groups] == [1, 1]


def test_several_seeds_are_tested_against_the_bound_on_both_sides():
    """Students' t over the seeds' means, which differ by a third of a point each; with two degrees of freedom."""

    def seeds(method, answers, spread=1):
        return [with_answers(method, [a + spread * seed for a in answers], seed=seed) for seed in range(3)]

    windows, maml = seeds(("multistep", 4), WINDOWS), seeds(("multistep", 1), EXACT, spread=0)
    table = report.claims_table(4, of(*windows, *seeds(("first-order", 1), FIRST_ORDER, spread=0), *maml))
    half = 4.3027 / 3 / 3**0.5
    ours = claim(table, "Multi-step (4) less FO-MAML, Omniglot, 20-way 1-shot")[2]  # 10.33, 10.67, 11: t = 29.4
    assert ours == f"+10.67 ±{half:.2f}, held, n = 3, p = 0.003{AT_THE_END[1]}"  # thrice, as three claims were tested
    assert claim(table, "Multi-step (4) less FO-MAML, Omniglot, 20-way 1-shot")[3] == "1.09 / 0.56"
    ours = claim(table, "Multi-step (4) less MAML, Omniglot, 20-way 1-shot")[2]  # -1.17, -0.83, -0.5: t = 2.25
    assert ours == f"-0.83 ±{half:.2f}, undecided, n = 3, p = 0.306{AT_THE_END[1]}"
    margins = [detectable(1 / 3, count, equality=True) for count in (3, 5)]
    shown = " / ".join(f"{margin:.2f}" for margin in margins)
    assert claim(table, "Multi-step (4) less MAML, Omniglot, 20-way 1-shot")[3] == shown
    only = (report.multi_step(4), report.FO_MAML, (20, 1))
    table = report.claims_table(4, of(*windows, *seeds(("first-order", 1), FIRST_ORDER, spread=0), *maml), only)
    assert "held, n = 3, p = 0.003" in str(table)  # corrected as on the page that shows all claims
    worse = seeds(("multistep", 4), [a - 60 for a in WINDOWS])
    ours = claim(report.claims_table(4, of(*worse, *maml)), "Multi-step (4) less MAML, Omniglot, 20-way 1-shot")[2]
    assert ours.endswith(f"did not hold, n = 3, p < 0.001{AT_THE_END[1]}")


def test_a_claim_compares_runs_of_one_preset_only():
    """One method has a run of the full protocol already, and the other has not: the short runs are compared."""
    short, base = with_answers(("multistep", 4), WINDOWS), with_answers(("multistep", 1), EXACT)
    full = with_answers(("multistep", 4), [300] * 4, preset="paper")
    name = "Multi-step (4) less MAML, Omniglot, 20-way 1-shot"
    assert claim(report.claims_table(4, of(short, full, base)), name)[2].startswith("-1.17 ±")
    assert claim(report.claims_table(4, of(full, base)), name)[1:] == ["not run", "not run", "–"]
    both = of(short, full, base, with_answers(("multistep", 1), [297] * 4, preset="paper"))
    assert claim(report.claims_table(4, both), name)[2].startswith("+1.00 ±0.00, 4 episodes")


def test_all_claims_of_a_page_are_corrected_together():
    """Table 5's page has two data sets: where both have the same differences, each p is twice that of one alone.

    There a θ is selected, so that the last point of the curve is what is compared.
    """

    def run(method, answers, seed, dataset):
        entry = result(method, dataset=dataset, seed=seed)
        entry["curve"]["right_answers"][1] = answers
        return entry

    def outperforms(*datasets):
        made = [
            run(method, [answers + seed * (method[1] == 4)] * 2, seed, dataset)
            for dataset in datasets
            for method, answers in ((("multistep", 4), 60), (("first-order", 1), 57))
            for seed in range(3)
        ]
        rows = [
            line
            for line in str(report.claims_table(5, of(*made))).splitlines()
            if "outperforming" in line and " n = 3" in line
        ]
        return [float(row.partition("p = ")[2][:5]) for row in rows]

    p = 2 * stats.t.sf(19 / 4 * 3**0.5, 2)  # 4, 16/3 and 20/3 points: mean 16/3, deviation 4/3, against -1
    assert outperforms("miniimagenet") == [pytest.approx(p, abs=5e-4)]
    assert outperforms("miniimagenet", "cifar-fs") == 2 * [pytest.approx(2 * p, abs=5e-4)]


def test_runs_of_longer_inner_loops_stand_apart(store):
    """Windows and partitions of 16 steps, which the preset's 8 could not have."""
    longer = [result(("multistep", window), way=20, steps=16) for window in (1, 16, (4, 4, 8))]
    store(result(way=20), *longer, result(("multistep", 4), way=20, steps=16, lr=3.0))
    assert list(report.committed()["steps"]) == [8] and list(report.committed(usual=False)["steps"]) == [16] * 3
    assert list(report.committed(usual=False)["label"]) == ["MAML", "Multi-step (4, 4, 8)", "Multi-step (16)"]
    assert report.committed(usual=False, dataset="glyphs").empty


def test_runs_come_in_the_papers_order():
    found = of(result(way=20), result(("first-order", 1)), result(("multistep", 1)), result())
    assert list(found["setting"].unique()) == ["5-way 1-shot", "20-way 1-shot"]
    assert list(found["label"]) == ["MAML", "Multi-step (4)", "FO-MAML", "Multi-step (4)"]


def test_live_runs_use_what_data_there_are_and_say_so(tmp_path, monkeypatch, store):
    monkeypatch.setenv("MSMETA_DATA", str(tmp_path / "data"))
    said = []
    methods, place = report.methods([1, 4], ["first-order"]), {"way": [5], "shot": [1]}
    found, why = report.train("smoke", "omniglot", methods, "cpu", False, said.append, **place, iterations=[2])
    assert list(found["label"]) == ["MAML", "Multi-step (4)", "FO-MAML"] and len(said) == 3
    assert set(found["dataset"]) == {"glyphs"} and "not Omniglot" in why
    assert "400 classes for meta-training and 200 others" in live.data_in_words("glyphs")
    with pytest.raises(ConfigError, match="omniglott"):
        report.train("quick", "omniglott", methods, "cpu", False, **place)
    path = next((tmp_path / "live" / "few-shot").glob("*multistep-4*.json"))
    assert json.loads(path.read_text())["metrics"]["accuracy"] == found["accuracy"].iloc[1]
