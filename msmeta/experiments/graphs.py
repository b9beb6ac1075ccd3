"""A function as one CUDA graph: captured once, replayed without Python and without a wait for the host.

The tests run such functions on a processor and on fake tensors of another device: nothing in them reads a number on the
host or mixes devices, what they change keeps its address, and a capture leaves no trace. What only a GPU can show: that
each kernel may be captured, that all memory of a capture comes from the graph's own pool, and that replays give the
numbers that the function gives. `msmeta bench gpu` looks at these numbers before it does anything else.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

WARM_UPS = 3
"""Runs before a capture, in which libraries are set up and the optimiser makes its state: neither may be captured."""


def capture(
    function: Callable[[], None],
    tensors: Sequence[Tensor],
    device: torch.device,
    optimizer: torch.optim.Optimizer | None = None,
) -> Callable[[], None]:
    """What runs `function` once more: a graph's replay on a GPU, elsewhere the function itself.

    function: reads and writes tensors that stay where they are, and asks the host nothing. tensors: those that it
    changes. optimizer: what takes a step in it, if anything. All of them are afterwards as they were; state that the
    optimiser makes at its first step is zero, which is how Adam begins, and SGD without dampening. Its learning rates
    become tensors on the device, to be filled anew, since a graph holds no number that changes.
    """
    groups, state = (optimizer.param_groups, optimizer.state) if optimizer else ([], {})
    for group in groups:
        group["lr"] = torch.full((), float(group["lr"]), device=device)
    begun = set(state)
    held = [*tensors, *(value for group in groups for value in group["params"]), *_tensors(state, begun)]
    before = [value.detach().clone() for value in held]

    @torch.no_grad()
    def put_back() -> None:
        for value, copy in zip(held, before, strict=True):
            value.copy_(copy)
        for value in _tensors(state, state.keys() - begun):
            value.zero_()

    if device.type != "cuda":
        for _ in range(WARM_UPS):
            function()
            put_back()
        return function
    with torch.cuda.device(device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                function()
                put_back()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with _no_garbage(), torch.cuda.graph(graph):  # records, and runs nothing
            function()
    return graph.replay


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Keeps Python from deleting what is left of an earlier run, such as its graph: that would end a recording."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _tensors(state: dict[Tensor, dict[str, Any]], keys: Iterable[Tensor]) -> list[Tensor]:
    return [value for key in keys for value in state[key].values() if isinstance(value, Tensor)]
