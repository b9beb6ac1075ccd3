"""What a sweep lacks, and how long that takes."""

from dataclasses import replace

import pytest

from msmeta import data, runs
from msmeta.experiments import registry, sweep
from msmeta.experiments.few_shot import network
from msmeta.experiments.few_shot.plan import Rates
from msmeta.experiments.few_shot.tally import of_meta_batch
from msmeta.report import campaign, speed

SPEC = """
preset: smoke
parts:
  - {name: a, dataset: glyphs, way: 5, shot: 1, estimator: multistep, seed: [0, 1], runs: [{window: [1, 4]}]}
  - {name: b, dataset: glyphs, way: 5, shot: 1, estimator: multistep, seed: [1, 2], lr: [0.1, 0.2], runs: [{window: 4}]}
  - {name: c, experiment: transfer, dataset: glyphs-rgb, runs: [{estimator: scratch, epochs: 3, batch: 10}]}
"""


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture
def one_second(monkeypatch):
    """An iteration of few-shot learning takes a second; those of transfer were not measured."""
    monkeypatch.setattr(campaign, "seconds_per_iteration", lambda config: 1.0 if hasattr(config, "way") else None)


def test_the_plan_tells_what_is_done_and_the_hours_of_what_is_not(spec, tmp_path, one_second, monkeypatch):
    parts = sweep.read_parts(spec)
    finished = registry.place(parts["a"][3], tmp_path)
    finished.result_path.parent.mkdir(parents=True)
    finished.result_path.write_text("")
    monkeypatch.setattr(runs.Run, "result", lambda place: {} if place.result_path.exists() else None)
    exact, windows, faster, more, scratch = campaign.plan(parts, tmp_path)
    assert [member.part for member in (exact, windows, faster, more, scratch)] == ["a", "a", "b", "b", "c"]
    assert exact.name == "Glyphs (procedural), 5-way 1-shot, MAML" and (exact.done, exact.missing) == ([], [0, 1])
    assert exact.hours == pytest.approx(4 / 3600) and exact.left == 2 * exact.hours  # of 4 iterations
    assert (windows.done, windows.missing) == ([1], [0])
    assert more.config == windows.config and more.missing == [2]  # its seed 1 is of part a
    assert faster.name == "Glyphs (procedural), 5-way 1-shot, Multi-step (4), lr 0.2" and faster.missing == [1, 2]
    assert windows.name.endswith(", lr 0.1") and (scratch.hours, scratch.left) == (None, None)


def test_hours_that_were_not_measured_are_predicted_by_the_cost_model(spec, monkeypatch):
    monkeypatch.setattr(campaign, "seconds_per_iteration", lambda config: None)
    rates = Rates(1.0, *[0.0] * 7)  # a second an operation
    monkeypatch.setattr(campaign, "measured_rates", lambda: (rates, {}))
    exact, windows, *_, scratch = campaign.plan(sweep.read_parts(spec))
    counted = of_meta_batch(exact.config, network(exact.config), 1)
    assert exact.predicted and exact.hours == pytest.approx(counted.flops * 4 / 3600) and not scratch.predicted
    assert windows.hours < exact.hours
    assert campaign.predicted_hours(replace(exact.config, precision="bf16")) is None
    monkeypatch.setattr(campaign, "measured_rates", lambda: None)
    assert campaign.predicted_hours(exact.config) is None


def test_of_a_part_one_seed_comes_after_another_and_of_each_the_shortest_first(spec, monkeypatch):
    seconds = {1: 4.0, 4: 1.0}
    monkeypatch.setattr(campaign, "hours", lambda config: seconds[config.window])
    ordered = campaign.by_worth(sweep.read_parts(spec)["a"])
    assert [(config.seed, config.window) for config in ordered] == [(0, 4), (0, 1), (1, 4), (1, 1)]


def test_hours_of_transfer_follow_from_epochs_and_minibatches(spec, monkeypatch):
    monkeypatch.setattr(speed, "seconds_per_iteration", lambda config: 1.0)
    (config,) = sweep.read_parts(spec)["c"]
    images = len(data.load("glyphs-rgb").labels["train"])
    assert campaign.hours(config) == pytest.approx(3 * (images // 10) / 3600)


def test_the_command_shows_it_with_what_each_part_sums_up_to(msmeta, spec):
    """Nothing is measured or predicted where there are no results."""
    status, out, err = msmeta("sweep", spec, "--plan")
    assert status == 0, err
    assert "a: 0 of 4 runs done, 0.0 hours left, and those of 4 runs, which are not known" in out
    (exact,) = [line.split() for line in out.splitlines() if "MAML" in line]
    assert exact[-7:] == ["done", "-", "missing", "0,1", "?", "hours", "each"]
    assert "in all: 0 of 8 runs done, 0.0 hours left, and those of 8 runs" in out
    assert out.strip().endswith(f"run it: msmeta sweep {spec}")
