"""The table of batch norm's statistics at test time, from made results."""

from dataclasses import replace

import pytest
from scipy import stats
from stored_runs import cell

from msmeta import runs
from msmeta.experiments import evaluations, few_shot, finished
from msmeta.report import batch_norm

RIGHT = {"transductive": [70, 72, 74], "support": [69, 70, 74], "running": [60, 61, 65]}


def config_of(seed=0, dataset="omniglot", **changes):
    return few_shot.preset_config("cpu", dataset, 5, 1, "multistep", 4, seed=seed, **changes)


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """Stores a run, and tests of it with other statistics as `msmeta evaluate --save` would."""
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path))
    monkeypatch.setattr(finished, "disagreements", lambda found: iter(()))  # its numbers are made up
    monkeypatch.setattr(evaluations, "disagreements", lambda *found: iter(()))
    where = {"device": "a processor", "threads": 1, "torch": "2", "commit": "abc"}

    def put(config, norms=(), theta="0", shift=0, **changes):
        place = runs.Run("few-shot", f"run-{config.dataset}-{config.seed}", "cpu", runs.plain(config), tmp_path)
        usual = {
            "metrics": metrics(RIGHT["transductive"], shift), "parameters": {"hash": "0"},
            "log": {}, "curve": {}, "data": {"name": config.dataset, "title": config.dataset.title(), "hash": "0"},
            "provenance": {"train_seconds": 1.0, **where},
        }  # fmt: skip
        place.save_result(usual)
        for norm in norms:
            tested = replace(config, test_norm=norm, **changes)
            whole = {"run": place.name, **runs.plain(tested), "test_windows": [1] * (config.test_steps or config.steps)}
            own = runs.Run("evaluations", place.name, "cpu", whole, tmp_path)
            found = {name: value for name, value in metrics(RIGHT[norm], shift).items() if name != "iterations"}
            source = {"name": place.name, "hash": theta}
            own.save_result({"metrics": found, "data": usual["data"], "source": source, "provenance": where})

    return put


def metrics(right, shift):
    right = [count - shift for count in right]
    accuracy = sum(right) / 2.25
    return {"accuracy": accuracy, "right_answers": right, "answers_per_episode": 75, "iterations": 1}


def test_one_seed_has_the_interval_over_its_episodes(stored):
    stored(config_of(), few_shot.NORMS[1:])
    table = batch_norm.table()
    half = stats.t.ppf(0.975, 2) * stats.sem([-1, -2, 0]) / 0.75
    assert cell(table, "Omniglot, 5-way 1-shot", "support, less that (points)") == f"-1.33 ±{half:.2f}"
    assert cell(table, "Omniglot, 5-way 1-shot", "running, less that (points)").startswith("-13.33 ±")
    assert "```" not in table  # nothing is missing
    assert batch_norm.summary() == (
        "Of what was run, the support statistics cost 1.33 to 1.33 points (1 rows) and the running statistics cost "
        "13.33 to 13.33 points (1 rows)."
    )


def test_several_seeds_are_paired(stored):
    stored(config_of(), ["support"])
    stored(config_of(1), ["support"], shift=1)
    stored(config_of(2))
    found = cell(batch_norm.table(), "Omniglot, 5-way 1-shot", "support, less that (points)")
    assert found.startswith("-1.33 ±0.00") and cell(batch_norm.table(), "Omniglot, 5-way 1-shot", "seeds") == "0, 1, 2"


def test_what_was_not_run_says_so_with_its_command(stored, tmp_path):
    stored(config_of(), ["support"])
    stored(config_of(dataset="miniimagenet"))
    stored(config_of(dataset="cifar-fs"))
    table = batch_norm.table()
    assert cell(table, "Omniglot, 5-way 1-shot", "running, less that (points)") == "not run"
    assert cell(table, "Miniimagenet, 5-way 1-shot", "support, less that (points)") == "not run"
    assert "```" not in table and "Of 2 runs θ was not kept: they would have to be trained again." in table
    for path in (tmp_path / "few-shot").glob("*.json"):
        path.with_suffix(".pt").touch()
    command = "msmeta evaluate 'miniimagenet-*-cpu-s0-*' --norm support,running --save\nmsmeta evaluate 'omniglot-*"
    assert command in batch_norm.table() and "was not kept" not in batch_norm.table()
    assert "Cifar" not in table


def test_tests_of_another_theta_or_other_tasks_do_not_count(stored):
    stored(config_of(), ["support"], theta="1")
    assert cell(batch_norm.table(), "Omniglot, 5-way 1-shot", "support, less that (points)") == "not run"
    stored(config_of(), ["support"], query=10)
    assert batch_norm.summary() == "Not run yet."


def test_without_a_run_there_is_a_sentence(stored):
    assert batch_norm.table().startswith("No run yet.") and batch_norm.commands() == ""
