"""Preparations of a data set that are ended by a signal, or whose writes fail: nothing half-made stays."""

import random

import commands
import pytest
from forks import Fault
from PIL import Image

CALLS = {"folder": 1, "room": 1, "array": 1, "text": 1, "move": 1}
FAULTS = ("SIGKILL", "SIGTERM", "SIGINT", "ENOSPC", "EDQUOT", "EIO")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A user's own folder: a few pictures of each of a few classes."""
    folder, draw = tmp_path_factory.mktemp("made") / "birds", random.Random(0)
    for name in ("finch", "owl", "tit"):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            Image.frombytes("RGB", (32, 32), draw.randbytes(32 * 32 * 3)).save(folder / name / f"{number}.png")
    return folder


def test_a_preparation_that_is_ended(trials, serve, pictures, tmp_path):
    """Nothing half-prepared is left: at once, or of a killed one by the next."""
    cases = [
        Fault(place, call, when, what)
        for place, calls in CALLS.items()
        for call in range(1, calls + 1)
        for when in ("before", "after")
        for what in FAULTS
        if when == "before" or what.startswith("SIG")
    ]

    def attempt(fault):
        folder = commands.emptied(tmp_path / "run")
        words = ["data", "prepare", f"folder:{pictures}"]
        status, said = serve(folder, *words, fault=fault), commands.said(folder)
        if status != {"SIGKILL": -9, "SIGTERM": 130, "SIGINT": 130}.get(fault.what, 2) or (status > 0) != len(said):
            return f"it ended in {status}: {said}"
        data = folder / "data"
        left = [path.name for path in data.iterdir()] if status > 0 and data.exists() else []
        if left and (len(left) > 1 or (fault.place, fault.when) != ("move", "after")):
            return f"{left} is left"
        if status := serve(folder, *words):
            return f"the next one ended in {status}: {commands.said(folder)}"
        (name, *left) = sorted((path.name for path in data.iterdir()), reverse=True)
        if left or serve(folder, "data", "verify", name.replace("-", ":", 1)):
            return f"{left} is left beside {name}: {commands.said(folder)}"
        return None

    trials("a preparation of data is killed, interrupted or cannot write", cases, attempt, sample=6)
