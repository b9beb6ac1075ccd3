"""Command lines that nobody means: each works, or ends in one line and a status that is not 0."""

import random

import pytest
import strange

from msmeta.experiments.config import schema
from msmeta.experiments.registry import EXPERIMENTS

TINY = {
    "few-shot": ["--dataset", "glyphs", "--filters", "2", "--tasks", "1", "--iterations", "1", "--test-episodes", "1",
                 "--curve-episodes", "1"],
    "transfer": ["--dataset", "glyphs-rgb", "--width", "0.0625"],
}  # fmt: skip
OTHERS = [
    ["data", "list"], ["data", "verify"], ["data", "prepare"], ["data", "prepare", "omniglot", "--from"],
    ["sweep"], ["sweep", "--plan"], ["sweep", "nothing.yaml", "--set"], ["sweep", "nothing.yaml", "--executor"],
    ["results", "--remove-theta"], ["results"], ["results", "verify"], ["evaluate"], ["evaluate", "x", "--norm"],
    ["evaluate", "x", "--workers"], ["adapt"], ["adapt", "x", "--support", ".", "--query"], ["adapt", "x", "--out"],
    ["bench"], ["plan", "--memory"], ["plan", "--memory", "1GB", "--device"], [],
]  # fmt: skip
OWN = ["device", "workers", "time-budget", "resume", "force", "no-such-option"]


def cases():
    """Trainings that have no time for an iteration, with options of any value; and the other commands."""
    draw, found = random.Random(21), []
    for experiment, tiny in TINY.items():
        names = [name.replace("_", "-") for name in schema(EXPERIMENTS[experiment][0])] + OWN
        for _ in range(200):
            given = [f"--{draw.choice(names)}={draw.choice(strange.TEXTS)}" for _ in range(draw.choice([1, 1, 2]))]
            found.append(["train", experiment, "--preset", "smoke", *tiny, "--time-budget", "0s", *given])
    for _ in range(60):
        rates = f"--rates={draw.choice(strange.TEXTS)},{draw.choice(strange.TEXTS)}"
        found.append(["tune", "few-shot", "--preset", "smoke", *TINY["few-shot"], "--seed=x", rates])
    for _ in range(240):
        found.append([*draw.choice(OTHERS), *draw.sample(strange.TEXTS, draw.choice([0, 1, 1, 2]))])
    return found


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to be in."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def test_command_lines(trials, msmeta, here):
    def attempt(arguments):
        status, _, err = msmeta(*arguments)
        lines = [line for line in err.split("\n") if line.strip()]
        if status == 0 or (not lines and status == 2):  # help, for want of a command
            return None
        if len(lines) != 1 or not lines[0].startswith("msmeta: ") or not lines[0].isprintable() or len(lines[0]) > 2000:
            return f"status {status}, and {err[:300]!r}"
        return None

    trials("Command lines of wrong values", cases(), attempt)
