"""The notebook of sliders on images: its numbers, its widgets without a browser, and its run by papermill."""

from pathlib import Path

import nbformat
import pytest
from scripts import load

from msmeta import SGD, ConfigError, MultiStep, UserError
from msmeta.bilevel import task_dot
from msmeta.experiments import few_shot
from msmeta.experiments.few_shot import explore

ROOT = Path(__file__).parents[3]
NOTEBOOK = ROOT / "notebooks" / "explore_n.ipynb"


@pytest.fixture(scope="module")
def learner():
    return explore.prepare("smoke", way=3, tasks=2, meta_iterations=1, device="cpu")


def test_rows_are_the_estimators_numbers(learner):
    exact, ours, first = explore.compare(learner, explore.Setting(steps=4, window=2, lr=0.1))
    assert [row["window"] for row in (exact, ours, first)] == [1, 2, None]
    problem = few_shot.episode_problem(learner.model, learner.episodes)
    out, whole = (MultiStep(SGD(0.1, 0.9), 4, window)(problem, learner.theta) for window in (2, 1))
    assert ours["loss"] == pytest.approx(out.loss.item(), rel=1e-6)
    both, a, b = (task_dot(*pair, False) for pair in ((out.grad, whole.grad), (out.grad,) * 2, (whole.grad,) * 2))
    assert ours["cosine"] == pytest.approx((both / (a * b).sqrt()).item(), abs=1e-4)
    assert ours["ratio"] == pytest.approx((a / b).sqrt().item(), rel=1e-4)
    # float32 gradients: their cosine with themselves is 1 up to a few roundings
    assert exact["cosine"] == pytest.approx(1, abs=1e-6) and exact["ratio"] == pytest.approx(1, abs=1e-6)
    assert -1 <= ours["cosine"] < 1 - 1e-6 and first["loss"] == pytest.approx(exact["loss"], rel=1e-5)
    assert [step for step, _ in exact["path"]] == [0, 1, 2, 3, 4] and [step for step, _ in ours["path"]] == [0, 2, 4]
    assert ours["path"][-1][1] == pytest.approx(ours["loss"], rel=1e-5)
    assert ours["path"][0] == exact["path"][0] and 0 <= ours["accuracy"] <= 100


def test_memory_falls_with_the_window_and_with_the_adjoint(learner):
    exact, ours, *others, first = explore.compare(learner, explore.Setting(8), 1, 2, 4, 8)
    kept = {row["window"]: row["bytes"] for row in (ours, *others)}
    adjoint = explore.compare(learner, explore.Setting(8, 2, backward="adjoint"))
    assert exact["bytes"] > kept[2] > kept[4] > kept[8] > 0
    assert adjoint[0]["bytes"] < exact["bytes"] and first["bytes"] < kept[8]
    assert adjoint[1]["cosine"] == pytest.approx(ours["cosine"], abs=1e-3)


def test_the_window_slider_follows_the_steps(learner):
    """The sliders as the notebook defines them."""
    seen, namespace = [], {"explore": explore}
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    exec(next(cell.source for cell in cells if "def controls(" in cell.source), namespace)
    box = namespace["controls"](seen.append, explore.Setting(8, 4))
    steps, window, lr, _, backward = box.children
    assert list(window.options) == [1, 2, 4, 8]
    window.value = 8
    steps.value = 12
    assert list(window.options) == [1, 2, 3, 4, 6, 12] and window.value == 6
    backward.value = "adjoint"
    lr.value = 0.01
    assert [(s.steps, s.window) for s in seen] == [(8, 8), (12, 6), (12, 6), (12, 6)]
    assert seen[-1].lr == pytest.approx(0.01) and seen[-1].backward == "adjoint"
    assert explore.compare(learner, seen[-1])[1]["window"] == 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"way": 100_000}, "100000-way is impossible"), ({"meta_iterations": -1}, "meta_iterations=-1"),
     ({"preset": "tiny"}, "preset 'tiny' is unknown"), ({"device": "tpu9"}, "device 'tpu9' is not available")],
)  # fmt: skip
def test_mistakes_end_in_one_clear_line(settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        explore.prepare(**{"preset": "smoke", **settings})
    assert "\n" not in str(caught.value)


def test_want_of_memory_is_one_line(monkeypatch):
    def sample(*_):
        raise MemoryError

    monkeypatch.setattr(explore.EpisodeSampler, "sample", sample)
    with pytest.raises(UserError, match="^out of memory: lower tasks, way or shot$"):
        explore.prepare("smoke", meta_iterations=0)


def test_the_notebook_runs_without_a_browser(tmp_path):
    target = tmp_path / "explore_n.ipynb"
    load("build.py").run_notebook(NOTEBOOK, target, {"preset": "smoke", "tasks": 2}, tmp_path)
    outputs = [out for cell in nbformat.read(target, as_version=4).cells for out in cell.get("outputs", [])]
    text = "".join(str(out.get("text", "")) + str(out.get("data", {}).get("text/markdown", "")) for out in outputs)
    assert "always uses procedurally drawn glyphs" in text and "2 tasks of" in text
    assert all(f"| {name} |" in text for name in ("exact", "N = 2", "N = 4", "N = 8", "first-order"))
    assert "The sliders need a live kernel" in text
    assert not any("widget" in kind for out in outputs for kind in out.get("data", {}))
    assert sum('<div class="plot">' in str(out.get("data", {}).get("text/html", "")) for out in outputs) == 1
