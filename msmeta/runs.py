"""One run = one config -> one JSON result. Where results and checkpoints lie, and where a result came from.

A result is found again by its config: its file name ends in a hash of the config's fields.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from msmeta import machine
from msmeta.errors import ConfigError, UserError

COMMITTED_PRESETS = ("cpu", "paper")
"""Presets whose results are evidence and belong in version control; those of the others are kept apart, in `live/`."""


def results_root() -> Path:
    """`$MSMETA_RESULTS`, else `results/` of the checkout, else `results/` here."""
    return machine.root("MSMETA_RESULTS", "results")


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


def save_measurement(name: str, config: dict[str, Any], metrics: Any, device: torch.device, **more: Any) -> Path:
    """Writes what a benchmark measured to `name` in the results folder, whole or not at all, and returns its place."""
    path = results_root() / name
    measured = {"config": config, **more, "metrics": metrics, "provenance": provenance(device)}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(measured, indent=1) + "\n")
    print(f"result: {path}")
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


def defaults(kind: type) -> dict[str, Any]:
    """The default values of a config dataclass, as JSON would give them back."""
    found = {f.name: f.default for f in dataclasses.fields(kind) if f.default is not dataclasses.MISSING}
    return json.loads(json.dumps(found))


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
