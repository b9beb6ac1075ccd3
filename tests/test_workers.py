"""Worker processes for real: one memory, errors, deaths, signals, and scripts of every kind that start them."""

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from msmeta import ConfigError, DivergedError, UserError, machine, workers
from msmeta.workers import Team, Worker

pytestmark = pytest.mark.usefixtures("no_worker_stays")


class Odd(Exception):
    """One that cannot be sent."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


class Squares:
    """An object for workers."""

    def __init__(self, count):
        self.numbers = torch.arange(float(count))
        self.evens = self.numbers[::2]
        self.found = torch.zeros(count)

    def take(self, worker, power=2):
        own = worker.share(len(self.numbers))
        self.found[own] = self.numbers[own] ** power
        return worker.rank, worker.size, os.getpid(), self.evens.sum().item()

    def fail(self, worker, errors):
        if worker.rank in errors:
            raise errors[worker.rank]

    def be_odd(self, worker):
        if worker.rank:
            raise Odd("one", "two")

    def die(self, worker):
        if worker.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def interrupt(self, worker):
        if worker.rank == 0:
            raise KeyboardInterrupt
        time.sleep(3600)


def team_of(count=10, size=3):
    team = Team(Squares(count), size)
    team.wait()
    return team


def pids(team, wait=True):
    """Of the workers, in order."""
    if wait:
        team.wait()
    with team.ready():
        return [pid for _, _, pid, _ in team.call("take")]


def test_each_has_its_share_of_one_memory():
    team = team_of()
    with team.ready() as squares:
        squares.numbers.add_(0.5)
        seats = team.call("take", 3)
        assert torch.equal(squares.found, (torch.arange(10.0) + 0.5) ** 3)
        assert squares.numbers.data_ptr() % 64 == squares.found.data_ptr() % 64 == 0
    assert [(rank, size) for rank, size, *_ in seats] == [(0, 3), (1, 3), (2, 3)]
    assert len({pid for _, _, pid, _ in seats}) == 3 and seats[0][2] == os.getpid()
    assert {evens for *_, evens in seats} == {0.5 + 2.5 + 4.5 + 6.5 + 8.5}  # a view of the numbers stays one
    assert team.most == 3
    shares = [range(7)[Worker(rank, 9).share(7)] for rank in range(9)]
    assert [i for share in shares for i in share] == list(range(7))


def test_processes_serve_the_next_object_and_one_that_is_too_large_gets_others():
    first = team_of()
    kept = pids(first)
    assert pids(team_of(20)) == kept and pids(first) == kept  # and what the second has written is not the first's
    with first.ready() as squares:
        assert torch.equal(squares.numbers, torch.arange(10.0))
    assert pids(team_of(20, size=2)) == kept[:2]
    large = pids(team_of(5_000_000))
    assert not set(large[1:]) & set(kept)
    assert pids(team_of()) == large


def test_who_works_alone_again_has_its_own_numbers():
    """It had a part of the processes without waiting for them; then another object had their memory, and they ended."""
    team_of()
    first = Team(Squares(10), 3, patience=math.inf)
    pids(first, wait=False)
    assert multiprocessing.active_children()
    second = team_of()
    with second.ready() as squares:
        squares.numbers.zero_()
        second.call("take")
    workers.end()
    assert pids(first, wait=False) == [os.getpid()]
    with first.ready() as squares:
        assert torch.equal(squares.found, torch.arange(10.0) ** 2)


def test_one_works_alone_until_it_has_waited_long_enough():
    workers.end()
    before, team = multiprocessing.active_children(), Team(Squares(10), 3, patience=math.inf)
    for _ in range(2):
        assert pids(team, wait=False) == [os.getpid()]
    assert multiprocessing.active_children() == before and team.most == 1
    team = Team(Squares(10), 3, patience=1e-9)
    assert pids(team, wait=False) == [os.getpid()] and multiprocessing.active_children() == before
    with team.ready() as squares:  # they start, and what is written meanwhile is theirs as well
        squares.numbers.add_(1)
        team.call("take")
        assert torch.equal(squares.found, torch.arange(1.0, 11.0) ** 2)
        assert len(multiprocessing.active_children()) == 2
    assert len(pids(team)) == 3


def test_the_first_error_is_raised_as_itself_and_the_workers_stay():
    team = team_of()
    before, own = pids(team), UserError("of this process")
    own.exit_status = 7
    for errors, kind, words in (
        ({1: DivergedError("first"), 2: UserError("second")}, DivergedError, "^first$"),
        ({0: own, 1: DivergedError("another")}, UserError, "^of this process$"),
        ({2: own}, UserError, "^of this process$"),
    ):
        with team.ready(), pytest.raises(kind, match=words) as found:
            team.call("fail", errors)
        assert found.value.exit_status == (3 if kind is DivergedError else 7)
        assert not hasattr(found.value, "__notes__")
    with team.ready(), pytest.raises(UserError, match="^too much$"), machine.memory_errors("too much"):
        team.call("fail", {1: RuntimeError("can't allocate memory")})
    assert pids(team) == before


def test_an_error_that_nobody_expects_says_where_it_comes_from():
    team = team_of()
    with team.ready(), pytest.raises(KeyError, match="name") as found:
        team.call("fail", {2: KeyError("name")})
    assert "in a worker process" in found.value.__notes__[0] and "raise errors[worker.rank]" in found.value.__notes__[0]
    with team.ready(), pytest.raises(RuntimeError, match="^Odd: one and two") as found:
        team.call("be_odd")
    assert "in be_odd" in found.value.__notes__[0]


@pytest.mark.parametrize("working", [True, False])
def test_a_dead_worker_is_one_line_and_the_next_call_has_others(working):
    team = team_of()
    before = pids(team)
    if not working:
        (child,) = [child for child in multiprocessing.active_children() if child.pid == before[2]]
        child.kill()
        child.join()
    with team.ready(), pytest.raises(UserError, match=r"^worker process \d+ died \(exit status -9\)[^\n]*--resume"):
        team.call("die" if working else "take")
    assert not multiprocessing.active_children()
    assert not set(pids(team)[1:]) & set(before)


def test_an_interrupt_leaves_no_process_at_work():
    team = team_of()
    with team.ready(), pytest.raises(KeyboardInterrupt):
        team.call("interrupt")
    assert not multiprocessing.active_children()
    assert pids(team)[0] == os.getpid()


def test_signals_of_a_terminal_do_not_reach_the_others():
    team = team_of()
    before = pids(team)
    for pid in before[1:]:
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    assert pids(team) == before


def test_counts(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert workers.count("auto") == 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: 10_000)
    assert workers.count("auto") == len(os.sched_getaffinity(0))
    assert [workers.count(asked) for asked in ("3", 3)] == [3, 3]
    for asked in ("0", -1, "many", 1.5, None, True):
        with pytest.raises(ConfigError, match=f"^workers={asked}: it must be auto, or a number from 1$"):
            workers.count(asked)


def what_a_daemon_can():
    try:
        Team(Squares(10), 2).wait()
    except UserError as error:
        torch.set_num_threads(2)
        return workers.count("auto"), str(error)


def test_a_process_that_may_have_no_processes_says_so():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        number, line = pool.apply(what_a_daemon_can)
    assert number == 1 and line.startswith("cannot start worker processes (daemonic") and "use --workers 1" in line


SCRIPT = """
import sys
print("started", flush=True)
from test_workers import pids, team_of
print(*pids(team_of(size=2)), flush=True)
if sys.argv[1:] == ["wait"]:
    input()
"""


def script(tmp_path, *command, **options):
    """A program without a guard of its main part."""
    (tmp_path / "program.py").write_text(SCRIPT)
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    return subprocess.Popen(
        [sys.executable, *command], cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


@pytest.mark.parametrize("command", [["program.py"], ["-m", "program"], ["-c", SCRIPT], ["-"]], ids=lambda own: own[0])
def test_a_program_needs_no_guard(tmp_path, command):
    """Its output is all there, once, after it and all that it started have ended."""
    with script(tmp_path, *command) as process:
        out, err = process.communicate(SCRIPT if command == ["-"] else None)
    first, second = out.splitlines()
    assert (process.returncode, first, err) == (0, "started", "") and len(set(second.split())) == 2


def test_a_killed_program_leaves_nothing(tmp_path):
    """Its output ends when the last process that could write to it has gone."""
    with script(tmp_path, "program.py", "wait") as process:
        assert process.stdout.readline() == "started\n"
        own, other = process.stdout.readline().split()
        assert int(own) == process.pid != int(other)
        process.kill()
        assert process.stdout.read() == process.stderr.read() == ""
    assert not list(Path("/dev/shm").glob(f"pym-{process.pid}-*"))
