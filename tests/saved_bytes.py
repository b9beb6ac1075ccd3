"""What automatic differentiation keeps, by its own hooks."""

from __future__ import annotations

import torch
from torch import Tensor


class SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """The most bytes that automatic differentiation held for backward passes at one time, on any device.

    Counted by its own hooks, so that no allocator's habits are in it. A tensor saved twice counts twice.
    """

    def __init__(self) -> None:
        self.now = self.peak = 0
        super().__init__(lambda tensor: _Held(self, tensor), lambda held: held.tensor)

    def __enter__(self) -> SavedBytes:
        super().__enter__()
        return self


class _Held:
    """A saved tensor that says when it is let go."""

    def __init__(self, counter: SavedBytes, tensor: Tensor) -> None:
        # Detached, since an operation that saves its own result would otherwise never be let go.
        self.counter, self.tensor, self.bytes = counter, tensor.detach(), tensor.nbytes
        counter.now += self.bytes
        counter.peak = max(counter.peak, counter.now)

    def __del__(self) -> None:
        self.counter.now -= self.bytes
