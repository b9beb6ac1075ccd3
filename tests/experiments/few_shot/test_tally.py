"""Counts of a meta-iteration against torch's own: of operations, of allocations, of a longer run counted as a whole."""

from dataclasses import astuple, replace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from msmeta.experiments import few_shot
from msmeta.experiments.few_shot import costs
from msmeta.experiments.few_shot.config import ESTIMATORS
from msmeta.experiments.few_shot.tally import _count, recomputed, tally
from msmeta.models import Conv4


def config(steps=2, window=1, estimator="multistep", way=3, query=4, **changes):
    return few_shot.preset_config("smoke", "glyphs", way, 1, estimator, window, steps=steps, query=query, **changes)


def problem_of(made, model, tasks=1):
    episodes = costs.random_episodes(replace(made, tasks=tasks), torch.device("cpu"), model.channels, model.size)
    theta = {name: value.requires_grad_() for name, value in model.init(0).items()}
    return few_shot.episode_problem(model, episodes, []), theta


METHODS = [("multistep", "autograd"), ("multistep", "adjoint"), ("first-order", "autograd")]


@pytest.mark.parametrize(("estimator", "backward"), METHODS)
@pytest.mark.parametrize("model", [Conv4(5, filters=8), Conv4(5, 3, 21, 8, pool=True)])
def test_bytes_are_those_that_torch_allocates(estimator, backward, model):
    """By the profiler's record of every allocation, those of kernels for themselves too; images and θ lie there."""
    made = config(estimator=estimator, way=5, query=15)
    run, arguments = made.build_estimator(None, backward), problem_of(made, model, 2)
    run(*arguments)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run(*arguments)
    records = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for record in sorted(records, key=lambda event: event.start_ns()):
        now += record.nbytes()
        most = max(most, now)
    assert tally(made, model, 2, backward).held == pytest.approx(most, rel=0.02)


@pytest.mark.parametrize("estimator", ["multistep", "first-order"])
def test_operations_are_those_that_torch_counts(estimator):
    """Of one task, since torch's counter does not know grouped convolutions' gradients."""
    made, model = config(estimator=estimator), Conv4(3, filters=8)
    with FlopCounterMode(display=False) as counter:
        made.build_estimator(None)(*problem_of(made, model))
    assert tally(made, model, 1).flops == pytest.approx(counter.get_total_flops(), rel=1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_run_of_every_estimator_is_counted_as_the_presets_define_it(estimator):
    made = few_shot.preset_config("smoke", "glyphs", 3, 1, estimator, query=4, filters=4)
    assert tally(made, Conv4(3, filters=4), 2).flops > 0


@pytest.mark.parametrize(
    ("estimator", "window", "backward", "steps"),
    [
        ("multistep", 2, "autograd", 8), ("multistep", 2, "adjoint", 8), ("first-order", 1, "autograd", 4),
        ("implicit", 1, "autograd", 4),
    ],
)  # fmt: skip
def test_counts_grow_by_the_same_with_each_window(estimator, window, backward, steps):
    made, model = config(steps, window, estimator), Conv4(3, filters=4)
    found, counted = (count(made, model, 2, backward, "cpu") for count in (tally, _count.__wrapped__))
    assert astuple(found) == pytest.approx(astuple(counted), rel=0.02)


def test_many_windows_of_the_adjoint_are_recomputed_from_some():
    made, model = config(17), Conv4(3, filters=4)
    found, counted = (count(made, model, 1, "adjoint", "cpu") for count in (tally, _count.__wrapped__))
    assert astuple(found) == pytest.approx(astuple(counted), rel=0.03)
    assert [recomputed(windows) for windows in (1, 16, 17, 64)] == [0, 0, 13, 56]


def test_longer_windows_cost_adam_more_and_sgd_the_same():
    model = Conv4(3, filters=4)
    for optimizer, more in (("sgd", 1.0), ("adam", 1.1)):
        two, four = (tally(config(n, n, optimizer=optimizer), model, 1).moved for n in (2, 4))
        assert two * more <= four and (four == two or optimizer == "adam")


def test_a_gpu_is_counted_without_one():
    made, model = config(4), Conv4(3, filters=4)
    cpu, gpu = (tally(made, model, 2, device=device) for device in ("cpu", "cuda"))
    assert gpu.held == pytest.approx(cpu.held, rel=0.2) and gpu.convolutions > 0
