"""What belongs to the whole process stays as it was: torch's settings, random numbers, signals, the environment."""

import os
import random
import signal
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch._dynamo  # which torch loads at the first vmap of a process: it adds a filter of warnings

import msmeta
from msmeta import SGD, Bilevel, machine
from msmeta.experiments import few_shot, finished, transfer
from msmeta.experiments.few_shot import tally

FEW_SHOT = {"filters": 4, "tasks": 2, "iterations": 2, "test_episodes": 3, "curve_episodes": 2}


def state():
    """Of this process."""
    cudnn = torch.backends.cudnn
    flags = torch.backends.cuda.matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic
    modes = torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(), torch.is_anomaly_enabled()
    numbers = torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate()
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)]
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    threads = torch.get_num_threads(), torch.get_num_interop_threads()
    os.umask(mask := os.umask(0o22))
    rest = torch.get_default_dtype(), dict(os.environ), os.getcwd(), mask, [*warnings.filters]
    return flags, modes, numbers, handlers, blocked, threads, rest


@pytest.fixture
def chosen():
    """A user's own settings, unlike torch's."""
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before, dtype = [own.allow_tf32 for own in flags], torch.get_default_dtype()
    for own in flags:
        own.allow_tf32 = True
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(dtype)
    for own, allowed in zip(flags, before, strict=True):
        own.allow_tf32 = allowed


def configs():
    few = few_shot.preset_config("smoke", "glyphs", 5, 1, "multistep", 4, **FEW_SHOT)
    return {
        "few-shot": few,
        "random": replace(few, estimator="evolution-strategies", window=1, samples=2),
        "transfer": transfer.preset_config("smoke", "glyphs-rgb", "multistep", batch=140),
    }


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """Metrics by kind of run, with torch as it is."""
    root = tmp_path_factory.mktemp("results")
    return {kind: train(config, root)["metrics"] for kind, config in configs().items()}


def train(config, root, workers=1):
    if isinstance(config, few_shot.FewShotConfig):
        return few_shot.train(config, "cpu", results_root=root, workers=workers)
    return transfer.train(config, "cpu", results_root=root)


def timeless(metrics):
    return {name: value for name, value in metrics.items() if "second" not in name}


@pytest.mark.parametrize("kind", [*configs()])
def test_training_and_testing_leave_all_as_it_was_and_come_to_the_same(kind, usual, chosen, tmp_path, monkeypatch):
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path))
    before = state()
    found = train(configs()[kind], tmp_path)
    assert state() == before and timeless(found["metrics"]) == timeless(usual[kind])
    (run,) = finished.all_of(live=True)
    _, metrics = run.module.reevaluate(run.config, run.parameters(), "cpu")
    assert state() == before and metrics.items() <= found["metrics"].items()


def test_a_training_that_fails_leaves_all_as_it_was(chosen, tmp_path):
    before = state()
    with pytest.raises(msmeta.DivergedError):
        train(replace(configs()["few-shot"], lr=1e20), tmp_path)
    assert state() == before


def test_counts_and_answers_do_not_depend_on_the_default_type(usual, chosen, tmp_path):
    config = configs()["few-shot"]
    counted = tally.tally(config, few_shot.network(config), 1)
    tally._count.cache_clear()
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    again = tally.tally(config, few_shot.network(config), 1)
    theta = few_shot.network(config).init(0)
    pictures = torch.randint(256, (5, 1, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    given = config, theta, pictures, torch.arange(5), pictures
    wanted = few_shot.adapted.answer(*given)
    torch.set_default_dtype(dtype)
    assert counted == again and torch.equal(few_shot.adapted.answer(*given), wanted) and wanted.dtype == torch.float32


IMPORTING = """
import os, signal, sys, threading, torch
import numpy as np
def state():
    return (
        torch.get_num_threads(), torch.get_num_interop_threads(), torch.get_default_dtype(), torch.is_grad_enabled(),
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark,
        torch.get_rng_state().tolist(), repr(np.random.get_state()), dict(os.environ), threading.active_count(),
        [signal.getsignal(number) for number in signal.valid_signals()], sys.excepthook, os.getcwd(),
    )
before = state()
import MODULE
assert state() == before
"""


@pytest.mark.parametrize("module", ["msmeta", "msmeta.cli", "msmeta.report"])
def test_importing_leaves_all_as_it_was(module):
    done = subprocess.run([sys.executable, "-c", IMPORTING.replace("MODULE", module)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_library_is_imported_without_pydantic_and_so_are_its_measurements():
    code = "import sys; sys.modules['pydantic'] = None; import msmeta, msmeta.runs, msmeta.machine"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def quadratic(dtype):
    """Steps towards one place, judged by the distance from another."""
    start, inside, outside = torch.tensor([[0.5, -1.0], [0.2, 0.9], [0.1, 0.3]], dtype=dtype)
    problem = Bilevel(
        lambda theta: dict(theta),
        lambda phi, theta, t: (phi["w"] - inside).square().sum(),
        lambda phi, theta: (phi["w"] - outside).square().sum(),
    )
    return problem, {"w": start}


ESTIMATORS = {
    "MultiStep": lambda: msmeta.MultiStep(SGD(0.1), 4, 2),
    "adjoint": lambda: msmeta.MultiStep(SGD(0.1, 0.9), 4, 2, backward="adjoint"),
    "FirstOrder": lambda: msmeta.FirstOrder(SGD(0.1), 4),
    "Reptile": lambda: msmeta.Reptile(SGD(0.1), 4),
    "Implicit": lambda: msmeta.Implicit(SGD(0.1), 4, 2.0, 3),
    "Perturbed": lambda: msmeta.Perturbed(SGD(0.1), 4, 2.0),
    "Truncated": lambda: msmeta.Truncated(SGD(0.1), 4, 2),
    "Binomial": lambda: msmeta.Binomial(SGD(0.1), 4, 2),
    "LazyHessian": lambda: msmeta.LazyHessian(SGD(0.1), 4, 2),
    "FiniteDifference": lambda: msmeta.FiniteDifference(SGD(0.1), 4),
    "GaussianSmoothing": lambda: msmeta.GaussianSmoothing(SGD(0.1), 4, 2),
    "EvolutionStrategies": lambda: msmeta.EvolutionStrategies(SGD(0.1), 4, 2),
}


@pytest.mark.parametrize("name", [*ESTIMATORS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_estimator_moves_nothing_and_has_the_type_of_its_problem(name, dtype, chosen):
    problem, theta = quadratic(dtype)
    before = state()
    found = ESTIMATORS[name]()(problem, theta)
    again = ESTIMATORS[name]()(problem, theta)
    assert state() == before and {value.dtype for value in found.grad.values()} == {dtype}
    assert all(torch.equal(found.grad[key], again.grad[key]) for key in theta) and found.loss.dtype == dtype


def test_directions_without_a_generator_are_drawn_anew_at_each_call():
    problem, theta = quadratic(torch.float64)
    estimator = ESTIMATORS["EvolutionStrategies"]()
    first, second = (estimator(problem, theta).grad["w"] for _ in range(2))
    assert not torch.equal(first, second)


ROUNDING = """
import contextlib, os, torch
from msmeta import machine
own = torch.backends
GET = (
    torch.get_float32_matmul_precision, lambda: own.cuda.matmul.allow_tf32, lambda: own.cudnn.allow_tf32,
    lambda: own.fp32_precision, lambda: own.cuda.matmul.fp32_precision, lambda: own.cudnn.fp32_precision,
    lambda: own.cudnn.conv.fp32_precision, lambda: own.cudnn.rnn.fp32_precision, lambda: own.mkldnn.fp32_precision,
    lambda: own.mkldnn.matmul.fp32_precision, lambda: own.mkldnn.conv.fp32_precision, lambda: own.cudnn.deterministic,
)
def state():
    found = []
    for get in GET:
        try:
            found.append(get())
        except RuntimeError:
            found.append("mixed")
    return found
def check(choose):
    choose()
    before = state()
    with machine.settings("float32"):
        assert own.cuda.matmul.fp32_precision == own.cudnn.conv.fp32_precision == "ieee"
        assert own.mkldnn.matmul.fp32_precision == own.mkldnn.conv.fp32_precision == "ieee"
    assert state() == before, (before, state())
    print("as it was")
CHOICES = [
    lambda: None, lambda: torch.set_float32_matmul_precision("medium"), lambda: setattr(own, "fp32_precision", "tf32"),
    lambda: torch.set_float32_matmul_precision("high"), lambda: setattr(own.cuda.matmul, "allow_tf32", True),
    lambda: setattr(own.cudnn, "allow_tf32", False), lambda: setattr(own.cudnn.conv, "fp32_precision", "ieee"),
]
for choose in CHOICES:
    if not os.fork():
        check(choose)
        os._exit(0)
    os.wait()
"""


def test_a_user_s_rounding_of_float32_is_left_alone_however_it_was_chosen():
    """By the older settings of torch or by the newer ones, of which a mixture cannot be asked for by the older."""
    done = subprocess.run([sys.executable, "-uc", ROUNDING], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["as it was"] * 7, done.stderr


def test_settings_end_with_their_block_however_it_ends(chosen):
    before = state()
    with pytest.raises(KeyError), machine.settings("float32"):
        assert torch.get_default_dtype() == torch.float32
        assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.allow_tf32
        raise KeyError
    with machine.settings("tf32"):
        assert torch.backends.cuda.matmul.allow_tf32
    assert state() == before
