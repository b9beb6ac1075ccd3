"""Meta-transfer learning (Section 5.1): one iteration of Algorithm 1, on any target network and batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from msmeta.bilevel import (
    Bilevel,
    MetaGradient,
    Params,
    State,
    adapt,
    detach,
    gradients,
    leaves,
    partition,
    require_finite,
)
from msmeta.dynamics import Dynamics
from msmeta.errors import ConfigError
from msmeta.estimators import MultiStep
from msmeta.models.l2t import L2T, SourceBatch

Network = Callable[[Params, Tensor, Params | None], tuple[Tensor, list[Tensor]]]
"""`network(params, x, statistics)`: logits (n, way) and features; batch norm uses the batch, and moves `statistics`."""


@dataclass(frozen=True)
class TransferProblem:
    """The losses of one batch.

    network: the target. x, y: images (n, 3, H, W) and labels (n,). source: what the transfer loss needs of the frozen
    source network. beta: β, the weight of the transfer loss in the total loss (Eq. 19).
    """

    network: Network
    l2t: L2T
    x: Tensor
    y: Tensor
    source: SourceBatch
    beta: float = 0.5

    def total(self, phi: Params, theta: Params, statistics: Params | None = None) -> Tensor:
        """L_total = L_acc + β L_tfr (Eq. 19), 0-d; moves the running statistics where they are given."""
        logits, features = self.network(phi, self.x, statistics)
        return F.cross_entropy(logits, self.y) + self.beta * self.l2t.loss(phi, theta, self.source, features)

    def classification(self, phi: Params) -> Tensor:
        """L_acc, the cross-entropy, 0-d."""
        return F.cross_entropy(self.network(phi, self.x, None)[0], self.y)

    def transfer(self, phi: Params, theta: Params) -> Tensor:
        """L_tfr, 0-d."""
        return self.l2t.loss(phi, theta, self.source, self.network(phi, self.x, None)[1])

    def bilevel(self, start: State, transfer_steps: int) -> Bilevel:
        """T steps on L_tfr and one on L_acc from `start`, judged by L_acc: lines 6 to 14. θ acts in L_tfr alone."""
        return Bilevel(
            init=lambda theta: start,
            inner=lambda phi, theta, t: self.transfer(phi, theta) if t < transfer_steps else self.classification(phi),
            outer=lambda phi, theta: self.classification(phi),
        )


@dataclass(frozen=True)
class Iteration:
    """What an iteration of Algorithm 1 gives.

    state: φ and the optimiser's buffers after the step on the total loss, where the next iteration begins: as the
    reference implementation does, the inner steps are undone once they have judged θ. total: the total loss, 0-d.
    meta: outer loss, meta-gradient and adapted φ; None for T = 0, where nothing depends on θ.
    """

    state: State
    total: Tensor
    meta: MetaGradient | None


def transfer_windows(transfer_steps: int, window: int) -> tuple[int, ...]:
    """Algorithm 1's partition: K windows of N transfer steps and one step on L_acc. Raises ConfigError."""
    if transfer_steps < 0:
        raise ConfigError(f"transfer_steps={transfer_steps}: it must be at least 0")
    return (*(partition(transfer_steps, window) if transfer_steps else ()), 1)


def transfer_iteration(
    problem: TransferProblem,
    state: State,
    theta: Params,
    dynamics: Dynamics,
    transfer_steps: int = 2,
    window: int = 1,
    statistics: Params | None = None,
    first_order: bool = False,
) -> Iteration:
    """Lines 5 to 14 of Algorithm 1; θ is left to the caller's meta-optimiser.

    window: N; 1 is the exact baseline. statistics: batch norm's, moved in place by the total loss's forward pass alone.
    first_order: the meta-gradient of L_total at the adapted φ, which is held constant, instead.

    Costs K + 3 gradients of φ and, unless `first_order`, products for K + 1 windows, of which the first needs no
    Hessian: its state does not depend on θ. Raises DivergedError for a loss that is not finite.
    """
    windows = transfer_windows(transfer_steps, window)
    total, state = _total_loss_step(problem, state, theta, dynamics, statistics)
    bilevel = problem.bilevel(state, transfer_steps)
    if transfer_steps == 0:
        return Iteration(state, total, None)
    if first_order:
        return Iteration(state, total, _first_order(problem, bilevel, state, theta, dynamics, windows))
    return Iteration(state, total, MultiStep(dynamics, transfer_steps + 1, windows)(bilevel, theta))


def _total_loss_step(
    problem: TransferProblem, state: State, theta: Params, dynamics: Dynamics, statistics: Params | None
) -> tuple[Tensor, State]:
    """Line 5."""
    phi = leaves(state.phi)
    total = problem.total(phi, detach(theta), statistics)
    require_finite([], total)
    (grad,) = gradients(total, phi)
    with torch.no_grad():
        return total.detach(), dynamics.window(state, grad, 1)


def _first_order(
    problem: TransferProblem,
    bilevel: Bilevel,
    state: State,
    theta: Params,
    dynamics: Dynamics,
    windows: tuple[int, ...],
) -> MetaGradient:
    adapted, losses = adapt(bilevel, state, theta, dynamics, windows)
    theta = leaves(theta)
    total = problem.total(adapted.phi, theta)
    require_finite(losses, total)
    (grad,) = gradients(total, theta)
    return MetaGradient(total.detach(), grad, adapted.phi)
