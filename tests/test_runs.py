"""The store of results: names, whole files, provenance."""

import dataclasses
import subprocess

import pytest
import torch

from msmeta import UserError, machine, runs


def _run(root, preset="cpu", **config):
    return runs.Run("few-shot", "label", preset, {"a": 1, **config}, root)


def _result():
    return {"metrics": {"accuracy": 1.0}, "provenance": {}, "curve": {"iteration": [1, 2]}}


def test_a_name_depends_on_the_config_alone(tmp_path):
    assert _run(tmp_path, b=2).name == runs.Run("x", "label", "cpu", {"b": 2, "a": 1}, tmp_path / "y").name
    assert _run(tmp_path, b=2).name != _run(tmp_path, b=3).name


def test_a_new_field_at_its_default_leaves_names_as_they_are(tmp_path):
    @dataclasses.dataclass
    class Config:
        a: int
        b: tuple[int, ...] = (1, 2)

    defaults = runs.defaults(Config)
    assert defaults == {"b": [1, 2]}
    old, new, other = (
        runs.Run("k", "l", "cpu", config, tmp_path, defaults)
        for config in ({"a": 1}, runs.plain(Config(1)), runs.plain(Config(1, (3,))))
    )
    assert old.name == new.name != other.name


def test_live_results_lie_apart_from_evidence(tmp_path):
    _run(tmp_path).save_result(_result())
    _run(tmp_path, "quick").save_result(_result())
    assert len(runs.read_results("few-shot", tmp_path)) == len(runs.read_results("few-shot", tmp_path, live=True)) == 1
    assert _run(tmp_path, "quick").result_path.is_relative_to(tmp_path / "live")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    run = _run(tmp_path)
    run.save_result(_result())
    before = run.result_path.read_text()
    with pytest.raises(ValueError):
        run.save_result({**_result(), "metrics": {"accuracy": float("nan")}})  # JSON has no NaN
    with pytest.raises(RuntimeError), runs.replacing(run.result_path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert run.result_path.read_text() == before and len(list(run.result_path.parent.iterdir())) == 1
    assert '"iteration": [ 1, 2 ]' in before  # a curve takes one line of a diff


def test_an_unwritable_store_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*label"):
        _run(tmp_path / "file").save_result(_result())


def test_provenance_names_the_commit_and_the_device():
    found = runs.provenance(torch.device("cpu"))
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=machine.repository(), capture_output=True, text=True)
    assert found["commit"].removesuffix("-dirty") == head.stdout.strip()
    assert found["device"].endswith("cores") and found["threads"] == torch.get_num_threads()
