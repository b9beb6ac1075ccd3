"""Several processes on one batch, as torchrun starts them: each takes a share of its tasks or of its images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from msmeta.errors import ConfigError, UserError, one_line
from msmeta.workers import Worker

JOIN_SECONDS = 30
"""How long a process waits for the others to be there; torchrun, which starts them together, is there before them."""


@dataclass(frozen=True)
class World(Worker):
    """This process's rank among `size` processes. store: what they tell each other by name."""

    store: dist.Store | None = field(default=None, compare=False)

    @property
    def first(self) -> bool:
        """Whether this is the process that evaluates, writes and prints."""
        return self.rank == 0

    def total(self, tensor: Tensor) -> Tensor:
        """Its sum over the processes, which can be differentiated, and that again.

        Each process differentiates its part of a loss; what it gets is the derivative of the whole loss by its own
        tensors, since what the others' parts owe to them comes back through the sum.
        """
        return tensor if self.size == 1 else _Total.apply(tensor)

    def totals(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same of each, in one message."""
        if self.size == 1:
            return params
        flat = self.total(torch.cat([value.flatten() for value in params.values()]))
        parts = flat.split([value.numel() for value in params.values()])
        return {name: part.view_as(value) for (name, value), part in zip(params.items(), parts, strict=True)}

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor by its sum over the processes, in one message."""
        if self.size > 1:
            for tensor, total in zip(tensors, self.totals(dict(enumerate(tensors))).values(), strict=True):
                tensor.copy_(total)

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

    @contextmanager
    def together(self) -> Iterator[None]:
        """A UserError that ends one process ends those that wait for it, with the same line and exit status."""
        try:
            yield
        except UserError as error:
            if self.store:
                self.store.set("ended", f"{error.exit_status} {error}")
            raise
        except RuntimeError as error:  # so ends a collective call whose partner has gone
            try:
                said = self.store.get("ended") if self.store and self.store.check(["ended"]) else b""
            except dist.DistError:  # without torchrun the store is the first process's
                said = b"2 the first process has ended"
            if not said:
                raise
            status, _, line = said.decode().partition(" ")
            ended = UserError(line)
            ended.exit_status = int(status)
            raise ended from error


class _Total(Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Total.apply(grad)


def is_first() -> bool:
    """Whether this process is the only one, or the first of those that torchrun started."""
    return alone() or os.environ.get("RANK", "0") == "0"


def alone() -> bool:
    """Whether torchrun started no other processes."""
    return os.environ.get("WORLD_SIZE", "1") == "1"


def join(device: str) -> tuple[World, str]:
    """Joins the processes that torchrun started, if it did; (World, this process's device).

    NCCL connects GPUs, gloo processors. Raises ConfigError where the processes are more than the GPUs, or do not come.
    """
    if alone():
        return World(), device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"process {local} has no GPU of its own: start at most {torch.cuda.device_count()} processes"
            )
        device = f"cuda:{local}"
        torch.cuda.set_device(device)
    try:
        seconds = JOIN_SECONDS if is_first() else JOIN_SECONDS / 2  # torch tries twice to reach the first process
        store, rank, size = next(dist.rendezvous("env://", timeout=timedelta(seconds=seconds)))
    except dist.DistError as error:
        raise ConfigError("the other processes are not there: start them together, by torchrun") from error
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"WORLD_SIZE and its like are not as torchrun sets them: {one_line(error)}") from error
    store.set_timeout(timedelta(minutes=30))  # torch's own for what comes after
    if not dist.is_initialized():
        dist.init_process_group(
            "nccl" if device.startswith("cuda") else "gloo", store=store, rank=rank, world_size=size
        )
    return World(rank, size, store), device


def leave() -> None:
    """Ends what `join` began."""
    if dist.is_initialized():
        dist.destroy_process_group()
