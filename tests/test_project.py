"""pyproject.toml, requirements.lock, environment.yml, the Makefile, the README and CITATION.cff agree."""

from __future__ import annotations

import doctest
import importlib
import importlib.metadata
import json
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import msmeta
from msmeta.experiments import finished

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
LOCKED_EXTRAS = ("book", "sweep", "test")


def run_make(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """`make`, even where these tests were started by a make of their own."""
    outside = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run(["make", *arguments], cwd=cwd, env=outside, capture_output=True, text=True)


def bounds(lines: list[str]) -> dict[str, str]:
    """Requirements as {canonical name: specifier}."""
    requirements = [Requirement(line) for line in lines]
    return {canonicalize_name(r.name): str(r.specifier) for r in requirements}


def direct() -> dict[str, str]:
    """The direct dependencies of the package and of the locked extras."""
    extras = PROJECT["optional-dependencies"]
    return bounds(PROJECT["dependencies"] + [line for extra in LOCKED_EXTRAS for line in extras[extra]])


def pins(python: str, platform: str) -> list[Requirement]:
    """The lines of the lock that apply to a Python version and a platform."""
    environment = {
        "python_version": ".".join(python.split(".")[:2]),
        "python_full_version": python,
        "sys_platform": platform,
        "platform_system": platform.capitalize(),
        "platform_machine": "arm64" if platform == "darwin" else "x86_64",
        "os_name": "posix",
    }
    return [r for r in map(Requirement, locked()) if r.marker is None or r.marker.evaluate(environment)]


def locked() -> dict[str, list[str]]:
    """The lines of the lock that pin a version, and the hashes of the files that it may be installed from."""
    found: dict[str, list[str]] = {}
    hashes: list[str] = []
    for line in LOCK.splitlines():
        text = line.split("#")[0].removesuffix("\\").strip()
        if text.startswith("--hash="):
            hashes.append(text.removeprefix("--hash="))
        elif text:
            found[text] = hashes = []
    return found


@pytest.mark.parametrize("platform", ["linux", "darwin"])
@pytest.mark.parametrize("python", ["3.11.0", "3.12.4", "3.13.1"])
def test_lock_pins_each_direct_dependency_once_within_its_bound(python, platform):
    versions: dict[str, str] = {}
    for pin in pins(python, platform):
        (exact,) = pin.specifier
        assert exact.operator == "==", pin
        name = canonicalize_name(pin.name)
        assert name not in versions, f"{name} is pinned twice"
        versions[name] = exact.version
    for name, bound in direct().items():
        assert name in versions, f"{name} is not in requirements.lock: make lock"
        assert Requirement(name + bound).specifier.contains(versions[name], prereleases=True), (name, bound, versions)


def test_lock_names_no_host_or_path_and_a_hash_of_each_file():
    for pin, hashes in locked().items():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+", pin.split(";")[0].strip()), pin
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", own) for own in hashes), pin
    assert not re.search(r"://|\bfile:|@|--(?!hash=)|(^|\s)/\w", LOCK, re.MULTILINE)


def test_the_lock_installs_with_hashes_required():
    """Where it is installed already, so that nothing is downloaded: each pin has its hashes, and none is missing."""
    python = ".".join(map(str, sys.version_info[:3]))
    for pin in pins(python, sys.platform):
        try:
            installed = importlib.metadata.version(pin.name)
        except importlib.metadata.PackageNotFoundError:
            installed = "not"
        if not pin.specifier.contains(installed, prereleases=True):
            pytest.skip(f"this environment is another one than the lock's: {pin.name} is {installed} installed")
    options = ["--dry-run", "--no-index", "--require-hashes", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "-r", ROOT / "requirements.lock"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Would install" not in done.stdout


def test_environment_yml_has_the_same_dependencies_and_bounds():
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    python, pip, from_pip = entries
    assert python.startswith("python" + PROJECT["requires-python"]) and pip == "pip"
    assert from_pip["pip"][-1] == "-e ."
    assert bounds(from_pip["pip"][:-1]) == direct()


def test_bench_extra_is_kept_out_of_the_lock():
    bench = bounds(PROJECT["optional-dependencies"]["bench"])
    assert bench and not bench.keys() & {canonicalize_name(r.name) for r in pins("3.11.0", "linux")}


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_help_names_every_target():
    shown = run_make().stdout
    targets = re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE)
    assert {"help", "setup", "book", "test", "test-all", "lint", "lab", "lock", "clean"} <= set(targets)
    for target in targets + NOTEBOOKS:
        assert re.search(rf"^  make {target} +\S", shown, re.MULTILINE), f"{target} is not in make help"


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
@pytest.mark.parametrize(
    ("program", "message"),
    [("exit 1", "is not Python 3.11.4 or newer"), ('case "$2" in *venv*) exit 1;; esac', "install its venv module")],
)
def test_make_setup_says_in_one_line_what_is_wrong_with_the_python(tmp_path, program, message):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{program}\n")
    python.chmod(0o755)
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    done = run_make("setup", f"PYTHON={python}", cwd=tmp_path)
    said = [line for line in done.stderr.splitlines() if "***" not in line]  # make's own closing line
    assert done.returncode == 2
    assert len(said) == 1 and message in said[0], done.stderr
    assert not (tmp_path / ".venv").exists()


def test_console_script_and_module_resolve():
    module, name = PROJECT["scripts"]["msmeta"].split(":")
    assert callable(getattr(importlib.import_module(module), name))
    shown = subprocess.run([sys.executable, "-m", "msmeta", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0 and "data" in shown.stdout, shown.stderr


def test_importing_the_package_loads_no_notebook_or_plotting_library():
    heavy = ["matplotlib", "seaborn", "pandas", "papermill", "IPython", "nbformat", "sphinx"]
    program = f"import sys, msmeta; print([name for name in {heavy} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_versions_and_licence_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["version"] == msmeta.__version__ == citation["version"]
    assert PROJECT["license"] == citation["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
    assert [author["family-names"] for author in citation["references"][0]["authors"]] == ["Kim", "Park", "Choi"]


def test_readme_example_runs():
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def test_examples_in_docstrings_run():
    """Each in the file that shows it; at least those of these modules."""
    shown = set()
    for module in pkgutil.walk_packages(msmeta.__path__, "msmeta."):
        if module.name != "msmeta.__main__":
            failed, attempted = doctest.testmod(importlib.import_module(module.name))
            assert not failed, module.name
            shown |= {module.name} if attempted else set()
    assert {"msmeta.adaptation", "msmeta.comparison", "msmeta.modules", "msmeta.optimisers"} <= shown


def test_readme_names_only_targets_and_files_that_exist():
    readme = (ROOT / "README.md").read_text()
    targets = re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE) + NOTEBOOKS
    named = re.findall(r"(?:^|`)make ([a-z]\w*)", readme, re.MULTILINE)
    assert {"book", "test"} <= set(named) <= set(targets)
    for path in re.findall(r"\]\((?!https?:|#)([^)\s]+)\)", readme):
        assert (ROOT / path).exists(), f"README.md links to {path}, which is not there"


def test_the_workflow_and_the_commands_are_those_of_ci():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text())
    jobs = workflow["jobs"]
    ran = [step["run"] for step in jobs["check"]["steps"] if "run" in step]
    wanted = re.findall(r"^step (make .*)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert [command for command in ran if command.startswith("make ")] == wanted
    assert wanted[-1] == "make test" and "chromium" in ran[0]
    pages = [step["run"] for step in jobs["pages"]["steps"] if "run" in step]
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    for command in [*wanted, *pages]:
        assert shlex.split(command)[1] in targets, command
    (upload,) = [step for step in jobs["pages"]["steps"] if "upload-pages" in step.get("uses", "")]
    assert upload["with"]["path"] == "book/_build/html" and jobs["pages"]["needs"] == "check"
    text = (ROOT / "CONTRIBUTING.md").read_text()
    told = [shlex.split(line, comments=True) for line in re.findall(r"^make .*$", text, re.MULTILINE)]
    assert [words[1] for words in told] == ["lint", "book", "test"]


def test_the_workflow_is_whole():
    """What GitHub would refuse: a trigger, an action without a version, a wrong Python or expression."""
    text = (ROOT / ".github" / "workflows" / "book.yml").read_text()
    workflow = yaml.load(text, yaml.BaseLoader)
    assert set(workflow["on"]) == {"push", "pull_request", "workflow_dispatch"}
    allowed = SpecifierSet(PROJECT["requires-python"])
    for job in workflow["jobs"].values():
        assert job["runs-on"].startswith("ubuntu-") and int(job["timeout-minutes"])
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/x@v1"))
        for version in job.get("strategy", {}).get("matrix", {}).get("python", []):
            assert allowed.contains(f"{version}.9")
    expressions = set(re.findall(r"\$\{\{ (.+?) \}\}", text))
    assert expressions == {"github.workflow", "github.ref", "matrix.python", "steps.deployment.outputs.page_url"}


def test_the_container_installs_the_lock_and_nothing_else():
    lines = (ROOT / ".binder" / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    (base,) = [line for line in lines if line.startswith("FROM ")]
    python = re.fullmatch(r"FROM python:(\d\.\d+)-slim-\w+", base)[1]
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"{python}.9")
    runs = [line.removeprefix("RUN ") for line in lines if line.startswith("RUN ")]
    assert "make setup" in runs and not any("pip" in run for run in runs)
    assert {"chromium", "make"} <= set(" ".join(runs).split())
    setup = MAKEFILE.split("$(STAMP):")[1].split("\n\n")[0]
    assert re.findall(r"pip install (.*)$", setup, re.MULTILINE) == [
        "--quiet -r requirements.lock",
        "--quiet --no-deps -e .",
    ]
    ignored = (ROOT / ".binder" / "Dockerfile.dockerignore").read_text().splitlines()
    assert {".venv", "book/_build", "data/*"} <= set(ignored)


def test_notebooks_hold_no_outputs():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text())["cells"]:
            assert not cell.get("outputs") and not cell.get("execution_count"), path.name


def tracked_files() -> list[Path]:
    """The files that git tracks."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_tracked_file_names_a_home_folder():
    home = re.compile(rb"(?<![\w./])/(?:home|root|Users)/[\w.]")
    found = [str(path.relative_to(ROOT)) for path in tracked_files() if home.search(path.read_bytes())]
    assert not found


def test_parameters_in_version_control_are_few_and_those_of_their_results():
    kept = [path for path in tracked_files() if path.suffix == ".pt"]
    sizes = [path.stat().st_size for path in kept]
    assert sum(sizes) <= finished.KEPT_BYTES and max(sizes, default=0) <= finished.KEPT_BYTES_EACH
    for path in kept:
        finished.read(path.with_suffix(".json")).parameters()  # raises UserError for others
