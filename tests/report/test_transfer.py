"""Tables and figures of Section 5.1 from stored results: what is shown, under which name, and what is tested how."""

import json
import statistics

import pytest
from scipy import stats

from msmeta import ConfigError, UserError, data, runs
from msmeta.experiments import transfer
from msmeta.report import live, paper, style, transfer_figures, transfer_time
from msmeta.report import transfer as report
from msmeta.report.frame import TRANSFER, frame
from msmeta.report.transfer_time import epoch_seconds, saved, times


def result(method="Baseline", accuracy=40.0, seed=0, preset="cpu", dataset="cifar-100", optimizer="sgd", **changes):
    """A stored run as training would write it; its numbers are this test's."""
    config = transfer.preset_config(
        preset, dataset, optimizer=optimizer, seed=seed, **report.METHODS[method], **changes
    )
    scratch = config.estimator == "scratch"
    epochs, measured = range(1, config.epochs + 1), config.steps > 1 and config.window == 1 and not scratch
    metrics = {
        "accuracy": accuracy, "last_accuracy": accuracy - 1, "validation_accuracy": accuracy + 1,
        "selected_epoch": config.epochs, "iterations": 100, "seconds_per_iteration": 0.5, "seconds_per_epoch": 10.0,
        "images": {"train": 2500, "validation": 5000, "test": 10000},
    }  # fmt: skip
    if not scratch:
        metrics["meta_movement"] = {"what": 2.0 + seed, "where": 0.5}
        metrics["pair_weights"] = [[1.0, 0.5 + seed / 2, 1.25]] * 5
    return {
        "kind": "transfer",
        "config": runs.plain(config),
        "metrics": metrics,
        "log": {
            "iteration": list(range(10, 101, 10)),
            "seconds": list(range(10)),
            "total_loss": [1.0] * 10,
            "outer_loss": [None if scratch else 1.0] * 10,
            "gradient_change": [0.5 - 0.04 * i + 0.01 * seed if measured else None for i in range(10)],
        },
        "curve": {
            "epoch": list(epochs),
            "seconds": [config.window * 10.0 * epoch for epoch in epochs],
            "accuracy": [accuracy + 1 - config.epochs + epoch for epoch in epochs],
        },
        "data": {"name": dataset, "title": data.LABELLED[dataset].title, "hash": "0"},
        "source": None if scratch else {"name": config.source, "hash": "0"},
        "provenance": {"train_seconds": 80.0, "device": "a processor", "threads": 2, "torch": "2", "commit": "abc"},
    }


def committed(**changes):
    """The runs of Table 2 with three seeds: Scratch 30, 31, 32; Baseline 40, 41, 42; Multi-step 39.9, 41, 41.8."""
    accuracies = {"Scratch": (30, 31, 32), "Baseline": (40, 41, 42), "Multi-step": (39.9, 41, 41.8)}
    return [result(m, a, seed, **changes) for m, own in accuracies.items() for seed, a in enumerate(own)]


def of(*results):
    return frame(TRANSFER, results)


def cell(table, row, column):
    lines = [[part.strip() for part in line.strip("|").split("|")] for line in table.partition("\n\n")[0].splitlines()]
    (found,) = [line for line in lines if line[0] == row]
    return found[lines[0].index(column)]


def line(table, *parts):
    (found,) = [line for line in table.splitlines() if all(part in line for part in parts)]
    return [part.strip() for part in found.strip("|").split("|")]


def test_a_real_run_has_every_field_that_the_pages_show(tmp_path, monkeypatch, store):
    """The smoke runs that the notebooks make; and that the other tests' results have the same fields."""
    monkeypatch.setenv("MSMETA_DATA", str(tmp_path / "data"))
    said, methods = [], report.window_methods()
    found, why = report.train("smoke", "cifar-100", ["sgd"], methods, [0], None, "cpu", False, said.append)
    assert list(found["label"]) == ["Scratch", "Baseline", "Multi-step"] and len(said) == 3
    assert "not CIFAR-100" in why and "random-resnet32, whose weights are random" in why
    assert "20 classes; 280 images for training" in live.data_in_words("glyphs-rgb")
    for entry, own in zip(
        runs.read_results("transfer", live=True), (result(), result("Multi-step"), result("Scratch")), strict=True
    ):
        assert own["metrics"].keys() == entry["metrics"].keys()
        assert own["log"].keys() == entry["log"].keys() and own["curve"].keys() == entry["curve"].keys()
    baseline = found[1:2]
    assert "Glyphs (32x32), SGD: the change **" in transfer_figures.gradient_change_words(baseline)
    for table in (report.live_table, report.conditions, transfer_time.run_times_table):
        assert len(table(found).splitlines()) == 2 + 3
    with pytest.raises(ConfigError, match="needs two transfer steps"):
        transfer_figures.gradient_change_figure(found)
    again, _ = report.train("smoke", "stl-10", ["sgd"], [report.BASELINE], [0], None, "cpu", False, said.append)
    assert list(again["finished"]) == list(baseline["finished"])  # not trained again


def test_live_runs_say_why_they_use_glyphs(tmp_path, monkeypatch):
    monkeypatch.setenv("MSMETA_DATA", str(tmp_path))
    trained = []
    monkeypatch.setattr(transfer, "train", lambda config, *_, **__: trained.append(config) or result(preset="quick"))

    def train(preset, optimizer, method, seed, epochs):
        methods = report.methods([method])
        return report.train(preset, "cifar-100", [optimizer], methods, [seed], epochs, "cpu", False, lambda _: None)[1]

    why = train("quick", "adam", "1-step, 2·lr", 3, 1)
    assert "not CIFAR-100, because the weights of the source network tinyimagenet-resnet32 are not" in why
    (config,) = trained
    assert (config.dataset, config.source, config.optimizer) == ("glyphs-rgb", "random-resnet32", "adam")
    assert (config.steps, config.transfer_rate, config.seed, config.epochs) == (1, 2.0, 3, 1)
    why = train("cpu", "sgd", "Scratch", 0, None)
    assert why.startswith("These runs used CIFAR-100") and trained[-1].dataset == "cifar-100"
    with pytest.raises(ConfigError, match="unknown method 'Base': choose from Scratch; Baseline"):
        report.methods(["Base"])


def test_names_of_methods_are_those_of_their_configs_and_have_a_colour_each():
    for name, method in report.METHODS.items():
        assert transfer.label(transfer.preset_config("cpu", "cifar-100", optimizer="adam", **method)) == name
    own = [style.COLOURS[name] for name in style.TRANSFER_METHODS]
    assert set(report.METHODS) < set(style.TRANSFER_METHODS) and len(set(own)) == len(own)
    assert style.COLOURS["Baseline"] == style.COLOURS["MAML"]  # both are exact


def test_papers_tables_are_the_papers():
    assert cell(paper.table(2).markdown(), "Multi-step", "Action") == "61.93 ±3.32"
    for number, optimizer in report.OPTIMIZERS.items():
        for dataset, title in zip(report.DATASETS, paper.table(number).columns, strict=True):
            assert title == data.LABELLED[dataset].title
            config = transfer.preset_config("quick", "cifar-100", optimizer=optimizer, seed=5, **report.MULTI_STEP)
            own = paper.cell(number, vars(config) | {"dataset": dataset})
            assert str(own) == cell(paper.table(number).markdown(), "Multi-step", title)
    assert cell(transfer_time.paper_times_table(), "Multi-step", "Seconds an epoch") == "248.7 ±14.2"
    assert cell(report.text_numbers(), "T = 0, Adam", "Accuracy (%)") == "48.91 ±0.83"
    assert cell(report.text_numbers(), "First-order", "Accuracy (%)") == "41.46 ±2.34"


def test_table_has_mean_and_interval_of_the_seeds_and_prefers_the_full_protocol(store):
    store(*committed(), result("Scratch", 33.0, epochs=24), result("Multi-step", 70.0, preset="paper"))
    table = report.measured_table(2)
    assert cell(table, "Baseline", "CIFAR-100") == "41.00 ±2.48 (cpu, 3 seeds)"
    assert cell(table, "Multi-step", "CIFAR-100") == "70.00 (paper, 1 seed)"
    assert cell(table, "Scratch, 24 epochs", "CIFAR-100") == "33.00 (cpu, 1 seed)"
    assert cell(table, "Baseline", "Bird") == "not run"
    assert [row.split(" | ")[0] for row in table.splitlines()[2:-2]] == [
        "| Scratch", "| Scratch, 24 epochs", "| Baseline", "| Multi-step"
    ]  # fmt: skip


def test_other_settings_never_stand_in_the_table(store):
    store(result(width=0.5), result(lr=0.05), result(rollback=False), result(preset="quick"), result(optimizer="adam"))
    store(result(evaluate_on="validation"), result(dataset="glyphs-rgb", train_images=None))
    table = report.measured_table(2)
    assert table.count("not run") == 3 * 6


def test_results_from_before_a_field_was_added_still_count(store):
    entry = result()
    del entry["config"]["rollback"]
    store(entry)
    assert cell(report.measured_table(2), "Baseline", "CIFAR-100") == "40.00 (cpu, 1 seed)"


def test_what_was_not_run_comes_with_its_command(store):
    store(*committed()[:-1], result("Baseline", optimizer="sgd", preset="paper"))
    commands = report.commands("cpu", "sgd", report.TABLE_METHODS, ["cifar-100"])
    assert commands.splitlines()[1:-1] == [
        "msmeta data prepare cifar-100",
        "for seed in 2; do msmeta train transfer --dataset cifar-100 --estimator multistep --optimizer sgd --window 2 "
        "--preset cpu --seed $seed; done",
    ]
    commands = report.commands("paper", "adam", report.methods(["1-step, 2·lr"]), ["bird"])
    assert "prepare bird --from DIR" in commands
    assert "for seed in 0 1 2; do" in commands and "--optimizer adam --steps 1 --transfer-rate 2 --pre" in commands
    store(committed()[-1])
    assert report.commands("cpu", "sgd", report.TABLE_METHODS, ["cifar-100"]) == ""


def test_claims_are_tested_over_paired_seeds():
    """Multi-step less Baseline: -0.1, 0, -0.2, so the mean is 0.9 above the bound of -1, with deviation 0.1."""
    results = [*committed(), *(result("Scratch", a, s, epochs=24) for s, a in enumerate((40.9, 40.0, 42.0)))]
    results += [result("Multi-step", a, s, epochs=12) for s, a in enumerate((41.0, 42.1, 43.0))]
    table = report.claims(2, of(*results))
    own = line(table, "Multi-step less Baseline, CIFAR-100")
    assert own[:4] == ["competitive with the Baseline", "Multi-step less Baseline, CIFAR-100", "> -1", "+0.01"]
    p = stats.ttest_1samp([-0.1, 0.0, -0.2], -1).pvalue
    assert own[4] == f"-0.10 ±{4.3027 * 0.1 / 3**0.5:.2f}, n = 3, p = {p:.3f}: holds" and p < 0.01
    assert line(table, "Baseline less Scratch, CIFAR-100")[3:] == ["+3.27", "+10.00 ±0.00, n = 3, p < 0.001: holds"]
    longer = line(table, "Baseline less Scratch, 24 epochs")
    assert longer[0] == "not in the paper" and longer[3] == "-" and longer[4].endswith("undecided")
    equal = line(table, "Multi-step, 12 epochs less Baseline")
    assert equal[2:4] == ["> +0", "-"] and equal[4].startswith("+1.03 ±0.14, n = 3") and equal[4].endswith("holds")
    single = report.claims(2, of(result("Scratch", 50), result()))
    assert line(single, "Baseline less Scratch")[4] == "-10.00 (no interval)"
    assert line(single, "Multi-step less Baseline")[4] == "not run"
    assert report.claims(2, of()) == "No run yet."


def test_comparison_is_at_equal_epochs_and_in_equal_time():
    """A Baseline epoch takes 10 s here and one of Multi-step 20 s; the longer Scratch has 16 epochs of 10 s by then."""
    results = of(*committed(), result("Scratch", 45.0, epochs=24))
    table = transfer_figures.transfer_comparison(results)
    assert cell(table, "Multi-step", "less the Baseline's (points)").startswith("-0.10 ±0.25, p = ")
    assert cell(table, "Baseline", "less the Baseline's (points)") == "-"
    assert cell(table, "Multi-step", "in Multi-step's time (%)") == "41.90 ±2.37"
    assert cell(table, "Scratch, 24 epochs", "in Multi-step's time (%)") == f"{46 - 24 + 16:.2f}"
    by_epoch, by_time = transfer_figures.transfer_curves(results, "title").axes
    first = by_epoch.containers[0].lines[0]  # Scratch
    assert list(first.get_xdata()) == list(range(1, 9)) and list(first.get_ydata()) == [25 + i for i in range(8)]
    assert by_epoch.get_xlim()[1] == pytest.approx(8.4)
    assert list(by_time.containers[3].lines[0].get_xdata()) == [20 * i for i in range(1, 9)]  # Multi-step
    assert [c.lines[0].get_linestyle() for c in by_epoch.containers] == ["-", "--", "-", "-"]


def test_what_the_meta_networks_learn_is_a_mean_over_seeds():
    results = committed()
    table = transfer_figures.meta_movement_table(of(*results))
    assert cell(table, "Baseline", "‖θ - θ₀‖, what") == "3.00 ±2.48"
    assert cell(table, "Baseline", "smallest and largest pair") == "1.00 to 1.25"
    means = [(1 + 0.5 + seed / 2 + 1.25) / 3 for seed in range(3)]
    text = f"{means[1]:.2f} ±{4.3027 * statistics.stdev(means) / 3**0.5:.2f}"
    assert cell(table, "Baseline", "λ, mean over pairs") == text
    assert cell(table, "Baseline", "test accuracy (%)") == "41.00 ±2.48"
    axes = transfer_figures.pair_weights_figure(of(*results)).axes
    assert [axis.get_title() for axis in axes[:2]] == ["Baseline (3 seeds)", "Multi-step (3 seeds)"]
    assert [text.get_text() for text in axes[0].texts[:3]] == ["1.00", "1.00", "1.25"]
    transfer_figures.pair_weights_figure(of(result("0-step")))
    for entry, pairs in zip(results[3:], (0, 1, 2), strict=False):  # the Baseline's, one pair off with each seed more
        entry["metrics"]["pair_weights"] = [[0.0] * pairs + [1.0] * (3 - pairs), [1.0] * 3]
    table = transfer_figures.meta_movement_table(of(*results[3:6]))
    assert cell(table, "Baseline", "pairs that are off") == "1.0 ±2.5 of 6"


def test_conditions_name_all_that_moves_accuracy():
    table = report.conditions(of(result(seed=1), result(accuracy=42.0), result("Scratch")))
    scratch, baseline = table.splitlines()[2:]
    own = result()["config"]
    values = (
        "0, 1", "2,500 / 5,000 / 10,000", "tinyimagenet-resnet32", "vgg9, channels x", "2 / 1",
        f"{own['lr']:g} / 0.9 / 0.0001", f"{own['meta_lr']:g} |", "42.00 ±12.71", "41.00 ±12.71", "40.00 ±12.71",
        "a processor, 2 threads |", "torch 2, abc |",
    )  # fmt: skip
    for value in values:
        assert f"| {value}" in baseline, value
    assert "| - | vgg9" in scratch
    assert report.conditions(of()) == "No run yet."


def test_presets_stand_side_by_side_with_the_papers_protocol():
    table = report.presets("adam", ("paper", "cpu"))
    cpu = transfer.preset_config("cpu", "cifar-100", "multistep", "adam")
    assert cell(table, "iterations", "`paper`") == f"{200 * (45000 // 128):,}"
    assert cell(table, "iterations", "`cpu`") == f"{cpu.epochs * (cpu.train_images // cpu.batch):,}"
    assert cell(table, "first rate of φ, annealed by Eq. 55", "`paper`") == "0.001, weight decay 0.0001"


def test_rates_tried_stand_by_method_and_the_presets_own_are_bold(store):
    tried = {"lr": 0.5, "meta_lr": 0.25, "evaluate_on": "validation"}
    entries = [
        result("Scratch", 50), result("Scratch", 40, lr=0.5), result("Baseline", 61), result("Multi-step", 63, **tried),
        result("Multi-step", 62, lr=0.5), result("Multi-step", 99, optimizer="adam"),
    ]  # fmt: skip
    entries[3]["metrics"]["pair_weights"] = [[0.005, 0.01, 1.0]]
    store(*(entry | {"kind": "transfer-tuning"} for entry in entries))
    own, scratch = result()["config"], result("Scratch")["config"]["lr"]
    table = report.tuning_table("sgd")
    assert cell(table, "Scratch", f"inner rate {scratch:g}") == "**50.00**"
    assert cell(table, "Scratch", "inner rate 0.5") == "40.00"
    assert line(table, "Scratch")[1] == "-"
    assert cell(table, "Baseline", f"inner rate {own['lr']:g}") == "**61.00** (0 off)"
    assert cell(table, "Baseline", "inner rate 0.5") == "-"
    assert line(table, "Multi-step", "0.25")[-1] == "63.00 (1 off)" and "99" not in table
    assert line(table, "Multi-step", f" {own['meta_lr']:g} ")[-1] == "62.00 (0 off)"


def test_live_glyphs_stand_beside_no_number_of_the_paper():
    table = report.live_table(of(result(preset="quick"), result(preset="quick", dataset="glyphs-rgb")))
    assert cell(table, "CIFAR-100, SGD", "Paper (%)") == "70.96 ±0.61"
    assert cell(table, "Glyphs (32x32), SGD", "Paper (%)") == "-"
    assert cell(report.live_table(of(result(optimizer="adam"))), "CIFAR-100, Adam", "Paper (%)") == "69.35 ±0.09"


def test_change_of_the_gradient_is_compared_in_parts_of_the_training(store):
    """The change falls from 0.5 to 0.14 in ten points of the log, a hundredth more with each seed."""
    store(*committed(), result("First-order"), result(epochs=3))
    chosen = transfer_figures.change_runs(report.committed())
    assert list(chosen["label"]) == ["Baseline"] * 3
    words = transfer_figures.gradient_change_words(chosen)
    assert "CIFAR-100, SGD: the change **falls**, from 0.510 ±0.025" in words
    assert "to 0.150 ±0.025 in the last" in words
    falling = committed()[3:6]
    rising = [e | {"log": e["log"] | {"gradient_change": [0.1 * i for i in range(1, 11)]}} for e in falling]
    assert "**rises**, from 0.100 ±0.000" in transfer_figures.gradient_change_words(of(*rising))
    assert words.endswith("It is largest, 0.510, in tenth 1 of 10.")
    both = of(falling[0], rising[1])
    assert "**falls with some seeds, rises with others**" in transfer_figures.gradient_change_words(both)
    table = transfer_figures.gradient_change_table(chosen)
    assert cell(table, "CIFAR-100, SGD", "tenth 5 of 10") == "0.350 ±0.025"
    epochs = chosen["epochs"].iloc[0]
    assert cell(table, "CIFAR-100, SGD: η / η₀ (Eq. 55)", "tenth 1 of 10") == "1.000"
    preset = transfer.preset_config("cpu", "cifar-100", "multistep")
    last = preset.dynamics(int(0.95 * epochs)).lr / preset.lr
    assert cell(table, "CIFAR-100, SGD: η / η₀ (Eq. 55)", "tenth 10 of 10") == f"{last:.3f}"
    figure = transfer_figures.gradient_change_figure(of(*falling, result(optimizer="adam")))
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


def times_result():
    """What benchmarks/transfer_step.py stores, with numbers of this test's: 1 + T seconds, less with a window."""
    methods = {"Scratch": (0, 1, 0.5), "0-step": (0, 1, 1.0), "1-step": (1, 1, 2.0), "Baseline": (2, 1, 3.0),
               "Multi-step": (2, 2, 2.4), "3-step": (3, 1, 4.5), "Replayed reverse": (2, 1, 4.0)}  # fmt: skip
    rows = [
        {
            "setting": setting, "optimizer": optimizer, "method": method, "steps": steps, "window": window,
            "precision": "float32", "batch": batch, "seconds": seconds,
            "seconds_all": [seconds - 0.1, seconds, seconds + 0.1], "bytes": 5e8, "floor_seconds": seconds / 2,
        }
        for setting, batch in (("32x32", 128), ("224x224", 8))
        for optimizer in ("sgd", "adam")
        for method, (steps, window, seconds) in methods.items()
    ]  # fmt: skip
    baselines = [row for row in rows if row["method"] == "Baseline"]
    rows += [row | {"precision": "bf16", "seconds": 1.5, "seconds_all": [1.5]} for row in baselines]
    origin = {"device": "a processor, 2 cores", "threads": 2, "torch": "2", "commit": "abcdefghi"}
    return {"config": {}, "metrics": rows, "provenance": origin}


def test_times_come_from_the_benchmark_a_gpus_where_there_is_one(tmp_path, monkeypatch):
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path))
    assert transfer_time.transfer_times() is None
    for table in (
        transfer_time.saved_table(None),
        transfer_time.epoch_table(None),
        transfer_time.steps_cost(None),
    ):
        assert table.startswith("Not run: `python benchmarks/transfer_step.py`")
    assert transfer_time.transfer_times_table(None, "224x224", "sgd").startswith("Not run")
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    for name in ("transfer_step", "transfer_step-cuda"):
        (folder / f"{name}.json").write_text(json.dumps({**times_result(), "config": {"name": name}}))
    assert transfer_time.transfer_times()["config"]["name"] == "transfer_step-cuda"
    (folder / "transfer_step-cuda.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        transfer_time.transfer_times()


def test_an_epoch_is_extrapolated_from_the_papers_minibatches():
    result = times_result()
    table = transfer_time.transfer_times_table(result, "224x224", "sgd")
    epoch = 3.0 * (4994 // 64) * 64 / 8
    assert cell(table, "Baseline", "seconds an epoch of Bird") == f"{epoch:.1f}"
    assert cell(table, "Baseline", "hours for 200 epochs") == f"{epoch * 200 / 3600:.1f}"
    assert cell(table, "Multi-step", "ratio to the Baseline") == "0.80"
    assert cell(table, "Multi-step", "T / N") == "2 / 2" and cell(table, "Scratch", "T / N") == "-"
    assert cell(table, "Multi-step", "ms an iteration") == "2400 ±100"
    assert cell(table, "Baseline, bf16", "ratio to the Baseline") == "0.50"
    assert cell(table, "Multi-step", "times the floor") == "2.0" and cell(table, "Multi-step", "memory (MB)") == "500"
    assert epoch_seconds(times(result, "32x32", "adam")["Baseline"], "cifar-100") == pytest.approx(3.0 * (45000 // 128))
    assert transfer_time.transfer_times_table({**result, "metrics": []}, "224x224", "sgd").startswith("Not run")


def test_what_a_window_saves_stands_beside_the_papers_share():
    result = times_result()
    assert saved(result, "224x224", "sgd") == pytest.approx(0.2)
    table = transfer_time.saved_table(result)
    shares = [100 * (1 - (2.4 + d) / (3 + d)) for d in (-0.1, 0.1)]
    text = f"20 % ({shares[1]:.0f} to {shares[0]:.0f})"
    assert line(table, "224x224", "SGD")[2:] == [text, "40 % (39 to 41)", "35 %"]
    assert line(table, "32x32", "Adam")[4] == "-"
    assert line(transfer_time.epoch_table(result), "Bird")[1:4] == ["224x224", "4,994", "78 of 64"]
    assert line(transfer_time.epoch_table(result), "Bird")[6:] == ["20 %", "35 % (Table 1, SGD)"]
    small = {**result, "metrics": [row for row in result["metrics"] if row["setting"] == "32x32"]}
    assert line(transfer_time.epoch_table(small), "Dog")[4:7] == ["not run", "not run", "not run"]
    panels = transfer_time.epoch_bars(result).axes
    assert [label.get_text() for label in panels[1].get_xticklabels()] == ["Bird", "Indoor", "Action", "Dog"]
    assert panels[0].patches[0].get_height() == pytest.approx(3.0 * 351)
    assert panels[0].texts[0].get_text() == "-20 %"
    assert len(transfer_time.epoch_bars(small).axes) == 1


def test_time_by_steps_says_what_each_step_adds():
    result = times_result()
    assert cell(transfer_time.steps_cost(result), "224x224", "T = 0 (ms)") == "1000"
    assert line(transfer_time.steps_cost(result), "32x32")[2:] == ["+1000", "+1000", "+1500"]
    panel = transfer_time.time_by_steps(result).axes[0]
    assert [tuple(point) for point in panel.lines[0].get_xydata()] == [(0, 1000), (1, 2000), (2, 3000), (3, 4500)]
    assert panel.get_title() == "224x224, minibatches of 8"
    table = transfer_time.run_times_table(of(*committed()))
    assert line(table, "Multi-step")[4:7] == ["500", "10.0", "1.00"]
