"""A run's work among workers: the same bits with any number of them."""

from functools import cache

import pytest
import torch

from msmeta import data
from msmeta.bilevel import detach
from msmeta.experiments import few_shot
from msmeta.experiments.distributed import World
from msmeta.experiments.few_shot.at_test import windows_at_test
from msmeta.experiments.few_shot.config import META_OPTIMIZERS
from msmeta.experiments.few_shot.step import MetaStepper
from msmeta.workers import Team, Worker

pytestmark = pytest.mark.usefixtures("no_worker_stays")


def config_of(estimator, window=1, **changes):
    return few_shot.preset_config("smoke", "glyphs", 5, 1, estimator, window, filters=4, **{"tasks": 5} | changes)


@cache
def glyphs():
    return data.load("glyphs")


def work_of(config, chunk=2, process=Worker()):  # noqa: B008 - frozen
    return few_shot.Work(config, few_shot.network(config), glyphs(), chunk, process)


def trained(config, team):
    """What some meta-iterations and evaluations give: losses and accuracies, θ, right answers."""
    work = team._given
    theta = {name: torch.nn.Parameter(value) for name, value in work.model.init(config.seed).items()}
    optimizer = META_OPTIMIZERS[config.meta_optimizer](list(theta.values()), config.meta_lr, False)
    shared = team if team.size > 1 else None
    steps = MetaStepper(config, work.model, theta, optimizer, work.sampler, work.chunk, World(), shared)
    found = steps.run(0, 3, config.meta_lr)
    usual, windowed = few_shot.evaluate(team, theta, 21), windows_at_test(config, config.window)
    return found, detach(theta), usual + few_shot.evaluate(team, theta, 7, windowed)


@pytest.mark.parametrize(
    ("estimator", "window"), [("multistep", 1), ("multistep", 4), ("first-order", 1), ("implicit", 1), ("reptile", 1)]
)
def test_any_number_of_workers_gives_the_same_bits(estimator, window):
    config = config_of(estimator, window, steps=4)
    alone = trained(config, Team(work_of(config)))
    for size in (2, 4):
        team = Team(work_of(config), size)
        team.wait()
        shared = trained(config, team)
        assert team.most == size
        assert shared[0] == alone[0] and shared[2] == alone[2]
        assert all(torch.equal(value, shared[1][name]) for name, value in alone[1].items())


def test_there_are_no_more_workers_than_chunks():
    def size(config, asked, chunk=2):
        return few_shot.team_of(work_of(config, chunk), asked).size

    config = config_of("multistep")
    assert [size(config, asked) for asked in (1, 2, 3, 8)] == [1, 2, 3, 3]
    assert size(config, 2, chunk=5) == 1
    assert size(config_of("evolution-strategies"), 2) == 1  # one generator draws for all tasks


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_of_several_gives_its_workers_its_own_tasks(rank):
    config, process = config_of("multistep", 2), Worker(rank, 2)
    work, team = work_of(config), Team(work_of(config, 1, process), 2)
    theta = work.model.init(1)
    own = work.sampler.places(4, 5)[process.share(5)]
    episodes = work.sampler.gather(torch.from_numpy(own))
    numbers, grad = few_shot.meta_gradient(config.build_estimator(None), work.model, theta, episodes, 1)
    team.wait()
    with team.ready() as shared:
        shared.set_theta(theta)
        team.call("meta_gradients", 4)
        found = shared.mean()
    assert torch.equal(found[0], numbers)
    assert all(torch.equal(found[1][name], value) for name, value in grad.items())
