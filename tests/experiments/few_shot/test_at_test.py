"""Test time: batch norm's statistics against torch's own modules, heads of another way, the windows of the steps."""

import dataclasses
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from problems import F64
from torch import nn

from msmeta import adapt, data
from msmeta.data import EpisodeSampler
from msmeta.experiments import few_shot, finished
from msmeta.experiments.few_shot import at_test, work
from msmeta.models import Conv4
from msmeta.workers import Team

pytestmark = pytest.mark.usefixtures("no_worker_stays")


@cache
def glyphs():
    return data.load("glyphs")


def config_of(**changes):
    return few_shot.preset_config("smoke", "glyphs", 3, 2, "multistep", 1, filters=4, steps=2, **changes)


def tasks(split, seed, count, config):
    return EpisodeSampler(glyphs(), split, config.way, config.shot, config.query, seed).sample(0, count)


class Reference(nn.Module):
    """One task's network of torch's own layers, whose batch norm keeps a plain mean over the batches it has seen."""

    def __init__(self, phi, cumulative=True):
        super().__init__()
        for block in "1234":
            weight = phi[f"conv{block}.weight"]
            conv = nn.Conv2d(weight.shape[1], len(weight), 3, stride=2, padding=1, bias=False)
            norm = nn.BatchNorm2d(len(weight), momentum=None if cumulative else 1.0)
            self.add_module(f"conv{block}", conv)
            self.add_module(f"norm{block}", norm)
        self.head = nn.Linear(*phi["head.weight"].shape[::-1])
        self.to(phi["head.bias"].dtype)
        self.load_state_dict(phi, strict=False)

    def forward(self, x):
        for block in "1234":
            x = F.relu(getattr(self, f"norm{block}")(getattr(self, f"conv{block}")(x)))
        return self.head(x.mean((2, 3)))


def of_task(phi, task):
    return {name: value[task].detach() for name, value in phi.items()}


def in_doubles(episodes):
    return episodes.to(torch.float64)


@pytest.fixture(scope="module")
def adapted():
    """(model, φ of three tasks, the tasks)."""
    config, model = config_of(), Conv4(3, filters=4)
    episodes = in_doubles(tasks("test", 0, 3, config))
    theta = {name: value.double() for name, value in model.init(0).items()}
    problem = at_test.inner_problem(config, model, theta, episodes)
    return model, adapt(problem, theta, config.dynamics(), 2).phi, episodes


def test_support_statistics_are_what_torch_keeps_of_one_batch(adapted):
    model, phi, episodes = adapted
    logits = at_test.query_logits(model, phi, episodes, "support")
    for task in range(3):
        network = Reference(of_task(phi, task), cumulative=False)
        network.train()(episodes.support_x[task])
        expected = network.eval()(episodes.query_x[task])
        torch.testing.assert_close(logits[task], expected, rtol=1e-9, atol=1e-11)
    assert logits.dtype == F64 and not logits.requires_grad


def test_only_without_transduction_an_answer_is_of_its_image_alone(adapted):
    model, phi, episodes = adapted
    running = {name: value[:1] for name, value in at_test.support_statistics(model, phi, episodes.support_x).items()}
    alone = dataclasses.replace(episodes, query_x=episodes.query_x[:, :1], query_y=episodes.query_y[:, :1])
    for norm in few_shot.NORMS:
        whole, one = (at_test.query_logits(model, phi, each, norm, running) for each in (episodes, alone))
        assert torch.allclose(whole[:, :1], one, rtol=1e-9) == (norm != "transductive")
    whole = model(phi, episodes.query_x)
    assert torch.equal(at_test.query_logits(model, phi, episodes, "transductive"), whole)


def test_the_pooled_network_has_statistics_too():
    model = Conv4(2, channels=3, size=16, filters=4, pool=True)
    phi = {name: value.expand(2, *value.shape) for name, value in model.init(0).items()}
    x = torch.rand(2, 6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    known = at_test.support_statistics(model, phi, x)
    first = F.conv2d(x[1], phi["conv1.weight"][1], padding=1)
    torch.testing.assert_close(known["norm1.mean"][1], first.mean((0, 2, 3)))
    torch.testing.assert_close(known["norm1.variance"][1], first.transpose(0, 1).flatten(1).var(1))
    for block, side in zip("1234", (16, 8, 4, 2), strict=True):  # in training it takes the biased one
        known[f"norm{block}.variance"] *= 1 - 1 / (6 * side**2)
    torch.testing.assert_close(model(phi, x, known, training=False), model(phi, x), rtol=1e-4, atol=1e-6)


def test_running_statistics_are_torch_s_cumulative_mean_over_training_tasks(monkeypatch):
    """Torch's modules see the support images of each training task once, at the φ that the task adapts to."""
    monkeypatch.setattr(work, "GATHERED", 25)  # more than a block
    config = config_of(test_norm="running")
    model, theta = Conv4(3, filters=4), Conv4(3, filters=4).init(0)
    done = few_shot.Work(config, model, glyphs(), 4)
    few_shot.evaluate(Team(done), theta, 5)
    norms = {}
    for block in (0, 1):
        episodes = EpisodeSampler(glyphs(), "train", 3, 2, config.query, work.TEST_SEED).sample(block, 20 - 15 * block)
        phi = adapt(at_test.inner_problem(config, model, theta, episodes), theta, config.dynamics(), 2).phi
        for task in range(len(episodes)):
            network = Reference(of_task(phi, task))
            for name, module in network.named_modules():
                if isinstance(module, nn.BatchNorm2d) and name in norms:
                    module.load_state_dict(norms[name].state_dict() | of_norm(module))
            network.train()(episodes.support_x[task])
            norms = {name: each for name, each in network.named_modules() if isinstance(each, nn.BatchNorm2d)}
    assert len(norms) == 4 and norms["norm1"].num_batches_tracked == 25
    for name, module in norms.items():
        torch.testing.assert_close(done.running()[f"{name}.mean"][0], module.running_mean, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(done.running()[f"{name}.variance"][0], module.running_var, rtol=1e-4, atol=1e-6)


def of_norm(module):
    return {"weight": module.weight, "bias": module.bias}


@pytest.mark.parametrize("norm", few_shot.NORMS)
def test_any_number_of_workers_and_any_chunk_gives_the_same_answers(norm):
    config = config_of(test_norm=norm, tasks=4)
    model = Conv4(3, filters=4)
    theta = model.init(0)
    alone = few_shot.evaluate(Team(few_shot.Work(config, model, glyphs(), 2)), theta, 25)
    assert few_shot.evaluate(Team(few_shot.Work(config, model, glyphs(), 5)), theta, 25) == alone
    team = Team(few_shot.Work(config, model, glyphs(), 2), 2)
    team.wait()
    assert few_shot.evaluate(team, theta, 25) == alone and team.most == 2


def test_a_run_can_be_evaluated_so_in_training_and_others_keep_their_names(tmp_path):
    usual, other = config_of(), config_of(test_norm="support")
    results = {config: few_shot.train(config, "cpu", results_root=tmp_path) for config in (usual, other)}
    places = [few_shot.run(config, tmp_path) for config in results]
    assert places[0].name != places[1].name and "test_norm" not in {
        name for name, value in places[0].config.items() if places[0].defaults.get(name, ...) != value
    }
    first, second = (finished.read(place.result_path).parameters() for place in places)
    assert all(torch.equal(first[name], second[name]) for name in first)  # training is the same
    assert results[usual]["log"]["loss"] == results[other]["log"]["loss"]
    assert results[usual]["metrics"]["right_answers"] != results[other]["metrics"]["right_answers"]


def test_the_windows_of_test_time():
    config = config_of(test_steps=5)
    assert at_test.windows_at_test(config) == (1,) * 5
    assert at_test.windows_at_test(config, 2) == (2,) and at_test.windows_at_test(config, 1) == (1, 1)
    assert at_test.windows_at_test(config, steps=3) == (1,) * 3
    assert at_test.windows_at_test(config, (1, 3), 4) == (1, 3)


def test_a_head_of_another_way_has_the_mean_of_the_trained_rows():
    head = {"head.weight": torch.arange(6.0).view(3, 2), "head.bias": torch.tensor([1.0, 2.0, 6.0])}
    theta = {**head, "x": torch.ones(3)}
    for way in (2, 5):
        found = at_test.with_way(theta, way)
        assert found["head.weight"].tolist() == [[2, 3]] * way and found["head.bias"].tolist() == [3] * way
        assert found["x"] is theta["x"]
    assert at_test.with_way(theta, 3) is theta
