"""Writes that fail, each call of them, and disks that are full: one line, nothing lost, nothing trained twice."""

import random
import re
import subprocess

import commands
import pytest
from forks import FIRED, Fault

NAMES = ("multistep", "reptile", "transfer, multistep --window 2 --optimizer adam")
CALLS = {"folder": 2, "open": 7, "sync": 7, "rename": 10, "room": 2}
"""Calls that write, and how many of each there are, at the least."""
PLACES = {"pack": 6, "open": 6, "sync": 6, "rename": 8, "store": 1}
"""Of a training that stores a result, likewise."""
ERRORS = ("ENOSPC", "EDQUOT", "EIO", "EROFS", "EFBIG", "EACCES")
LINE = re.compile(r"msmeta: cannot write (\S+): .* \((?:[\d,]+ bytes needed, )?[\d,]+ free(?:, [\d,]+ allowed .*)?\).*")
"""Path, reason, needed and free bytes."""


def is_told(said):
    return len(said) == 1 and LINE.fullmatch(said[0])


def problem(serve, folder, name, fault, whole):
    """What is lost where the fault comes in the command, and is then mended."""
    words = commands.COMMANDS[name]
    status, said, filler = serve(folder, *words, fault=fault), commands.said(folder), folder / "results" / "filler"
    if not (folder / FIRED).exists():
        return "the fault did not happen"
    if not (status == 3 and is_told(said)) and (status or commands.stored(folder) != whole(name)):
        return f"it ended in {status}: {said}"
    if half := [path for path in folder.rglob(".*") if path.is_file()]:
        return f"{half} is left"
    filler.unlink(missing_ok=True)
    kept = [*folder.glob("results/checkpoints/*.result")]
    trained = Fault("optimizer", 1, "before", "EIO")  # which a result that was kept does without
    if serve(folder, *words, *["--resume"] * (not kept), fault=trained if kept else None):
        return f"--resume ended in {commands.said(folder)}"
    if commands.stored(folder) != whole(name):
        return "the result is another"
    return f"{left} is left" if (left := commands.left(folder)) else None


def test_a_write_that_fails(trials, serve, whole, tmp_path):
    draw = random.Random(0)
    cases = [
        (name, Fault(place, call, "before", error))
        for name in NAMES
        for place, calls in CALLS.items()
        for call in range(1, calls + 1)
        for error in draw.sample(ERRORS, 2)[: 2 if name == NAMES[0] else 1] + [f"{draw.choice(ERRORS)}+"]
    ]

    def attempt(case):
        return problem(serve, commands.emptied(tmp_path / "run"), *case, whole)

    trials("a write fails, at each call that writes", cases, attempt, sample=8)


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own, in whose folder `results` a command writes."""
    folder = tmp_path / "disk"
    (folder / "results").mkdir(parents=True)
    mounted = []

    def mount(size):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder / "results"], check=True)
        mounted.append(size)
        return folder

    def unmount():
        while mounted:
            subprocess.run(["umount", folder / "results"], check=True)
            mounted.pop()

    try:
        mount("4k")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no disk can be mounted here")
    unmount()
    mount.end = unmount
    yield mount
    unmount()


def during_a_training(what):
    """Cases in which this happens at one of the places."""
    draw = random.Random(1)
    return [
        (name, Fault(place, draw.randint(1, calls), draw.choice(("before", "after")), what))
        for name in NAMES
        for place, calls in PLACES.items()
        for _ in range(2)
    ]


def test_a_full_disk(trials, serve, whole, disk):
    """A real one, which another program fills meanwhile."""

    def attempt(case):
        try:
            return problem(serve, disk("16m"), *case, whole)
        finally:
            disk.end()

    cases = during_a_training("fill")
    trials("a disk becomes full while a training writes to it", cases, attempt, sample=4)


def test_a_limit_on_the_size_of_files(trials, serve, whole, tmp_path):
    """Which a shell may set."""

    def attempt(case):
        return problem(serve, commands.emptied(tmp_path / "run"), *case, whole)

    cases = during_a_training("limit")
    trials("files are not to become larger than they are, while a training writes", cases, attempt, sample=3)


def test_a_small_disk(trials, serve, whole, tmp_path, disk):
    cases = [(name, size) for name in NAMES for size in ("4k", "64k", "1m", "2m", "3m", "16m,ro")]

    def attempt(case):
        name, size = case
        folder = disk(size)
        try:
            status = serve(folder, *commands.COMMANDS[name], fault=Fault("optimizer", 1, "before", "SIGKILL"))
            said = commands.said(folder)
            return None if status == 3 and is_told(said) else f"{status}: {said}"
        finally:
            disk.end()

    trials("a disk is too small for a result, or read-only: said before the first iteration", cases, attempt, sample=4)


@pytest.fixture
def quota(tmp_path):
    """Of bytes, on a disk that has more room: of a folder in it, in which a command writes."""
    image, mounted, folder = tmp_path / "image", tmp_path / "mounted", tmp_path / "quota"

    def call(*command):
        subprocess.run(command, check=True, capture_output=True)

    mounted.mkdir()
    folder.mkdir()
    try:
        with image.open("wb") as file:
            file.truncate(2**28)
        call("mkfs.btrfs", image)
        call("mount", "-o", "loop", image, mounted)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no disk with quotas can be made here: that takes root and btrfs-progs")
    call("btrfs", "quota", "enable", mounted)

    def set_to(size):
        """A new folder, since what another one held is given back some time later."""
        place = mounted / f"{len(list(mounted.iterdir()))}"
        call("btrfs", "subvolume", "create", place)
        call("btrfs", "qgroup", "limit", size, place)
        (folder / "results").unlink(missing_ok=True)
        (folder / "results").symlink_to(place)
        return folder

    yield set_to
    call("umount", mounted)


def test_a_quota(trials, serve, whole, quota):
    """A real one: too small from the start, or used up by another program meanwhile."""
    cases = [(name, size) for name in NAMES for size in ("64k", "1m", "2m")]
    cases += [(name, place) for name in NAMES for place in PLACES]

    def attempt(case):
        name, what = case
        if what in PLACES:
            return problem(serve, quota("16m"), name, Fault(what, min(2, PLACES[what]), "before", "fill"), whole)
        folder = quota(what)
        status = serve(folder, *commands.COMMANDS[name], fault=Fault("optimizer", 1, "before", "SIGKILL"))
        said = commands.said(folder)
        return None if status == 3 and is_told(said) else f"{status}: {said}"

    trials("a quota is too small for a result, or becomes used up while a training writes", cases, attempt, sample=4)
