"""The figure and the table of cosines over Hessian-vector products, from stored results."""

import json

import pytest
import yaml
from stored_runs import cell

from msmeta import report, runs
from msmeta.experiments import sweep

COSINES = {"multistep": 0.9, "lazy-hessian": 0.8, "truncated": 0.6, "binomial": 0.7}


def _row(momentum, estimator, products, cosine, **own):
    spread = [cosine - 0.01, cosine, cosine + 0.01]
    row = {"iterations": 0, "momentum": momentum, "estimator": estimator, **own, "gradients": 8, "products": products}
    return row | {"cosine": spread, "norm_ratio": [2 * value for value in spread]}


def _result(steps):
    """T = `steps`; windows are nearer with momentum; without it they diverge for two seeds."""
    metrics = []
    for momentum in (0.9, 0.0):
        for k in (steps // 8, steps // 4, steps // 2, steps):
            window = [steps // k] * k
            metrics.append(_row(momentum, "multistep", k, COSINES["multistep"], window=window))
            if momentum == 0.0:
                metrics[-1].update(cosine=[0.5, 0.51], norm_ratio=[1.0, 1.0])
            if k < steps:
                metrics.append(_row(momentum, "lazy-hessian", k, COSINES["lazy-hessian"], window=window))
                metrics.append(_row(momentum, "truncated", k, COSINES["truncated"], depth=k))
                if momentum == 0.0 and k == 2:  # for another seed
                    metrics[-1].update(cosine=[0.9, 0.91], norm_ratio=[1.0, 1.0])
        metrics.append(_row(momentum, "multistep", 4, 0.85, window=[1, 1, 2, 4]))
        metrics.append(_row(momentum, "multistep", 4, 0.75, window=[4, 2, 1, 1]))
        metrics.append(_row(momentum, "binomial", 2 * (steps - 1), COSINES["binomial"], depth=2))
        metrics.append(_row(momentum, "first-order", 0, 0.4))
        metrics.append(
            {"iterations": 0, "momentum": momentum, "estimator": "gaussian-smoothing", "cosine": [], "norm_ratio": []}
        )
    if steps == 64:
        metrics = [row for row in metrics if row["estimator"] != "first-order"]
    return {"config": {"problem": "quadratic", "steps": steps, "seeds": 3}, "metrics": metrics, "provenance": {}}


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path))
    (tmp_path / "meta-gradients").mkdir()
    for steps in (8, 64):
        (tmp_path / "meta-gradients" / f"quadratic-{steps}.json").write_text(json.dumps(_result(steps)))
    return report.products.measured()


def test_what_was_not_run_is_said_with_its_command(results):
    found, missing = results
    assert list(found) == [("quadratic", 8), ("quadratic", 64)]
    assert "`python benchmarks/products.py sine --steps 64`" in missing and "quadratic --steps 16" in missing
    assert "quadratic --steps 8`" not in missing and "omniglot --steps 64" in missing
    before = "quadratic, T = 64 was measured before first-order could be"
    assert missing.endswith(f"{before}: `python benchmarks/products.py quadratic --steps 64 --seeds 3` has it.")


def test_a_line_for_each_family_over_its_products(results):
    figure = report.products.by_products(results[0], 0.9)
    panels = [axis for axis in figure.axes if axis.get_title()]
    assert [axis.get_title() for axis in panels] == ["quadratic, T = 8", "quadratic, T = 64"]
    lines = {}
    for container in panels[0].containers:
        x, y = container[0].get_data()
        lines[container.get_label()] = dict(zip(x, y, strict=True))
    assert lines["windows"] == pytest.approx({1: 0.9, 2: 0.9, 4: 0.9, 8: 0.9})
    assert lines["truncated"] == pytest.approx({1: 0.6, 2: 0.6, 4: 0.6}) and lines["binomial"] == pytest.approx(
        {14: 0.7}
    )
    assert lines["growing windows"] == pytest.approx({4: 0.85}) and lines["first-order"] == pytest.approx({0: 0.4})
    assert not lines["Gaussian smoothing"]
    ratios = [axis for axis in report.products.by_products(results[0], 0.9, "norm_ratio").axes if axis.get_title()]
    assert ratios[0].containers[0][0].get_ydata().tolist() == pytest.approx([1.8] * 4)


def test_the_same_over_the_time_that_calls_take_where_they_were_timed(results, tmp_path):
    """Two and a half seconds of exact back-propagation's four, in the middle of three draws."""
    found, seconds = results[0], {}
    for row in found["quadratic", 8]["metrics"]:
        seconds[str(row)] = 4.0 if row.get("window") == [1] * 8 else 2.5 if row["estimator"] == "truncated" else 1.0
    timed = [
        {**row, "steps": 8, "seconds": [0.1, seconds[str(row)], 90.0]}
        for row in found["quadratic", 8]["metrics"]
        if row["estimator"] != "first-order"
    ]
    timed.append({"steps": 8, "estimator": "first-order", "seconds": []})  # it diverged
    result = {"config": {}, "metrics": timed, "provenance": {}}
    (tmp_path / "meta-gradients" / "quadratic-seconds.json").write_text(json.dumps(result))
    stored, missing = report.products.timed()
    commands = ", ".join(f"`msmeta bench products_seconds {name}`" for name in ("sine", "omniglot"))
    assert missing == f"Not run: {commands}."
    figure = report.products.by_products(found, 0.9, taken=report.products.times(stored))
    (panel,) = (axis for axis in figure.axes if axis.get_title())
    assert panel.get_title() == "quadratic, T = 8" and panel.get_xlabel() == "time / exact time"
    lines = {container.get_label(): container[0].get_xdata().tolist() for container in panel.containers}
    assert lines["windows"] == [0.25, 0.25, 0.25, 1.0] and lines["truncated"] == [0.625] * 3
    assert lines["first-order"] == []


def test_the_table_says_which_is_nearer_at_equal_products(results):
    lines = report.products.table(results[0]).splitlines()
    assert "| quadratic | 8 | 0 | 0.9 | 2 | 0.90 ±0.02 | 0.80 ±0.02 | 0.60 ±0.02 | windows |" in lines
    assert "| quadratic | 64 | 0 | 0.9 | 16 | 0.90 ±0.02 | 0.80 ±0.02 | 0.60 ±0.02 | windows |" in lines
    assert "| quadratic | 8 | 0 | 0.0 | 2 | 0.51 ±0.06 | 0.80 ±0.02 | 0.91 ±0.06 | undecided |" in lines
    assert len(lines) == 2 + 2 * 2 * 3


SWEEP = {"preset": "cpu", "dataset": "omniglot", "way": 5, "shot": 1, "iterations": 100, "parts": [
    {"name": "rates", "evaluate_on": "validation", "runs": [{"estimator": "truncated", "depth": 2, "lr": [0.1, 0.2]}]},
    {"name": "final", "seed": [0, 1], "runs": [
        {"estimator": "multistep", "window": 4, "lr": 0.1}, {"estimator": "truncated", "depth": 2, "lr": 0.2}]},
]}  # fmt: skip


def test_trainings_with_as_many_products_stand_side_by_side(store, tmp_path):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "products.yaml").write_text(yaml.safe_dump(SWEEP))
    assert report.products.trained() == "Not run: `msmeta sweep results/sweeps/products.yaml`."
    rates, final = sweep.read_parts(tmp_path / "sweeps" / "products.yaml").values()

    def result(config, right):
        kind = "few-shot-tuning" if config.evaluate_on == "validation" else "few-shot"
        answers = [round(right)] * 4
        metrics = {"iterations": 100, "accuracy": right / 3, "right_answers": answers, "answers_per_episode": 300}
        return {
            "kind": kind, "config": runs.plain(config), "metrics": metrics, "log": {}, "curve": {"iteration": []},
            "data": {"name": "omniglot", "title": "Omniglot", "hash": "0"},
            "provenance": {"device": "a processor", "threads": 1, "torch": "2", "commit": None, "train_seconds": 1.0},
        }  # fmt: skip

    store(*(result(config, 240 + 30 * config.lr) for config in rates))
    text = report.products.trained()
    assert cell(text.partition("\n\n")[2], "Truncated (2)", "best, and where in its grid").startswith("inner rate 0.2")
    assert text.endswith("4 of its 6 runs are not run: `msmeta sweep results/sweeps/products.yaml`.")
    store(*(result(config, 270 - 3 * config.depth - 6 * config.seed) for config in final))
    table = report.products.trained().partition("\n\n")[2]
    assert cell(table, "Multi-step (4)", "products") == cell(table, "Truncated (2)", "products") == "2"
    assert cell(table, "Truncated (2)", "accuracy (%)").startswith("87.00 ±")
    assert cell(table, "Truncated (2)", "less windows (points)") == "-1.00 ±0.00, p < 0.001"
    assert "not run" not in report.products.trained()
