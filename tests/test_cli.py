"""The command line as a user meets it: real processes, one line for a mistake, signals, exit statuses."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from msmeta import checkpoints, data, machine
from msmeta.cli import train
from msmeta.experiments.config import schema
from msmeta.experiments.registry import EXPERIMENTS

PREPARED = data.data_root()
"""Where a developer's own data lie."""
SMOKE = ["train", "few-shot", "--dataset", "glyphs", "--preset", "smoke", "--device", "cpu"]


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
        (["--way", "many"], 2, "way='many': it must be a whole number"),
        (["--lrr", "1"], 2, "No such option: --lrr (Possible options: --lr)"),
        (["--estimator", "multistp"], 2, "(did you mean multistep?)"),
        (["--steps", "18446744073709551616"], 2, "it must be at most 10,000"),
        (["--seed", "9" * 20], 2, "it must be at most 2,147,483,647"),
        (["--lr", "nan"], 2, "lr=nan: it must be finite"),
        (["--lr", "1e39"], 2, "lr='1e39': it must be at most 1e+30"),
        (["--lr", "1e20", "--window", "4", "--weight-decay", "1e-4"], 3, "training diverged at iteration 1"),
        (["--momentum", ""], 2, "momentum='': it must be a number"),
        (["--way", "1000"], 2, "1000-way is impossible: split train of glyphs has 400 classes"),
        (["--shot", "10", "--query", "15"], 2, "shot 10 and query 15 are impossible together"),
        (["--window", "3"], 2, "window=3 does not divide steps=8"),
        (["--window", "two"], 2, "window='two': give a number"),
        (["--preset", "huge"], 2, "preset 'huge' is unknown"),
        (["--time-budget", "soon"], 2, "--time-budget soon: give a time such as 90s"),
        (["--device", "cuda:99"], 2, "device 'cuda:99' is not available here"),
        (["--device", "meta"], 2, "device 'meta' is not available here"),
        (["--device", "hpu"], 2, "device 'hpu' is not available here"),
        (["--workers", "9" * 5000], 2, "workers=99999999999999999999: it must be auto, or a number from 1"),
        (["--inner-shot", "1"], 2, "inner_shot=1 has no meaning for multistep: leave it out"),
        (["--workers", "many"], 2, "workers=many: it must be auto, or a number from 1"),
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
        assert status == 2 and len(err.splitlines()) == 1


def test_benchmarks_are_listed_and_given_their_options(msmeta, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for words in (["bench"], ["bench", "--list"]):
        status, out, _ = msmeta(*words)
        assert status == 0 and "Time and memory of one iteration of meta-transfer" in out
        names = {words[0] for line in out.splitlines() if (words := line.strip("│ ").split())}
        assert {path.stem for path in (machine.repository() / "benchmarks").glob("*.py")} <= names
    assert "Usage:" in msmeta("bench", "--help")[1]
    status, out, _ = msmeta("bench", "transfer_step", "--help")
    assert status == 0 and "--settings" in out and "--anyway" in out
    status, _, err = msmeta("bench", "transfer_step", "--settings", "64x64")
    assert status == 2 and "invalid choice: '64x64'" in err.splitlines()[-1]
    status, _, err = msmeta("bench", "speed")
    assert status == 2 and "benchmark 'speed' is unknown" in err and len(err.splitlines()) == 1


def test_what_an_installed_package_lacks_is_said(msmeta, tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "repository", lambda: None)
    monkeypatch.setitem(sys.modules, "msmeta.report", None)  # as where pandas is not installed
    (tmp_path / "s.yaml").write_text("preset: smoke\nruns: [{dataset: glyphs, way: 5, shot: 1, estimator: multistep}]")
    for words, message in (
        (["bench"], "a clone of the repository"),
        (["sweep", tmp_path / "s.yaml", "--plan"], "[book]"),
    ):
        status, _, err = msmeta(*words)
        assert status == 2 and message in err and len(err.splitlines()) == 1


def test_folders_and_files_that_can_be_none_are_one_line(msmeta, monkeypatch):
    long = "é" * 5000
    given = [["data", "prepare", "omniglot", "--from", text] for text in ("~nobody-of-this-name", long, "")]
    given += [["sweep", text] for text in ("~nobody-of-this-name", long, "", "/dev/zero")]
    for words in given:
        status, _, err = msmeta(*words)
        assert status == 2 and err.startswith("msmeta: ") and len(err.splitlines()) == 1 and len(err) < 300
    monkeypatch.setenv("MSMETA_DATA", "~nobody-of-this-name")
    status, _, err = msmeta("data", "list")
    assert status == 2 and err.startswith("msmeta: MSMETA_DATA '~nobody-of-this-name' is no path: ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_in_a_checkpoint_that_resume_takes_up(tmp_path, number):
    """Sent to all its processes, as a terminal does."""
    # Frequent checkpoints tell this test when training has begun. A shell's background jobs ignore Ctrl-C: undone here.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from msmeta import cli; "
    code += "from msmeta.experiments import training; "
    code += "training.CHECKPOINT_SECONDS = 0.1; cli.main()"
    command = [sys.executable, "-c", code, *SMOKE, "--iterations", "1000000", "--workers", "2"]
    environment = {**os.environ, "MSMETA_RESULTS": str(tmp_path), "OMP_NUM_THREADS": "1"}
    pipes = {"stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        while not list(tmp_path.glob("checkpoints/*.pt")):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        os.killpg(process.pid, number)
        _, err = process.communicate()
    assert process.returncode == 130 and "--resume goes on from the checkpoint" in err and "Traceback" not in err
    checkpoint, *before = sorted((tmp_path / "checkpoints").iterdir(), reverse=True)  # and no temporary file beside it
    assert [path.suffix for path in before] in ([], [".before"])
    assert checkpoints.read(checkpoint)["iteration"] > 0 and not (tmp_path / "live").exists()


def test_times():
    found = [train.parse_seconds(text) for text in (None, "90s", "25m", "2h", "1.5")]
    assert found == [None, 90, 1500, 7200, 1.5]


def test_every_field_is_an_option_and_has_its_help(msmeta, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    for words, experiment, without in (
        (["train", "few-shot"], "few-shot", ()),
        (["train", "transfer"], "transfer", ()),
        (["tune", "few-shot"], "few-shot", ("lr", "evaluate_on", "select_every")),
    ):
        status, out, _ = msmeta(*words, "--help")
        assert status == 0
        for name, field in schema(EXPERIMENTS[experiment][0]).items():
            (line,) = [line for line in out.splitlines() if f" --{name.replace('_', '-')} " in line] or [""]
            assert bool(line) == (name not in without), name
            if line:
                assert field["description"] in line and all(choice in line for choice in field.get("enum", []))
    assert "(at least 0, less than 1) [default: (0.9)]" in msmeta("train", "transfer", "--help")[1]


def test_without_a_command_there_is_help_and_no_empty_error(msmeta):
    for words in ([], ["train"], ["data"], ["tune"]):
        status, out, err = msmeta(*words)
        assert status == 2 and "Usage:" in out + err and "msmeta:" not in [line.strip() for line in err.splitlines()]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_output_for_a_terminal_of_few_characters(msmeta, monkeypatch, encoding):
    """Tables, help, intervals, progress bars and errors: a sign that the terminal does not know becomes another."""
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments):
        streams = [io.TextIOWrapper(io.BytesIO(), encoding, errors="strict") for _ in range(2)]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", streams[0])
            patch.setattr(sys, "stderr", streams[1])
            status, _, _ = msmeta(*arguments)
        for stream in streams:
            stream.flush()
        return status, *(stream.buffer.getvalue().decode(encoding) for stream in streams)

    assert call("data", "list")[0] == 0
    assert call("train", "few-shot", "--help")[0] == 0
    status, out, err = call(*SMOKE, "--iterations", "1")
    assert status == 0 and "MAML, Glyphs" in out, err
    status, out, _ = call("results", "--live")
    assert status == 0 and "MAML" in out
    status, out, err = call("train", "few-shot", "--dataset", "\u03c0")
    assert status == 2 and err.startswith("msmeta: dataset '") and "is unknown" in err


def test_an_interrupt_anywhere_ends_in_one_line(msmeta, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr("msmeta.data.status", interrupt)
    status, _, err = msmeta("data", "list")
    assert status == 130 and err.split() == ["msmeta:", "interrupted"]


PLAN = ["plan", "--dataset", "glyphs", "--preset", "smoke", "--steps", "2"]


def test_a_plan_lists_what_fits_and_chooses(msmeta, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    status, out, _ = msmeta(*PLAN, "--memory", "1GB")
    rows = [line.split("│")[1:-1] for line in out.splitlines() if line.startswith("│")]
    assert status == 0 and [[cell.strip() for cell in row[:4]] for row in rows] == [
        ["1", "autograd", "2", "2"],
        ["1", "adjoint", "3", "2"],
        ["2", "autograd", "1", "1"],
        ["2", "adjoint", "1", "1"],
    ]
    assert "time, are not measured here" in out and out.splitlines()[-1].startswith("chosen: N = 1, autograd: the")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--memory", "much"], "--memory much: give a size such as 24GB"),
        (["--memory", "1KB"], "nothing fits: N = 2 with autograd needs"),
        (["--memory", "1GB", "--device", "tpu"], "--device tpu: give cpu or cuda"),
        (["--memory", "1GB", "--window", "2"], "No such option: --window"),
        (["--memory", "1GB", "--way", "0"], "way=0: it must be at least 2"),
        (["--memory", "1GB", "--image-size", "13"], "image_size=13 is impossible: glyphs has 28x28 images"),
        (["--memory", "1GB", "--dataset", "cifar-fs", "--image-size", "8"], "images of 8x8 are too small for 4 pool"),
        ([], "Missing option '--memory'"),
    ],
)
def test_an_impossible_plan_is_one_line(msmeta, arguments, message):
    status, out, err = msmeta(*PLAN, *arguments)
    assert status == 2 and out == "" and err.startswith("msmeta: ") and len(err.splitlines()) == 1 and message in err


KILLED = """
import os, signal
from msmeta import cli, runs
from msmeta.experiments import training

training.CHECKPOINT_SECONDS, save = 0, runs.Run.save_checkpoint

def save_and_die(self, state):
    save(self, state)
    if state["iteration"] == 20:
        os.kill(os.getpid(), signal.SIGKILL)

runs.Run.save_checkpoint = save_and_die
cli.main()
"""
"""The command, killed once it has kept a checkpoint."""


def test_a_network_is_killed_resumed_kept_tested_again_and_adapted(msmeta, tmp_path, monkeypatch):
    """As a user does it; on Omniglot where it is prepared, else on glyphs."""
    drawings = machine.repository() / "notebooks" / "characters"
    name = "omniglot" if (PREPARED / "omniglot" / "meta.json").exists() else "glyphs"
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path))
    monkeypatch.setenv("MSMETA_DATA", str(PREPARED))
    monkeypatch.chdir(tmp_path)

    def call(*arguments, status=0):
        found, out, err = msmeta(*arguments)
        assert found == status, err
        return out + err

    train = [*SMOKE, "--dataset", name, "--tasks", 4, "--iterations", 40, "--workers", 1]
    killed = subprocess.run([sys.executable, "-c", KILLED, *map(str, train)], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not list(tmp_path.rglob("*.json")) and list(tmp_path.glob("checkpoints/*.pt"))
    assert "after 40 iterations" in call(*train, "--resume")
    (path,) = tmp_path.rglob("*.json")
    result, theta = json.loads(path.read_text()), path.with_suffix(".pt")
    assert result["provenance"]["resumed"] and theta.stat().st_size < 20_000
    told = call("evaluate", path.stem)
    assert f": {result['metrics']['accuracy']:.2f} ±" in told and "as stored, to the last answer" in told
    other = ["--way", 3, "--steps", 6, "--window", 3, "--norm", "support,running", "--save"]
    assert call("evaluate", path.stem[:-4], *other).count("3-way 1-shot") == 2
    assert len(list(tmp_path.glob("live/evaluations/*.json"))) == 2
    folders = ["--support", drawings / "support", "--query", drawings / "query"]
    told = call("adapt", path.stem, *folders, "--out", "mine.csv")
    assert "10 pictures of 5 classes" in told and "each answer depends on all pictures" in told
    rows = (tmp_path / "mine.csv").read_text().splitlines()
    assert rows[0] == "file,class,prediction,confidence,fish,house,key,spiral,tree" and len(rows) == 11
    assert (tmp_path / "mine.png").read_bytes().startswith(b"\x89PNG")
    assert "keeps its numbers" in call("results", "--remove-theta", path.stem)
    assert path.exists() and not theta.exists()
    (line,) = call("evaluate", path.stem, status=2).splitlines()
    assert line.endswith(f"{theta.name} is not here: repeat the run with --force")


def test_results_say_which_theta_is_kept(msmeta, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "40")  # the table is as wide as its names and numbers
    small = ["--preset", "smoke", "--batch", 8, "--train-images", 32]
    assert msmeta(*SMOKE)[0] == msmeta("train", "transfer", "--dataset", "glyphs-rgb", *small)[0] == 0
    status, out, _ = msmeta("results", "--live")
    few, other = sorted(tmp_path.rglob("*.pt"))
    size = (few.stat().st_size + other.stat().st_size) / 1e6
    (row,) = (line for line in out.splitlines() if few.stem in line)
    assert f"{json.loads(few.with_suffix('.json').read_text())['metrics']['accuracy']:.2f}" in row
    assert status == 0 and f"θ: kept of 2 of 2 runs, {size:.1f} MB" in out
    status, out, _ = msmeta("evaluate", other.stem)
    assert status == 0 and "test images of Glyphs (32x32): as stored, to the last answer" in out
    for arguments, message in (
        (["adapt", other.stem, "--support", tmp_path, "--query", tmp_path], "for the classes of its data set alone"),
        (["adapt", few.stem, "--support", "", "--query", tmp_path], "support '' is no path: it is empty"),
        (["evaluate", other.stem, "--way", 3], "--way: a transfer run is tested on all its test images"),
        (["evaluate", "gly*", "--norm", "support"], "1 of 2 tests failed, as said above"),
        (["evaluate", "gly", "--norm", "support"], "gly fits 2 results"),
        (["evaluate", few.stem, "--norm", "batch"], "test_norm 'batch' is unknown: choose from transductive, support"),
        (["results", "--remove-theta", "nothing"], "there is no result nothing"),
    ):
        status, _, err = msmeta(*arguments)
        assert status == 2 and message in err.splitlines()[-1], err
    few.unlink()
    assert "θ: kept of 1 of 2 runs" in msmeta("results", "--live")[1]
