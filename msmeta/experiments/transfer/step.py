"""Meta-transfer learning (Section 5.1): one iteration of Algorithm 1, on any target network and batch.

On a GPU the iteration, with its step of θ, is one CUDA graph, replayed many times for each time that the host looks at
the losses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from msmeta.bilevel import (
    Bilevel,
    Dynamics,
    MetaGradient,
    Params,
    State,
    begin,
    conclude,
    detach,
    gradients,
    leaves,
    require_sound,
    task_dot,
)
from msmeta.dynamics import SGD, advance, partition, walk
from msmeta.errors import DivergedError
from msmeta.estimators import MultiStep
from msmeta.experiments import graphs
from msmeta.experiments.distributed import World
from msmeta.models.l2t import L2T, SourceBatch
from msmeta.optimisers import Adam

Network = Callable[[Params, Tensor, Params | None], tuple[Tensor, list[Tensor]]]
"""`network(params, x, statistics)`: logits (n, way) and features; batch norm uses the batch, and moves `statistics`."""


@dataclass(frozen=True)
class TransferProblem:
    """The losses of one batch.

    network: the target. l2t: the meta-networks, None for training without transfer. x, y: images (n, 3, H, W) and
    labels (n,). source: what the transfer loss needs of the frozen source network. beta: β, its weight in L_total.
    inner_beta: its weight in the transfer steps, 1 in line 8 of Algorithm 1.
    world, share: where several processes have a part of the batch each, its share: the losses are then this process's
    parts of the batch's, which are their sums, and so are the gradients. The network has batch norm's statistics of
    the whole batch.
    """

    network: Network
    l2t: L2T | None
    x: Tensor
    y: Tensor
    source: SourceBatch | None
    beta: float = 0.5
    inner_beta: float = 1.0
    world: World = World()
    share: float = 1.0

    def total(self, phi: Params, theta: Params, statistics: Params | None = None) -> Tensor:
        """L_total = L_acc + β L_tfr (Eq. 19), 0-d; moves the running statistics where they are given."""
        logits, features = self.network(phi, self.x, statistics)
        loss = F.cross_entropy(logits, self.y)
        if self.l2t:
            loss = loss + self.beta * self.l2t.loss(phi, theta, self.source, features)
        return self.share * loss

    def classification(self, phi: Params) -> Tensor:
        """L_acc, the cross-entropy, 0-d."""
        return self.share * F.cross_entropy(self.network(phi, self.x, None)[0], self.y)

    def transfer(self, phi: Params, theta: Params) -> Tensor:
        """L_tfr of the transfer steps, with its weight there, 0-d."""
        features = self.network(phi, self.x, None)[1]
        return self.share * self.inner_beta * self.l2t.loss(phi, theta, self.source, features)

    def bilevel(self, start: State, transfer_steps: int) -> Bilevel:
        """T steps on L_tfr and one on L_acc from `start`, judged by L_acc: lines 6 to 14. θ acts in L_tfr alone.

        What a loss does not use has the weight 0 in it, so that momentum and weight decay move it all the same, as in
        the reference implementation, whose gradients are zeroed and not forgotten.
        """

        def inner(phi: Params, theta: Params, t: int) -> Tensor:
            loss = self.transfer(phi, theta) if t < transfer_steps else self.classification(phi)
            idle = ("head.", "fc.") if t < transfer_steps else "match"
            return loss + 0 * sum(value.sum() for name, value in phi.items() if name.startswith(idle))

        return Bilevel(lambda theta: start, inner, lambda phi, theta: self.classification(phi))


@dataclass(frozen=True)
class Iteration:
    """What an iteration of Algorithm 1 gives.

    state: φ and the optimiser's buffers with which the next iteration begins. total: the loss of line 5, 0-d. meta:
    outer loss, meta-gradient and adapted φ; None where nothing depends on θ (T = 0, or no transfer). gradient_change:
    ‖g₁ - g₀‖ / ‖g₁‖ of the transfer loss's gradients at the first two transfer steps (Figure 1), 0-d, and 0 where
    both vanish, as when θ has turned every pair off; None where they share one.
    """

    state: State
    total: Tensor
    meta: MetaGradient | None = None
    gradient_change: Tensor | None = None


def transfer_windows(transfer_steps: int, window: int) -> tuple[int, ...]:
    """Algorithm 1's partition: K windows of N transfer steps and one step on L_acc. Raises ConfigError."""
    return (*(partition(transfer_steps, window) if transfer_steps else ()), 1)


def transfer_iteration(
    problem: TransferProblem,
    state: State,
    theta: Params,
    dynamics: SGD | Adam,
    transfer_steps: int = 2,
    window: int = 1,
    statistics: Params | None = None,
    first_order: bool = False,
    transfer_rate: float = 1.0,
    rollback: bool = True,
) -> Iteration:
    """Lines 5 to 14 of Algorithm 1, without transfer line 5 alone; θ is left to the caller's meta-optimiser.

    window: N; 1 is the exact baseline. statistics: batch norm's, moved in place by the total loss's forward pass alone.
    first_order: the meta-gradient of L_total at the adapted φ, which is held constant, instead. transfer_rate: factor
    on the learning rate of the transfer steps ("1-step 2·lr" of Appendix H). rollback: undo the inner steps once they
    have judged θ, as the reference implementation does, so that the next iteration begins after line 5; else it begins
    at s_{T+1}.

    Costs K + 3 gradients of φ and, unless `first_order`, products for K + 1 windows, of which the first needs no
    Hessian: its state does not depend on θ. Raises DivergedError for a loss that is not finite.
    """
    windows = transfer_windows(transfer_steps, window)
    world = problem.world
    total, state = _step(lambda phi: problem.total(phi, detach(theta), statistics), state, dynamics, world)
    if problem.l2t is None:
        return Iteration(state, total)
    fast, seen = replace(dynamics, lr=transfer_rate * dynamics.lr), {}
    compared = (0, 1) if transfer_steps > 1 and window == 1 else ()

    def inner(theta: Params, t: int) -> Dynamics:
        return _Noting(fast if t < transfer_steps else dynamics, seen if t in compared else {}, t, world)

    bilevel, meta, after = problem.bilevel(state, transfer_steps), None, state
    if first_order:
        meta = _first_order(problem, bilevel, theta, inner, windows)
    elif transfer_steps:
        meta = MultiStep(inner, transfer_steps + 1, windows)(bilevel, theta)
    elif not rollback:
        after = walk(bilevel, begin(bilevel, theta)[1], theta, inner, windows)[0].detach()
    if meta:
        world.sum_([meta.loss, *meta.grad.values()])
    change = _change(seen[0], seen[1]) if compared else None
    return Iteration(state if rollback else meta.state if meta else after, total, meta, change)


@dataclass(frozen=True)
class _Noting:
    """The dynamics of step t, which note in `seen` what gradient they are given, without its graph.

    They are given a process's part of it.
    """

    dynamics: SGD | Adam
    seen: dict[int, Params]
    t: int
    world: World

    def window(self, state: State, grad: Params, n: int) -> State:
        grad = self.world.totals(grad)
        self.seen[self.t] = detach(grad)
        return self.dynamics.window(state, grad, n)


def _change(first: Params, second: Params) -> Tensor:
    """‖second - first‖ / ‖second‖, 0-d; 0 where both vanish."""
    difference = {name: second[name] - first[name] for name in first}
    apart, size = (task_dot(part, part, by_task=False) for part in (difference, second))
    return (apart / size).sqrt().where(apart > 0, 0.0)


def _step(loss: Callable[[Params], Tensor], state: State, dynamics: SGD | Adam, world: World) -> tuple[Tensor, State]:
    """The loss at φ, of which each process has a part, and the state after a step on it."""
    phi = leaves(state.phi)
    value = loss(phi)
    require_sound([], value, phi)
    (grad,) = gradients([(value, None)], phi)
    with torch.no_grad():
        grad = world.totals({name: value for name, value in grad.items() if value is not None})
        return world.total(value.detach()), advance(dynamics, state, grad, 1)


def _first_order(
    problem: TransferProblem,
    bilevel: Bilevel,
    theta: Params,
    inner: Callable[[Params, int], Dynamics],
    windows: tuple[int, ...],
) -> MetaGradient:
    theta, first = begin(bilevel, theta)
    adapted, trail = walk(bilevel, first, theta, inner, windows)
    total = problem.total(detach(adapted.phi), theta)
    return conclude(theta, adapted, trail, total, *gradients([(total, None)], theta))


class GraphedStepper:
    """Iterations each of which is a replay of one CUDA graph, `block` of them for each time that the host waits.

    iterate: images, labels, state, learning rate of φ, statistics -> Iteration; it moves the statistics in place and θ
    by `optimizer`, from gradients that stay where they are. state: with all of the optimiser's buffers. batch: images
    and labels, of which the shapes count. The graph's inputs are copies of each batch and of the learning rate, φ and
    its optimiser's state are carried over in place, and the losses are read after a block.
    """

    block = 25

    def __init__(
        self,
        iterate: Callable[[Tensor, Tensor, State, Tensor, Params], Iteration],
        state: State,
        statistics: Params,
        theta: Params,
        optimizer: torch.optim.Optimizer | None,
        batch: tuple[Tensor, Tensor],
    ) -> None:
        x, y = batch
        # Adam's bias correction and the rate's schedule go on: numbers that a graph has to find on the device.
        step, self.lr = (torch.ones((), dtype=torch.float64, device=x.device) for _ in range(2))
        self.iterate, self.state, self.statistics = iterate, replace(state, step=step.fill_(state.step)), statistics
        self.x, self.y, self.given = x.clone(), y.clone(), ()
        self.found = torch.zeros(self.block, 3, dtype=x.dtype, device=x.device)
        self.at = torch.zeros(1, dtype=torch.int64, device=x.device)
        grads = [value.grad for value in theta.values()]
        changed = [*self._carried(self.state), *statistics.values(), *grads, self.found, self.at]
        self.replay = graphs.capture(self._next, changed, x.device, optimizer)

    def run(
        self, batches: Iterator[tuple[Tensor, Tensor]], first: int, count: int, lr: float
    ) -> list[tuple[float | None, ...]]:
        """`count` iterations from number `first`, `block` at the most: total loss, outer loss, change of the gradient.

        lr: of φ. Raises DivergedError that names the iteration.
        """
        self.lr.fill_(lr)
        self.at.zero_()
        for _ in range(count):
            for own, value in zip((self.x, self.y), next(batches), strict=True):
                own.copy_(value)
            self.replay()
        rows = self.found[:count].tolist()
        for i, row in enumerate(rows):
            for name, loss in zip(("total", "outer"), row, strict=False):
                if not math.isfinite(loss):
                    where = f"training diverged at iteration {first + i + 1}: {name} loss is {loss}"
                    raise DivergedError(f"{where}: lower the learning rate or the meta learning rate")
        return [tuple(v if given else None for v, given in zip(row, self.given, strict=True)) for row in rows]

    def _next(self) -> None:
        """The block's next iteration; reads and writes only what lies on the device."""
        found = self.iterate(self.x, self.y, self.state, self.lr, self.statistics)
        row = [found.total, found.meta and found.meta.loss, found.gradient_change]
        self.given = [value is not None for value in row]
        row = torch.stack([torch.zeros_like(found.total) if value is None else value for value in row])
        with torch.no_grad():
            torch._foreach_copy_(self._carried(self.state), self._carried(found.state))
            self.found.index_copy_(0, self.at, row[None])
            self.at += 1

    def _carried(self, state: State) -> list[Tensor]:
        """What an iteration leaves to the next one, in the order of this stepper's own."""
        parts = [(state.phi, self.state.phi), *((state.buffers[k], own) for k, own in self.state.buffers.items())]
        return [state.step, *(values[name] for values, own in parts for name in own)]
