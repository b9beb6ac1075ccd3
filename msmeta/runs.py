"""One run = one config -> one JSON result and the parameters that it was measured with.

Where results and checkpoints lie, and where a result came from. A result is found again by its whole config and its
data: the file's name ends in a hash of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import hashlib
import io
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch

from msmeta import files, machine
from msmeta.errors import UserError, WriteError

LOOK_SECONDS = 2.0
"""For which a benchmark looks at the machine before it begins."""
COMMITTED_PRESETS = ("cpu", "paper")
"""Presets whose results are evidence and belong in version control; those of the others are kept apart, in `live/`."""


def results_root() -> Path:
    """`$MSMETA_RESULTS`, else `results/` of the checkout, else `results/` here."""
    return machine.root("MSMETA_RESULTS", "results")


@dataclass(frozen=True)
class Run:
    """The place of one run in the store.

    kind: what is run, such as `few-shot`. label: a readable name. preset: decides whether the result is evidence or a
    live run. config: all plain values that define the outcome. data, source: hashes of the data set, and of the weights
    of the network that the run begins with, if any. defaults: values of the config that mean the same as none, so that
    results from before there was such a field keep their names.
    """

    kind: str
    label: str
    preset: str
    config: dict[str, Any]
    root: Path
    data: str | None = None
    source: str | None = None
    defaults: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Readable name and hash of all that defines the outcome."""
        given = {name: value for name, value in self.config.items() if self.defaults.get(name, ...) != value}
        identity = {"config": given, "data": self.data, "source": self.source}
        canonical = json.dumps(identity, sort_keys=True).encode()
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
        """The finished result, or None. Raises UserError where the file of this name holds another run."""
        if not self.result_path.exists():
            return None
        found = read_result(self.result_path)
        config = self.defaults | found["config"]
        if (config, hash_of(found, "data"), hash_of(found, "source")) != (self.config, self.data, self.source):
            raise UserError(f"result {self.result_path} is of another config or data: delete it, or use --force")
        return found

    @property
    def parameters_path(self) -> Path:
        """Where the parameters lie that the result tells the accuracy of."""
        return self.result_path.with_suffix(".pt")

    def save_result(self, result: dict[str, Any], parameters: dict[str, torch.Tensor] | None = None) -> None:
        """Writes the result whole or not at all, and drops the checkpoint. parameters: kept beside it."""
        kept = {}
        if parameters is not None:  # copied, as a view would bring along the tensor that it is of
            kept = {name: value.detach().cpu().clone() for name, value in parameters.items()}
            result = {**result, "parameters": {"hash": hash_of_tensors(kept)}}
        text = json.dumps({"kind": self.kind, "config": self.config, **result}, indent=1, allow_nan=False)
        if kept:
            self._save(self.parameters_path, kept)
        files.write(self.result_path, (_one_line_lists(text) + "\n").encode())
        self.checkpoint_path.unlink(missing_ok=True)

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Writes tensors and plain values whole or not at all."""
        self._save(self.checkpoint_path, state)

    def _save(self, path: Path, state: dict[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)  # which to a full disk raises no OSError
        files.write(path, buffer.getbuffer())

    def load_parameters(self) -> dict[str, torch.Tensor]:
        """The parameters that the result tells the accuracy of, as `read_parameters`."""
        return read_parameters(self.parameters_path, self.result() or {})

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The state that was saved, on the CPU, or None. Raises UserError for a file that cannot be read."""
        if not self.checkpoint_path.exists():
            return None
        try:
            return torch.load(self.checkpoint_path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load's ways to fail on a damaged file have no common class
            raise self.damaged_checkpoint() from error

    def damaged_checkpoint(self) -> UserError:
        """What to raise for a checkpoint that cannot be used."""
        return UserError(f"checkpoint {self.checkpoint_path} is damaged: start again with --force")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps the run for this process, and removes the temporary files of processes that were killed.

        Raises UserError where another process has it. The system drops a lock with its process, however that ends.
        """
        path = self.checkpoint_path.with_suffix(".lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = _locked(path)
        except OSError as error:
            raise WriteError(f"cannot write {path}: {files.reason(error, path)}") from error
        with file:
            for kept in (self.checkpoint_path, self.parameters_path, self.result_path):
                files.remove_leftovers(kept)
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
                fcntl.flock(file, fcntl.LOCK_UN)  # forked children hold it as well


def read_result(path: Path) -> dict[str, Any]:
    """One result file. Raises UserError where it is no JSON object with a config."""
    try:
        result = json.loads(path.read_text())
        parts = {"config": dict, "metrics": (dict, list), "provenance": dict}  # a benchmark has a list of rows
        if not all(isinstance(result[part], kind) for part, kind in parts.items()):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"result {path} is damaged: delete it, or repeat the run with --force") from error
    return result


def read_parameters(path: Path, result: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The parameters that a result tells the accuracy of, on the CPU. path: of their file.

    Raises UserError where they are not here, or are not those of the result.
    """
    if not path.exists():
        raise UserError(f"{path} is not here: repeat the run with --force")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        same = hash_of_tensors(found) == hash_of(result, "parameters")
    except Exception:  # torch.load's ways to fail on a damaged file have no common class
        same = False
    if not same:
        raise UserError(f"{path} is not what result {path.stem} was measured with: repeat the run with --force")
    return found


def read_results(kind: str, root: Path | None = None, live: bool = False) -> list[dict[str, Any]]:
    """All results of a kind, in order of their file names, which they say as `file`; with `live` those of the smoke and
    quick presets."""
    folder = (root or results_root()) / ("live" if live else "") / kind
    return [read_result(path) | {"file": f"{kind}/{path.name}"} for path in sorted(folder.glob("*.json"))]


def hash_of(result: dict[str, Any], part: str) -> str | None:
    """The hash of a result's `data`, `parameters` or `source` network; None where it has none."""
    return (result.get(part) or {}).get("hash")


def hash_of_tensors(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 of names, types, shapes and values."""
    sha = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        sha.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        sha.update(value.cpu().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


@dataclass(frozen=True)
class Measurement:
    """What a benchmark times, from its start to the stored file; not stored where others kept the machine busy.

    options: of the command line. anyway: whether it is stored all the same, and says so.
    """

    options: argparse.Namespace
    anyway: bool
    watch: machine.Watch

    @classmethod
    def begin(cls, parser: argparse.ArgumentParser) -> Measurement:
        """Takes the parser's options and `--anyway`, and looks whether the machine is idle, for as long as it lasts.

        Raises UserError where it is not.
        """
        parser.add_argument(
            "--anyway", action="store_true", help="measure and store also where other processes keep the machine busy"
        )
        options = parser.parse_args()
        measurement = cls(options, vars(options).pop("anyway"), machine.Watch())
        if measurement.watch.sees and not measurement.anyway:
            time.sleep(LOOK_SECONDS)
            measurement.watch.look()
            measurement._check("before anything was measured")
        if not measurement.watch.sees:
            print("this system does not show what other processes do: whether the machine is idle is not known")
        return measurement

    def save(self, name: str, config: dict[str, Any], metrics: Any, device: torch.device, **more: Any) -> None:
        """As `save_measurement`, with what others did; raises UserError, and leaves an older file alone, where the
        machine was not idle."""
        others = self.watch.end()
        self._check("meanwhile, so nothing is stored")
        save_measurement(name, config, metrics, device, {"others": others, "load": self.watch.load}, **more)

    def _check(self, when: str) -> None:
        cores = self.watch.cores
        if cores is not None and cores > machine.IDLE and not self.anyway:
            raise UserError(
                f"other processes took {cores:.2f} of {os.cpu_count()} cores {when} (load {self.watch.load:.2f}): "
                "measure on an idle machine, or with --anyway, which the result will say"
            )


def save_measurement(
    name: str,
    config: dict[str, Any],
    metrics: Any,
    device: torch.device,
    seen: dict[str, Any] | None = None,
    **more: Any,
) -> None:
    """Writes what was measured to `name` in the results folder, whole or not at all, and says where.

    seen: goes into the provenance, as what else the machine did while something was timed.
    """
    where = {**provenance(device), **(seen or {})}
    write_json(results_root() / name, {"config": config, **more, "metrics": metrics, "provenance": where})
    print(f"result: {results_root() / name}")


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all."""
    files.write(path, (json.dumps(value, indent=1) + "\n").encode())


def _locked(path: Path) -> IO[str]:
    """The file, locked by this process, whose number it holds. Raises UserError where another process has it."""
    while True:
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                file.seek(0)
                raise UserError(
                    f"this run is being trained by process {file.read() or '?'}: wait for its end"
                ) from None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                file.truncate(0)
                file.write(str(os.getpid()))
                file.flush()
                return file
        file.close()  # its holder removed it before it was locked here


def provenance(device: torch.device) -> dict[str, Any]:
    """Commit, device and versions that a number was measured with."""
    return {
        "commit": _commit(),
        "device": machine.device_name(device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def plain(config: Any) -> dict[str, Any]:
    """A config dataclass as JSON would give it back."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def _commit() -> str | None:
    """The checkout's commit, marked where the package differs from it; None outside a checkout."""
    folder = machine.repository()
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
