"""The command line as a user meets it: real processes, one line for a mistake, signals, exit statuses."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from msmeta import ConfigError, cli, data

SMOKE = ["train", "few-shot", "--dataset", "glyphs", "--preset", "smoke", "--device", "cpu"]


@pytest.fixture
def msmeta(tmp_path, monkeypatch, capfd):
    """Calls the command in this process; gives (status, output, errors)."""
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("MSMETA_DATA", str(tmp_path / "data"))

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["msmeta", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        return ended.value.code, out, err

    handler = signal.getsignal(signal.SIGTERM)
    yield call
    signal.signal(signal.SIGTERM, handler)


def test_trains_lists_and_finds_a_run_again(msmeta, tmp_path):
    status, out, _ = msmeta(*SMOKE, "--window", "1,1,2,4")
    assert status == 0 and out.startswith("Multi-step (1, 1, 2, 4), Glyphs") and "after 4 iterations" in out
    (path,) = (tmp_path / "results" / "live" / "few-shot").glob("*.json")
    assert json.loads(path.read_text())["config"]["window"] == [1, 1, 2, 4]
    status, out, _ = msmeta(*SMOKE, "--window", "1,1,2,4")
    assert status == 0 and "has finished before (--force repeats it)" in out
    status, out, _ = msmeta("results", "--live")
    assert status == 0 and "Multi" in out


def test_time_budget_then_resume(msmeta):
    long = [*SMOKE, "--iterations", 10**6]
    status, out, _ = msmeta(*long, "--time-budget", "0.3s")
    assert status == 0 and "stopped at the time budget" in out
    status, _, err = msmeta(*long)
    assert status == 2 and "--resume" in err
    status, out, _ = msmeta(*long, "--resume", "--time-budget", "0.3")
    assert status == 0 and "stopped at the time budget" in out


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--unknown"], 2, "No such option: --unknown"),
        (["--way", "many"], 2, "Invalid value for '--way'"),
        (["--way", "1000"], 2, "1000-way is impossible: split train of glyphs has 400 classes"),
        (["--shot", "10", "--query", "15"], 2, "shot 10 and query 15 are impossible together"),
        (["--window", "3"], 2, "window=3 does not divide steps=8"),
        (["--window", "two"], 2, "--window two: give a number"),
        (["--preset", "huge"], 2, "preset 'huge' is unknown"),
        (["--time-budget", "soon"], 2, "--time-budget soon: give a time such as 90s"),
        (["--device", "cuda:99"], 2, "device 'cuda:99' is not available here"),
        (["--task-chunk", "0"], 2, "task_chunk=0: it must be at least 1"),
        (["--dataset", "omniglot"], 2, "Omniglot is not prepared in"),
        (["--dataset", "mnist"], 2, "mnist"),
        (["--lr", "1e20"], 3, "training diverged at iteration 1"),
        (["--filters", "200000"], 2, "tasks at a time: lower --task-chunk"),
    ],
)
def test_a_mistake_ends_in_one_line(msmeta, tmp_path, arguments, status, message):
    found, out, err = msmeta(*SMOKE, *arguments)
    lines = [line for line in err.splitlines() if line.strip()]
    assert found == status and out == "" and len(lines) == 1
    assert lines[0].startswith("msmeta: ") and message in lines[0]
    assert not [path for path in (tmp_path / "results").rglob("*") if path.is_file()]


def test_data_commands(msmeta):
    status, out, _ = msmeta("data", "list")
    assert status == 0 and "omniglot" in out and "absent" in out and "generated" in out
    status, out, _ = msmeta("data", "verify", "glyphs")
    assert status == 0 and data.load("glyphs").hash in out
    for arguments in (["verify", "omniglot"], ["prepare", "glyphs"], ["prepare", "omniglot", "--from", "nowhere"]):
        status, _, err = msmeta("data", *arguments)
        assert status == 2 and len([line for line in err.splitlines() if line.strip()]) == 1


def test_benchmarks_are_listed_and_given_their_options(msmeta):
    status, out, _ = msmeta("bench")
    assert status == 0 and {"few_shot_step", "transfer_step"} <= set(out.split())
    status, _, err = msmeta("bench", "transfer_step", "--settings", "64x64")
    assert status == 2 and "invalid choice: '64x64'" in err and "ended with status 2" in err.splitlines()[-1]
    status, _, err = msmeta("bench", "speed")
    assert status == 2 and "benchmark 'speed' is unknown" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_in_a_checkpoint_that_resume_takes_up(tmp_path, number):
    # Frequent checkpoints tell this test when training has begun. A shell's background jobs ignore Ctrl-C: undone here.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from msmeta import cli; "
    code += "from msmeta.experiments import few_shot; "
    code += "few_shot.experiment.CHECKPOINT_SECONDS = 0.1; cli.main()"
    command = [sys.executable, "-c", code, *SMOKE, "--iterations", "1000000"]
    environment = {**os.environ, "MSMETA_RESULTS": str(tmp_path), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not list(tmp_path.glob("checkpoints/*.pt")):
            time.sleep(0.1)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "--resume goes on from the checkpoint" in err and "Traceback" not in err
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()  # and no temporary file beside it
    assert torch.load(checkpoint, weights_only=True)["iteration"] > 0 and not (tmp_path / "live").exists()


def test_times_and_windows():
    assert [cli.parse_seconds(text) for text in (None, "90s", "25m", "2h", "1.5")] == [None, 90, 1500, 7200, 1.5]
    assert (cli.parse_window("4"), cli.parse_window("2,1")) == (4, (2, 1))
    with pytest.raises(ConfigError):
        cli.parse_window("2;1")
