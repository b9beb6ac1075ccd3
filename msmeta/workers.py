"""Worker processes: the methods of one object, called in several processes of this machine at once.

The object is the same in all of them: its tensors lie in memory that they share, and pipes carry only names, arguments
and results. The processes are started at the first need, serve every later object of this process, and end with it,
however it ends: at the end of their pipe. They inherit nothing of the program that starts them, so that a script needs
no `if __name__ == "__main__"`.
"""

from __future__ import annotations

import ctypes
import io
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, UntypedStorage

from msmeta import machine
from msmeta.errors import ConfigError, UserError

START_SECONDS = 1.5
"""What another process takes to import torch: work that takes less is over before it could help."""
_CONTEXT = multiprocessing.get_context("spawn")
_ALIGNED, _ROUNDED = 64, 2**25
"""Bytes: where a tensor may begin, and of what the shared memory's size is a multiple, to serve the next object too."""


@dataclass(frozen=True)
class Worker:
    """Number `rank` of `size` workers."""

    rank: int = 0
    size: int = 1

    def share(self, count: int) -> slice:
        """Its share of so many things in a row; shares differ by one at the most."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)


def count(asked: str | int) -> int:
    """How many workers `auto`, or a number, is. Raises ConfigError.

    `auto` is as many as torch may use threads (OMP_NUM_THREADS), on cores that this process may use.
    """
    if asked == "auto":
        if multiprocessing.current_process().daemon:  # which may have no processes of its own
            return 1
        return min(machine.cores(), torch.get_num_threads())
    number = int(asked) if str(asked).isdecimal() and len(str(asked)) < 7 else 0
    if number < 1:
        raise ConfigError(f"workers={str(asked)[:20]}: it must be auto, or a number from 1")
    return number


class Team:
    """Up to `size` workers for one object, the first of them this process.

    The object's methods take a Worker and then what they are called with; what the workers find together must not
    depend on how many they are. While the others start this process works alone; they are started once its calls have
    taken `patience` seconds, or are there from an object before. The object is picklable, its tensors are on the CPU.
    most: how many workers have had a part so far.
    """

    def __init__(self, work: Any, size: int = 1, patience: float = 0.0) -> None:
        self.size, self.most = size, 1
        self._given = self._work = work
        self._patience = patience
        self._pool: _Pool | None = None

    @contextmanager
    def ready(self) -> Iterator[Any]:
        """The object as the calls within the block have it: what is written to its tensors is there in every worker.

        Raises UserError where processes cannot be started.
        """
        with _LOCK if self.size > 1 else nullcontext():
            try:
                if self.size > 1 and (self._patience <= 0 or _kept is not None and _kept.alive()):
                    self._pool = self._share()
                else:  # what was shared may have become another object's since
                    self._work = self._given
                yield self._work
            finally:
                self._pool = None

    def call(self, method: str, *arguments: Any) -> list[Any]:
        """What the method returns in each worker, by rank. Within `ready`.

        Raises what the first of them in rank raised, and UserError where a process has died.
        """
        began = time.perf_counter()
        with _all_or_none():
            others = [child for child in self._children() if child.is_ready()]
            size = 1 + len(others)
            for rank, child in enumerate(others, 1):
                child.send(method, Worker(rank, size), *arguments)
            outcomes = [_outcome(getattr(self._work, method), Worker(0, size), *arguments)]
            outcomes += [child.receive() for child in others]
        self.most = max(self.most, size)
        self._patience -= time.perf_counter() - began
        for _, error in outcomes:
            if error:
                raise error
        return [value for value, _ in outcomes]

    def wait(self) -> None:
        """Starts all workers and waits for them, as a timing does."""
        self._patience = 0.0
        with self.ready(), _all_or_none():
            for child in self._children():
                child.is_ready(wait=True)

    def _children(self) -> list[_Child]:
        return self._pool.children[: self.size - 1] if self._pool else []

    def _share(self) -> _Pool:
        """The processes, which have the object in their memory, or are about to."""
        global _kept
        with _all_or_none():
            try:
                if not (_kept and _kept.alive() and _kept.holds() is self):
                    file = io.BytesIO()
                    packer = _Packer(file)
                    packer.dump(self._given)
                    if not (_kept and _kept.alive() and packer.size <= _kept.room):
                        end()
                        _kept = _Pool(packer.size)
                    self._work = _kept.hold(self, file.getvalue(), packer.storages.values())
                _kept.grow(self.size - 1)
            except (OSError, AssertionError) as error:  # the latter in a process that may have none, as a pool's
                raise UserError(f"cannot start worker processes ({error}): use --workers 1") from error
        return _kept


class _Pool:
    """Processes, and the memory that they share with this one."""

    def __init__(self, size: int) -> None:
        self.room = -(-size // _ROUNDED) * _ROUNDED
        self.children: list[_Child] = []
        self._owner, self._message = os.getpid(), b""
        self.memory = _CONTEXT.RawArray(ctypes.c_byte, self.room + _ALIGNED)  # a file that has no name
        self.end = Finalize(self, _kill, [self.children], exitpriority=100)

    def alive(self) -> bool:
        """Whether it has not ended, and is not that of a process from which this one was forked."""
        return self.end.still_active() and self._owner == os.getpid()

    def hold(self, team: Team, message: bytes, storages: Iterable[tuple[int, UntypedStorage]]) -> Any:
        """Gives all children a team's object; it as this process has it."""
        self.holds, self._message = weakref.ref(team), message
        for place, storage in storages:
            _at(self.memory, place, torch.uint8, len(storage)).copy_(torch.empty(0, dtype=torch.uint8).set_(storage))
        for child in self.children:
            child.send(None, message)
        return _Unpacker(self.memory, message).load()

    def grow(self, count: int) -> None:
        """To so many children at least."""
        while len(self.children) < count:
            self.children.append(_Child(self.memory))
            self.children[-1].send(None, self._message)


class _Child:
    """A process as its parent has it. due: answers that it owes."""

    def __init__(self, memory: ctypes.Array) -> None:
        self.due = 0
        self.connection, other = _CONTEXT.Pipe()
        with other, _apart():
            self.process = _CONTEXT.Process(target=_serve, args=(other, memory))
            self.process.start()

    def send(self, *message: Any) -> None:
        with self._living():
            self.connection.send(message)
        self.due += 1

    def receive(self) -> Outcome:
        with self._living():
            outcome = self.connection.recv()
        self.due -= 1
        return outcome

    def is_ready(self, wait: bool = False) -> bool:
        """Whether it has answered everything, and so has the object."""
        with self._living():
            while self.due and (wait or self.connection.poll()):
                _, error = self.receive()
                if error:
                    raise error
        return not self.due

    @contextmanager
    def _living(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError) as error:
            self.process.join(10)
            raise UserError(
                f"worker process {self.process.pid} died (exit status {self.process.exitcode}), for want of memory "
                "perhaps: go on with --resume, and with fewer --workers if memory is short"
            ) from error


_LOCK = threading.RLock()
_kept: _Pool | None = None


def end() -> None:
    """Ends the processes that wait for the next object, and gives their memory back."""
    with _LOCK:
        if _kept:
            _kept.end()


@contextmanager
def _all_or_none() -> Iterator[None]:
    """Ends all processes where one of them has died, or an interrupt came: the others are in the midst of something."""
    try:
        yield
    except BaseException:
        end()
        raise


def _kill(children: list[_Child]) -> None:
    for child in children:
        child.process.kill()
    for child in children:
        child.process.join()
        child.connection.close()


@contextmanager
def _apart() -> Iterator[None]:
    """What a process is started in so that it has nothing to do with the program that starts it.

    `spawn` would run the program's file again. Signals, which a terminal sends to all its processes, are blocked, and
    stay so in the child: what becomes of the work is for this process to decide.
    """
    resource_tracker.ensure_running()  # which unblocks signals
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        sys.modules["__main__"] = main


def _serve(connection: Connection, memory: ctypes.Array) -> None:
    """A child's life: takes an object, and calls of its methods, until its parent is no more."""
    torch.set_num_threads(1)
    machine.keep_freed_memory()
    work = None
    with suppress(EOFError, OSError):
        while True:
            method, *arguments = connection.recv()
            if method is None:
                work = None  # before there is another
                work, error = _outcome(_Unpacker(memory, *arguments).load)
                value = None
            else:
                value, error = _outcome(getattr(work, method), *arguments)
            connection.send((value, error and _portable(error)))


Outcome = tuple[Any, Exception | None]
"""What a function returned, or raised."""


def _outcome(function: Callable[..., Any], *arguments: Any) -> Outcome:
    try:
        return function(*arguments), None
    except Exception as error:
        return None, error


def _portable(error: Exception) -> Exception:
    """An error that can be sent; one that nobody expects says where it came from."""
    where = "in a worker process:\n" + "".join(traceback.format_exception(error))
    try:
        sent = pickle.loads(pickle.dumps(error))
    except Exception:
        sent = RuntimeError(f"{type(error).__name__}: {error}")
    if not isinstance(sent, UserError):
        sent.add_note(where)
    return sent


class _Packer(pickle.Pickler):
    """Pickles an object but for its tensors. storages: theirs, each once, with its place in the shared memory."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.storages: dict[int, tuple[int, UntypedStorage]] = {}
        self.size = 0

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return None
        storage = value.untyped_storage()
        if storage.data_ptr() not in self.storages:
            self.storages[storage.data_ptr()] = self.size, storage
            self.size += -(-len(storage) // _ALIGNED) * _ALIGNED
        place, _ = self.storages[storage.data_ptr()]
        return place, value.dtype, len(storage), (tuple(value.shape), value.stride(), value.storage_offset())


class _Unpacker(pickle.Unpickler):
    """The object again, its tensors in the shared memory."""

    def __init__(self, memory: ctypes.Array, message: bytes) -> None:
        super().__init__(io.BytesIO(message))
        self._memory = memory

    def persistent_load(self, found: Any) -> Tensor:
        place, dtype, size, shape = found
        return _at(self._memory, place, dtype, size).as_strided(*shape)


def _at(memory: ctypes.Array, place: int, dtype: torch.dtype, size: int) -> Tensor:
    """So many bytes of the memory, from a place on. Aligned alike in all processes, lest sums be rounded otherwise."""
    start = -ctypes.addressof(memory) % _ALIGNED
    return torch.frombuffer(memory, dtype=dtype, count=size // dtype.itemsize, offset=start + place)
