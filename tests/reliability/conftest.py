"""Counts trials: what a user, a machine or a stranger may do, tried many times, a sample of each kind by default."""

import random
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import count

import commands
import pytest
import torch
from attempts import refused
from bounded import BOUNDED
from forks import Server

from msmeta import runs

SAMPLE = 12
"""Trials of a kind in `make test`; `make test-all` makes every one."""
TALLY = "trials"
"""The property of a test's report that says of what kind its trials were, and how they ended."""


@dataclass(frozen=True)
class Kind:
    """Trials of one kind. test: the name that runs it again. lost: by the case that lost something, what."""

    name: str
    test: str
    tried: int
    lost: dict[str, str]

    @property
    def held(self) -> int:
        return self.tried - len(self.lost)


@pytest.fixture
def trials(request):
    """Tries each of `cases`: `attempt(case)` gives None, or what was lost, in a line; what it raises is lost as well.

    name: of the kind, as the book shows it. A sample is drawn by the kind's name, so that it is the same each time.
    """

    def run(name: str, cases: Sequence, attempt: Callable[[object], str | None], sample: int = SAMPLE) -> None:
        if not request.config.getoption("every_trial"):
            cases = random.Random(name).sample(list(cases), min(sample, len(cases)))
        assert cases
        lost = {repr(case): told for case in cases if (told := lost_in(attempt, case))}
        kind = Kind(name, request.node.originalname, len(cases), lost)
        request.node.user_properties.append((TALLY, asdict(kind)))
        assert not lost, "\n".join(f"{case}: {told}" for case, told in lost.items())

    return run


@pytest.fixture(scope="session")
def serve():
    """Gives a command, perhaps with a fault in it, to a process that is forked for it; its exit status."""
    server = Server()
    yield server
    server.end()


@pytest.fixture(scope="session")
def bounded():
    """The same, with bounds on the command's memory and time, and small data sets to be prepared."""
    server = Server(BOUNDED)
    yield server
    server.end()


@pytest.fixture(scope="session")
def whole(serve, tmp_path_factory):
    """What a command stores when nothing happens to it, by name."""
    known = {}

    def found(name):
        if name not in known:
            folder = commands.emptied(tmp_path_factory.mktemp("whole") / "run")
            assert serve(folder, *commands.COMMANDS[name]) == 0, commands.said(folder)
            known[name] = commands.stored(folder)
        return known[name]

    return found


@pytest.fixture
def folders(tmp_path):
    """Names of folders, one after the other."""
    return (tmp_path / str(number) for number in count())


@pytest.fixture
def refuses(bounded, folders):
    """The attempt of a Case that the command is to refuse."""
    return lambda case: refused(bounded, next(folders), case)


def lost_in(attempt: Callable[[object], str | None], case: object) -> str | None:
    try:
        return attempt(case)
    except Exception:
        return traceback.format_exc()


def pytest_terminal_summary(terminalreporter, config):
    tests = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    found = [kind for test in tests for key, kind in test.user_properties if key == TALLY]
    kinds = sorted((Kind(**kind) for kind in found), key=lambda kind: kind.name)
    if not kinds:
        return
    terminalreporter.section("trials: held of tried")
    for kind in kinds:
        terminalreporter.write_line(f"{kind.held:>6} of {kind.tried:>5}  {kind.name}")
    if config.getoption("every_trial"):
        for kind in kinds:
            save(kind)


def save(kind: Kind) -> None:
    """Where the page "What can go wrong" reads it."""
    name = f"reliability/{kind.test.removeprefix('test_')}.json"
    metrics = [{"kind": kind.name, "tried": kind.tried, "held": kind.held}]
    runs.save_measurement(name, {"kind": kind.name, "test": kind.test}, metrics, torch.device("cpu"))
