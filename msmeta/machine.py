"""This machine: where the checkout lies, devices, precision, memory, time, and a fresh process to measure them in."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import platform
import re
import resource
import statistics
import sys
import textwrap
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from msmeta.errors import ConfigError, UserError, brief
from msmeta.paths import user_path


def repository() -> Path | None:
    """The checkout that holds this package, or None where the package is installed by itself."""
    folder = Path(__file__).resolve().parent.parent
    return folder if (folder / "pyproject.toml").is_file() else None


def root(variable: str, folder: str) -> Path:
    """Where data or results lie: `$variable`, else `folder` of the checkout, else `folder` here."""
    if chosen := os.environ.get(variable):
        return user_path(chosen, variable)
    return (repository() or Path.cwd()) / folder


def choose_device(name: str) -> torch.device:
    """`auto` is the GPU if there is one. Raises ConfigError for a device that is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()  # which `meta` has not
    except Exception as error:  # a backend that is not installed says so in its own way
        raise ConfigError(f"device {brief(name)} is not available here: use cpu, or auto") from error
    return device


def device_name(device: torch.device) -> str:
    """The accelerator's or the processor's name and, for a processor, how many of its cores are here."""
    return re.sub(r"[^\w .,:;()/@+&#'-]", " ", _device_name(device))[:200]  # results take plain text alone


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return f"{found[1] if found else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU no operation is shared out among threads, which would round it by their number."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


_ON_GPU = torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn
_ON_CPU = torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv, torch.backends.mkldnn.rnn
"""What rounds the operands of float32 if it is told to."""


def set_precision(name: str) -> None:
    """Lets a GPU round the operands of float32 products to TF32 if `name` is `tf32`; nothing else rounds them. Of the
    algorithms of cuDNN it has those that add in the same order each time, so that a run can be repeated."""
    torch.backends.cudnn.deterministic = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"
    for own in _ON_GPU:  # which the older settings leave to those for all operations
        own.fp32_precision = "tf32" if name == "tf32" else "ieee"
    for own in _ON_CPU:
        own.fp32_precision = "ieee"


@contextmanager
def settings(precision: str) -> Iterator[None]:
    """Torch's settings as a run needs them, and afterwards as they were: `set_precision`, and float32 by default."""
    cudnn, dtype = torch.backends.cudnn, torch.get_default_dtype()
    before, deterministic = [own.fp32_precision for own in _ON_GPU + _ON_CPU], cudnn.deterministic
    older = []  # a setting that both of torch's interfaces have touched cannot be asked for by the older one
    for get, put in ((torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
                     (lambda: cudnn.allow_tf32, partial(setattr, cudnn, "allow_tf32"))):  # fmt: skip
        with suppress(RuntimeError):
            older.append((put, get()))
    set_precision(precision)
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        cudnn.deterministic = deterministic
        for put, value in older:
            put(value)
        for own, value in zip(_ON_GPU + _ON_CPU, before, strict=True):
            own.fp32_precision = value


@contextmanager
def memory_errors(message: str) -> Iterator[None]:
    """Turns the several ways in which torch runs out of memory into a UserError with this line."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
            raise UserError(message) from error
        raise


def reset_peak_memory(device: torch.device) -> None:
    """Starts a new measurement of `peak_memory`."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets the resident set's high-water mark


def peak_memory(device: torch.device) -> int:
    """Bytes: what torch allocated at the most on a GPU, else the process's largest resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    if found:
        return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def unshared_memory() -> int:
    """The same on a CPU, without what this process shares with others, as it does the files of libraries."""
    peak, rollup = peak_memory(torch.device("cpu")), Path("/proc/self/smaps_rollup")
    if not rollup.exists():
        return peak
    size = {name: int(kb) * 1024 for name, kb in re.findall(r"^(\w+): +(\d+) kB", rollup.read_text(), re.M)}
    return peak - size["Shared_Clean"] - size["Shared_Dirty"]


def bytes_used(call: Callable[[], object], device: torch.device) -> int:
    """Bytes by which memory grew at the most while `call` ran: what torch allocated on a GPU, else `LiveBytes`."""
    if device.type != "cuda":
        with LiveBytes() as live:
            call()
        return live.peak
    reset_peak_memory(device)
    before = peak_memory(device)
    call()
    torch.cuda.synchronize(device)
    return peak_memory(device) - before


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that are made while it is on and still alive: `now`, and at the most, `peak`.

    Exact and the same in each run: neither what an allocator keeps nor what an operation takes within itself is in it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __enter__(self) -> LiveBytes:
        return super().__enter__()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = (args, kwargs or {})
        self._note(given, new=False)
        out = function(*args, **given[1])
        self._note(out, new=True)
        self.peak = max(self.peak, self.now)
        return out

    def _note(self, values: Any, new: bool) -> None:
        for tensor in tree_leaves(values):
            if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
                continue
            storage = tensor.untyped_storage()
            if id(storage) not in self._seen:  # the same object as long as the memory lives
                size = storage.nbytes() if new else 0
                self._seen.add(id(storage))
                self.now += size
                weakref.finalize(storage, self._forget, id(storage), size)

    def _forget(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


@cache
def keep_freed_memory() -> None:
    """Lets glibc keep memory that is freed for this process: to map its pages anew costs a fifth of a CPU's time.

    The resident set then stays at its peak. It lasts as long as the process, for the library does not tell what was set
    before. Does nothing where the C library is another.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        m_mmap_max, m_trim_threshold = -4, -1
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)


def timed(call: Callable[[], object], device: torch.device, repeats: int) -> tuple[list[float], int]:
    """Seconds of each of `repeats` calls after one that warms up, and bytes by which memory grew at the most.

    A GPU is waited for. On a CPU the bytes are the call's own only in a fresh process.
    """
    reset_peak_memory(device)
    before, times = peak_memory(device), []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return times[1:], peak_memory(device) - before


def speed(device: torch.device, dtype: torch.dtype = torch.float32) -> dict[str, float]:
    """Operations a second of a large matrix product, and bytes a second of a copy (read and written); fastest of 5."""
    a, b = (torch.rand(2048, 2048, device=device).to(dtype) for _ in range(2))
    x, y = (torch.ones(1 << 26, device=device) for _ in range(2))
    product, copy = (min(timed(call, device, 5)[0]) for call in (lambda: torch.mm(a, b), lambda: y.copy_(x)))
    return {"flops_per_second": 2 * 2048**3 / product, "bytes_per_second": 2 * x.nbytes / copy}


def in_fresh_process(function: Callable[..., Any], *args: Any) -> Any:
    """What `function(*args)` returns or raises in a new process, which inherits no memory that this one has used.

    The process is forked from one that has imported torch, with what it loads at the first use of vmap or of
    `grad_outputs`, and, at the first call, the function's module, and has run nothing. Function, arguments and outcome
    must be picklable. Raises UserError where the process was killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, function.__module__, "torch._dynamo"])
    with ProcessPoolExecutor(1, context) as process:
        try:
            return process.submit(function, *args).result()
        except BrokenProcessPool as error:
            call = f"{function.__name__}({textwrap.shorten(', '.join(map(str, args)), 200, placeholder=' ...')})"
            raise UserError(f"{call}: its process was killed, for want of memory perhaps") from error


def in_turns(
    measure: Callable[..., dict[str, float]], rows: Sequence[Any], rounds: int, *args: Any
) -> list[dict[str, Any]]:
    """Of each row the `medians` of `measure(row, *args)` in fresh processes: rows take turns, so all have a drift."""
    found: list[list[dict[str, float]]] = [[] for _ in rows]
    for _ in range(rounds):
        for row, own in zip(rows, found, strict=True):
            own.append(in_fresh_process(measure, row, *args))
    return [medians(own) for own in found]


def medians(rounds: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Of what was measured in several rounds; `seconds_all` and `bytes_all` hold those of every round."""
    every = {f"{name}_all": [own[name] for own in rounds] for name in ("seconds", "bytes") if name in rounds[0]}
    return {name: statistics.median(own[name] for own in rounds) for name in rounds[0]} | every
