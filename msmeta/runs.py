"""One run = one config -> one JSON result. Where results and checkpoints lie, and where a result came from.

A result is found again by its config: its file name ends in a hash of the config's fields.
"""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from msmeta.errors import ConfigError, UserError

COMMITTED_PRESETS = ("cpu", "paper")
"""Presets whose results are evidence and belong in version control; those of the others are kept apart, in `live/`."""


def repository() -> Path | None:
    """The checkout that holds this package, or None where the package is installed by itself."""
    folder = Path(__file__).resolve().parent.parent
    return folder if (folder / "pyproject.toml").is_file() else None


def results_root() -> Path:
    """`$MSMETA_RESULTS`, else `results/` of the checkout, else `results/` here."""
    if chosen := os.environ.get("MSMETA_RESULTS"):
        return Path(chosen).expanduser()
    return (repository() or Path.cwd()) / "results"


@dataclass(frozen=True)
class Run:
    """The place of one run in the store.

    kind: what is run, such as `few-shot`. label: a readable name. config: plain values that define the outcome.
    preset: decides whether the result is evidence or a live run. defaults: values that count as if they were not there,
    so that results keep their names when a config gets a new field.
    """

    kind: str
    label: str
    preset: str
    config: dict[str, Any]
    root: Path
    defaults: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Readable name and hash of the config."""
        chosen = {k: v for k, v in self.config.items() if k not in self.defaults or v != self.defaults[k]}
        canonical = json.dumps(chosen, sort_keys=True).encode()
        return f"{self.label}-{hashlib.sha256(canonical).hexdigest()[:10]}"

    @property
    def result_path(self) -> Path:
        """Where the JSON result lies once the run has finished."""
        folder = self.root / self.kind if self.preset in COMMITTED_PRESETS else self.root / "live" / self.kind
        return folder / f"{self.name}.json"

    @property
    def checkpoint_path(self) -> Path:
        """Where an unfinished run waits to be resumed."""
        return self.root / "checkpoints" / f"{self.name}.pt"

    def result(self) -> dict[str, Any] | None:
        """The finished result, or None."""
        return read_result(self.result_path) if self.result_path.exists() else None

    def save_result(self, result: dict[str, Any]) -> Path:
        """Writes the result whole or not at all, and drops the checkpoint."""
        text = json.dumps({"kind": self.kind, "config": self.config, **result}, indent=1, allow_nan=False)
        with replacing(self.result_path) as temporary:
            temporary.write_text(_one_line_lists(text) + "\n")
        self.checkpoint_path.unlink(missing_ok=True)
        return self.result_path

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Writes tensors and plain values whole or not at all."""
        with replacing(self.checkpoint_path) as temporary:
            torch.save(state, temporary)

    def load_checkpoint(self, device: str | torch.device = "cpu") -> dict[str, Any] | None:
        """The state that was saved, or None. Raises UserError for a file that cannot be read."""
        if not self.checkpoint_path.exists():
            return None
        try:
            return torch.load(self.checkpoint_path, map_location=device, weights_only=True)
        except Exception as error:  # torch.load's ways to fail on a damaged file have no common class
            raise UserError(f"checkpoint {self.checkpoint_path} is damaged: start again with --force") from error


def read_result(path: Path) -> dict[str, Any]:
    """One result file. Raises UserError where it is no JSON object with a config."""
    try:
        result = json.loads(path.read_text())
        result["config"], result["metrics"], result["provenance"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"result {path} is damaged: delete it, or repeat the run with --force") from error
    return result


def read_results(kind: str, root: Path | None = None, live: bool = False) -> list[dict[str, Any]]:
    """All results of a kind, in order of their file names; with `live` those of the smoke and quick presets."""
    folder = (root or results_root()) / ("live" if live else "") / kind
    return [read_result(path) for path in sorted(folder.glob("*.json"))]


def results_with_defaults(kind: str, config: type) -> list[dict[str, Any]]:
    """Committed results of a kind; fields that its config dataclass got since then have their defaults."""
    own = defaults(config)
    return [{**result, "config": own | result["config"]} for result in read_results(kind)]


def require_resume(saved: dict[str, Any] | None, resume: bool) -> None:
    """Raises ConfigError where a checkpoint was found and the user did not ask to go on from it."""
    if saved is not None and not resume:
        raise ConfigError(
            f"an unfinished run with this config stopped at iteration {saved['iteration']}: "
            "continue it with --resume, or start again with --force"
        )


@contextmanager
def memory_errors(message: str) -> Iterator[None]:
    """Turns the several ways in which torch runs out of memory into a UserError with this line."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
            raise UserError(message) from error
        raise


def save_measurement(name: str, measured: dict[str, Any]) -> Path:
    """Writes what a benchmark measured to `name` in the results folder, whole or not at all, and returns its place."""
    path = results_root() / name
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(measured, indent=1) + "\n")
    return path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that takes its place if the block ends well and vanishes if it does not."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def provenance(device: torch.device) -> dict[str, Any]:
    """Commit, device and versions that a number was measured with."""
    return {
        "commit": _commit(),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def device_name(device: torch.device) -> str:
    """The accelerator's or the processor's name and, for a processor, how many of its cores are here."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return f"{found[1] if found else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def choose_device(name: str) -> torch.device:
    """`auto` is the GPU if there is one. Raises ConfigError for a device that is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name!r} is not available here: use cpu, or auto") from error
    return device


def set_precision(name: str) -> None:
    """Lets a GPU round the operands of float32 products to TF32 if `name` is `tf32`, and not otherwise."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"


def reset_peak_memory(device: torch.device) -> None:
    """Starts a new measurement of `peak_memory`."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the resident set's high-water mark
    except OSError:
        return


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


@cache
def keep_freed_memory() -> None:
    """Lets glibc keep memory that is freed for this process: to map its pages anew costs a fifth of a CPU's time.

    The resident set then stays at its peak. Does nothing where the C library is another.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        m_mmap_max, m_trim_threshold = -4, -1
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)


def plain(config: Any) -> dict[str, Any]:
    """A config dataclass as JSON would give it back."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def defaults(kind: type) -> dict[str, Any]:
    """The default values of a config dataclass, as JSON would give them back."""
    found = {f.name: f.default for f in dataclasses.fields(kind) if f.default is not dataclasses.MISSING}
    return json.loads(json.dumps(found))


def _commit() -> str | None:
    """The checkout's commit, marked where the package differs from it; None outside a checkout."""
    folder = repository()
    if folder is None or not (folder / ".git").exists():
        return None
    try:
        git = ["git", "-C", str(folder)]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "--", "msmeta"], capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("-dirty" if changed.stdout.strip() else "")


def _one_line_lists(text: str) -> str:
    """Indented JSON with each innermost list on one line, so that a curve does not fill pages of a diff."""
    return re.sub(r"\[[^\[\]{}]*\]", lambda found: re.sub(r"\s+", " ", found[0]), text)
