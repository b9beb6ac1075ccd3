"""Checkpoints: torch's files with a seal, a hash of all their bytes, behind them; and the one before the last.

A file whose seal is broken is not used, whatever torch could read of it, which misses a flipped bit in a tensor.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from msmeta import files, tensors
from msmeta.errors import UserError, brief, one_line

FORMAT = 3
"""Of what is in a checkpoint. The first one had no seal, the second no commits."""
_SEAL = re.compile(rb"(\nmsmeta checkpoint, format ([0-9]{3}), SHA-256 )([0-9a-f]{64})\n")
_SEAL_BYTES = len(b"\nmsmeta checkpoint, format 002, SHA-256 \n") + 64


class DamagedError(UserError):
    """A file is not what was written."""


def pack(value: Any) -> bytes:
    """Tensors and plain values as the content of a file."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.write(b"\nmsmeta checkpoint, format %03d, SHA-256 " % FORMAT)
    return buffer.getvalue() + hashlib.sha256(buffer.getbuffer()).hexdigest().encode() + b"\n"


def read(path: Path) -> Any:
    """What was packed, on the CPU. Raises DamagedError, and UserError for a file of another format, in one line."""
    content = _sealed(path)
    try:
        return tensors.unpack(content[:-_SEAL_BYTES])
    except Exception as error:  # torch.load's ways to fail have no common class
        raise DamagedError(f"checkpoint {path}: it holds no tensors ({type(error).__name__}); it is damaged") from error


def save(path: Path, value: Any) -> None:
    """Writes a checkpoint whole or not at all; the one that was there becomes the one before. Raises WriteError."""
    content = pack(value)
    with files.replacing(path, len(content)) as temporary:
        files.put(temporary, content)
        with suppress(UserError):  # a damaged one does not take the place of a whole one
            _sealed(path)
            path.replace(before(path))


def load(path: Path) -> Any:
    """The last checkpoint; where it is damaged the one before, with a warning; None where there is none.

    Raises UserError in one line where none of them can be used.
    """
    problems = []
    for each in filter(Path.exists, (path, before(path))):  # the first is missing while the two are renamed
        try:
            found = read(each)
        except DamagedError as error:
            problems.append(str(error))
            continue
        if problems:
            warnings.warn(f"{problems[0]}; the one before it is used", stacklevel=2)
        return found
    if problems:
        raise UserError(f"{', and '.join(problems)}: start again with --force")
    return None


def before(path: Path) -> Path:
    """Where the checkpoint lies that was the last until there was another."""
    return path.with_suffix(".before")


def _sealed(path: Path) -> bytes:
    """The content of a file whose seal is whole."""
    if not path.is_file():
        raise DamagedError(f"checkpoint {path}: it is no file; it is damaged")
    try:
        content = path.read_bytes()
    except OSError as error:
        why = error.strerror or error
        raise DamagedError(f"checkpoint {path}: it cannot be read ({why}); it is damaged") from error
    seal = _SEAL.fullmatch(content[-_SEAL_BYTES:])
    if not seal:
        raise DamagedError(f"checkpoint {path}: it has no seal; it is of an older version of msmeta or is damaged")
    begin, number, hashed = seal.groups()
    sha = hashlib.sha256(memoryview(content)[:-_SEAL_BYTES])
    sha.update(begin)
    if sha.hexdigest().encode() != hashed:
        raise DamagedError(f"checkpoint {path}: its SHA-256 is not that of its seal; it is damaged")
    if int(number) != FORMAT:
        raise UserError(
            f"checkpoint {path} is of format {int(number)}, and this version of msmeta reads format {FORMAT}: "
            "go on with the version that wrote it, or start again with --force"
        )
    return content


def of_run(path: Path, found: Any, run: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint holds beside the config, and the other plain values, that say of which run it is.

    Raises UserError in one line where that is another run. defaults: of the config.
    """
    try:
        other = next((name for name in run if name != "config" and found[name] != run[name]), None)
        ours, theirs = run["config"], {**defaults, **found["config"]}
        field = next((name for name in sorted({*ours, *theirs}) if ours.get(name, ...) != theirs.get(name, ...)), None)
    except (TypeError, KeyError, RuntimeError):  # the last where a tensor is compared
        why = "it does not say of which run it is"
    else:
        if other is None and field is None:
            return {name: value for name, value in found.items() if name not in run}
        why = f"its {other} is another"
        if field is not None:
            why = f"its {one_line(field)} is {brief(theirs.get(field))}, not {ours.get(field)!r}"
    raise UserError(f"checkpoint {path} is not of this run ({why}): move it away, or start again with --force")


def require_like(found: Any, expected: Any, name: str) -> None:
    """Raises ValueError for the first part that has another kind, key, shape or type than in `expected`."""
    if _kind(found) != _kind(expected):
        raise ValueError(f"{name} is {_kind(found)} instead of {_kind(expected)}")
    if isinstance(expected, dict):
        require_keys(found, expected, name)
        for key, value in expected.items():
            require_like(found[key], value, f"{name}.{key}")
    elif isinstance(expected, tuple):
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            require_like(one, other, f"{name}.{number}")


def require_keys(found: Any, names: Iterable[Any], name: str) -> None:
    """Raises ValueError where `found` is no dictionary of these keys."""
    if not isinstance(found, dict):
        raise ValueError(f"{name} is {_kind(found)} instead of a dictionary")
    for key in names:
        if key not in found:
            raise ValueError(f"{name} has no {key}")
    if others := found.keys() - set(names):
        raise ValueError(f"{name} has {min(map(str, others))}, which is unknown")


def size_of(value: Any) -> int:
    """Bytes of the tensors in it."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return sum(map(size_of, parts))


def _kind(value: Any) -> str:
    if isinstance(value, Tensor) and value.layout is torch.strided:
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, tuple) else type(value).__name__
