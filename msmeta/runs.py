"""One run = one config -> one JSON result and the parameters that it was measured with.

Where results and checkpoints lie, and where a result came from. A result is found again by its whole config and its
data: the file's name ends in a hash of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import glob
import hashlib
import io
import json
import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from msmeta import checkout, checkpoints, files, idle, machine, tensors
from msmeta.errors import UserError

LOOK_SECONDS = 2.0
"""For which a benchmark looks at the machine before it begins."""
MOST_PARAMETERS = 2**30
"""Bytes of a file of them that is read."""
ROOM = 2**20
"""Bytes that a result's text and a checkpoint's log may take, generously."""
ON_GPU = "-cuda"
"""In the name of a GPU's measurement, which does not replace a processor's."""
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

    def finished(self, resume: bool) -> dict[str, Any] | None:
        """The result, where no repeat of it waits: one that could not be stored or, with `resume`, was cut short."""
        return None if self._repeated(self.kept_path, *(self._checkpoints if resume else ())) else self.result()

    def _repeated(self, *paths: Path) -> bool:
        """Whether one of these was written after the result."""
        written = [path.stat().st_mtime_ns for path in (self.result_path, *paths) if path.exists()]
        return self.result_path.exists() and written[0] < max(written)

    @property
    def parameters_path(self) -> Path:
        """Where the parameters lie that the result tells the accuracy of."""
        return self.result_path.with_suffix(".pt")

    def save_result(self, result: dict[str, Any], parameters: dict[str, torch.Tensor] | None = None) -> None:
        """Writes the result whole or not at all, and drops the checkpoints. parameters: kept beside it.

        Raises WriteError.
        """
        self._store(*self._as_stored(result, parameters))

    def keep_result(self, result: dict[str, Any], parameters: dict[str, torch.Tensor]) -> Path:
        """Puts beside the checkpoint what `save_result` could not store; the file. Raises WriteError."""
        text, kept = self._as_stored(result, parameters)
        with suppress(OSError):  # to make room
            checkpoints.before(self.checkpoint_path).unlink(missing_ok=True)
        files.write(self.kept_path, checkpoints.pack(self._identity | {"result": text, "parameters": kept}))
        return self.kept_path

    def store_kept(self) -> bool:
        """Stores what `keep_result` kept, if there is any. Raises WriteError."""
        if not self.kept_path.exists():
            return False
        from msmeta import results

        try:
            found = checkpoints.of_run(self.kept_path, checkpoints.read(self.kept_path), self._identity, self.defaults)
            results.check(json.loads(found["result"]))
        except (checkpoints.DamagedError, ValueError, KeyError):  # the last checkpoint is of the same training
            return False
        self._store(found["result"], found["parameters"])
        return True

    def require_room(self, checkpoint: int, parameters: int) -> None:
        """Raises WriteError where so many bytes of tensors cannot be written, to the checkpoints or with the result."""
        there = sum(path.exists() for path in self._checkpoints)  # of the last, the one before and the next
        files.require_room(self.checkpoint_path, checkpoint + ROOM, 3 - there)
        files.require_room(self.result_path, parameters + ROOM)

    def _as_stored(self, result: dict[str, Any], parameters: dict[str, torch.Tensor] | None) -> tuple[str, Any]:
        """The text of the result's file, and the parameters. Raises ValueError where it does not fit its schema."""
        from msmeta import results  # whose pydantic is not needed to measure

        kept = {}
        if parameters is not None:  # copied, as a view would bring along the tensor that it is of
            kept = {name: value.detach().cpu().clone() for name, value in parameters.items()}
            result = {**result, "parameters": {"hash": hash_of_tensors(kept)}}
        result = {"kind": self.kind, "config": self.config, **result}
        results.check(result)
        text = json.dumps(result, indent=1, allow_nan=False)
        return _one_line_lists(text) + "\n", kept

    def _store(self, text: str, kept: dict[str, torch.Tensor]) -> None:
        with files.replacing(self.result_path, len(text)) as temporary:
            files.put(temporary, text.encode())
            if kept:
                buffer = io.BytesIO()
                torch.save(kept, buffer)  # which to a full disk raises no OSError
                files.write(self.parameters_path, buffer.getbuffer())
        self.drop_checkpoint()

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Writes tensors and plain values whole or not at all, as `checkpoints.save`."""
        checkpoints.save(self.checkpoint_path, self._identity | state)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The state that was saved, on the CPU, as `checkpoints.load`. Raises UserError for one of another run."""
        found = checkpoints.load(self.checkpoint_path)
        return found and checkpoints.of_run(self.checkpoint_path, found, self._identity, self.defaults)

    def drop_checkpoint(self) -> None:
        """Removes the checkpoints, and a result that was kept beside them."""
        for path in (*self._checkpoints, self.kept_path):
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Removes what a process left that was killed after it had stored the result, unless one is at work or it is
        of a later repeat."""
        if any(self.checkpoint_path.parent.glob(f"{glob.escape(self.name)}.*")):
            with suppress(UserError), self.lock():
                if not self._repeated(self.kept_path, *self._checkpoints):
                    self.drop_checkpoint()

    @property
    def _checkpoints(self) -> tuple[Path, Path]:
        return self.checkpoint_path, checkpoints.before(self.checkpoint_path)

    @property
    def kept_path(self) -> Path:
        """Where a result waits that could not be stored."""
        return self.checkpoint_path.with_suffix(".result")

    @property
    def _identity(self) -> dict[str, Any]:
        return {"kind": self.kind, "config": self.config, "data": self.data, "source": self.source}

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps the run for this process, and removes the temporary files of processes that were killed.

        Raises UserError where another process has it.
        """
        with files.locked(self.checkpoint_path.with_suffix(".lock"), "this run is being trained"):
            for path in (self.checkpoint_path, self.kept_path, self.parameters_path, self.result_path):
                files.remove_leftovers(path)
            yield


def read_result(path: Path) -> dict[str, Any]:
    """One result file. Raises UserError, which names it, where it cannot be read or does not fit its kind's schema."""
    from msmeta import results

    return results.read(path)


def read_parameters(path: Path, result: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The parameters that a result tells the accuracy of, on the CPU. path: of their file.

    Raises UserError where they are not here, or are not those of the result.
    """
    if not path.is_file():
        raise UserError(f"{path} is not here: repeat the run with --force")
    try:
        if path.stat().st_size > MOST_PARAMETERS:
            raise ValueError("it is too large")
        found = tensors.unpack(path.read_bytes())
        same = hash_of_tensors(found) == hash_of(result, "parameters")
    except Exception:  # torch.load's ways to fail on a damaged file have no common class
        same = False
    if not same:
        raise UserError(f"{path} is not what result {path.stem} was measured with: repeat the run with --force")
    return found


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
    watch: idle.Watch

    @classmethod
    def begin(cls, parser: argparse.ArgumentParser) -> Measurement:
        """Takes the parser's options and `--anyway`, and looks whether the machine is idle, for as long as it lasts.

        Raises UserError where it is not.
        """
        parser.add_argument(
            "--anyway", action="store_true", help="measure and store also where other processes keep the machine busy"
        )
        options = parser.parse_args()
        checkout.commit()
        measurement = cls(options, vars(options).pop("anyway"), idle.Watch())
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
        if cores is not None and cores > idle.IDLE and not self.anyway:
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

    name: of a processor's measurement; that of a GPU has ON_GPU before `.json`. seen: goes into the provenance, as what
    else the machine did while something was timed.
    """
    where = {**provenance(device), **(seen or {})}
    path = results_root() / name
    if device.type != "cpu":
        path = path.with_stem(path.stem + ON_GPU)
    write_json(path, {"config": config, **more, "metrics": metrics, "provenance": where})
    print(f"result: {path}")


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all."""
    files.write(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def provenance(device: torch.device) -> dict[str, Any]:
    """Commit, device and versions that a number was measured with."""
    return {
        "commit": checkout.commit(),
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


def _one_line_lists(text: str) -> str:
    """Indented JSON with each innermost list on one line, so that a curve does not fill pages of a diff."""
    return re.sub(r"\[[^\[\]{}]*\]", lambda found: re.sub(r"\s+", " ", found[0]), text)
