"""What a meta-iteration computes, moves and holds, counted by running it on tensors that have shapes and no values.

So a count takes a second where the meta-iteration may take minutes or more memory than there is, and it is the same on
every machine. It is of the very operations that this version of the package would launch.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from msmeta import machine
from msmeta.adjoint import kept_every
from msmeta.bilevel import Bilevel
from msmeta.data import Episodes
from msmeta.dynamics import partition
from msmeta.experiments.few_shot.config import FewShotConfig
from msmeta.experiments.few_shot.step import episode_problem, reptile_episodes
from msmeta.models import Conv4

COUNTED = 3
"""Windows up to which all is counted; of more of them each adds as much as the last of these."""


@dataclass(frozen=True)
class Tally:
    """Of tasks that are worked on together.

    flops: floating-point operations of convolutions and matrix products. convolved: bytes that these read and write.
    moved: bytes that all other kernels read and write. convolutions, kernels: how many there are of each kind.
    held: the most bytes of tensors at one time, images and θ not counted. widest: bytes that one convolution reads and
    writes at the most, of which its kernel may hold copies in a layout of its own.
    """

    flops: float
    convolved: float
    moved: float
    convolutions: float
    kernels: float
    held: float
    widest: float

    def plus(self, other: Tally, times: float = 1.0) -> Tally:
        """Each number and so many times the other's."""
        return Tally(*(getattr(self, f.name) + times * getattr(other, f.name) for f in fields(Tally)))


def tally(config: FewShotConfig, model: Conv4, tasks: int, backward: str = "autograd", device: str = "cpu") -> Tally:
    """Of a config's meta-iteration with so many tasks at once; lr, seed and the like do not matter.

    With K windows (K = T for methods without) the counts of a query pass and of each window add up: they are affine in
    K from the second window on. Of more than 16 windows `adjoint` recomputes all but every √K-th state.
    backward: of `multistep`, see MultiStep. device: cpu, or any other kind, which has no layouts of its own.
    """
    windows = partition(config.steps, config.window if config.estimator == "multistep" else 1)
    many = len(windows)
    if many <= COUNTED:
        return _count(_first(config, windows), model, tasks, backward, device)
    two, three = (_count(_first(config, windows[:k]), model, tasks, backward, device) for k in (COUNTED - 1, COUNTED))
    each = three.plus(two, -1)
    if backward == "autograd" or not recomputed(many):
        return three.plus(each, many - COUNTED)
    kept = many - recomputed(many)
    again = _each_gradient(config, model, tasks, device)
    # During the query pass; what others start from has buffers too, but for the first.
    states = 1 + (kept - 1) * (2 if config.optimizer == "sgd" and config.momentum else 1)
    return replace(
        three.plus(each, many - COUNTED).plus(again, recomputed(many)),
        held=three.held + each.held * (states - COUNTED),
        widest=three.widest,
    )


def of_meta_batch(
    config: FewShotConfig, model: Conv4, chunk: int, backward: str = "autograd", device: str = "cpu"
) -> Tally:
    """Of a meta-iteration, `chunk` tasks at a time: counts add up, memory is the largest chunk's."""
    full, rest = divmod(config.tasks, chunk)
    parts = [(count, tasks) for count, tasks in ((full, chunk), (1, rest)) if count and tasks]
    counted = [(count, tally(config, model, tasks, backward, device)) for count, tasks in parts]
    total = Tally(*[0.0] * 7)
    for count, each in counted:
        total = total.plus(each, count)
    return replace(total, **{name: max(getattr(each, name) for _, each in counted) for name in ("held", "widest")})


def recomputed(windows: int) -> int:
    """How many windows' first states `adjoint` does not keep but recomputes, each by a gradient (`msmeta.adjoint`)."""
    return windows - math.ceil(windows / kept_every(windows))


def _each_gradient(config: FewShotConfig, model: Conv4, tasks: int, device: str) -> Tally:
    """Of one more inner gradient without a graph, and its step."""
    plain = replace(config, estimator="first-order", window=1)
    two, three = (_count(replace(plain, steps=k), model, tasks, "autograd", device) for k in (2, 3))
    return three.plus(two, -1)


def _first(config: FewShotConfig, windows: tuple[int, ...]) -> FewShotConfig:
    """With these windows alone, and whatever does not matter alike. SGD takes as many operations for a window of any
    length, so there each has one step."""
    if config.optimizer == "sgd":
        windows = (1,) * len(windows)
    lengths = windows if config.estimator == "multistep" else 1
    return replace(config, steps=sum(windows), window=lengths, tasks=1)


@cache
def _count(config: FewShotConfig, model: Conv4, tasks: int, backward: str, device: str) -> Tally:
    device = "cpu" if device == "cpu" else "meta"  # nothing can be made on a GPU that is not there
    # As while a CUDA graph is captured, when the host reads nothing; elsewhere without a GPU to ask would be an error.
    capturing = mock.patch.object(torch.cuda, "is_current_stream_capturing", lambda: device == "meta")
    with machine.settings("float32"), FakeTensorMode(), capturing:
        theta = {name: value.to(device).requires_grad_() for name, value in model.init(0).items()}
        problem = _problem(config, model, tasks, device)
        estimator = config.build_estimator(torch.Generator(), backward)
        with _Counter() as counter:
            estimator(problem, theta)
    return counter.tally()


def _problem(config: FewShotConfig, model: Conv4, tasks: int, device: str) -> Bilevel:
    def part(count: int) -> tuple[Tensor, Tensor]:
        n = config.way * count
        x = torch.empty(tasks, n, model.channels, model.size, model.size, device=device)
        return x, torch.zeros(tasks, n, dtype=torch.int64, device=device)

    episodes = Episodes(*part(config.shot), *part(config.query))
    if config.inner_shot is not None:
        episodes = reptile_episodes(episodes, config.way)
    return episode_problem(model, episodes, [], config.inner_shot)


_aten = torch.ops.aten
_READ = {_aten._local_scalar_dense.default: 1.0, _aten.equal.default: True, _aten.allclose.default: True}
"""What the host reads of tensors, such as losses, which are finite, and whether a problem is of the right kind."""


class _Counter(TorchDispatchMode):
    """Sees every operation, also those of backward passes."""

    def __init__(self) -> None:
        super().__init__()
        self.products, self.others = [0, 0, 0], [0, 0]  # how many, bytes and, of products, operations
        self.widest = self.now = self.peak = 0
        self._held: set[int] = set()

    def tally(self) -> Tally:
        (products, convolved, flops), (others, moved) = self.products, self.others
        return Tally(flops, convolved, moved, products, others, self.peak, self.widest)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _READ:
            return _READ[func]
        out = func(*args, **(kwargs or {}))
        if func.is_view or func.namespace != "aten" or func is _aten.detach.default:
            return out
        read, made = ([t for t in tree_leaves(part) if isinstance(t, Tensor)] for part in ((args, kwargs), out))
        size = sum(t.nbytes for t in (*read, *made))
        for tensor in made:
            self._hold(tensor)
        name, flops = func.name(), 0
        if "convolution" in name:
            weight = args[2] if "backward" in name else args[1]
            outputs, passes = (args[0], sum(args[-1][:2])) if "backward" in name else (out, 1)
            flops = 2 * outputs.numel() * weight[0].numel() * passes
            self.widest = max(self.widest, size)
        elif name.rpartition("::")[2] in ("mm", "bmm", "addmm", "baddbmm"):
            flops = 2 * out.numel() * read[-2].shape[-1]
        counts = (1, size, flops) if flops else (1, size)
        total = self.products if flops else self.others
        total[:] = [a + b for a, b in zip(total, counts, strict=True)]
        return out

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._held:
            self._held.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._held.remove(key)
        self.now -= size
