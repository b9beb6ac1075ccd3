"""The multiplier recursion against automatic differentiation through the whole trajectory, in float64."""

from dataclasses import dataclass

import pytest
import torch
from problems import DYNAMICS, F64, finite_differences, maml, meta_network, relative_error

from msmeta import SGD, Adam, Bilevel, MultiStep, State
from msmeta.bilevel import Params
from msmeta.experiments.few_shot.costs import SavedBytes

# The same derivative, summed in another order.
TOLERANCE = 1e-10


def _compare(dynamics, steps, window, problem, theta):
    graph, recursion = (MultiStep(dynamics, steps, window, way)(problem, theta) for way in ("autograd", "adjoint"))
    torch.testing.assert_close(recursion.loss, graph.loss, rtol=0, atol=0)
    assert all(torch.equal(recursion.phi[name], graph.phi[name]) for name in graph.phi)
    assert relative_error(recursion.grad, graph.grad) < TOLERANCE
    assert not any(value.requires_grad for value in [*recursion.grad.values(), *recursion.phi.values()])
    return recursion


@pytest.mark.parametrize(("steps", "window"), [(8, 1), (8, 2), (8, 4), (8, 8), (3, (2, 1)), (8, (1, 1, 2, 4))], ids=str)
@pytest.mark.parametrize("make", [maml, meta_network])
@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_equals_automatic_differentiation(dynamics, make, steps, window):
    _compare(DYNAMICS[dynamics][0], steps, window, *make())


@pytest.mark.parametrize("window", [1, 2, (1,) * 10 + (3, 5) + (2,) * 11], ids=["1", "2", "mixed"])
@pytest.mark.parametrize("make", [maml, meta_network])
@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_many_windows_are_recomputed_from_a_few_states(dynamics, make, window):
    """40 steps; of 40, 20 and 23 windows every 7th or 5th first state is kept."""
    _compare(DYNAMICS[dynamics][0], 40, window, *make())


def test_theta_may_be_the_start_and_act_in_both_losses():
    problem, theta = maml()
    mixed = Bilevel(
        problem.init,
        lambda phi, th, t: problem.inner(phi, th, t) + (phi["w1"] * th["w1"]).sum() ** 2,
        lambda phi, th: problem.outer(phi, th) + th["w2"].pow(3).sum(),
    )
    out = _compare(SGD(0.1, 0.9, 1e-2), 6, (1, 2, 3), mixed, theta)
    loss = MultiStep(SGD(0.1, 0.9, 1e-2), 6, (1, 2, 3))
    assert relative_error(out.grad, finite_differences(lambda moved: loss(mixed, moved).loss, theta)) < 1e-6


@pytest.mark.parametrize(
    ("dynamics", "buffers"),
    [(SGD(0.1, 0.9), ("velocity",)), (Adam(0.02, eps=1e-2), ("mean", "square"))],
    ids=["s", "a"],
)
def test_a_learned_initial_optimiser_state_gets_its_multiplier(dynamics, buffers):
    """θ is split into φ₁ and the buffers' common start, so Λ₀ of the buffers carries to θ, too."""
    problem, start = maml()
    theta = {**start, "buffer": torch.tensor(0.3, dtype=F64)}

    def init(th: Params) -> State:
        phi = {name: th[name] for name in start}
        filled = {name: th["buffer"].square() * torch.ones_like(value) for name, value in phi.items()}
        return State(phi, dict.fromkeys(buffers, filled), step=2)

    out = _compare(dynamics, 4, 2, Bilevel(init, problem.inner, problem.outer), theta)
    assert out.grad["buffer"].abs() > 1e-3


@dataclass(frozen=True)
class _Cubic:
    """An optimiser of a user's own, with a buffer and neither linear in the state nor in the gradient."""

    def window(self, state: State, grad: Params, n: int) -> State:
        phi, trace = state.phi, state.buffers.get("trace", {k: torch.zeros_like(v) for k, v in state.phi.items()})
        for _ in range(n):
            trace = {k: 0.5 * trace[k] + grad[k] + grad[k] ** 3 for k in phi}
            phi = {k: phi[k] - 0.05 * trace[k] * (1 + phi[k] ** 2) for k in phi}
        return State(phi, {"trace": trace}, state.step + n)


@pytest.mark.parametrize("make", [maml, meta_network])
def test_dynamics_need_no_more_than_a_window(make):
    _compare(_Cubic(), 6, (1, 2, 3), *make())


def test_an_inner_loss_that_is_linear_in_phi_has_no_second_derivative():
    problem = Bilevel(lambda th: th, lambda p, th, t: p["x"].sum(), lambda p, th: p["x"].pow(2).sum())
    out = _compare(SGD(0.1, 0.9), 4, 2, problem, {"x": torch.tensor([1.0, 2.0], dtype=F64)})
    torch.testing.assert_close(out.grad["x"], 2 * out.phi["x"])


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_what_autograd_keeps_does_not_grow_with_the_steps(dynamics, window):
    problem, theta = maml()
    peaks = {}
    for backward in ("autograd", "adjoint"):
        for steps in (2, 32):
            with SavedBytes() as saved:
                MultiStep(DYNAMICS[dynamics][0], steps, window, backward)(problem, theta)
            peaks[backward, steps] = saved.peak
    assert peaks["adjoint", 32] == peaks["adjoint", 2] > 0
    assert peaks["autograd", 32] > 8 * peaks["autograd", 2]
