"""Benchmarks run to their end on small work, and what they time beside msmeta computes the same."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from problems import F64, relative_error

from msmeta import SGD, State
from msmeta.experiments.transfer import TransferProblem, transfer_iteration
from msmeta.models.l2t import L2T
from msmeta.models.vgg9 import VGG9

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def test_each_method_is_timed_in_each_precision_and_held_against_float32(tmp_path):
    options = ["--device", "cpu", "--tasks", "2", "--filters", "4", "--blocks", "1"]
    environment = {**os.environ, "MSMETA_RESULTS": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "few_shot_graph.py", *options], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "benchmarks" / "few_shot_graph-cpu.json").read_text())
    rows = {(row["method"], row["precision"]): row for row in result["metrics"]}
    assert len(rows) == 5 * 3
    for (_, precision), row in rows.items():
        assert row["seconds"] > row["floor_seconds"] > 0
        if precision == "bf16":  # 8 bits of mantissa; how far that leads apart depends on the inner rate
            assert row["relative_difference"] > 1e-4
        else:  # a CPU has no TF32
            assert row["cosine"] == pytest.approx(1, abs=1e-5) and row["relative_difference"] < 1e-4


def test_each_method_of_meta_transfer_is_timed(tmp_path):
    options = ["--device", "cpu", "--settings", "32x32", "--batch", "2", "--rounds", "1", "--repeats", "1"]
    environment = {**os.environ, "MSMETA_RESULTS": str(tmp_path)}
    command = [sys.executable, BENCHMARKS / "transfer_step.py", *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "benchmarks" / "transfer_step.json").read_text())
    rows = {(row["optimizer"], row["method"], row["precision"]) for row in result["metrics"]}
    assert {method for optimizer, method, _ in rows if optimizer == "sgd"} == {
        "Scratch", "Baseline", "Multi-step", "First-order", "Replayed reverse"
    }  # fmt: skip
    assert len(result["metrics"]) == len(rows) == 14
    assert all(row["seconds"] > 0 and row["floor_seconds"] > 0 and row["batch"] == 2 for row in result["metrics"])


def test_the_replayed_reverse_is_the_same_meta_gradient():
    spec = importlib.util.spec_from_file_location("transfer_step_benchmark", BENCHMARKS / "transfer_step.py")
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = benchmark  # its dataclass looks there
    spec.loader.exec_module(benchmark)
    torch.manual_seed(0)
    network, dynamics = VGG9(way=3, width=1 / 64), SGD(0.05, 0.9, 1e-2)
    l2t = L2T((2, 3), network.channels)
    features = [torch.randn(4, channels, 32, 32, dtype=F64) for channels in (2, 3)]
    source, x = l2t.source_batch(features, network.sizes(32)), torch.randn(4, 3, 32, 32, dtype=F64)
    problem = TransferProblem(network, l2t, x, torch.tensor([0, 1, 2, 0]), source)
    params, statistics = network.init(1)
    phi = {name: value.double() for name, value in (params | l2t.init_matching(2)).items()}
    theta = {name: value.double() for name, value in l2t.init_meta().items()}
    own = transfer_iteration(problem, State(phi), theta, dynamics, 2, 1)
    statistics = {name: value.double() for name, value in statistics.items()}
    replayed = benchmark.replayed_reverse(lambda: problem, State(phi), theta, dynamics, 2, statistics)
    assert relative_error(replayed, own.meta.grad) < 1e-9  # the same sums in another order
