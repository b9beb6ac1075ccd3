"""Few-shot training end to end on glyphs: what is learnt, what is stored, and that a run can be cut short."""

import dataclasses
import json
import statistics

import pytest
import torch
from problems import F64, relative_error

from msmeta import ConfigError, DivergedError, checkout, data, runs
from msmeta.data import EpisodeSampler
from msmeta.estimators import MultiStep
from msmeta.experiments import few_shot, finished
from msmeta.models import Conv4
from msmeta.workers import Team


def smoke(**changes):
    values = {"estimator": "multistep", "window": 4, "way": 5, "shot": 1} | changes
    return few_shot.preset_config("smoke", "glyphs", **values)


@pytest.fixture
def train(tmp_path):
    return lambda config, **options: few_shot.train(config, "cpu", results_root=tmp_path, **options)


def test_learns_characters_it_has_never_seen(train):
    """5-way 1-shot, where chance is 20 %: a small network is well above it after 60 iterations."""
    config = smoke(filters=8, tasks=4, iterations=60, test_episodes=50, curve_every=20, log_every=10)
    result = train(config)
    metrics, log = result["metrics"], result["log"]
    assert metrics["accuracy"] > 50
    assert log["loss"][-1] < log["loss"][0] and log["accuracy"][-1] > log["accuracy"][0]
    assert log["iteration"] == [10, 20, 30, 40, 50, 60] and result["curve"]["iteration"] == [20, 30, 45]


def test_result_holds_what_a_reader_needs(train, tmp_path):
    config = smoke()
    result = train(config)
    assert json.loads(few_shot.run(config, tmp_path).result_path.read_text()) == result
    assert result["config"] == runs.plain(config)
    assert (few_shot.label(config), few_shot.setting(config)) == ("Multi-step (4)", "5-way 1-shot")
    assert result["data"]["hash"] == data.load("glyphs").hash
    right = result["metrics"]["right_answers"]
    assert len(right) == 10 and all(0 <= count <= 75 for count in right)
    percent = [100 * count / 75 for count in right]
    assert result["metrics"]["accuracy"] == pytest.approx(statistics.mean(percent), abs=1e-4)
    origin = result["provenance"]
    assert (origin["torch"], origin["commit"]) == (torch.__version__, checkout.commit())
    assert origin["device"] and origin["finished"]
    assert 0 < origin["train_seconds"] < origin["wall_seconds"] and origin["peak_memory_bytes"] > 10**7
    assert not list((tmp_path / "checkpoints").glob("*"))
    theta, images = finished.read(few_shot.run(config, tmp_path).result_path).parameters(), data.load("glyphs")
    model = few_shot.network(config)
    assert few_shot.evaluate(Team(few_shot.Work(config, model, images, 2)), theta, 10) == right


def test_the_spread_over_episodes_is_stored_where_there_are_several(train):
    """Windows of one step each give the answers of a gradient at each step, which are stored themselves."""
    several, one = (train(smoke(window=(1, 1, 1, 1), steps=4, test_episodes=n))["metrics"] for n in (5, 1))
    percent = [100 * count / 75 for count in several["right_answers"]]
    assert several["windowed_accuracy"] == several["accuracy"]
    assert several["windowed_accuracy_sd"] == pytest.approx(statistics.stdev(percent), abs=1e-4)
    assert "windowed_accuracy" in one and "windowed_accuracy_sd" not in one


@pytest.mark.parametrize(
    ("estimator", "own", "label"),
    [
        ("truncated", {"depth": 2}, "Truncated (2)"),
        ("binomial", {"depth": 2}, "Binomial (2)"),
        ("lazy-hessian", {"window": (1, 3)}, "Lazy Hessian (1, 3)"),
    ],
)
def test_the_later_estimators_are_trained_with_what_their_labels_say(train, tmp_path, estimator, own, label):
    """All take the same inner steps, so the first loss is exact MAML's; then θ moves elsewhere."""
    config = smoke(**{"window": 1, "estimator": estimator, "steps": 4, "iterations": 2, **own})
    others = [smoke(window=1, steps=4, iterations=2), *(dataclasses.replace(config, **{name: 1}) for name in own)]
    found, *rest = [
        (train(each), finished.read(few_shot.run(each, tmp_path).result_path).parameters())
        for each in (config, *others)
    ]
    assert few_shot.label(config) == label and "windowed_accuracy" not in found[0]["metrics"]
    for result, theta in rest:
        assert result["log"]["loss"][0] == found[0]["log"]["loss"][0]
        assert any(not torch.equal(theta[name], value) for name, value in found[1].items())


@pytest.mark.parametrize("window", [1, 4])
def test_chunks_of_tasks_do_not_change_the_meta_gradient(window):
    images = data.load("glyphs")
    episodes = EpisodeSampler(images, "train", 5, 1, 15).sample(0, 5)
    episodes = episodes.to(torch.float64)
    model = Conv4(5, filters=4)
    theta = {name: value.double() for name, value in model.init(0).items()}
    estimator = MultiStep(smoke().dynamics(), 4, window)
    whole = few_shot.meta_gradient(estimator, model, theta, episodes, 5)
    for chunk in (1, 2, 3):
        numbers, grad = few_shot.meta_gradient(estimator, model, theta, episodes, chunk)
        assert numbers.tolist() == pytest.approx(whole[0].tolist(), rel=1e-12)
        assert relative_error(grad, whole[1]) < 1e-10
    assert whole[1]["head.bias"].dtype == F64


def test_the_log_has_what_conjugate_gradients_tell_as_a_mean_over_chunks_and_iterations(train):
    """One product leaves most of the residual, many leave less; and logging it changes nothing else."""
    options = {"estimator": "implicit", "window": 1, "tasks": 3, "task_chunk": 1, "proximal": 10.0, "log_every": 2}
    options |= {"steps": 4, "test_episodes": 1, "curve_episodes": 1}
    few, many = (train(smoke(**options, cg_steps=steps, lr=0.02)) for steps in (1, 3))
    assert [*few["log"]] == ["iteration", "seconds", "loss", "accuracy", "residual", "indefinite"]
    assert len(few["log"]["residual"]) == 2 and set(few["log"]["indefinite"]) == {0.0}
    assert all(0 < b < a < 1 for a, b in zip(few["log"]["residual"], many["log"]["residual"], strict=True))
    torn = train(smoke(**options | {"proximal": 1e-3}, lr=0.5))["log"]["indefinite"]
    assert all(
        0 < share <= 1 and 6 * share == pytest.approx(round(6 * share), abs=1e-4) for share in torn
    )  # of 2 x 3 tasks


def test_evaluation_does_not_depend_on_the_chunk_and_takes_the_same_tasks():
    images, config = data.load("glyphs"), smoke()
    model = Conv4(5, filters=8)
    theta = model.init(0)
    four, five, seven = (Team(few_shot.Work(config, model, images, chunk)) for chunk in (4, 5, 7))
    thirty = few_shot.evaluate(four, theta, 30)
    assert few_shot.evaluate(seven, theta, 30) == thirty and few_shot.evaluate(five, theta, 12) == thirty[:12]


def test_a_finished_run_is_found_and_force_repeats_it(train):
    config, steps = smoke(), []
    first = train(config)
    assert train(config, on_step=steps.append) == first and not steps
    assert train(config, on_step=steps.append, force=True)["metrics"]["accuracy"] == first["metrics"]["accuracy"]
    assert [step.iteration for step in steps] == [1, 2, 3, 4] and steps[-1].fraction == 1


def test_training_stops_after_its_seconds(train, clock):
    result = train(smoke(iterations=10**6, train_seconds=3.0))
    assert result["provenance"]["train_seconds"] == result["metrics"]["iterations"] == 3


def test_the_end_of_the_training_is_looked_at_whatever_ends_it(train, clock):
    by_time = train(smoke(iterations=10**6, train_seconds=3.0, select_every=2, curve_episodes=2))
    by_iterations = train(smoke(iterations=5, select_every=4, curve_episodes=2))
    assert [by_time["selection"]["iteration"], by_iterations["selection"]["iteration"]] == [[2, 3], [4, 5]]


def test_images_are_shrunk_where_the_config_says_so(train):
    result = train(smoke(image_size=14))
    assert result["config"]["image_size"] == 14 and result["metrics"]["accuracy"] > 0
    sizes = {p: few_shot.preset_config(p, "miniimagenet", 5, 1, "multistep").image_size for p in ("paper", "cpu")}
    assert sizes == {"paper": None, "cpu": 42}


def test_validation_never_touches_the_test_split(train, tmp_path):
    config = smoke(evaluate_on="validation")
    images = data.load("glyphs")
    without_test = dataclasses.replace(images, images={k: v for k, v in images.images.items() if k != "test"})
    theta, model = Conv4(5, filters=8).init(0), Conv4(5, filters=8)
    assert len(few_shot.evaluate(Team(few_shot.Work(config, model, without_test, 2)), theta, 4)) == 4
    train(config)
    assert (tmp_path / "live" / "few-shot-tuning").is_dir() and not (tmp_path / "live" / "few-shot").exists()


def test_nothing_is_chosen_by_classes_that_were_trained_on(train, monkeypatch):
    """The validation classes of glyphs are a part of those that a run trains on which chooses nothing."""
    drawn, check = [], EpisodeSampler.__post_init__
    monkeypatch.setattr(EpisodeSampler, "__post_init__", lambda own: drawn.append(own.split) or check(own))
    train(smoke(select_every=2, curve_episodes=2))
    assert "train" not in drawn and {"tune", "validation", "test"} <= {*drawn}
    assert smoke().train_split == "train" and smoke(evaluate_on="validation").train_split == "tune"
    with pytest.raises(ConfigError, match="^select_every would choose by the classes that evaluate_on=val"):
        smoke(evaluate_on="validation", select_every=2)


def test_a_grid_search_has_diverged_where_each_rate_has(monkeypatch):
    """In the second of several processes no rate has a result."""

    def train(config, **options):
        if config.lr > 1:
            raise DivergedError("apart")

    monkeypatch.setattr("msmeta.experiments.few_shot.experiment.train", train)
    assert few_shot.tune(smoke(), [0.1, 10.0]) == []
    with pytest.raises(DivergedError, match="every inner rate of 10, 20 diverged"):
        few_shot.tune(smoke(), [10.0, 20.0])


def test_divergence_names_iteration_and_step_and_stores_nothing(train, tmp_path):
    with pytest.raises(DivergedError, match="diverged at iteration 1: inner loss is (nan|inf) at step"):
        train(smoke(lr=1e20, window=1))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_paper_preset_is_appendix_f():
    config = few_shot.preset_config("paper", "omniglot", 5, 1, "multistep", 4)
    found = dataclasses.asdict(config)
    expected = {
        "lr": 0.4, "momentum": 0.9, "weight_decay": 1e-4, "meta_lr": 1e-3, "steps": 8, "tasks": 32, "query": 15,
        "iterations": 60_000, "filters": 64, "test_episodes": 600, "train_seconds": None,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert few_shot.preset_config("paper", "omniglot", 20, 1, "multistep", 4).tasks == 16
    first_order = few_shot.preset_config("paper", "omniglot", 5, 1, "first-order")
    assert (first_order.lr, first_order.momentum, first_order.weight_decay) == (0.4, 0, 0)
