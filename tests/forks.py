"""A process that has imported the command and computed nothing, forked for each trial: the command with a fault in it.

As a script it reads one trial a line (JSON: `Fault` as a list, folder, words of the command) and answers with a line,
the exit status, which is negative for a signal. What the command prints is in the folder's `out` and `err`.
"""

from __future__ import annotations

import errno
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import NoReturn

MOST_SECONDS = 300
"""After which a trial is ended by SIGALRM: nothing is to hang."""
FIRED = "fired"
"""A file in the folder that says that the fault's call was reached."""
PLACES = {
    "optimizer": ("torch.optim.Adam", "step"),
    "sgd": ("torch.optim.SGD", "step"),
    "iteration": ("msmeta.experiments.transfer.experiment", "transfer_iteration"),
    "evaluation": ("msmeta.experiments.few_shot.experiment", "evaluate"),
    "validation": ("msmeta.experiments.transfer.experiment", "evaluate"),
    "pack": ("torch", "save"),
    "open": ("msmeta.files", "put"),
    "sync": ("os", "fsync"),
    "rename": ("pathlib.Path", "replace"),
    "remove": ("pathlib.Path", "unlink"),
    "folder": ("pathlib.Path", "mkdir"),
    "room": ("os", "posix_fallocate"),
    "load": ("torch", "load"),
    "store": ("msmeta.runs.Run", "_store"),
    "array": ("numpy", "save"),
    "text": ("pathlib.Path", "write_text"),
    "move": ("pathlib.Path", "rename"),
}
"""Functions whose calls are counted: owner and name."""


@dataclass(frozen=True)
class Fault:
    """What happens `when` (before or after) the `call`-th call of a place, counted from 1: a signal, or a failed write.

    what: SIGKILL, SIGTERM, SIGINT; a name of errno, which this call raises, and with a + each one after it; `fill`,
    which another program does to the disk; `limit`, which the process has from then on for the size of a file.
    """

    place: str
    call: int
    when: str
    what: str


class Server:
    """Starts the process, of this script or another of its kind, at the first need."""

    def __init__(self, script: str = __file__) -> None:
        self._script, self._process = script, None

    def __call__(self, folder: Path, *words: object, fault: Fault | None = None) -> int:
        """The command's exit status."""
        if self._process is None:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
            self._process = subprocess.Popen([sys.executable, self._script], **pipes)
        job = [fault and astuple(fault), str(folder), [str(word) for word in words]]
        print(json.dumps(job), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def end(self) -> None:
        if self._process is not None:
            with self._process:
                self._process.stdin.close()


def _serve() -> None:
    import torch._dynamo  # noqa: F401  (which the first optimizer imports)

    import msmeta.cli  # noqa: F401
    from msmeta import data
    from msmeta.experiments import few_shot, transfer  # noqa: F401

    for name in ("glyphs", "glyphs-rgb"):  # drawn and hashed once
        data.stored_hash(name)
    for line in sys.stdin:
        fault, folder, words = json.loads(line)
        child = os.fork()
        if child == 0:
            _attempt(fault and Fault(*fault), Path(folder), words)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _attempt(fault: Fault | None, folder: Path, words: list[str]) -> None:
    """The command, in this process, with the fault; does not return."""
    import torch

    from msmeta.experiments import training

    signal.alarm(MOST_SECONDS)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    (folder / FIRED).unlink(missing_ok=True)
    os.environ["MSMETA_RESULTS"] = str(folder / "results")
    torch.set_num_threads(1)
    training.CHECKPOINT_SECONDS = 0
    if fault:
        _arm(fault, folder)
    command(folder, words)


def command(folder: Path, words: list[str]) -> NoReturn:
    """Runs the command, which reads the folder's `data` and writes its `out` and `err`, and ends this process."""
    from msmeta import cli

    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ["MSMETA_DATA"] = str(folder / "data")
    sys.argv, status = ["msmeta", *words], 1
    try:
        cli.main()
    except SystemExit as ended:
        status = ended.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _arm(fault: Fault, folder: Path) -> None:
    owner, name = PLACES[fault.place]
    owner = _found(owner)
    function, calls = getattr(owner, name), []

    def counted(*arguments, **options):
        calls.append(name)
        mine = len(calls) == fault.call or (fault.what[-1] == "+" and len(calls) > fault.call)
        if mine:
            (folder / FIRED).touch()
        if mine and fault.when == "before":
            _act(fault.what, folder)
        found = function(*arguments, **options)
        if mine and fault.when == "after":
            _act(fault.what, folder)
        return found

    setattr(owner, name, counted)


def _found(owner: str):
    module, _, kind = owner.rpartition(".")
    if kind[:1].isupper():
        return getattr(sys.modules.get(module) or pathlib, kind)
    return sys.modules[owner]


def _act(what: str, folder: Path) -> None:
    if what.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, what))
    elif what == "fill":
        with open(folder / "results" / "filler", "wb", buffering=0) as file:
            try:
                while file.write(b"x" * 4096):
                    pass
            except OSError:
                pass
    elif what == "limit":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    else:
        number = getattr(errno, what.strip("+"))
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    _serve()
