"""What a checkpoint must hold for a training to go on from it."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from msmeta.checkpoints import require_keys, require_like


def tensors_of(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Tensor]]:
    """An optimizer's own tensors, by the number of their parameter; its rates are the config's."""
    found = {i: {k: v for k, v in own.items() if v is not None} for i, own in optimizer.state_dict()["state"].items()}
    return {number: own for number, own in found.items() if own}


def adam_like(params: Iterable[Tensor]) -> dict[int, dict[str, Tensor]]:
    """The same of an Adam that has taken a step, in kind."""
    step = torch.zeros(())
    return {number: {"step": step, "exp_avg": own, "exp_avg_sq": own} for number, own in enumerate(params)}


def give(optimizer: torch.optim.Optimizer, tensors: dict[int, dict[str, Tensor]]) -> None:
    """Gives an optimizer what `tensors_of` took."""
    optimizer.load_state_dict({"state": tensors, "param_groups": optimizer.state_dict()["param_groups"]})


def require_fit(
    saved: dict[str, Any], expected: dict[str, Any], best: Any, columns: dict[str, tuple[str, ...]], recent: int
) -> None:
    """Raises ValueError for the first part of a checkpoint that is not what a training of this config has.

    expected, best: as `Experiment.expected`. columns: of each table. recent: numbers that an iteration gives.
    """
    names = ("iteration", "seconds", *columns, "recent", "best", "commits", "state")
    require_keys(saved, names, "it")
    numbers = "its iteration, seconds and recent losses"
    require_like((saved["iteration"], saved["seconds"], saved["recent"]), (1, 1.0, []), numbers)
    _require_rows([[saved["iteration"], saved["seconds"]]], 2, numbers)
    if saved["iteration"] != 0:  # else it is not read: an optimizer has no tensors yet
        require_like(saved["state"], expected, "state")
    if saved["best"] is not None:
        require_like(saved["best"], best, "best")
    require_like(saved["commits"], [], "commits")
    if not all(isinstance(own, (str, type(None))) for own in saved["commits"]):
        raise ValueError("commits has something else than texts")
    for name, own in columns.items():
        require_keys(saved[name], own, name)
        if len({len(column) if isinstance(column, list) else None for column in saved[name].values()}) > 1:
            raise ValueError(f"the columns of {name} are of different lengths")
        _require_rows(saved[name].values(), None, name)
    _require_rows(saved["recent"], recent, "recent")


def _require_rows(rows: Iterable[Any], length: int | None, name: str) -> None:
    """length: of each row, if all have one."""
    for row in rows:
        if not isinstance(row, (list, tuple)) or length not in (None, len(row)):
            raise ValueError(f"{name} has a row of another length")
        for value in row:
            if not isinstance(value, (int, float, list, type(None))):
                raise ValueError(f"{name} has a {type(value).__name__} for a number")
            if isinstance(value, float) and not isfinite(value):
                raise ValueError(f"{name} has {value} for a number")
