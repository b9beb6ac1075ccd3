"""Finished runs found by their names, with their θ, and tested again."""

import json
import shutil
from types import SimpleNamespace

import pytest
from PIL import Image

from msmeta import UserError, data, runs
from msmeta.experiments import evaluations, few_shot, finished, transfer
from msmeta.experiments.config import field_values


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(the root of a store, its runs by what was changed)."""
    root = tmp_path_factory.mktemp("results")
    several = {"none": {}, "seed": {"seed": 1}, "tuning": {"evaluate_on": "validation"}}
    configs = {
        name: few_shot.preset_config("smoke", "glyphs", 5, 1, "multistep", 4, iterations=2, **own)
        for name, own in several.items()
    }
    configs["transfer"] = transfer.preset_config("smoke", "glyphs-rgb", "scratch", batch=8, train_images=32)
    for name, config in configs.items():
        (transfer if name == "transfer" else few_shot).train(config, "cpu", results_root=root)
    return root, {name: (transfer if name == "transfer" else few_shot).run(c, root) for name, c in configs.items()}


@pytest.fixture
def root(trained, tmp_path, monkeypatch):
    """A copy of the store."""
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path))
    return tmp_path


def test_a_run_is_found_by_its_name_its_beginning_its_file_and_a_pattern(root, trained):
    place = trained[1]["none"]
    (whole,) = finished.find([place.name])
    assert whole.config == few_shot.FewShotConfig(**place.config) and whole.experiment == "few-shot"
    assert whole.path == root / place.result_path.relative_to(trained[0])
    for texts in ([place.name[:-3]], [str(whole.path)], [str(whole.theta_path)], [place.name, place.name]):
        assert finished.find(texts) == [whole]
    few = {trained[1][name].name for name in ("none", "seed")}
    assert {each.name for each in finished.find(["glyphs-5w*"])} == few
    assert [each.experiment for each in finished.find(["glyphs-rgb"])] == ["transfer"]
    assert [each.name for each in finished.all_of(live=True)].count(trained[1]["tuning"].name) == 0
    assert finished.all_of(live=False) == [] and len(finished.all_of(live=True)) == 3


def test_a_name_that_fits_none_or_several_is_refused(root):
    with pytest.raises(UserError, match="^there is no result omniglot-9: `msmeta results` lists them"):
        finished.find(["omniglot-9"])
    with pytest.raises(UserError, match=r"^glyphs-5w fits 2 results \(glyphs-5w1s-.*\): give more of the name"):
        finished.find(["glyphs-5w"])
    other = root / "other.json"
    other.write_text(json.dumps({"kind": "benchmark", "config": {}, "metrics": {}, "provenance": {}}))
    with pytest.raises(UserError, match="other.json is no result of a run of few-shot or transfer"):
        finished.find([str(other)])
    (first,) = finished.find(["glyphs-rgb"])
    first.path.write_text(first.path.read_text().replace('"scratch"', '"forgotten"'))
    with pytest.raises(UserError, match="has a config that this version does not know"):
        finished.find(["glyphs-rgb"])


def test_parameters_are_the_run_s_own_or_one_line(root, trained):
    one, other = (finished.find([trained[1][name].name])[0] for name in ("none", "seed"))
    assert runs.hash_of_tensors(one.parameters()) == one.theta_hash
    shutil.copy(other.theta_path, one.theta_path)  # a wrong file
    with pytest.raises(UserError, match=f"^{one.theta_path} is not what result {one.name} was measured with"):
        one.parameters()
    one.theta_path.write_bytes(b"damaged")
    with pytest.raises(UserError, match="is not what result"):
        one.parameters()
    one.theta_path.unlink()
    with pytest.raises(UserError, match=f"^{one.theta_path} is not here: repeat the run with --force"):
        evaluations.evaluate(one, {})


@pytest.mark.parametrize("name", ["none", "tuning", "transfer"])
def test_a_run_tested_again_gives_what_it_stored(root, trained, name):
    (run,) = finished.find([trained[1][name].name])
    found = evaluations.evaluate(run, {}, "cpu")
    assert found["metrics"].items() <= run.result["metrics"].items() and found["data"] == run.result["data"]


def test_windows_of_training_give_the_stored_windowed_accuracy(root, trained):
    (run,) = finished.find([trained[1]["none"].name])
    found = evaluations.evaluate(run, {"window": 4}, "cpu")
    assert found["metrics"]["accuracy"] == run.result["metrics"]["windowed_accuracy"]


def test_other_tasks_steps_and_statistics(root, trained):
    (run,) = finished.find([trained[1]["none"].name])
    given = {"way": "7", "shot": "2", "query": "3", "test_steps": "3", "test_norm": "support", "test_episodes": "4"}
    given = field_values(few_shot.FewShotConfig, given)
    found = evaluations.evaluate(run, given, "cpu", save=True)
    assert found["metrics"]["answers_per_episode"] == 21 and len(found["metrics"]["right_answers"]) == 4
    place = evaluations.place(run, given)
    assert place.result_path.parent == root / "live" / "evaluations"
    assert json.loads(place.result_path.read_text()) == {"kind": "evaluations", "config": place.config, **found}
    stored = evaluations.evaluate(run, given, "cpu", save=True)
    assert stored["provenance"] == found["provenance"]  # not repeated
    assert evaluations.evaluate(run, given, "cpu", save=True, force=True)["metrics"] == found["metrics"]
    others = [{**given, "way": 5}, {**given, "window": 3}, {**given, "window": (1, 2)}, {}]
    assert len({evaluations.place(run, each).name for each in (given, *others)}) == 5
    assert evaluations.evaluate(run, others[2], "cpu", save=True) == evaluations.evaluate(
        run, others[2], "cpu", save=True
    )


def test_a_stored_test_says_how_many_steps_it_took():
    """Where a run has other steps at test time, a window without a number of them takes those of training."""
    config = few_shot.preset_config("smoke", "glyphs", 5, 1, "reptile", steps=5, test_steps=8)
    run = SimpleNamespace(experiment="few-shot", name="run", config=config, theta_hash="0")
    places = [evaluations.place(run, {"window": 1} | steps) for steps in ({}, {"test_steps": 8})]
    assert [len(place.config["test_windows"]) for place in places] == [5, 8] and places[0].name != places[1].name


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("none", {"way": 300}, "300-way is impossible: split test of glyphs has 200 classes"),
        ("none", {"shot": 15}, "shot 15 and query 15 are impossible together"),
        ("none", {"window": 3}, "window=3 does not divide steps=8"),
        ("none", {"dataset": "omniglot"}, "Omniglot is not prepared"),
        ("transfer", {"way": 5, "test_norm": "support"}, "--way, --norm: a transfer run is tested on all its test"),
    ],
)
def test_what_cannot_be_tested_is_one_line(root, trained, name, given, message, monkeypatch):
    monkeypatch.setenv("MSMETA_DATA", str(root / "nothing"))
    (run,) = finished.find([trained[1][name].name])
    with pytest.raises(UserError, match=message):
        evaluations.evaluate(run, given, "cpu")


def test_images_of_another_kind_are_refused_and_larger_ones_shrunk():
    config = few_shot.preset_config("smoke", "glyphs", 5, 1, "multistep", image_size=14)
    assert few_shot.again.fitting(config, data.load("glyphs")).images["test"].shape[-1] == 14
    with pytest.raises(UserError, match="the network takes 1x14x14 images: glyphs-rgb has 3x32x32"):
        few_shot.again.fitting(config, data.load("glyphs-rgb"))


def test_a_pooled_network_is_tested_on_larger_images(tmp_path, monkeypatch):
    """Whose last layer follows from the side of its own."""
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("MSMETA_DATA", str(tmp_path / "data"))
    images = tmp_path / "colours"
    for label in range(10):
        (images / f"class {label}").mkdir(parents=True)
        for number in range(4):
            colour = Image.new("RGB", (64, 64), (20 * label, 10 * number, 200))
            colour.save(images / f"class {label}" / f"{number}.png")
    own, larger = (data.known_as(f"folder:{images}@{side}", data.FEW_SHOT) for side in (32, 64))
    few_shot.train(few_shot.preset_config("smoke", own, 2, 1, "multistep", query=2, iterations=1), "cpu")
    (run,) = finished.find(["folder*"])
    found = evaluations.evaluate(run, {"dataset": larger}, "cpu")["metrics"]
    assert len(found["right_answers"]) == run.config.test_episodes
