"""Grids of runs: specs, real jobs of this machine, a killed member, and SLURM behind stand-ins of its commands."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from msmeta import ConfigError, cli, runs
from msmeta.experiments import few_shot, sweep, transfer

RUNS = Path(__file__).resolve().parents[2] / "results" / "sweeps"
SPEC = """
preset: smoke
dataset: glyphs
way: 5
shot: 1
runs:
  - {estimator: multistep, window: [1, [4, 4]]}
  - {estimator: first-order, lr: 0.2}
"""


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return path


def command(*arguments, root, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "msmeta", "sweep", *map(str, arguments)],
        env={**os.environ, "MSMETA_RESULTS": str(root), "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def finish(process):
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def test_a_spec_is_a_grid_in_its_order(spec):
    configs = sweep.read_spec(spec)
    expected = [
        few_shot.preset_config("smoke", "glyphs", 5, 1, "multistep", 1),
        few_shot.preset_config("smoke", "glyphs", 5, 1, "multistep", (4, 4)),
        few_shot.preset_config("smoke", "glyphs", 5, 1, "first-order", lr=0.2),
    ]
    assert configs == expected
    assert [config.preset for config in sweep.read_spec(spec, "quick")] == ["quick"] * 3
    spec.write_text(SPEC.replace("0.2", "2e-1"))  # a text by YAML's rules
    assert sweep.read_spec(spec) == configs
    spec.write_text(SPEC + "tasks: 3.0\niterations: 1e3\n")
    assert {(config.tasks, config.iterations) for config in sweep.read_spec(spec)} == {(3, 1000)}
    assert {type(config.tasks) for config in sweep.read_spec(spec)} == {int}


@pytest.mark.parametrize(("name", "settings"), [("table_4", 4), ("table_5", 4)])
def test_the_tables_sweeps_hold_each_cell_once(name, settings):
    for preset in ("cpu", "paper"):
        configs = sweep.read_spec(RUNS / f"{name}.yaml", preset)
        cells = {(c.dataset, few_shot.setting(c), few_shot.label(c)) for c in configs}
        assert len(configs) == len(cells) == 7 * settings
        assert {config.preset for config in configs} == {preset}


def test_the_transfer_sweep_holds_each_run_once():
    for preset in ("cpu", "paper"):
        configs = sweep.read_spec(RUNS / "transfer.yaml", preset)
        cells = {(transfer.setting(c), transfer.label(c), c.seed) for c in configs}
        assert len(configs) == len(cells) == 36
        assert {transfer.label(c) for c in configs if transfer.setting(c) == "SGD"} == {
            "Scratch",
            "Baseline",
            "Multi-step",
        }
    longer = sweep.read_spec(RUNS / "transfer_equal_time.yaml")
    assert {(transfer.label(c), c.epochs, transfer.setting(c), c.seed) for c in longer} == {
        (method, epochs, setting, seed)
        for method, epochs in (("Multi-step", 12), ("Scratch", 96))
        for setting in ("SGD", "Adam")
        for seed in range(3)
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("experiment: vision\nruns: [{preset: smoke}]", "experiment 'vision' is unknown"),
        ("experiment: transfer\nruns: [{preset: smoke, way: 5}]", "run 1: there is no field 'way'"),
        ("experiment: transfer\nruns: [{preset: smoke, dataset: cifar-100}]", "run 1: estimator is missing"),
        ("- 1", "has no list `runs`"),
        ("runs: []", "has no list `runs`"),
        ("runs: [5]", "run 1: 5 is not a mapping"),
        ("runs: [{way: 5}]", "run 1: preset is missing"),
        (SPEC.replace("lr", "inner_rate"), "run 2: there is no field 'inner_rate'"),
        (SPEC.replace("[4, 4]", "[4, 3]"), "run 1: window=(4, 3) is no partition of steps=8"),
        (SPEC.replace("0.2", "fast"), "run 2: lr='fast': it must be a number"),
        (SPEC.replace("0.2", ".nan"), "run 2: lr=nan: it must be finite"),
        (SPEC.replace("0.2", "{a: 1}"), "run 2: lr={'a': 1}: it must be a number"),
        (SPEC.replace("0.2", "[]"), "run 2: lr is an empty list"),
        (SPEC + "tasks: [2, true]", "run 1: tasks=True: it must be a whole number"),
        (SPEC + "tasks: [[2, 3]]", "run 1: tasks=[2, 3]: it must be a whole number"),
        (SPEC + "5: 3", "run 1: there is no field 5"),
        ("experiment: [few-shot]\nruns: [{preset: smoke}]", "experiment ['few-shot'] is unknown"),
        ("runs: [", "is not valid YAML"),
        ("runs: " + "[" * 3000 + "]" * 3000, "is nested too deeply"),
        (SPEC + "seed: " + "9" * 5000, "is not valid YAML"),
        (SPEC + "steps: &a {b: *a}", "run 1: steps={'b': {'b': {"),
        (SPEC + "lr: 2020-01-01", "run 1: lr=datetime.date(2020, 1, 1): it must be a number"),
        (SPEC + f"seed: {list(range(101))}\nquery: {list(range(101))}", "run 1: it asks for 20,402 runs"),
        (None, "cannot read"),
    ],
)
def test_a_wrong_spec_is_one_line(spec, text, message):
    spec.unlink() if text is None else spec.write_text(text)
    with pytest.raises(ConfigError) as error:
        sweep.read_spec(spec)
    assert message in str(error.value) and str(spec) in str(error.value)


def test_a_spec_is_utf_8_wherever_it_is_read(spec, monkeypatch):
    """An old locale's encoding does not count: the committed specs have Greek letters in their comments."""
    configs = sweep.read_spec(spec)
    spec.write_bytes(b"# \xcf\x86\n" + spec.read_bytes())
    monkeypatch.setattr("io.text_encoding", lambda encoding, level=2: encoding or "ascii")
    assert sweep.read_spec(spec) == configs
    spec.write_bytes(b"# \xff\n" + SPEC.encode())
    with pytest.raises(ConfigError, match="is not valid YAML"):
        sweep.read_spec(spec)


def test_settings_of_the_command_line():
    assert cli.parse_settings(["gpus_per_node=1", "slurm_partition=gpu"]) == {
        "gpus_per_node": 1,
        "slurm_partition": "gpu",
    }
    with pytest.raises(ConfigError, match="give NAME=VALUE"):
        cli.parse_settings(["partition"])


def test_runs_are_made_once_and_a_failure_is_named(spec, tmp_path):
    """Two jobs at once; the third run diverges. A second call finds the two and tries the third again."""
    spec.write_text(SPEC.replace("0.2", "1e20"))
    status, out, err = finish(command(spec, "--parallel", 2, root=tmp_path))
    assert status == 2 and err.strip() == "msmeta: 1 of 3 runs failed, as said above", err
    assert "3 runs, 0 of them finished before" in out and "first-order-1-smoke-s0" in out and "diverged" in out
    results = runs.read_results("few-shot", tmp_path, live=True)
    assert [r["config"]["window"] for r in results] == [1, [4, 4]]
    assert {r["provenance"]["threads"] for r in results} == {max(1, os.cpu_count() // 2)}
    stamps = [r["provenance"]["finished"] for r in results]
    logs = [path.name for path in (tmp_path / "checkpoints" / "jobs").iterdir()]
    assert len({name.split("_")[0] for name in logs}) == 1, "logs are kept of the failed run alone"
    status, out, _ = finish(command(spec, root=tmp_path))
    assert status == 2 and "3 runs, 2 of them finished before" in out
    assert [r["provenance"]["finished"] for r in runs.read_results("few-shot", tmp_path, live=True)] == stamps


def test_transfer_runs_are_members_too(spec, tmp_path):
    spec.write_text("""
experiment: transfer
runs:
  - {preset: smoke, dataset: glyphs-rgb, estimator: [multistep, scratch]}
""")
    status, out, err = finish(command(spec, root=tmp_path))
    assert status == 0 and "2 runs, 0 of them finished before" in out, err
    assert {r["config"]["estimator"] for r in runs.read_results("transfer", tmp_path, live=True)} == {
        "multistep",
        "scratch",
    }
    assert all(transfer.run(config, tmp_path).result() for config in sweep.read_spec(spec))


def members(root):
    """Process numbers of the members that train for this store of results."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except OSError:
            continue
        if "submitit.core._submit" in words and any(str(root) in word for word in words):
            found.append(int(path.parent.name))
    return found


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)
    return found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="processes are found through /proc")
def test_a_killed_member_is_started_again(spec, tmp_path):
    process = command(spec, root=tmp_path)
    (member,) = wait_for(lambda: members(tmp_path))
    os.kill(member, signal.SIGKILL)
    status, out, err = finish(process)
    assert status == 0, err
    assert out.count("its process died") == 1 and "starting it again (1 of 2)" in out
    assert len(runs.read_results("few-shot", tmp_path, live=True)) == 3


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="processes are found through /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_leaves_checkpoints_and_goes_on(spec, tmp_path, number):
    """Ctrl-C reaches the whole process group, as a terminal has it; a termination signal the sweep alone."""
    spec.write_text(SPEC + "iterations: 600\n")
    process = command(spec, root=tmp_path)
    (log,) = wait_for(lambda: list((tmp_path / "checkpoints" / "jobs").glob("*_log.out")))
    wait_for(lambda: "Loading pickle" in log.read_text())
    time.sleep(6)  # imports take seconds, and 600 iterations twice that
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    status, _, err = finish(process)
    assert status == 130 and err.strip() == "msmeta: interrupted: the same command goes on where the runs stopped"
    assert not members(tmp_path) and len(list((tmp_path / "checkpoints").glob("*.pt"))) == 1
    status, out, err = finish(command(spec, "--parallel", 2, root=tmp_path))
    assert status == 0, err
    results = runs.read_results("few-shot", tmp_path, live=True)
    assert [r["provenance"]["resumed"] for r in results].count(True) == 1 and len(results) == 3


def test_an_interrupt_while_a_job_starts_is_not_lost(spec, tmp_path, monkeypatch):
    """It arrives once the job is known, so that the job is asked to stop as well."""
    known = []
    monkeypatch.setattr(sweep._Jobs, "cancel", lambda jobs: known.extend(jobs.running))

    def submit(executor, member):
        os.kill(os.getpid(), signal.SIGINT)
        return "the job"

    monkeypatch.setattr("submitit.AutoExecutor.submit", submit)
    with pytest.raises(KeyboardInterrupt):
        sweep.sweep(sweep.read_spec(spec), root=tmp_path, say=lambda _: None)
    assert known == ["the job"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--executor", "cloud"], "executor 'cloud' is unknown: choose from local, slurm"),
        (["--parallel", "0"], "parallel=0: it must be at least 1"),
        (["--retries", "-1"], "retries=-1: it must be at least 0"),
        (["--set", "colour=red"], "executor local: Parameter 'colour' need"),
    ],
)
def test_a_mistake_is_one_line(spec, tmp_path, arguments, message):
    status, _, err = finish(command(spec, *arguments, root=tmp_path))
    (line,) = err.strip().splitlines()
    assert status == 2 and message in line


def test_slurm_must_be_there(spec, tmp_path):
    path = str(Path(sys.executable).parent)
    status, _, err = finish(command(spec, "--executor", "slurm", root=tmp_path, PATH=path))
    (line,) = err.strip().splitlines()
    assert status == 2 and "srun" in line


STAND_INS = {
    # Runs the batch script in the background, as SLURM does on another machine, and says its number.
    "sbatch": 'SLURM_JOB_ID=$$ nohup bash "$1" >/dev/null 2>&1 & echo Submitted batch job $$',
    # Takes the options off the command, and runs it with what SLURM tells a task.
    "srun": 'while [ $# -gt 0 ] && [ "${1#-}" != "$1" ]; do case $1 in --output|--error) shift;; esac; shift; done\n'
    "export SLURM_JOB_ID SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1\n"
    'exec "$@"',
    "sacct": "echo 'JobID|State|NodeList'",
}


def test_slurm_jobs_are_submitted_with_the_settings(tmp_path):
    """Real sbatch scripts, made by submitit and run by a stand-in of SLURM."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name, script in STAND_INS.items():
        (bin_folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (bin_folder / name).chmod(0o755)
    spec = tmp_path / "one.yaml"
    spec.write_text("preset: smoke\nruns: [{dataset: glyphs, way: 5, shot: 1, estimator: multistep, window: 8}]\n")
    process = command(
        spec, "--executor", "slurm", "--set", "slurm_partition=gpu", "--set", "timeout_min=77", root=tmp_path,
        PATH=f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
    )  # fmt: skip
    script = wait_for(lambda: list((tmp_path / "checkpoints" / "jobs").glob("*.sh")))[0].read_text()
    assert "#SBATCH --partition=gpu" in script and "#SBATCH --time=77" in script
    status, out, err = finish(process)
    assert status == 0, (out, err)
    (result,) = runs.read_results("few-shot", tmp_path, live=True)
    assert result["config"]["window"] == 8
