"""Each way to rerun that the book names runs as it stands there; the other commands of that page are understood."""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import papermill
import pytest
import slurm
from typer.main import get_command

from msmeta import cli
from msmeta.cli import plan, train
from msmeta.experiments import sweep
from msmeta.experiments.stored import results

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "book" / "rerun.md").read_text()
NOTEBOOKS = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
WAYS = dict(re.findall(r"^```{code-block} \w+\n:name: way-([\w-]+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with what is needed of a clone, its results in `out`, and this interpreter's commands at hand."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*"))
    (tmp_path / "book").mkdir()
    shutil.copy(ROOT / "book" / "build.py", tmp_path / "book")
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path / "out"))
    for name, value in (("JUPYTER_NO_CONFIG", "1"), ("IPYTHONDIR", str(tmp_path / "ipython")), ("no_proxy", "*")):
        monkeypatch.setenv(name, value)  # a user's own settings are not what is tested
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command):
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def made_by_make(target):
    """What make would run, by this interpreter."""
    *_, last = run(f"make --dry-run --no-print-directory {target.removeprefix('make ')}").strip().splitlines()
    return last.replace(".venv/bin/", f"{Path(sys.executable).parent}/")


def stored(kind):
    configs = [result["config"] for result in results(kind, live=True)]
    return {(config["estimator"], config["window"], config["seed"]) for config in configs}


def printed(notebook):
    return str([cell.get("outputs") for cell in nbformat.read(notebook, as_version=4).cells])


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make(place):
    run(made_by_make(WAYS["make"]))
    assert stored("transfer") == {("multistep", 1, 1), ("first-order", 1, 1)}
    assert "First-order" in printed(place / "book" / "_run" / "figure_4.ipynb")


def test_papermill_with_a_file_and_with_parameters(place):
    (place / "parameters.yaml").write_text(WAYS["parameters"])
    run(WAYS["papermill"])
    assert "Multi-step" in printed(place / "out.ipynb")
    assert {result["config"]["optimizer"] for result in results("transfer", live=True)} == {"sgd"}
    assert stored("transfer") == {("multistep", 1, 0), ("multistep", 2, 0)}


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_jupyterlab_opens_on_the_notebooks(place):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = f"exec env {made_by_make(WAYS['jupyterlab'])} --no-browser --allow-root --ServerApp.port={port}"
    command += " --ServerApp.port_retries=0"
    server = subprocess.Popen(["bash", "-c", command], stderr=subprocess.PIPE, text=True)
    try:
        url = next(found[0] for line in server.stderr if (found := re.search(r"http://127\S+token=\w+", line)))
        while True:  # it prints its address before it listens
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                assert server.poll() is None
                time.sleep(0.05)
        with urllib.request.urlopen(url.replace("/lab?", "/api/contents/explore_n.ipynb?content=0&")) as answer:
            assert answer.status == 200
    finally:
        server.terminate()
        server.communicate()


def test_the_command_line(place):
    run(WAYS["command-line"])
    assert stored("few-shot") == {("multistep", 4, 0)}


def test_python(place):
    *lines, value = WAYS["python"].strip().splitlines()
    names = {}
    exec("\n".join(lines), names)
    assert 0 <= eval(value, names) <= 100
    assert stored("few-shot") == {("multistep", 4, 0)}


def test_torchrun(place):
    out = run(f"OMP_NUM_THREADS=1 {WAYS['torchrun']}")
    assert out.count("MAML, Glyphs (procedural) 5-way 1-shot") == 1 and stored("few-shot") == {("multistep", 1, 0)}
    assert [result["provenance"]["processes"] for result in results("few-shot", live=True)] == [2]


def test_slurm(place, monkeypatch):
    """Real sbatch scripts, made by submitit and run by a stand-in of SLURM."""
    (place / "out").mkdir()
    slurm.install(place)
    monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")
    (place / "sweep.yaml").write_text(WAYS["runs"])
    run(WAYS["slurm"])
    script = (place / "out" / "script.sh").read_text()
    assert "#SBATCH --partition=gpu" in script and "#SBATCH --time=60" in script
    assert stored("few-shot") == {("multistep", 4, 0), ("multistep", 8, 0)}


def commands():
    """Every command of the page's listings, comments left out and continued lines joined."""
    listings = re.findall(r"^```(?:bash|{code-block} bash\n:name: .*?)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    lines = re.sub(r"\\\n\s*", "", "".join(listings)).splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_is_understood(words):
    """Its options, a target's or notebook's name, its parameters; nothing is run."""
    if words[0] == "make":
        target, *settings = words[1:]
        given = dict(setting.split("=", 1) for setting in settings)
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE) or target in NOTEBOOKS
        if "ARGS" in given:
            names = shlex.split(given["ARGS"])[1::3]
            assert set(names) <= set(papermill.inspect_notebook(str(ROOT / "notebooks" / f"{target}.ipynb")))
    elif words[0] in ("msmeta", "torchrun"):
        words = words[words.index("msmeta") + 1 :]
        train.add_to(cli.train_app, cli.tune_app)
        plan.add_to(cli.app)
        command = get_command(cli.app)
        while hasattr(command, "commands") and words and not words[0].startswith("-"):
            name, *words = words
            command = command.commands[name]
        with command.make_context(name, list(words)) as context:
            spec = context.params.get("spec")
        if spec and spec.name != "sweep.yaml":
            assert sweep.read_spec(ROOT / spec)
    else:
        assert words[0] in ("papermill", "cat")
