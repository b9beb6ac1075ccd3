"""FO-B-MAML: the meta-gradient at a stationary point, from where the inner steps end under a perturbed inner loss."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from msmeta.bilevel import (
    Bilevel,
    MetaGradient,
    Params,
    State,
    begin,
    conclude,
    detach,
    gradients,
    leaves,
    reached,
    task_dot,
)
from msmeta.checks import refuse
from msmeta.dynamics import adapt_and_judge, walk
from msmeta.estimators.implicit import Proximal
from msmeta.losses import evaluate, value_of
from msmeta.rates import require_numbers


@dataclass(frozen=True)
class Perturbed(Proximal):
    """Eq. 18 without second derivatives, and for every θ that acts in the inner loss (Chayti and Jaggi, 2024).

    Let E(φ; θ) = L_t(φ; θ) + λ/2 |φ - φ₁(θ)|², let φ(ν) minimise E + ν a·φ, and V(ν, θ) be its minimum. By the envelope
    theorem ∂V/∂ν = a·φ(ν) and ∂V/∂θ = ∂E/∂θ at φ(ν). The two derivatives commute, so with a = ∂L/∂φ at φ(0)

        ∂L(φ(0))/∂θ = ∂L/∂θ + d/dν ∂E(φ(ν))/∂θ ≈ ∂L/∂θ + (∂E(φ(ν))/∂θ - ∂E(φ(-ν))/∂θ) / 2ν,

    which is λ (φ(-ν) - φ(ν)) / 2ν for MAML. (The authors perturb by ν L(φ), whose derivative by ν is the same, at the
    price of an outer gradient a step.) proximal: λ. strength: length of ν a, the longest one of the problem's `tasks`;
    the error is of order strength², plus rounding of order 1/strength. The default is for float32.

    Valid where the steps come near a stationary point, of the last step's L_t; also for a meta-network. What θ does in
    the dynamics has no effect there: an entry that acts in them alone, or in earlier losses alone, is refused.

    Costs 3T + 2 gradient evaluations and no Hessian-vector product; holds one state and two inner losses' graphs.
    """

    strength: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_numbers("positive", strength=self.strength)

    @torch.enable_grad()
    def __call__(self, problem: Bilevel, theta: Params) -> MetaGradient:
        """As `MultiStep.__call__`; raises ConfigError besides for entries of θ that do not act in the last inner loss
        nor start φ, but in the inner steps."""
        theta, first = begin(problem, theta, self.dynamics)
        lost = reached(first.buffer_tensors(), theta)
        pulled, windows = self.regularised(problem, detach(first.phi)), (1,) * self.steps
        state, trail, outer, by_phi, direct = adapt_and_judge(
            pulled, first, theta, self.dynamics, windows, watch=(theta, lost.update)
        )
        used = trail[-1][2]
        slope = {name: value for name, value in by_phi.items() if value is not None and name in used}
        idle = {name: value for name, value in by_phi.items() if name not in used}  # stays what it was in φ₁
        self.weight_decay(theta, slope)
        length = float(task_dot(slope, slope, problem.tasks is not None).max().sqrt()) if slope else 0.0
        nu, energy = self.strength / (length or 1.0), []
        own = self.regularised(problem, first.phi)  # whose centre depends on θ
        for sign in (1, -1):
            moved, steps = walk(_tilted(pulled, slope, sign * nu), first, theta, self.dynamics, windows)
            energy.append(evaluate(own.inner, leaves(moved.phi, first.phi), theta, self.steps - 1))
            trail = [*trail, *steps]
        (by_theta,) = gradients([((energy[0] - energy[1]) / (2 * nu), None)], theta, retain_graph=bool(idle))
        why = "acts in the inner steps, but neither in the last loss nor in the start; use MultiStep"
        refuse("Perturbed", why, lost - {name for name, value in by_theta.items() if value is not None})
        last, through_init = self.steps - 1, first.pull_back(State(idle), theta)
        again = f"inner loss at step {last}", *(value_of(problem.inner, state.phi, theta, last) for _ in range(2))
        return conclude(theta, state, trail, outer, by_theta, direct, *through_init, again=[again])


def _tilted(problem: Bilevel, slope: Params, nu: float) -> Bilevel:
    def inner(phi: Params, theta: Params, t: int) -> Tensor:
        tilt = task_dot({name: phi[name] for name in slope}, slope, by_task=False) if slope else 0.0
        return evaluate(problem.inner, phi, theta, t) + nu * tilt

    return replace(problem, inner=inner)
