"""Several processes on one meta-batch, as torchrun starts them: each takes a share of the tasks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from msmeta.errors import ConfigError


@dataclass(frozen=True)
class World:
    """This process's rank among `size` processes."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that evaluates, writes and prints."""
        return self.rank == 0

    def share(self, tasks: int) -> slice:
        """This process's tasks of a meta-batch; shares differ by one task at the most."""
        return slice(tasks * self.rank // self.size, tasks * (self.rank + 1) // self.size)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its sum over the processes, in one message."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def mean(self, values: Sequence[float], device: torch.device) -> list[float]:
        """The mean of each value over the processes, so that all of them decide alike."""
        if self.size == 1:
            return list(values)
        shared = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(shared)
        return (shared / self.size).tolist()

    def of_first(self, value: Any) -> Any:
        """The first process's value (tensors on the CPU and plain values), in every process."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


def is_first() -> bool:
    """Whether this process is the only one, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def alone() -> bool:
    """Whether torchrun started no other processes."""
    return os.environ.get("WORLD_SIZE", "1") == "1"


def join(device: str) -> tuple[World, str]:
    """Joins the processes that torchrun started, if it did; (World, this process's device).

    NCCL connects GPUs, gloo processors. Raises ConfigError where the processes are more than the GPUs.
    """
    if alone():
        return World(), device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"process {local} has no GPU of its own: start at most {torch.cuda.device_count()} processes"
            )
        device = f"cuda:{local}"
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return World(dist.get_rank(), dist.get_world_size()), device


def leave() -> None:
    """Ends what `join` began."""
    if dist.is_initialized():
        dist.destroy_process_group()
