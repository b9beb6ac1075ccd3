"""The command that prepares a data set, given raw files that a stranger made."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from forks import Server

SECRET = "secret.png"
"""A file beside the raw ones, which nothing may read or change."""


@dataclass(frozen=True)
class Case:
    """Raw files of a data set that `make` writes into a folder."""

    dataset: str
    name: str
    make: Callable[[Path], object]

    def __repr__(self) -> str:
        return f"{self.dataset}, {self.name}"


def prepared(server: Server, folder: Path, case: Case) -> tuple[int, str]:
    """Status and line of the command."""
    raw = folder / "raw"
    raw.mkdir(parents=True)
    (folder / SECRET).write_bytes(b"secret")
    case.make(raw)
    words = [f"folder:{raw}@16"] if case.dataset == "folder" else [case.dataset, "--from", raw]
    status = server(folder, "data", "prepare", *words)
    return status, (folder / "err").read_text()


def refused(server: Server, folder: Path, case: Case) -> str | None:
    """None where the command refuses the raw files as it should."""
    status, said = prepared(server, folder, case)
    if status != 2:
        return f"status {status}: {said[-300:]}"
    if not said.startswith("msmeta: ") or said.count("\n") != 1 or not said[:-1].isprintable():
        return f"not one line: {said[-300:]!r}"
    if "MemoryError" in said:
        return f"it took too much memory: {said}"
    return left(folder)


def refused_or_same(server: Server, folder: Path, case: Case, whole: list[str]) -> str | None:
    """The same, or None where it makes arrays of these hashes."""
    status, said = prepared(server, folder, case)
    if status == 0:
        return None if digests(folder) == whole else "something else was read"
    if status != 2 or said.count("\n") != 1:
        return f"status {status}: {said[-300:]}"
    return left(folder)


def digests(folder: Path) -> list[str]:
    return [json.loads(path.read_text())["hash"] for path in sorted(folder.glob("data/*/meta.json"))]


def left(folder: Path) -> str | None:
    """What is there that should not be."""
    if found := [*folder.glob("data/*"), *folder.glob("data/.*")]:
        return f"left {found}"
    known = {"raw", "data", "out", "err", SECRET}
    if others := [path.name for path in folder.iterdir() if path.name not in known]:
        return f"made {others}"
    return None if (folder / SECRET).read_bytes() == b"secret" else "changed a file outside"
