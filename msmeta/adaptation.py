"""Inner steps alone, as at test time: no meta-gradient, no outer loss, no graph."""

from __future__ import annotations

from collections.abc import Sequence

from msmeta.bilevel import Bilevel, DynamicsLike, Params, State, begin, require_sound
from msmeta.dynamics import Steps, partition, walk
from msmeta.errors import DivergedError


def adapt(
    problem: Bilevel, theta: Params, dynamics: DynamicsLike, steps: int, window: int | Sequence[int] = 1
) -> State:
    """The inner optimiser's state after `steps` steps from `problem.init(theta)` (Eq. 2), without a graph.

    theta: dict of tensors, left as it is. dynamics, steps, window: as for `MultiStep`; with `window=1` each step has a
    gradient of its own. The outer loss is not called. `.phi` of the result are the adapted parameters; an `init` that
    returns the result goes on from it, with the optimiser's buffers and with what is frozen.

    Costs a gradient evaluation a window and holds one state. Raises ConfigError for a problem, a theta or dynamics of
    another kind, and DivergedError, naming the step, where the inner loss or what it leads to is not finite.

    >>> import torch
    >>> from msmeta import SGD, Bilevel, adapt
    >>> problem = Bilevel(lambda theta: theta, lambda phi, theta, t: (phi["w"] - 1).square().sum(), lambda *_: None)
    >>> adapt(problem, {"w": torch.zeros(2)}, SGD(lr=0.25), steps=3).phi
    {'w': tensor([0.8750, 0.8750])}
    """
    how, windows = Steps(dynamics, steps), partition(steps, window)
    theta, first = begin(problem, theta, how.dynamics, passing=True)
    state, trail = walk(problem, first, theta, how.dynamics, windows)
    require_sound(trail, trail[-1][1], state.phi)
    for name, value in state.phi.items():
        if not value.isfinite().all():
            raise DivergedError(f"phi[{name!r}] is not finite after the last step: lower the inner learning rate")
    return state.result()
