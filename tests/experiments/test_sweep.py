"""Grids of runs: specs, real jobs of this machine, a killed member, and SLURM behind stand-ins of its commands."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from msmeta import ConfigError, checkpoints, cli, machine
from msmeta.experiments import few_shot, registry, stored, sweep, transfer

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


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(sweep, "POLL_SECONDS", 0.02)


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


def test_a_spec_may_have_parts_of_either_experiment(spec):
    """A run that two parts ask for is one run."""
    spec.write_text(
        "preset: smoke\nseed: 1\nparts:\n"
        "  - {name: drawings, dataset: glyphs, way: 5, shot: 1, runs: [{estimator: multistep, window: [1, 2]}]}\n"
        "  - {name: again, dataset: glyphs, way: 5, shot: 1, estimator: multistep, seed: [1, 2], runs: [{window: 2}]}\n"
        "  - {name: transfer, experiment: transfer, dataset: glyphs-rgb, runs: [{estimator: scratch}]}\n"
    )
    parts = sweep.read_parts(spec)
    few = [few_shot.preset_config("smoke", "glyphs", 5, 1, "multistep", n, seed=s) for n, s in ((1, 1), (2, 1), (2, 2))]
    scratch = transfer.preset_config("smoke", "glyphs-rgb", "scratch", seed=1)
    assert parts == {"drawings": few[:2], "again": few[1:], "transfer": [scratch]}
    assert sweep.read_spec(spec) == [*few, scratch]


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
        assert len(configs) == len(cells) == 65
        assert {transfer.label(c) for c in configs if transfer.setting(c) == "SGD"} == {
            "Scratch",
            "0-step",
            "Baseline",
            "Multi-step",
        }
    longer = sweep.read_spec(RUNS / "transfer_equal_time.yaml")
    assert {(transfer.label(c), c.epochs, transfer.setting(c), c.seed) for c in longer} == {
        (method, epochs, setting, seed)
        for method, epochs, setting in (
            ("Multi-step", 15, "SGD"),
            ("Multi-step", 16, "Adam"),
            ("Scratch", 137, "SGD"),
            ("Scratch", 144, "Adam"),
        )
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
        (SPEC + "tasks: [2, 3.0]", "run 1: tasks=3.0: it must be a whole number"),
        (SPEC + "iterations: 1e3", "run 1: iterations='1e3': it must be a whole number"),
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
        ("parts: 5", "part 1: it must be a mapping"),
        ("parts: []", "has no parts"),
        ("parts: [{runs: []}]", "part 1: it must be a mapping with a `name`"),
        ("parts: [{name: a, runs: []}]", "part a has no list `runs`"),
        ("way: 5\nparts: [{name: a, runs: [{preset: smoke}]}]", "part a, run 1: dataset is missing"),
        (SPEC + "#" * 2**20, "it has more than 1,048,576 bytes"),
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
    with pytest.raises(ConfigError, match="cannot read .*: it is no UTF-8"):
        sweep.read_spec(spec)


def test_settings_of_the_command_line():
    assert cli.parse_settings(["gpus_per_node=1", "slurm_partition=gpu", "stderr_to_stdout=true"]) == {
        "gpus_per_node": 1,
        "slurm_partition": "gpu",
        "stderr_to_stdout": True,
    }
    with pytest.raises(ConfigError, match="give NAME=VALUE"):
        cli.parse_settings(["partition"])


def test_a_folder_that_results_know_and_is_not_here_is_one_line(msmeta, spec):
    """As in a sweep file from another machine."""
    spec.write_text(
        'runs: [{dataset: "folder:x-0123abcd@28+grey", way: 2, shot: 1, estimator: multistep, preset: smoke}]'
    )
    status, out, err = msmeta("sweep", spec)
    assert status == 2 and out == "" and err.startswith("msmeta: Folder x is not prepared in ") and err.count("\n") == 1


def test_runs_are_made_once_and_a_failure_is_named(msmeta, spec, tmp_path):
    """Two jobs at once, of which one diverges. A second call finds the other and tries that one again."""
    spec.write_text(SPEC.replace("[1, [4, 4]]", "[[4, 4]]").replace("0.2", "1e20"))
    status, out, err = msmeta("sweep", spec, "--parallel", 2)
    assert status == 2 and err.strip() == "msmeta: 1 of 2 runs failed, as said above", err
    assert "2 runs, 0 of them finished before" in out and "first-order-1-smoke-s0" in out and "diverged" in out
    root = tmp_path / "results"
    (result,) = stored.results("few-shot", root, live=True)
    assert result["config"]["window"] == [4, 4]
    assert result["provenance"]["threads"] == max(1, machine.cores() // 2)
    logs = [path.name for path in (root / "checkpoints" / "jobs").iterdir()]
    assert len({name.split("_")[0] for name in logs}) == 1, "logs are kept of the failed run alone"
    spec.write_text(SPEC.replace("[1, [4, 4]]", "[[4, 4]]").partition("  - {estimator: first-order")[0])
    status, out, _ = msmeta("sweep", spec)
    assert status == 0 and "1 runs, 1 of them finished before" in out
    assert stored.results("few-shot", root, live=True) == [result]


def test_transfer_runs_are_members_too(spec, tmp_path):
    """What a job calls, here without a job."""
    small = "train_images: 20, batch: 10"
    spec.write_text(
        f"experiment: transfer\nruns: [{{preset: smoke, dataset: glyphs-rgb, estimator: multistep, {small}}}]\n"
    )
    (config,) = sweep.read_spec(spec)
    assert sweep.Member(config, None, tmp_path)() is None
    assert transfer.run(config, tmp_path).result()["config"]["estimator"] == "multistep"


HELD = """
import signal, sys
from msmeta import cli, runs
from msmeta.experiments import sweep, training

class Held(sweep.Member):
    "Its training saves after each iteration, and after the first it waits until it is asked to end."
    def __call__(self):
        save, training.CHECKPOINT_SECONDS = runs.Run.save_checkpoint, 0
        def save_and_wait(place, state):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            save(place, state)
            if state["iteration"] == 1:
                runs.Run.save_checkpoint = save
                signal.sigwait({signal.SIGTERM})
                signal.raise_signal(signal.SIGTERM)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        runs.Run.save_checkpoint = save_and_wait
        return super().__call__()

sweep.Member = Held
cli.main()
"""


def test_an_interrupted_sweep_leaves_checkpoints_and_goes_on(spec, tmp_path, monkeypatch):
    """Ctrl-C reaches the whole process group, as a terminal has it, but it is the sweep that ends its members.

    When it goes on, a member is killed as soon as it is there, and started again.
    """
    environment = {**os.environ, "MSMETA_RESULTS": str(tmp_path), "OMP_NUM_THREADS": "1"}
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)" + HELD  # a shell's jobs ignore it
    with subprocess.Popen(
        [sys.executable, "-c", code, "sweep", str(spec)], env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        saved = tmp_path / "checkpoints"
        while process.poll() is None and not list(saved.glob("*.pt")):
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert err.strip() == "msmeta: interrupted: the same command goes on where the runs stopped"
    (checkpoint,) = saved.glob("*.pt")  # and the member has ended, as its lock has gone
    assert checkpoints.read(checkpoint)["iteration"] == 1 and not list(saved.glob("*.lock"))

    submit, said, killed = sweep._Jobs.submit, [], []

    def submit_and_kill(jobs, config):
        submit(jobs, config)
        if not killed:
            (job,) = jobs.running
            killed.append(int(job.job_id))
            os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(sweep._Jobs, "submit", submit_and_kill)
    configs = sweep.read_spec(spec)[:2]
    assert sweep.sweep(configs, parallel=2, root=tmp_path, say=said.append) == {}
    assert [line for line in said if "its process died" in line and "starting it again (1 of 2)" in line] == said[1:2]
    resumed = [registry.place(config, tmp_path).result()["provenance"]["resumed"] for config in configs]
    assert resumed == [True, False]


@pytest.fixture
def other_thread():
    """A thread that waits, and takes a signal that is sent to it."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    yield thread
    over.set()
    thread.join()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("to_other", [False, True])
def test_an_interrupt_while_a_job_starts_is_not_lost(spec, tmp_path, monkeypatch, other_thread, number, to_other):
    """It arrives once the job is known, so that the job is asked to stop as well, whichever thread is given it."""
    known = []
    here, there = socket.socketpair()
    there.setblocking(False)
    monkeypatch.setattr(sweep._Jobs, "cancel", lambda jobs: known.extend(jobs.running))

    def submit(executor, member):
        signal.pthread_kill((other_thread if to_other else threading.main_thread()).ident, number)
        if to_other:
            here.recv(1)  # until it has come
        return "the job"

    monkeypatch.setattr("submitit.AutoExecutor.submit", submit)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the command line has it
    signal.set_wakeup_fd(there.fileno())
    try:
        with here, there, pytest.raises(KeyboardInterrupt):
            sweep.sweep(sweep.read_spec(spec), root=tmp_path, say=lambda _: None)
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, before)
    assert known == ["the job"]


def test_a_termination_signal_ends_a_sweep_as_an_interrupt_does(msmeta, spec, monkeypatch):
    ended = []
    monkeypatch.setattr(sweep._Jobs, "submit", lambda jobs, config: signal.raise_signal(signal.SIGTERM))
    monkeypatch.setattr(sweep._Jobs, "cancel", lambda jobs: ended.append(jobs))
    status, _, err = msmeta("sweep", spec)
    assert (status, len(ended)) == (130, 1)
    assert err.strip() == "msmeta: interrupted: the same command goes on where the runs stopped"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--executor", "cloud"], "executor 'cloud' is unknown: choose from local, slurm"),
        (["--parallel", "0"], "parallel=0: it must be at least 1"),
        (["--retries", "-1"], "retries=-1: it must be at least 0"),
        (["--set", "colour=red"], "executor local: Parameter 'colour' need"),
    ],
)
def test_a_mistake_is_one_line(msmeta, spec, arguments, message):
    status, _, err = msmeta("sweep", spec, *arguments)
    (line,) = err.strip().splitlines()
    assert status == 2 and message in line


def test_slurm_must_be_there(msmeta, spec, monkeypatch):
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    status, _, err = msmeta("sweep", spec, "--executor", "slurm")
    (line,) = err.strip().splitlines()
    assert status == 2 and "srun" in line
