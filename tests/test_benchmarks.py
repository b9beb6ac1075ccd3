"""The benchmark of whole meta-iterations, which is made for a GPU, runs to its end on a CPU without a graph."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "few_shot_graph.py"


def test_each_method_is_timed_in_each_precision_and_held_against_float32(tmp_path):
    options = ["--device", "cpu", "--tasks", "2", "--filters", "4", "--blocks", "1"]
    environment = {**os.environ, "MSMETA_RESULTS": str(tmp_path)}
    done = subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True, env=environment)
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
