"""Set-up files that must agree with each other."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKED_EXTRAS = ("book", "test")
DIRECT = [
    Requirement(line)
    for group in (PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in LOCKED_EXTRAS))
    for line in group
]


def locked():
    """Each locked package: its versions, one for each environment marker."""
    versions = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if line and not line.lstrip().startswith("#"):
            requirement = Requirement(line)
            (pin,) = requirement.specifier
            assert pin.operator == "==", line
            versions.setdefault(canonicalize_name(requirement.name), []).append(pin.version)
    return versions


@pytest.mark.parametrize("requirement", DIRECT, ids=str)
def test_lock_pins_every_direct_dependency_within_its_bounds(requirement):
    versions = locked()[canonicalize_name(requirement.name)]
    assert all(requirement.specifier.contains(version) for version in versions)


def test_lock_is_portable():
    """One lock for Linux and macOS and Python 3.11-3.13, with no place in it where packages come from."""
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"https?:|file:|--index|--find-links|--extra-index|@ ", text)
    markers = [Requirement(line).marker for line in text.splitlines() if "nvidia" in line and not line.startswith(" ")]
    for marker in markers:
        assert not marker.evaluate({"sys_platform": "darwin", "platform_machine": "arm64"})


def test_environment_yml_asks_for_the_same():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert sorted(entry for entry in pip if entry != "-e .") == sorted(map(str, DIRECT))
    (python,) = [entry for entry in environment["dependencies"] if str(entry).startswith("python")]
    assert python.startswith("python" + PROJECT["requires-python"])


def test_help_lists_every_target():
    listed = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z]+):", makefile, re.MULTILINE)
    assert {"help", "setup", "book", "test", "lint", "lab", "clean"} <= set(targets)
    for target in [*targets, *(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))]:
        assert re.search(rf"\b{target}\b", listed), target


def test_an_old_python_is_refused_in_one_line(tmp_path):
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    run = subprocess.run(
        ["make", "-s", "setup", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode != 0 and "is not Python 3.11 or newer" in run.stderr.splitlines()[0]
    assert not (tmp_path / "venv").exists()


def test_notebooks_are_committed_without_outputs():
    import nbformat

    paths = list((ROOT / "notebooks").glob("*.ipynb"))
    assert paths
    for path in paths:
        for cell in nbformat.read(path, as_version=4).cells:
            assert not cell.get("outputs") and not cell.get("execution_count"), path


def test_version_is_the_packages():
    import msmeta

    assert PROJECT["version"] == msmeta.__version__
    assert f"version: {msmeta.__version__}" in (ROOT / "CITATION.cff").read_text()
