"""The planner: rates from made measurements, what fits, and the choice."""

import json
from dataclasses import asdict, astuple, replace

import pytest

from msmeta import ConfigError, UserError
from msmeta.cli.plan import parse_bytes
from msmeta.experiments import few_shot
from msmeta.experiments.few_shot import plan as planning
from msmeta.experiments.few_shot.plan import MEASUREMENT, Rates, fit, plan
from msmeta.experiments.few_shot.step import network
from msmeta.experiments.few_shot.tally import of_meta_batch, tally

RATES = Rates(1e-11, 2e-10, 7e-11, 2e-4, 1e-6, 1.5, 0.5, 4e8, 0.25)


@pytest.fixture
def config():
    return few_shot.preset_config("smoke", "glyphs", 3, 1, "multistep", steps=8, query=4, tasks=4, task_chunk=2)


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Stores these rates as a benchmark does."""
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path))

    def put(rates):
        path = tmp_path / MEASUREMENT
        path.parent.mkdir(exist_ok=True)
        stored = {"config": {}, "metrics": [], "provenance": {"device": "a processor"}, "rates": rates}
        path.write_text(json.dumps(stored))

    return put


def test_the_fit_finds_the_rates_of_what_was_made_with_them(config):
    model = network(config)
    configs = [replace(config, steps=steps, filters=filters) for steps in (1, 2) for filters in (4, 8)]
    tallies = [tally(each, replace(model, filters=each.filters), tasks) for each in configs for tasks in (1, 4)]
    found = fit(tallies, [RATES.seconds(each) for each in tallies], [RATES.growth(each) for each in tallies], 4e8)
    assert astuple(found)[:8] == pytest.approx(astuple(RATES)[:8], rel=1e-6)
    negative = replace(RATES, per_moved=-1e-12)
    found = fit(tallies, [negative.seconds(each) for each in tallies], [1.0] * len(tallies), 0)
    assert found.per_moved == 0 and min(astuple(found)) >= 0


def test_chunks_add_up_and_the_largest_holds_the_most(config):
    config = replace(config, steps=1)
    model = network(config)
    three, one, all_ = tally(config, model, 3), tally(config, model, 1), of_meta_batch(config, model, 3)
    assert all_.flops == three.flops + one.flops and all_.kernels == three.kernels + one.kernels
    assert (all_.held, all_.widest) == (three.held, three.widest)
    assert of_meta_batch(config, model, 8) == tally(config, model, 4)


def test_every_window_is_listed_with_what_it_takes(config, measured):
    measured(asdict(RATES))
    found = plan(config, 1e12)
    assert [(o.window, o.backward, o.gradients, o.products) for o in found.options] == [
        (1, "autograd", 8, 8), (1, "adjoint", 15, 8), (2, "autograd", 4, 4), (2, "adjoint", 7, 4),
        (4, "autograd", 2, 2), (4, "adjoint", 3, 2), (8, "autograd", 1, 1), (8, "adjoint", 1, 1),
    ]  # fmt: skip
    exact = found.options[0]
    assert found.require_fit() == found.chosen == exact and found.measured_on == "a processor" and found.chunk == 2
    counted = of_meta_batch(config, network(config), 2)
    assert exact.seconds == RATES.seconds(counted)
    inputs = 4 * (4 * 3 * 5 * 28**2 + 4 * network(config).parameters)
    assert exact.bytes == 4e8 + inputs + RATES.growth(counted)
    assert exact.needs == exact.bytes + 0.25 * RATES.growth(counted)


def test_the_smallest_window_that_fits_is_chosen_and_the_faster_backward_pass_of_it(config, measured):
    measured(asdict(RATES))
    needs = {(o.window, o.backward): o.needs for o in plan(config, 1e12).options}
    assert max(needs[1, "adjoint"], needs[8, "autograd"]) < needs[1, "autograd"]
    chosen = plan(config, needs[1, "autograd"] - 1).chosen
    assert (chosen.window, chosen.backward) == (1, "adjoint")
    two, one = (
        r"N = 8 with autograd needs \d+ MB with 2 tasks at a time",
        r"N = 8 with autograd \d+ MB with --task-chunk 1",
    )
    with pytest.raises(UserError, match=f"^nothing fits: {two}, {one}; --filters, --query or --shot lower it further$"):
        plan(config, 4e8).require_fit()
    with pytest.raises(UserError, match=r"^nothing fits: N = 8 with autograd needs \d+ MB; --filters"):
        plan(replace(config, task_chunk=1), 4e8).require_fit()


def test_without_a_measurement_tensors_are_counted_and_time_is_not_known(config, measured):
    found = plan(config, 1e9)
    assert found.measured_on is None and found.chosen.seconds is None
    assert found.chosen.bytes < 1e8  # of tensors alone
    measured(asdict(RATES))
    assert plan(replace(config, steps=1, precision="bf16"), 1e9).chosen.seconds is None
    gpu = plan(replace(config, steps=1, task_chunk=None), 1e9, "cuda")
    assert gpu.chunk == 4 and gpu.measured_on is None and gpu.chosen.seconds is None
    measured({"per_flop": 1})
    with pytest.raises(UserError, match="scaling.json is damaged: .* measure again: msmeta bench scaling"):
        plan(config, 1e9)
    with pytest.raises(ConfigError, match="estimator reptile has no windows"):
        plan(replace(config, estimator="reptile"), 1e9)


def test_the_network_is_that_of_a_run(config):
    assert (network(config).channels, network(config).size, network(config).pool) == (1, 28, False)
    photographs = few_shot.preset_config("paper", "miniimagenet", 5, 1, "multistep")
    assert (network(photographs).channels, network(photographs).size, network(photographs).pool) == (3, 84, True)
    assert network(replace(photographs, image_size=42)).size == 42


def test_sizes():
    found = [parse_bytes(text) for text in ("24GB", "512MB", "1.5GiB", "2 tb", "100B")]
    assert found == [24e9, 512e6, 1.5 * 2**30, 2e12, 100]
    for text in ("24", "GB", "-1GB", "0MB", "24 G B", "1e3MB"):
        with pytest.raises(ConfigError, match=f"--memory {text}: give a size such as 24GB"):
            parse_bytes(text)
    assert planning.in_words(999e6) == "999 MB" and planning.in_words(1e9) == "1.00 GB"
