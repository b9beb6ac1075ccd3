"""Two processes on one meta-batch, started by torchrun, with gloo: the meta-gradient and the result of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from problems import relative_error

from msmeta import data
from msmeta.data import EpisodeSampler
from msmeta.errors import ConfigError
from msmeta.experiments import few_shot
from msmeta.experiments.distributed import World, join
from msmeta.experiments.few_shot.step import MetaStepper

CONFIG = few_shot.preset_config("smoke", "glyphs", 5, 1, "multistep", 4, filters=8, tasks=3)
SMOKE = ["train", "few-shot", "--dataset", "glyphs", "--preset", "smoke", "--device", "cpu", "--tasks", "3"]


def first_meta_gradient(world: World) -> dict[str, torch.Tensor]:
    images = data.load("glyphs")
    model = few_shot.build_model(CONFIG, images)
    theta = {name: torch.nn.Parameter(value) for name, value in model.init(0).items()}
    sampler = EpisodeSampler(images, "train", 5, 1, 15, 0)
    steps = MetaStepper(CONFIG, model, theta, torch.optim.SGD(theta.values(), lr=0.0), sampler, 1, world)
    ((loss, accuracy),) = steps.run(0, 1, 1.0)
    return {**{name: value.grad for name, value in theta.items()}, "loss": torch.tensor([loss, accuracy])}


def torchrun(*command, **environment):
    """Two processes on one thread each; their address is found by torchrun."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *command],
        capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


def test_meta_gradient_of_two_processes_is_that_of_one(tmp_path):
    """3 tasks on 2 processes, so that their shares differ; float32, so equal up to the order of a sum."""
    done = torchrun(__file__, str(tmp_path / "grad.pt"), PYTHONPATH=str(Path(__file__).parents[1]))
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "grad.pt", weights_only=True)
    assert relative_error(found, first_meta_gradient(World())) < 1e-6


def test_one_run_with_one_result(tmp_path):
    done = torchrun("-m", "msmeta", *SMOKE, MSMETA_RESULTS=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("MAML, Glyphs (procedural) 5-way 1-shot") == 1
    (path,) = tmp_path.rglob("*.json")
    result = json.loads(path.read_text())
    alone = few_shot.train(
        few_shot.preset_config("smoke", "glyphs", 5, 1, "multistep", tasks=3), "cpu", results_root=tmp_path / "alone"
    )
    assert result["provenance"]["processes"] == 2 and result["config"] == alone["config"]
    assert result["log"]["loss"] == pytest.approx(alone["log"]["loss"], abs=2e-4)  # stored with four decimals
    assert result["metrics"]["accuracy"] == pytest.approx(alone["metrics"]["accuracy"], abs=1)


def test_time_budget_and_resume_of_two_processes(tmp_path):
    endless = ["-m", "msmeta", *SMOKE, "--iterations", "1000000", "--time-budget", "15s"]
    first = torchrun(*endless, MSMETA_RESULTS=str(tmp_path))
    assert first.returncode == 0 and first.stdout.count("stopped at the time budget") == 1, first.stderr
    (checkpoint,) = tmp_path.rglob("*.pt")
    before = torch.load(checkpoint, weights_only=True)["iteration"]
    assert torchrun(*endless, "--resume", MSMETA_RESULTS=str(tmp_path)).returncode == 0
    assert torch.load(checkpoint, weights_only=True)["iteration"] > before


def test_a_mistake_is_said_once(tmp_path):
    done = torchrun("-m", "msmeta", *SMOKE, "--tasks", "1", MSMETA_RESULTS=str(tmp_path))
    assert done.returncode != 0
    assert done.stderr.count("msmeta: 2 processes for 1 tasks: each needs at least one") == 1


def test_a_process_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="process 1 has no GPU of its own: start at most 1 processes"):
        join("cuda")


if __name__ == "__main__":
    world, _ = join("cpu")
    gradient = first_meta_gradient(world)
    if world.first:
        torch.save(gradient, sys.argv[1])
