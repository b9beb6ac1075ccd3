"""What CONTRIBUTING.md tells to do is done, in a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
PLACE = re.compile(r"^# (msmeta/\S+\.py)(?:, below: (.*))?$", re.MULTILINE)


def listings(title: str) -> list[str]:
    """The Python of a section."""
    section = re.split(rf"^## {title}$", TEXT, flags=re.MULTILINE)[1].split("\n## ")[0]
    return re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


def put(listing: str, root: Path) -> None:
    """Each part of a listing into the file that it names: a new one, or below a line of it."""
    _, *parts = PLACE.split(listing)
    for name, line, code in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        path = root / name
        if line is None:
            assert not path.exists()
            path.write_text(code.lstrip("\n"))
            continue
        text = path.read_text()
        assert text.count(f"{line}\n") == 1, f"{name} has no single line {line!r}"
        path.write_text(text.replace(f"{line}\n", line + code))


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of the package and a command to run with it; gives what that prints."""
    shutil.copytree(ROOT / "msmeta", tmp_path / "msmeta", ignore=shutil.ignore_patterns("__pycache__"))
    places = {"PYTHONPATH": str(tmp_path), "MSMETA_DATA": str(tmp_path / "data")}

    def run(*command: str, **more: str) -> str:
        environment = {**os.environ, "MSMETA_RESULTS": str(tmp_path / "results"), **places, **more}
        done = subprocess.run([sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return tmp_path, run


def test_ten_lines_are_enough():
    for title in ("An estimator", "A data set", "A figure"):
        whole = "".join(listings(title)).splitlines()
        code = [line for line in whole if line and not re.match(r"(#|from|import) ", line)]
        assert len(code) <= 10, title


def test_an_estimator(copy):
    folder, run = copy
    for listing in listings("An estimator"):
        put(listing, folder)
    check = """
import torch
from msmeta import SGD, Bilevel, FirstOrder, MultiStep
from msmeta.estimators.halfway import Halfway
problem = Bilevel(lambda p: p, lambda p, _, t: p["w"].pow(4).sum(), lambda p, _: p["w"].sum())
kinds, theta = (MultiStep, FirstOrder, Halfway), {"w": torch.ones(2)}
exact, first, half = (kind(SGD(0.1), 3)(problem, theta).grad["w"] for kind in kinds)
assert not torch.allclose(exact, first) and torch.allclose(half, (exact + first) / 2)
"""
    run("-c", check)
    smoke = ["--dataset", "glyphs", "--preset", "smoke", "--workers", "1"]
    assert "Halfway" in run("-m", "msmeta", "train", "few-shot", "--estimator", "halfway", *smoke)


def test_a_data_set(copy):
    folder, run = copy
    for listing in listings("A data set"):
        put(listing, folder)
    random = np.random.default_rng(0)
    labels = random.permutation(np.repeat(np.arange(10), 20))
    np.savez(folder / "letters.npz", images=random.integers(256, size=(200, 28, 28), dtype=np.uint8), labels=labels)
    run("-m", "msmeta", "data", "prepare", "letters", "--from", str(folder))
    assert "200 images of 10 classes" in run("-m", "msmeta", "data", "verify", "letters")
    check = "from msmeta import data; d = data.load('letters'); assert len(d.images['test']) == 80, d"
    run("-c", check)


def test_a_figure(copy):
    folder, run = copy
    new, shown = listings("A figure")
    put(new, folder)
    drawn = re.sub(r"^show\((.*)\)$", r"print(\1._repr_html_())", shown, flags=re.MULTILINE)
    page = run("-c", drawn, MSMETA_RESULTS=str(ROOT / "results"))
    assert "<svg" in page and "test accuracy (%) against seed" in page and "print(" in drawn
