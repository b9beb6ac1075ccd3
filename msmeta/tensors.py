"""Files of torch that may be anybody's: only what torch.save writes of tensors and plain values is read.

torch.load(weights_only=True) executes nothing, but its reader hashes nested tuples by recursion, which ends the
process, and a tensor of a few bytes may say that it has any size. Both are looked for first.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

MAX_TUPLES = 10_000
"""In a file: as deep they may be nested, in which the stack of a process has room for each."""
MAX_STEPS = 2_000_000
"""Instructions of a file's pickle."""


def unpack(content: bytes) -> Any:
    """What torch.save wrote, on the CPU. Raises ValueError for other content, and whatever torch.load raises."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        pickles = [name for name in names if name.endswith("/data.pkl")]
        stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
        if len(pickles) != 1 or len(set(names)) < len(names) or not stored:
            raise ValueError("it is no file of torch.save")
        _check_steps(archive.read(pickles[0]))
    found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    for value in _tensors(found):
        if value.numel() * value.element_size() > len(content):
            raise ValueError("it has a tensor that is larger than the file")
    return found


def _check_steps(pickle: bytes) -> None:
    tuples = 0
    for step, (instruction, _, _) in enumerate(pickletools.genops(pickle)):
        tuples += instruction.name.startswith("TUPLE")
        if tuples > MAX_TUPLES or step > MAX_STEPS:
            raise ValueError("it is no file of tensors and plain values")


def _tensors(found: Any) -> Iterator[Tensor]:
    waiting = [found]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        waiting += value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
