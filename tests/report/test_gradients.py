"""Figures and tables of meta-gradients and of memory over steps, from stored results."""

import json

import pytest

from msmeta import UserError, report

UNIFORM = [(1,) * 8, (2,) * 4, (3, 3, 2), (4, 4), (5, 3), (6, 2), (7, 1), (8,)]
WINDOWS = [*UNIFORM, (1, 1, 2, 4), (4, 2, 1, 1), (1, 1, 1, 5), (5, 1, 1, 1), (1, 7), (2, 6)]
OTHERS = ["adjoint", "first-order", "reptile", "implicit", "finite-difference", "gaussian-smoothing"]
STAGES = [(0, 1), (9, 1), (9, 4)]  # meta-iterations, and the window that they were made with


def _row(estimator, window, stage, momentum, cosine):
    row = {"iterations": stage[0], "trained_window": stage[1], "momentum": momentum, "estimator": estimator}
    row |= {"window": window, "batches": 4}
    if estimator == "gaussian-smoothing":  # it diverged
        return row
    numbers = {"cosine": cosine, "cosine_sd": 0.02, "norm_ratio": 2 * cosine, "norm_ratio_sd": 0.04}
    return row | numbers | {"seconds": 0.5 * cosine, "bytes": int(1e8 * cosine)}


def gradients(problem):
    """What benchmarks/meta_gradients.py stores, with numbers of this test's: cosine 1 - stage/10 - place/100."""
    estimators = [("multistep", window) for window in WINDOWS]
    estimators += [(name, None) for name in (*OTHERS, "evolution-strategies")]
    return {
        "config": {"problem": problem, "steps": 8, "tasks": 2, "batches": 4},
        "metrics": [
            _row(*estimator, stage, momentum, 1 - s / 10 - i / 100)
            for s, stage in enumerate(STAGES)
            for momentum in (0.9, 0.0)
            for i, estimator in enumerate(estimators)
        ],
        "provenance": {"device": "a processor", "threads": 1, "torch": "2", "commit": "abcdefghi"},
    }


def test_figures_of_meta_gradients_show_the_stored_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path))
    with pytest.raises(
        UserError, match=r"quadratic.json is not there: run python benchmarks/meta_gradients.py quadratic"
    ):
        report.gradients.measured()
    (tmp_path / "meta-gradients").mkdir()
    for problem in report.gradients.GRADIENT_PROBLEMS:
        (tmp_path / "meta-gradients" / f"{problem}.json").write_text(json.dumps(gradients(problem)))
    results = report.gradients.measured()

    panels = report.gradients.by_window(results).axes
    cosines, ratios = panels[0].lines, panels[1].lines
    first = next(line for line in cosines if len(line.get_xdata()) == 8)
    assert list(first.get_xdata()) == list(range(1, 9))
    assert list(first.get_ydata()) == pytest.approx([1 - i / 100 for i in range(8)])
    first = next(line for line in ratios if len(line.get_xdata()) == 8)
    assert list(first.get_ydata()) == pytest.approx([2 - i / 50 for i in range(8)])

    figure = report.gradients.by_cost(results)
    shown = {tuple(line.get_xydata()[0]) for line in figure.axes[2].lines if len(line.get_xdata()) == 1}
    assert any(y == pytest.approx(0.9 - 15 / 100) and x == pytest.approx(0.75 / 0.9) for x, y in shown)  # first-order
    labels = [text.get_text() for text in figure.axes[2].texts]
    assert labels[:3] == ["windows", "exact, adjoint", "first-order"] and len(labels) == 7  # one has diverged

    panels = report.gradients.by_partition(results["omniglot"]).axes
    assert [panel.get_title() for panel in panels] == [
        "as initialised", "after 9 iterations (exact)", "after 9 iterations (N = 4)"
    ]  # fmt: skip
    assert panels[0].lines[0].get_xdata()[1] == pytest.approx(1 - 8 / 100)  # (1, 1, 2, 4), as initialised

    # 97.5 % point of Student's t with 3 degrees of freedom: 3.18, times 0.02 / 2
    table = report.gradients.table(results["omniglot"])
    assert "| first-order | as initialised | with momentum | 0.85 ±0.03 | 1.7 ±0.06 | 425 | 85 |" in table
    assert "| windows 3,3,2 | after 9 iterations (N = 4) | without |" in table
    assert "| Gaussian smoothing | as initialised | without | diverged | diverged | - | - |" in table
    assert report.origin(results["sine"]) == "a processor, 1 thread, torch 2, commit abcdefg"
    results["sine"]["provenance"]["commit"] += "-dirty"
    assert "commit abcdefg with changes that no commit holds: to be measured again" in report.origin(results["sine"])
    results["sine"]["provenance"]["commit"] = None
    assert report.origin(results["sine"]).endswith("torch 2, no commit")


def test_memory_over_steps_shows_both_backward_passes(tmp_path, monkeypatch):
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path))
    with pytest.raises(UserError, match="steps_memory.json is not there: run python benchmarks/steps_memory.py"):
        report.stored_benchmark("benchmarks/steps_memory")
    rows = [
        {"steps": steps, "window": window, "backward": backward, "bytes": 1e6 * steps * window, "seconds": steps}
        for backward in ("autograd", "adjoint")
        for window in (1, 4)
        for steps in (4, 8)
    ]
    (tmp_path / "benchmarks").mkdir()
    stored = {"config": {}, "metrics": rows, "provenance": {"device": "a processor, 2 cores"}}
    (tmp_path / "benchmarks" / "steps_memory.json").write_text(json.dumps(stored))
    memory, _ = report.gradients.memory_over_steps(report.stored_benchmark("benchmarks/steps_memory")).axes
    lines = {line.get_label(): list(line.get_ydata()) for line in memory.lines}
    assert lines == {f"{b}, N = {n}": [4.0 * n, 8.0 * n] for b in ("autograd", "adjoint") for n in (1, 4)}
