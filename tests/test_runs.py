"""The store of results: names, whole files, provenance."""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from msmeta import UserError, checkout, checkpoints, files, idle, machine, runs
from msmeta.experiments import stored


def _run(root, preset="cpu", **config):
    return runs.Run("trials", "label", preset, {"a": 1, **config}, root)


def _result():
    return {"metrics": {"accuracy": 1.0}, "provenance": {}, "curve": {"iteration": [1, 2]}}


def test_a_name_depends_on_all_that_defines_the_outcome_and_on_nothing_else(tmp_path):
    assert _run(tmp_path, b=2).name == runs.Run("x", "label", "cpu", {"b": 2, "a": 1}, tmp_path / "y").name
    whole = _run(tmp_path, b=2)
    others = (_run(tmp_path, b=3), _run(tmp_path), replace(whole, data="1"), replace(whole, source="1"))
    assert len({whole.name, *(other.name for other in others)}) == 5


def test_a_kept_result_that_does_not_fit_its_schema_is_not_stored_and_the_checkpoint_stays(tmp_path):
    own = _run(tmp_path)
    own.save_checkpoint({"iteration": 3})
    kept = own.keep_result(_result(), {"w": torch.zeros(2)})
    found = checkpoints.read(kept)
    for text in ("{", json.dumps(json.loads(found["result"]) | {"metrics": float("inf")})):
        files.write(kept, checkpoints.pack(found | {"result": text}))
        assert not own.store_kept() and own.result() is None and own.load_checkpoint()["iteration"] == 3
    files.write(kept, checkpoints.pack(found))
    assert own.store_kept() and own.result()["metrics"] == {"accuracy": 1.0}


def test_a_result_from_before_a_field_is_found_by_the_field_s_default(tmp_path):
    old, defaults = _run(tmp_path, b=2), {"c": 3}
    old.save_result(_result())
    new = replace(_run(tmp_path, b=2, c=3), defaults=defaults)
    assert new.name == old.name and new.result()["metrics"] == {"accuracy": 1.0}
    other = replace(_run(tmp_path, b=2, c=4), defaults=defaults)
    assert other.name != old.name and other.result() is None
    other.result_path.write_text(old.result_path.read_text())
    with pytest.raises(UserError, match="is of another config or data"):
        other.result()


def test_a_result_is_found_by_its_whole_config_and_its_data(tmp_path):
    """Whatever its file is called: here the names of all runs are the same."""
    place = replace(_run(tmp_path, b=2), data="1", source="2")
    place.save_result({**_result(), "data": {"hash": "1"}, "source": {"hash": "2"}})
    assert place.result()["metrics"] == {"accuracy": 1.0}
    for other in (_run(tmp_path, b=3), _run(tmp_path), replace(place, data="3"), replace(place, source=None)):
        assert other.result() is None
        other.result_path.write_text(place.result_path.read_text())
        with pytest.raises(UserError, match="is of another config or data"):
            other.result()


def test_live_results_lie_apart_from_evidence(tmp_path):
    _run(tmp_path).save_result(_result())
    _run(tmp_path, "quick").save_result(_result())
    assert len(stored.results("trials", tmp_path)) == len(stored.results("trials", tmp_path, live=True)) == 1
    assert _run(tmp_path, "quick").result_path.is_relative_to(tmp_path / "live")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    run = _run(tmp_path)
    run.save_result(_result())
    before = run.result_path.read_text()
    with pytest.raises(ValueError):
        run.save_result({**_result(), "metrics": {"accuracy": float("nan")}})  # JSON has no NaN
    with pytest.raises(RuntimeError), files.replacing(run.result_path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert run.result_path.read_text() == before and len(list(run.result_path.parent.iterdir())) == 1
    assert '"iteration": [ 1, 2 ]' in before  # a curve takes one line of a diff


def test_parameters_are_kept_beside_the_result_and_held_against_it(tmp_path):
    place, whole = _run(tmp_path), torch.arange(1000.0)
    place.save_result(_result(), {"theta": whole[:3].view(3, 1), "scale": torch.tensor(2.0)})
    found = runs.read_parameters(place.parameters_path, place.result())
    assert torch.equal(found["theta"], whole[:3].view(3, 1)) and found["scale"] == 2
    assert place.parameters_path.stat().st_size < 3000  # of a view, its own part alone
    before = place.parameters_path.read_bytes()
    with pytest.raises(ValueError):
        place.save_result({**_result(), "metrics": {"accuracy": float("nan")}}, {"theta": whole})
    assert place.parameters_path.read_bytes() == before
    for spoilt in (before[:-100], before.replace(torch.tensor([1.0, 2.0]).numpy().tobytes(), b"\0" * 8)):
        assert spoilt != before
        place.parameters_path.write_bytes(spoilt)
        with pytest.raises(UserError, match=f"^{place.parameters_path} is not what result .* was measured with"):
            runs.read_parameters(place.parameters_path, place.result())
    place.parameters_path.unlink()
    with pytest.raises(UserError, match=f"^{place.parameters_path} is not here"):
        runs.read_parameters(place.parameters_path, place.result())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk is played by /dev/full")
def test_a_full_disk_is_one_line(tmp_path):
    place = _run(tmp_path)
    place.checkpoint_path.parent.mkdir()
    place.checkpoint_path.with_name(f".{place.checkpoint_path.name}.{os.getpid()}").symlink_to("/dev/full")
    with pytest.raises(UserError, match="cannot write .*: No space left on device"):
        place.save_checkpoint({"theta": torch.zeros(10**5)})
    assert not list(place.checkpoint_path.parent.iterdir())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"config": null, "metrics": {}, "provenance": {}}', "[" * 100_000])
def test_a_damaged_result_is_named(tmp_path, text):
    place = _run(tmp_path)
    place.result_path.parent.mkdir()
    place.result_path.write_text(text)
    for read in (place.result, lambda: stored.results("trials", tmp_path)):
        with pytest.raises(UserError, match=f"^result {place.result_path} is damaged"):
            read()


def test_an_unwritable_store_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*label"):
        _run(tmp_path / "file").save_result(_result())


def test_provenance_names_the_commit_and_the_device():
    checkout.commit.cache_clear()
    found = runs.provenance(torch.device("cpu"))
    command = ["git", "-C", str(machine.repository()), "rev-parse", "HEAD"]
    is_checkout = (machine.repository() / ".git").exists()  # or an archive of it
    head = subprocess.run(command, capture_output=True, text=True).stdout.strip() if is_checkout else ""
    assert (found["commit"] or "").removesuffix(checkout.DIRTY) == head
    assert found["device"].endswith("cores") and found["threads"] == torch.get_num_threads()


def test_the_commit_is_that_of_the_beginning_and_marks_changed_code(tmp_path, monkeypatch):
    """Of the package and of the benchmarks, which run from the checkout as well."""
    git = partial(subprocess.run, cwd=tmp_path, check=True, capture_output=True)
    for name in ("msmeta", "benchmarks", "notebooks"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("")
    identity = ["-c", "user.name=x", "-c", "user.email=x"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "x"]):
        git(["git", *command])
    monkeypatch.setattr(machine, "repository", lambda: tmp_path)
    checkout.commit.cache_clear()
    first = checkout.commit()
    assert len(first) == 40
    for name, mark in (("notebooks", ""), ("benchmarks", "-dirty"), ("msmeta", "-dirty")):
        (tmp_path / name / "file").write_text("changed")
        assert checkout.commit() == first
        checkout.commit.cache_clear()
        assert checkout.commit() == first + mark
        git(["git", "checkout", "-q", "."])
        checkout.commit.cache_clear()
        checkout.commit()
    checkout.commit.cache_clear()


class Watch:
    """A watch that has seen others take so many cores at the start and at the end; None where it sees nothing."""

    load = 0.5

    def __init__(self, first, last):
        self.cores, self.last, self.sees = first, last, first is not None

    def look(self):
        return self.cores

    def end(self):
        self.cores = self.last
        return self.cores


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """Begins a measurement with these options, while others take so many cores."""
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path))
    monkeypatch.setattr(runs, "LOOK_SECONDS", 0)

    def measurement(first, last, *options):
        monkeypatch.setattr(sys, "argv", ["benchmark", "--rounds", "3", *options])
        monkeypatch.setattr(idle, "Watch", lambda: Watch(first, last))
        parser = argparse.ArgumentParser()
        parser.add_argument("--rounds", type=int)
        return runs.Measurement.begin(parser)

    return measurement


def test_a_measurement_is_stored_with_what_others_took_where_the_machine_was_idle(begin, tmp_path):
    measurement = begin(0.0, 0.05)
    measurement.save("benchmarks/a.json", vars(measurement.options), [{"seconds": 1}], torch.device("cpu"), more=[2])
    found = runs.read_result(tmp_path / "benchmarks" / "a.json")
    assert (found["config"], found["metrics"], found["more"]) == ({"rounds": 3}, [{"seconds": 1}], [2])
    assert found["provenance"]["others"] == 0.05 and found["provenance"]["load"] == 0.5


def test_a_gpus_measurement_does_not_replace_a_processors(tmp_path, monkeypatch):
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path))
    monkeypatch.setattr(machine, "device_name", str)
    for device in ("cpu", "cuda"):
        runs.save_measurement("benchmarks/a.json", {}, [device], torch.device(device))
    found = {path.name: json.loads(path.read_text())["metrics"] for path in tmp_path.rglob("*.json")}
    assert found == {"a.json": ["cpu"], "a-cuda.json": ["cuda"]}


def test_a_measurement_on_a_busy_machine_is_stored_only_with_anyway(begin, tmp_path):
    with pytest.raises(
        UserError, match=r"^other processes took 0.11 of \d+ cores before .* \(load 0.50\): .* --anyway"
    ):
        begin(0.11, 0.11)
    path = tmp_path / "benchmarks" / "a.json"
    path.parent.mkdir()
    path.write_text("older")
    with pytest.raises(UserError, match=r"^other processes took 0.73 of \d+ cores meanwhile, so nothing is stored"):
        begin(0.02, 0.73).save("benchmarks/a.json", {}, [], torch.device("cpu"))
    assert path.read_text() == "older" and list(path.parent.iterdir()) == [path]
    begin(0.9, 0.73, "--anyway").save("benchmarks/a.json", {}, [], torch.device("cpu"))
    assert runs.read_result(path)["provenance"]["others"] == 0.73


def test_where_others_cannot_be_seen_it_is_said(begin, tmp_path, capsys):
    begin(None, None).save("benchmarks/a.json", {}, [], torch.device("cpu"))
    assert "does not show what other processes do" in capsys.readouterr().out
    assert runs.read_result(tmp_path / "benchmarks" / "a.json")["provenance"]["others"] is None


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
def test_a_busy_process_keeps_a_benchmark_from_beginning(tmp_path):
    busy = [sys.executable, "-c", "print(flush=True)\nwhile True: pass"]
    benchmark = "import argparse; from msmeta import errors, runs; parser = argparse.ArgumentParser(); "
    benchmark += "errors.script(lambda: runs.Measurement.begin(parser) and print('begun'))"
    with subprocess.Popen(busy, stdout=subprocess.PIPE) as other:
        try:
            other.stdout.readline()
            done = subprocess.run([sys.executable, "-c", benchmark], capture_output=True, text=True)
        finally:
            other.kill()
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "other processes took" in done.stderr and "cores before anything was measured" in done.stderr
