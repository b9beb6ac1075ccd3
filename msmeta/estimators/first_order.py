"""First-order MAML (Eq. 16): the adapted parameters' gradient, taken for the meta-gradient."""

from __future__ import annotations

from dataclasses import dataclass

from msmeta.bilevel import Bilevel, MetaGradient, Params, State, begin, conclude, reached
from msmeta.dynamics import Steps, Watch, adapt_and_judge
from msmeta.errors import ConfigError


@dataclass(frozen=True)
class FirstOrder(Steps):
    """∂L/∂θ ≈ ∂L(φ_{T+1})/∂φ (Eq. 16), carried to θ by the derivative of φ₁(θ), the identity in MAML.

    Valid only where θ initialises φ: the inner steps are taken as constants, so an entry of θ that acts through them
    alone (a meta-network, a learned rate or regulariser) would get a zero gradient, and is refused.

    Costs T gradient evaluations and no Hessian-vector product; holds one state.
    """

    def __call__(self, problem: Bilevel, theta: Params) -> MetaGradient:
        """As `MultiStep.__call__`; raises ConfigError besides for entries of θ that act in the inner steps alone."""
        theta, first = begin(problem, theta)
        started = reached(first.phi.values(), theta)
        watch = constant_steps(theta, first, started, "FirstOrder", "it takes the inner steps for constants")
        state, trail, outer, by_phi, direct = adapt_and_judge(
            problem, first, theta, self.dynamics, (1,) * self.steps, watch=watch
        )
        return conclude(theta, state, trail, outer, *first.pull_back(State(by_phi), theta), direct)


def constant_steps(theta: Params, first: State, allowed: set[str], estimator: str, why: str) -> Watch:
    """For `walk`: raises ConfigError where the inner steps depend on θ, but for the entries that are allowed.

    why: what the estimator assumes of θ. Raises ConfigError at once where φ₁ depends on no θ, as for a meta-network.
    """
    if not reached(first.phi.values(), theta):
        inside = "a theta that acts only inside the inner loss (a meta-network) would not learn"
        raise ConfigError(f"{estimator} needs a theta that initialises phi: {why}, so {inside}; use MultiStep")

    def refuse(names: set[str]) -> None:
        for name in sorted(names):
            inside = f"theta[{name!r}], which acts in the inner steps"
            raise ConfigError(f"{estimator} has no gradient for {inside}: {why}; use MultiStep")

    seen = {name: value.detach() if name in allowed else value for name, value in theta.items()}
    refuse(reached([value for values in first.buffers.values() for value in values.values()], seen))
    return seen, refuse
