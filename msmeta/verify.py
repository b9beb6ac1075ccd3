"""Checks of formulas by numbers, for the book's pages: an error that is too large ends the build."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def check(what: str, found: Any, expected: Any, tolerance: float = 1e-10) -> None:
    """Prints the largest difference of two values, relative to the largest expected entry.

    found, expected: numbers, arrays, tensors, or dicts of them with the same keys.
    Raises AssertionError, with the same line, where the error is not within `tolerance`.
    """
    found, expected = _flat(found), _flat(expected)
    if found.shape != expected.shape:
        raise AssertionError(f"{what}: {found.numel()} numbers against {expected.numel()}")
    error = float((found - expected).abs().max() / expected.abs().max())
    line = f"{what}: largest relative error {error:.1e}, tolerance {tolerance:.0e}"
    if not error <= tolerance:
        raise AssertionError(line)
    print(line)


def _flat(value: Any) -> Tensor:
    """All numbers of `value` in one vector, in float64; a dict's in order of its keys."""
    if isinstance(value, Mapping):
        return torch.cat([_flat(value[key]) for key in sorted(value)])
    return torch.as_tensor(value, dtype=torch.float64).detach().flatten()
