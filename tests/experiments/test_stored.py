"""The store of results as a whole: what is verified, and what is named and left out."""

import json
import shutil
from pathlib import Path

import pytest

from msmeta import machine, runs
from msmeta.experiments import evaluations, few_shot, finished, stored, transfer, twins

COMMITTED = machine.repository() / "results"
FEW_SHOT, TRANSFER = {"way": 5, "shot": 1, "estimator": "multistep", "window": 4}, {"estimator": "multistep"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A store with a run of each experiment, a run for tuning and a test of a run with other tasks."""
    root = tmp_path_factory.mktemp("results")
    sizes = {"iterations": 2, "filters": 4, "test_episodes": 3, "curve_episodes": 2, "curve_every": 1}
    for own in ({"select_every": 1}, {"evaluate_on": "validation"}):
        config = few_shot.preset_config("smoke", "glyphs", **FEW_SHOT, **sizes, **own)
        few_shot.train(config, "cpu", results_root=root)
    transfer.train(transfer.preset_config("smoke", "glyphs-rgb", **TRANSFER), "cpu", results_root=root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MSMETA_RESULTS", str(root))
        (one,) = finished.find(["glyphs-5w*"])
        evaluations.evaluate(one, {"way": 3}, "cpu", save=True)
    return root


@pytest.fixture
def store(trained, tmp_path, monkeypatch):
    """A copy of it, as if these were committed, at a clean commit."""
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path))
    shutil.copytree(trained / "live", tmp_path, dirs_exist_ok=True)
    for path in stored.paths(tmp_path):
        result = json.loads(path.read_text())
        result["provenance"]["commit"] = "0" * 40
        path.write_text(json.dumps(result))
    return tmp_path


def the(store, kind):
    (path,) = (store / kind).glob("*.json")
    return path


def problems(store):
    return [(path.parent.name, what) for path, what in stored.problems(store)]


def test_every_committed_result_is_verified():
    assert [*stored.problems(COMMITTED)] == [] and len(stored.paths(COMMITTED)) > 100


def test_a_sound_store_has_no_problems(store, msmeta, monkeypatch):
    assert problems(store) == [] and len(stored.paths(store)) == 4
    monkeypatch.setenv("MSMETA_RESULTS", str(store))
    status, out, err = msmeta("results", "verify", "--twins")
    assert (status, err) == (0, "") and "3 twins of 3 runs trained" in out and "4 of 4 results verified" in out


def changed(**parts):
    """Parts of a result replaced, each by its path of keys."""

    def change(result):
        for name, value in parts.items():
            *path, last = name.split("__")
            inner = result
            for key in path:
                inner = inner[key]
            inner[last] = value
        return result

    return change


LIES = [
    ("few-shot", changed(config__lr=0.3), "its config and data are those of glyphs-5w1s-"),
    ("few-shot", changed(data__hash="0" * 64), "its config and data are those of"),
    ("few-shot", changed(data__title="Omniglot"), "its data are those of Omniglot"),
    ("few-shot", changed(metrics__accuracy=99.0), "the test has an accuracy of 99.0 %"),
    ("few-shot", changed(metrics__right_answers=[76, 1, 1]), "the test has 76 right answers of 75"),
    ("few-shot", changed(metrics__right_answers=[75]), "the test has 1 episodes, where the config asks for 3"),
    ("few-shot", changed(metrics__answers_per_episode=74), "74 answers an episode"),
    ("few-shot", changed(metrics__iterations=3), "3 iterations, where the config asks for 2"),
    ("few-shot", changed(metrics__selected_iteration=7), "the chosen iteration is not the one"),
    ("few-shot", changed(log__iteration=[1, 9]), "points after the last of 2 iterations"),
    ("few-shot", changed(curve__accuracy=[100.0, 100.0]), "a point of the curve has an accuracy"),
    ("few-shot", changed(log__iteration=[], log__seconds=[], log__loss=[], log__accuracy=[]), "the log ends at 0 of 2"),
    ("few-shot", changed(provenance__train_seconds=0.0, log__seconds=[5.0, 9.0]), "which the log has passed"),
    ("few-shot", changed(metrics__meta_iterations_per_second=1e9), "e+09 iterations a second are not 2 in"),
    ("few-shot", changed(provenance__commit="not a commit"), "provenance.commit"),
    ("few-shot", changed(provenance__finished="9999-99-99T99:99:99Z"), "provenance.finished"),
    ("few-shot", changed(provenance__threads=10**9), "provenance.threads"),
    ("few-shot", changed(provenance__commit="0" * 40 + "-dirty"), "changes that no commit holds"),
    ("few-shot", changed(provenance__commit=None), "it names no commit that it was measured at"),
    ("few-shot", changed(parameters__hash="0" * 64), "is not what result"),
    ("few-shot", changed(config__dataset="folder:/"), "a folder is known by its name and hash"),
    ("few-shot", changed(config__no_such_field=1), "a config that this version does not know: there is no field"),
    ("few-shot", changed(kind="few-shot-tuning"), "it says that it is of few-shot-tuning, and is of few-shot"),
    ("few-shot", changed(kind="evaluations"), "is damaged"),
    ("few-shot", changed(kind="benchmark"), "is no result of a run"),
    ("few-shot-tuning", changed(config__evaluate_on="test"), "its config and data are those of"),
    ("transfer", changed(metrics__accuracy=33.3333), "is no number of"),
    ("transfer", changed(metrics__iterations=1), "1 iterations, where 1 epochs have"),
    ("transfer", changed(metrics__selected_epoch=0), "the chosen epoch is not the one"),
    ("transfer", changed(curve__epoch=[2]), "not of the 1 epochs"),
    ("transfer", changed(source=None), "a source network belongs to every method but scratch"),
    ("evaluations", changed(metrics__accuracy=0.0), "the test has an accuracy of 0.0 %"),
    ("evaluations", changed(config__run="another"), "its config, data and θ are those of another-"),
    ("evaluations", changed(source__name="another"), "its config, data and θ are those of"),
    ("evaluations", changed(kind="benchmark"), "is no test of a finished run"),
]


@pytest.mark.parametrize(("kind", "lie", "said"), LIES, ids=range(len(LIES)))
def test_a_result_that_does_not_hold_together_is_named(store, kind, lie, said):
    path = the(store, kind)
    path.write_text(json.dumps(lie(json.loads(path.read_text()))))
    ((folder, what),) = problems(store)
    assert folder == kind and said in what and (path.stem in what or "commit" in said), what
    assert len(what.splitlines()) == 1


def test_a_result_of_another_name_folder_or_data_is_named(store):
    path = the(store, "few-shot")
    path.rename(path.with_stem("other"))
    assert "are those of" in dict(problems(store))["few-shot"]
    path.with_stem("other").rename(store / "few-shot-tuning" / path.name)
    assert "lies among the results of few-shot-tuning, and is of few-shot" in dict(problems(store))["few-shot-tuning"]


def test_a_test_of_parameters_that_are_no_more_the_run_s_is_named(store):
    """As after a repeat of the run elsewhere."""
    path = the(store, "few-shot")
    path.write_text(json.dumps(changed(parameters__hash="0" * 64)(json.loads(path.read_text()))))
    path.with_suffix(".pt").unlink()
    ((folder, what),) = problems(store)
    said = f"it is a test of other parameters than those of result {path.stem}: delete it"
    assert (folder, what) == ("evaluations", said)


def test_two_hashes_of_one_data_set_are_two_data_sets(store):
    path = the(store, "few-shot-tuning")
    result = json.loads(path.read_text())
    result["data"]["hash"] = "1" * 64
    del result["parameters"]
    place = few_shot.run(few_shot.FewShotConfig(**result["config"]), store, of=result)
    path.with_suffix(".pt").unlink()
    path.unlink()
    place.result_path.parent.mkdir(parents=True, exist_ok=True)
    (store / "few-shot-tuning" / f"{place.name}.json").write_text(json.dumps(result))
    ((kind, what),) = problems(store)
    assert kind == "few-shot-tuning" and what.startswith("its glyphs has the hash 111111111111, that of other results")


def test_verify_names_each_and_the_list_leaves_them_out(store, msmeta, monkeypatch):
    monkeypatch.setenv("MSMETA_RESULTS", str(store))
    path = the(store, "few-shot")
    path.write_text(path.read_text().replace("0" * 40, r"\u001b[2J"))
    status, out, err = msmeta("results", "verify")
    *named, last = err.splitlines()
    assert status == 2 and "3 of 4 results verified" in out and last == "msmeta: 1 results do not verify, as said above"
    assert len(named) == 1 and path.name in named[0] and "provenance.commit" in named[0] and "\x1b" not in err
    monkeypatch.setenv("MSMETA_RESULTS", str(store / "none"))
    status, _, err = msmeta("results", "verify")
    assert status == 2 and err == f"msmeta: there is no results folder {store / 'none'}\n"
    monkeypatch.setenv("MSMETA_RESULTS", str(store))
    status, out, err = msmeta("results")
    assert status == 2 and path.name in err and the(store, "transfer").stem in out and path.stem not in out


def test_a_twin_that_fails_is_named(store, msmeta, monkeypatch):
    monkeypatch.setenv("MSMETA_RESULTS", str(store))

    def fail(config, *_, **__):
        raise runs.UserError("no more")

    monkeypatch.setattr(transfer, "train", fail)
    status, _, err = msmeta("results", "verify", "--twins")
    assert status == 2 and "the smoke twin of Baseline does not run: no more" in err.splitlines()[0]
    assert the(store, "transfer").name in err


def test_configs_that_differ_in_sizes_rates_and_seeds_have_one_twin():
    config = few_shot.preset_config("cpu", "omniglot", **FEW_SHOT)
    same = few_shot.preset_config("paper", "omniglot", **FEW_SHOT, seed=3, lr=0.2, weight_decay=config.weight_decay)
    other = few_shot.preset_config("cpu", "omniglot", **FEW_SHOT | {"window": 2})
    assert list(twins.of({Path("a"): config, Path("b"): same, Path("c"): other}).values()) == [
        [Path("a"), Path("b")],
        [Path("c")],
    ]
