"""Pickles that are not trusted: plain values and arrays of numbers are read, and nothing in them can be executed.

Python's own reader follows nested keys and tuples by recursion, which ends the process, and takes as much memory as a
file of a few bytes asks for. This one is a loop over the few instructions that data have need of, which holds no more
than what is in the file.
"""

import codecs
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from msmeta.data.raw import opened, reason
from msmeta.errors import DataError

NUMBERS = ("u1", "i4", "i8", "f2", "f4", "f8")
"""Types that an array may have."""
MAX_STEPS = 2**22
"""Instructions of a pickle: each may make an object, and the largest of those in circulation have a quarter of this."""
MAX_BYTES = 2**33
"""Of a pickle."""


class PickledArray:
    """What `load_pickle` gives for a NumPy array: the numbers are in `values`."""

    values = np.empty(0, np.uint8)

    def set(self, state: tuple) -> None:
        _, shape, kind, fortran, data = state
        if not data:
            raise ValueError("an array is empty")  # and might say that it has any number of rows
        self.values = np.frombuffer(data, kind.dtype).reshape(shape, order="F" if fortran else "C")


class _PickledType:
    """Stands for numpy.dtype: little-endian numbers only."""

    def __init__(self, code: str | bytes, *_: object):
        if (code := as_text(code)) not in NUMBERS:
            known = ", ".join(str(np.dtype(each)) for each in NUMBERS)
            raise ValueError(f"it holds an array of {np.dtype(code[:4])} where one of {known} belongs")
        self.dtype = np.dtype(f"<{code}")

    def set(self, state: tuple) -> None:
        if as_text(state[1]) not in "<|":
            raise ValueError("an array is not little-endian")


def _from_buffer(data: bytes, kind: _PickledType, shape: tuple[int, ...], order: str) -> PickledArray:
    """Stands for numpy's function of pickle protocol 5."""
    array = PickledArray()
    array.set((1, shape, kind, as_text(order) == "F", data))
    return array


def _scalar(kind: _PickledType, data: bytes) -> int | float:
    """Stands for NumPy's function that makes a number of its own types."""
    return np.frombuffer(data, kind.dtype)[0].item()


@dataclass(frozen=True)
class _StandIn:
    """What a pickle may call, and what is called instead."""

    call: Callable[..., object]


_ENCODE = _StandIn(lambda text, encoding: text.encode("latin1"))
STAND_INS: dict[tuple[str, str], _StandIn] = {
    ("numpy", "ndarray"): _StandIn(PickledArray),
    ("numpy", "dtype"): _StandIn(_PickledType),
    # Protocols before 3 have no bytes and write them as encoded text.
    ("_codecs", "encode"): _ENCODE,
}
for _core in ("numpy.core", "numpy._core"):
    STAND_INS[f"{_core}.multiarray", "_reconstruct"] = _StandIn(lambda *_: PickledArray())
    STAND_INS[f"{_core}.multiarray", "scalar"] = _StandIn(_scalar)
    STAND_INS[f"{_core}.numeric", "_frombuffer"] = _StandIn(_from_buffer)

_MARK = object()
_CONSTANTS = {"N": None, "\x88": True, "\x89": False}
_LENGTHS = {  # of what follows: the struct code of its length, and what it is read as
    "U": ("B", bytes), "T": ("<i", bytes), "C": ("B", bytes), "B": ("<I", bytes), "\x8e": ("<Q", bytes),
    "\x96": ("<Q", bytes), "\x8c": ("B", str), "X": ("<I", str), "\x8d": ("<Q", str), "\x8a": ("B", int),
    "\x8b": ("<i", int),
}  # fmt: skip
_PACKED = {"J": "<i", "K": "B", "M": "<H", "G": ">d"}
_TUPLES = {")": 0, "\x85": 1, "\x86": 2, "\x87": 3}
_PLACES = {"q": "B", "r": "<I", "h": "B", "j": "<I"}


class _Reader:
    """The instructions of a pickle, one after the other; their names are those of Python's module pickletools."""

    def __init__(self, file: Any, size: int) -> None:
        self.file, self.left, self.encoded = file, size, size
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def load(self) -> object:
        """The object that it holds. Raises nearly anything where it is damaged."""
        for _ in range(MAX_STEPS):
            step = chr(self.take(1)[0])
            if step == ".":
                return self.stack.pop()
            self.do(step)
        raise ValueError(f"it has more than the {MAX_STEPS:,} instructions allowed")

    def do(self, step: str) -> None:
        stack = self.stack
        if step in _CONSTANTS:
            stack.append(_CONSTANTS[step])
        elif step in _PACKED:
            stack.append(self.number(_PACKED[step]))
        elif step in _LENGTHS:
            stack.append(self.counted(*_LENGTHS[step]))
        elif step in _TUPLES:
            stack.append(tuple(self.pop(_TUPLES[step])))
        elif step in _PLACES or step in "pg":
            place = int(self.line()) if step in "pg" else self.number(_PLACES[step])
            if step in "qrp":
                self.memo[place] = stack[-1]
            else:
                stack.append(self.memo[place])
        elif step in self.RARE:
            self.RARE[step](self)
        else:
            raise ValueError(f"it has an instruction 0x{ord(step):02x}, which data have no need of")

    def take(self, count: int) -> bytes:
        if not 0 <= count <= self.left:
            raise EOFError("it ends too early")
        self.left -= count
        data = self.file.read(count)
        if len(data) < count:
            raise EOFError("it ends too early")
        return data

    def line(self) -> bytes:
        line = self.file.readline(self.left)
        self.left -= len(line)
        if not line.endswith(b"\n"):
            raise EOFError("it ends too early")
        return line[:-1]

    def number(self, code: str) -> Any:
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def counted(self, code: str, kind: type) -> Any:
        data = self.take(self.number(code))
        if kind is int:
            return int.from_bytes(data, "little", signed=True)
        return data.decode("utf-8", "surrogatepass") if kind is str else data

    def pop(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise ValueError("it takes what it has not made")
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def since_mark(self) -> list[Any]:
        items = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def whole(self) -> None:
        text = self.line().rstrip(b"L")
        self.stack.append({b"00": False, b"01": True}[text] if text in (b"00", b"01") else int(text))

    def quoted(self) -> None:
        self.stack.append(codecs.escape_decode(self.line().strip()[1:-1])[0])

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("it appends to what is no list")
        self.stack[-1].extend(items)

    def fill(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not dict or len(items) % 2:
            raise ValueError("it stores in what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, bytes, int):  # to look up a nested one takes recursion
                raise ValueError(f"a dictionary has a {type(key).__name__} for a key")
            self.stack[-1][key] = value

    def make(self, kind: type, fill: Callable[..., None]) -> None:
        items = self.since_mark()
        self.stack.append(kind())
        fill(self, items)

    def find(self, module: str | bytes, name: str | bytes) -> None:
        known = as_text(module), as_text(name)
        if known not in STAND_INS:
            raise ValueError(f"it asks for {known[0][:80]}.{known[1][:80]}, which data have no need of")
        self.stack.append(STAND_INS[known])

    def call(self) -> None:
        function, arguments = self.pop(2)
        if not isinstance(function, _StandIn) or type(arguments) is not tuple:
            raise ValueError("it calls what is no function")
        if function is _ENCODE:  # the only one whose result is as large as its argument, which it may repeat
            self.encoded -= len(arguments[0])
            if self.encoded < 0:
                raise ValueError("it repeats its content")
        self.stack.append(function.call(*arguments))

    def build(self) -> None:
        made, state = self.pop(2)
        if not isinstance(made, PickledArray | _PickledType) or type(state) is not tuple:
            raise ValueError("it changes what is neither an array nor its type")
        made.set(state)
        self.stack.append(made)

    def memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    RARE: dict[str, Callable[["_Reader"], object]] = {
        "\x80": lambda self: self.take(1),
        "\x95": lambda self: self.take(8),
        "(": lambda self: self.stack.append(_MARK),
        "0": lambda self: self.pop(1),
        "1": since_mark,
        "2": lambda self: self.stack.append(self.stack[-1]),
        "I": whole,
        "L": whole,
        "F": lambda self: self.stack.append(float(self.line())),
        "S": quoted,
        "V": lambda self: self.stack.append(self.line().decode("raw-unicode-escape")),
        "]": lambda self: self.stack.append([]),
        "}": lambda self: self.stack.append({}),
        "a": lambda self: self.extend(self.pop(1)),
        "e": lambda self: self.extend(self.since_mark()),
        "s": lambda self: self.fill(self.pop(2)),
        "u": lambda self: self.fill(self.since_mark()),
        "t": lambda self: self.stack.append(tuple(self.since_mark())),
        "l": lambda self: self.make(list, _Reader.extend),
        "d": lambda self: self.make(dict, _Reader.fill),
        "c": lambda self: self.find(self.line(), self.line()),
        "\x93": lambda self: self.find(*self.pop(2)),
        "R": call,
        "b": build,
        "\x94": memoize,
    }


def load_pickle(folder: Path, name: str) -> dict[str, object]:
    """The dictionary of plain values and arrays (PickledArray) in a pickle, which can execute nothing.

    Texts of pickles from Python 2 come as bytes, but for the keys: see `as_text`. Raises DataError in one line.
    """
    try:
        with opened(folder / name, MAX_BYTES) as (file, size):
            content = _Reader(file, size).load()
        if not isinstance(content, dict) or not content:
            raise ValueError(f"it holds no dictionary of arrays, but a {type(content).__name__}")
        return {as_text(key): value for key, value in content.items()}
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DataError(f"cannot read {name}: {reason(error)}") from error


def as_text(value: str | bytes) -> str:
    """A text that a pickle holds as text or, written by Python 2, as bytes."""
    if not isinstance(value, str | bytes):
        raise ValueError(f"it has a {type(value).__name__} where a text belongs")
    return value if isinstance(value, str) else value.decode()
