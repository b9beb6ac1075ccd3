"""Costs of a meta-iteration: what is counted, the fit, and a measurement of each method in a process of its own."""

import pytest
import torch
from saved_bytes import SavedBytes
from torch.utils.flop_counter import FlopCounterMode

from msmeta import ConfigError, UserError
from msmeta.experiments import few_shot
from msmeta.experiments.few_shot import costs
from msmeta.experiments.few_shot.costs import Cell, random_episodes
from msmeta.experiments.few_shot.step import meta_gradient
from msmeta.models import Conv4


def cell(method, steps=8, way=5, shot=1):
    return Cell(*costs.METHODS[method], way, shot, steps, filters=8, tasks=2)


@pytest.mark.parametrize(
    ("method", "steps", "gradient", "product", "held_twice"),
    [
        ("MAML", 8, 8 * 5 + 75, 8 * 5, 8 * 5),
        ("Multi-step (4)", 8, 2 * 5 + 75, 2 * 5, 2 * 5),
        ("Multi-step (4)", 6, 2 * 5 + 75, 2 * 5, 2 * 5),  # windows (4, 2)
        ("Multi-step (8)", 3, 5 + 75, 5, 5),
        ("FO-MAML", 8, 8 * 5 + 75, 0, 0),
        ("iMAML", 8, 9 * 5 + 75, 5 * 5, 5),
        ("Reptile", 8, 8 * 10 + 5 / 3, 0, 0),  # minibatches of two images a class; the logged loss is a forward pass
    ],
)
def test_counts(method, steps, gradient, product, held_twice):
    found = costs.counts(cell(method, steps))
    assert (found.gradient, found.product, found.held_twice) == (pytest.approx(gradient), product, held_twice)


def test_windows_cover_the_steps_whether_or_not_they_divide_them():
    assert cell("Multi-step (4)", 6).config().window == (4, 2)
    assert cell("Multi-step (8)", 3).config().window == (3,)
    assert cell("MAML", 3).config().window == 1 and cell("MAML", 3).config().steps == 3
    assert [cell(name, steps).label for name in costs.METHODS for steps in (3, 8)] == [
        name for name in costs.METHODS for _ in range(2)
    ]
    with pytest.raises(ConfigError, match="method 'SGD' is unknown: choose from MAML; Multi-step"):
        costs.live("paper", [(5, 1)], [1], ["SGD"], "cpu", 8, 2)


@pytest.mark.parametrize("steps", [1, 2])
def test_operations_are_those_that_torch_counts(steps):
    """Of one task, since torch's counter does not know grouped convolutions' gradients."""
    episodes = random_episodes(cell("MAML", steps).config(), torch.device("cpu"))
    problem = few_shot.episode_problem(Conv4(5, filters=8), next(episodes.chunks(1)))
    theta = {name: value.requires_grad_() for name, value in Conv4(5, filters=8).init(0).items()}
    for method in ("MAML", "FO-MAML"):
        one = Cell(*costs.METHODS[method], 5, 1, steps, filters=8, tasks=1)
        with FlopCounterMode(display=False) as counter:
            one.config().build_estimator(None)(problem, theta)
        assert costs.work(one)[0] == pytest.approx(counter.get_total_flops(), rel=0.01)  # heads' products apart


def made(constants, cells):
    model = costs.CostModel(*constants)
    return [{"seconds": model.seconds(c), "bytes": model.bytes(c, 2), "tasks_at_once": 2} for c in cells]


def test_fit_recovers_the_constants_and_never_goes_below_zero():
    cells = [cell(method, steps) for method in costs.METHODS for steps in range(1, 9)]
    constants = (3e-4, 8e-4, 5e5, 2e5)
    model = costs.fit(cells, made(constants, cells))
    found = (model.per_gradient, model.per_product, model.per_held_once, model.per_held_twice)
    assert found == pytest.approx(constants, rel=1e-9)
    model = costs.fit(cells, made((3e-4, -1e-5, 5e5, 2e5), cells))
    assert model.per_product == 0 and model.per_gradient == pytest.approx(3e-4, rel=0.1)
    still = made(constants, cells)
    still[0]["bytes"] = 0  # the resident set did not grow: no relative error to fit
    assert costs.fit(cells, still).per_held_once == pytest.approx(5e5, rel=1e-9)
    assert costs.fit(cells, [row | {"bytes": 0} for row in still]).per_held_twice == 0


@pytest.mark.parametrize("method", costs.METHODS)
def test_each_method_is_measured_in_a_process_of_its_own(method):
    """Whose memory is its own: torch's late imports alone would be 40 MB to 150 MB."""
    found = costs.measure(cell(method, 2), "cpu")
    assert found["seconds"] > 0 and 0 < found["bytes"] < 30e6 and found["tasks_at_once"] in (1, 2)


def test_memory_is_linear_in_the_windows():
    """By torch's own hooks: what is held for the backward pass is the query images' and a constant for each window."""
    kept = {}
    for method, steps in (("MAML", 2), ("MAML", 8), ("Multi-step (8)", 8)):
        config = cell(method, steps).config()
        model = Conv4(5, filters=8)
        theta = {name: value.requires_grad_() for name, value in model.init(0).items()}
        with SavedBytes() as saved:
            episodes = random_episodes(config, torch.device("cpu"))
            meta_gradient(config.build_estimator(None), model, theta, episodes, 2)
        kept[method, steps] = saved.peak
    one_window = kept["MAML", 2] - kept["Multi-step (8)", 8]
    assert kept["MAML", 8] - kept["MAML", 2] == pytest.approx(6 * one_window, rel=0.02)


def test_a_failed_measurement_is_one_line():
    with pytest.raises(UserError, match="way=0: it must be at least 2"):
        costs.measure(Cell("multistep", 1, 0, 1, 8), "cpu")
    with pytest.raises(ConfigError, match="preset 'huge' is unknown"):
        costs.live("huge", None, None, None, "cpu", 8, 2)


def test_want_of_memory_is_one_line():
    """No machine has the 50 petabytes of these images."""
    with pytest.raises(UserError, match="^out of memory: lower filters, tasks, way or shot$"):
        costs.measure(Cell("first-order", 1, 1_000_000, 1, 1, filters=4, tasks=1_000_000), "cpu")


def test_bytes_are_those_of_the_saved_tensors():
    x = torch.ones(1000, dtype=torch.float64, requires_grad=True)
    with SavedBytes() as saved:
        y = x.exp()  # saves its result
        z = y.exp()
        assert saved.now == 16_000
        del z
        assert saved.now == 8_000
    assert saved.peak == 16_000


def test_rounds_measure_every_cell_in_turn(monkeypatch):
    taken = []

    def measure(cell, device):
        taken.append(cell.steps)
        return {"seconds": float(len(taken)), "bytes": 7, "tasks_at_once": 2}

    monkeypatch.setattr(costs, "measure", measure)
    result = costs.live("paper", [(5, 1)], [1, 8], ["MAML"], "cpu", 8, 2, rounds=3)
    assert taken == [1, 8] * 3
    assert [(row["steps"], row["seconds"], row["seconds_all"]) for row in result["metrics"]] == [
        (1, 3.0, [1.0, 3.0, 5.0]),
        (8, 4.0, [2.0, 4.0, 6.0]),
    ]
