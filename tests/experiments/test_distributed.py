"""Two processes on one batch, started by torchrun, with gloo: the meta-gradient and the result of one process."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from problems import double, relative_error

from msmeta import data
from msmeta.data import EpisodeSampler
from msmeta.errors import ConfigError, DivergedError, UserError
from msmeta.experiments import distributed, few_shot, transfer
from msmeta.experiments.distributed import World, join
from msmeta.experiments.few_shot.step import MetaStepper
from msmeta.experiments.transfer.experiment import Transfer

FEW_SHOT = few_shot.preset_config(
    "smoke", "glyphs", 5, 1, "multistep", 4, filters=8, tasks=3, iterations=4, log_every=1, curve_every=2,
    curve_episodes=2, test_episodes=4,
)  # fmt: skip
SMALL = {"train_images": 40, "batch": 5, "log_every": 1}
TRANSFER = {
    name: transfer.preset_config("smoke", "glyphs-rgb", *own, **SMALL, **options)
    for name, own, options in (
        ("exact", ("multistep", "sgd"), {}),
        ("windows", ("multistep", "adam"), {"window": 2}),
        ("first-order", ("first-order", "sgd"), {}),
        ("no rollback", ("multistep", "sgd"), {"rollback": False}),
        ("scratch", ("scratch", "sgd"), {}),
    )
}
SMOKE = ["train", "few-shot", "--dataset", "glyphs", "--preset", "smoke", "--device", "cpu", "--tasks", "3"]


def few_shot_gradient(world: World) -> dict[str, torch.Tensor]:
    """Of the first meta-iteration, with its loss and accuracy."""
    images = data.load("glyphs")
    model = few_shot.network(FEW_SHOT)
    theta = {name: torch.nn.Parameter(value) for name, value in model.init(0).items()}
    sampler = EpisodeSampler(images, "train", 5, 1, 15, 0)
    steps = MetaStepper(FEW_SHOT, model, theta, torch.optim.SGD(theta.values(), lr=0.0), sampler, 1, world)
    ((loss, accuracy),) = steps.run(0, 1, 0.0)
    return {**{name: value.grad for name, value in theta.items()}, "loss": torch.tensor([loss, accuracy])}


def transfer_iterations(config: transfer.TransferConfig, world: World) -> dict[str, dict[str, torch.Tensor]]:
    """Two iterations in float64, the second with the first's buffers: meta-gradients, numbers, φ, batch statistics."""
    run, draw = Transfer(config, torch.device("cpu"), world), torch.Generator().manual_seed(0)
    run.begin(0, None)
    run.inner, run.statistics = replace(run.inner, phi=double(run.inner.phi)), double(run.statistics)
    run.theta = {
        name: value.detach() + 0.3 * torch.randn(value.shape, generator=draw, dtype=torch.float64)
        for name, value in run.theta.items()
    }
    for value in run.theta.values():
        value.grad = torch.zeros_like(value)
    if run.theta:
        run.optimizer = torch.optim.SGD(run.theta.values(), lr=0.0)
    source, found = run.source, {}
    for i in range(2):
        x, y = next(run.batches)
        if source:
            features = [feature.double() for feature in source.features(x)]
            run.source = replace(source, features=lambda _, features=features: features)
        done = run._iteration(x.double(), y, run.inner, config.dynamics(0), run.statistics)
        run.inner = done.state
        found[f"total loss {i}"] = {"": done.total}
        if done.meta:
            found |= {f"meta-gradient {i}": done.meta.grad, f"outer loss {i}": {"": done.meta.loss}}
        if done.gradient_change is not None:
            found[f"gradient change {i}"] = {"": done.gradient_change}
    return found | {"phi": run.inner.phi, "statistics": run.statistics}


def torchrun(*command, **environment):
    """Two processes on one thread each; their address is found by torchrun."""
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *map(str, command)],
        capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **environment},
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where two processes, started once, have left what they found and what they trained."""
    path = tmp_path_factory.mktemp("two")
    done = torchrun(__file__, path)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def gradients(folder):
    """By name."""
    return torch.load(folder / "found.pt", weights_only=True)


def test_few_shot_meta_gradient_of_two_processes_is_that_of_one(gradients):
    """3 tasks on 2 processes, so that their shares differ; float32, so equal up to the order of a sum."""
    assert relative_error(gradients["few-shot"], few_shot_gradient(World())) < 1e-6


@pytest.mark.parametrize("name", TRANSFER)
def test_transfer_meta_gradient_of_two_processes_is_that_of_one(gradients, name):
    """2 and 3 images of a batch, batch norm's statistics those of all 5. One process has its own batch norm, with
    hand-written derivatives."""
    alone = transfer_iterations(TRANSFER[name], World())
    assert gradients[name].keys() == alone.keys()
    for part, values in alone.items():
        assert relative_error(gradients[name][part], values) < 1e-8, part


def test_what_ends_one_process_ends_both_and_they_go_on(folder, tmp_path):
    """A time budget that is over, then a signal to the second process alone; the same as never having stopped."""
    for name, train in RUNS.items():
        (path,) = (folder / name).rglob("*.json")
        result, alone = json.loads(path.read_text()), train("cpu", results_root=tmp_path / name)
        assert result["provenance"]["processes"] == 2 and result["provenance"]["resumed"]
        assert result["log"]["iteration"] == alone["log"]["iteration"]
        loss = "loss" if name == "few-shot" else "total_loss"
        assert result["log"][loss] == pytest.approx(alone["log"][loss], rel=1e-3)
        assert result["config"] == alone["config"]
        if name == "few-shot":  # of 300 answers
            assert result["metrics"]["accuracy"] == pytest.approx(alone["metrics"]["accuracy"], abs=1)


def test_a_mistake_is_said_once_and_ends_both(tmp_path):
    """The first process meets it alone; the second waits for it in a collective call, and has no traceback."""
    place = few_shot.run(few_shot.preset_config("smoke", "glyphs", 5, 1, "multistep", tasks=3), tmp_path)
    place.checkpoint_path.parent.mkdir()
    place.checkpoint_path.write_bytes(b"no checkpoint")
    done = torchrun("-m", "msmeta", *SMOKE, MSMETA_RESULTS=str(tmp_path))
    assert done.returncode != 0 and "[rank" not in done.stderr
    assert done.stderr.count("is damaged: start again with --force") == 1


@pytest.mark.parametrize("own", [DivergedError("apart"), UserError("elsewhere")])
def test_the_others_end_with_the_same_line_and_status(own):
    first, second = (World(rank, 2, store) for store in [dist.HashStore()] for rank in range(2))
    with pytest.raises(RuntimeError, match="by itself"), second.together():
        raise RuntimeError("by itself")
    with pytest.raises(type(own)), first.together():
        raise own
    with pytest.raises(UserError, match=str(own)) as error, second.together():
        raise RuntimeError("connection closed")
    assert error.value.exit_status == own.exit_status


def test_where_the_first_process_keeps_the_store_its_end_is_said():
    store = SimpleNamespace(check=lambda keys: (_ for _ in ()).throw(dist.DistNetworkError("gone")))
    with pytest.raises(UserError, match="^the first process has ended$"), World(1, 2, store).together():
        raise RuntimeError("connection closed")


def test_a_process_whose_others_never_come_says_so(monkeypatch):
    """Started by hand: nobody listens at the first one's port."""
    address = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in address.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "JOIN_SECONDS", 1)
    with pytest.raises(ConfigError, match="the other processes are not there: start them together, by torchrun"):
        join("cpu")


@pytest.mark.parametrize("rank", [None, "x", "2"])
def test_variables_that_torchrun_would_not_set_are_named(monkeypatch, rank):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    if rank:
        monkeypatch.setenv("RANK", rank)
    with pytest.raises(ConfigError, match="^WORLD_SIZE and its like are not as torchrun sets them: "):
        join("cpu")


def test_a_process_alone_says_what_is_wrong_whatever_its_rank(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("RANK", "1")
    assert distributed.is_first()


def test_more_processes_than_images_of_a_batch_are_refused():
    with pytest.raises(ConfigError, match="6 processes for a batch of 5 images"):
        Transfer(TRANSFER["exact"], torch.device("cpu"), World(0, 6))


def test_a_process_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="process 1 has no GPU of its own: start at most 1 processes"):
        join("cuda")


RUNS = {
    "few-shot": partial(few_shot.train, FEW_SHOT),
    "transfer": partial(transfer.train, replace(TRANSFER["windows"], batch=10)),
}


def stops(world: World, root: Path) -> None:
    """One process of `test_what_ends_one_process_ends_both_and_they_go_on`."""
    for name, train in RUNS.items():

        def cut(progress):
            if world.rank == 1 and progress.iteration == 2:
                signal.raise_signal(signal.SIGTERM)

        def saved(name=name):
            (path,) = (root / name).rglob("*.pt")
            return torch.load(path, weights_only=True)["iteration"]

        assert train("cpu", time_budget=0.0, results_root=root / name) is None
        assert not world.first or saved() == 0
        try:
            train("cpu", resume=True, on_step=cut, results_root=root / name)
            raise AssertionError("it went on")
        except KeyboardInterrupt:
            assert not world.first or saved() == 2
        assert (train("cpu", resume=True, results_root=root / name) is not None) == world.first


if __name__ == "__main__":
    world, _ = join("cpu")
    root = Path(sys.argv[1])
    found = {name: transfer_iterations(config, world) for name, config in TRANSFER.items()}
    found["few-shot"] = few_shot_gradient(world)
    if world.first:
        torch.save(found, root / "found.pt")
    stops(world, root)
