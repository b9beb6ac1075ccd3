"""Pickles that are not trusted: plain values and arrays of numbers are read, and nothing in them can be executed."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np

from msmeta.data.raw import reason
from msmeta.errors import DataError

NUMBERS = ("u1", "i4", "i8", "f2", "f4", "f8")
"""Types that an array may have."""


class PickledArray:
    """What `load_pickle` gives for a NumPy array: the numbers are in `values`."""

    values = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, fortran, data = state
        self.values = np.frombuffer(data, kind.dtype).reshape(shape, order="F" if fortran else "C")


class _PickledType:
    """Stands for numpy.dtype: little-endian numbers only."""

    def __init__(self, code: str | bytes, *_: object):
        if (code := as_text(code)) not in NUMBERS:
            raise ValueError(f"it holds an array of {np.dtype(code)} where one of numbers belongs")
        self.dtype = np.dtype(f"<{code}")

    def __setstate__(self, state: tuple) -> None:
        if as_text(state[1]) not in "<|":
            raise ValueError("an array is not little-endian")


def _from_buffer(data: bytes, kind: _PickledType, shape: tuple[int, ...], order: str) -> PickledArray:
    """Stands for numpy's function of pickle protocol 5."""
    array = PickledArray()
    array.__setstate__((1, shape, kind, as_text(order) == "F", data))
    return array


def _scalar(kind: _PickledType, data: bytes) -> int | float:
    """Stands for NumPy's function that makes a number of its own types."""
    return np.frombuffer(data, kind.dtype)[0].item()


STAND_INS: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy", "ndarray"): PickledArray,
    ("numpy", "dtype"): _PickledType,
    # Protocols before 3 have no bytes and write them as encoded text.
    ("_codecs", "encode"): lambda text, encoding: text.encode("latin1"),
}
for _core in ("numpy.core", "numpy._core"):
    STAND_INS[f"{_core}.multiarray", "_reconstruct"] = lambda *_: PickledArray()
    STAND_INS[f"{_core}.multiarray", "scalar"] = _scalar
    STAND_INS[f"{_core}.numeric", "_frombuffer"] = _from_buffer


class _Unpickler(pickle.Unpickler):
    """Knows stand-ins for what a NumPy array of numbers needs, and no real function or class at all."""

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        if (module, name) not in STAND_INS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which data have no need of")
        return STAND_INS[module, name]


def load_pickle(folder: Path, name: str) -> dict[str, object]:
    """The dictionary of plain values and arrays (PickledArray) in a pickle, which can execute nothing.

    Texts of pickles from Python 2 come as bytes, but for the keys: see `as_text`. Raises DataError in one line.
    """
    try:
        with (folder / name).open("rb") as file:
            content = _Unpickler(file, encoding="bytes").load()
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
