"""What a sweep lacks, and how long that takes."""

import pytest

from msmeta.experiments import sweep
from msmeta.report import campaign

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


def test_the_plan_tells_what_is_done_and_the_hours_of_what_is_not(spec, tmp_path, one_second):
    parts = sweep.read_parts(spec)
    finished = sweep.place(parts["a"][3], tmp_path)
    metrics = {"accuracy": 1.0}
    finished.save_result({"metrics": metrics, "provenance": {}, "data": {"hash": finished.data}})
    exact, windows, faster, scratch = campaign.plan(parts, tmp_path)
    assert [member.part for member in (exact, windows, faster, scratch)] == ["a", "a", "b", "c"]
    assert exact.name == "Glyphs (procedural), 5-way 1-shot, MAML" and (exact.done, exact.missing) == ([], [0, 1])
    assert exact.hours == pytest.approx(4 / 3600) and exact.left == 2 * exact.hours  # of 4 iterations
    assert (windows.done, windows.missing) == ([1], [0, 2])  # of part b another seed
    assert faster.name == "Glyphs (procedural), 5-way 1-shot, Multi-step (4), lr 0.2" and faster.missing == [1, 2]
    assert windows.name.endswith(", lr 0.1") and (scratch.hours, scratch.left) == (None, None)


def test_hours_of_transfer_follow_from_epochs_and_minibatches(spec, monkeypatch):
    monkeypatch.setattr(campaign, "seconds_per_iteration", lambda config: 1.0)
    (config,) = sweep.read_parts(spec)["c"]
    images = len(campaign.data.load("glyphs-rgb").labels["train"])
    assert campaign.hours(config) == pytest.approx(3 * (images // 10) / 3600)


def test_the_command_shows_it(msmeta, spec):
    status, out, err = msmeta("sweep", spec, "--plan")
    assert status == 0, err
    assert "Multi-step" in out and "hours of one core left, and 4 rows of unknown hours" in out
    assert out.strip().endswith(f"msmeta sweep {spec}")
