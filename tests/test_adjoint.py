"""The multiplier recursion against automatic differentiation through the whole trajectory, in float64."""

from dataclasses import dataclass

import pytest
import torch
from problems import DYNAMICS, F64, KEPT, Keeping, finite_differences, maml, meta_network, relative_error, tensors
from saved_bytes import SavedBytes

from msmeta import (
    SGD,
    Adam,
    AMSGrad,
    Bilevel,
    Binomial,
    ConfigError,
    EvolutionStrategies,
    FiniteDifference,
    FirstOrder,
    GaussianSmoothing,
    MultiStep,
    RMSprop,
    State,
)
from msmeta.bilevel import Params

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
    [
        (SGD(0.1, 0.9), ("velocity",)),
        (Adam(0.02, eps=1e-2), ("mean", "square")),
        (AMSGrad(0.02, eps=1e-2), ("mean", "square", "largest")),
        (RMSprop(0.02, eps=1e-2, momentum=0.5), ("mean_square", "momentum")),
    ],
    ids=["s", "a", "m", "r"],
)
def test_a_learned_initial_optimiser_state_gets_its_multiplier(dynamics, buffers):
    """θ is split into φ₁ and the buffers' common start, so Λ₀ of the buffers carries to θ, too."""
    problem, start = maml()
    theta = {**start, "buffer": torch.tensor(0.3, dtype=F64)}

    def init(th: Params) -> State:
        phi = {name: th[name] for name in start}
        filled = {name: th["buffer"].square() * torch.ones_like(value) for name, value in phi.items()}
        return State(phi, dict.fromkeys(buffers, filled), step=2)

    learning, loss = Bilevel(init, problem.inner, problem.outer), MultiStep(dynamics, 4, 2)
    out = _compare(dynamics, 4, 2, learning, theta)
    assert out.grad["buffer"].abs() > 1e-3
    assert relative_error(out.grad, finite_differences(lambda moved: loss(learning, moved).loss, theta)) < 1e-6


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


@pytest.mark.parametrize(
    "estimator",
    [
        MultiStep(SGD(0.1), 2, backward="adjoint"),
        MultiStep(SGD(0.1), 4, 2, backward="adjoint"),
        Binomial(SGD(0.1), 2, 2),
        FiniteDifference(SGD(0.1), 1),
        GaussianSmoothing(SGD(0.1), 1),
        FiniteDifference(Adam(0.1), 1),
    ],
    ids=lambda estimator: f"{type(estimator).__name__}-{type(estimator.dynamics).__name__}-{estimator.steps}",
)
def test_random_numbers_that_the_losses_value_does_not_show_are_refused(estimator):
    """A network whose last layer starts at zero has one loss with any dropout; its gradient is another one."""
    x, y = tensors(0, 2, 16, 3)
    source = torch.Generator().manual_seed(0)

    def inner(phi: Params, theta: Params, t: int) -> torch.Tensor:
        kept = torch.bernoulli(torch.full((16, 4), 0.5, dtype=F64), generator=source)
        return (torch.tanh(x @ phi["body"]) * kept @ phi["head"] - y).square().sum()

    theta = {"body": tensors(1, 3, 4), "head": torch.zeros(4, 3, dtype=F64)}
    problem = Bilevel(lambda th: th, inner, lambda phi, th: phi["head"].sum())
    with pytest.raises(ConfigError, match="squared inner gradients is .* again, .* function of phi, theta and t alone"):
        estimator(problem, theta)


class _Clipped(SGD):
    """A subclass whose map is not SGD's."""

    def window(self, state, grad, n):
        return super().window(state, {name: torch.tanh(g) for name, g in grad.items()}, n)


class _Slowing(SGD):
    """A subclass that keeps SGD's window, with other coefficients."""

    def coefficients(self, n):
        return SGD(KEPT["rate"], self.momentum, self.weight_decay).coefficients(n)


class _Leap:
    """Its window is not n steps: it goes n² times as far."""

    def window(self, state, grad, n):
        trace = state.buffers.get("trace", {k: torch.zeros_like(v) for k, v in grad.items()})
        trace = {k: trace[k] + torch.sin(grad[k]) for k in grad}
        phi = {k: v - 0.01 * n**2 * trace[k] * (1 + v**2) for k, v in state.phi.items()}
        return State(phi, {"trace": trace}, state.step + n)


class _Module(torch.nn.Module):
    """Learned elsewhere, and no longer."""

    def __init__(self):
        super().__init__()
        self.rate = torch.nn.Parameter(torch.tensor(0.1, dtype=F64), requires_grad=False)

    def window(self, state, grad, n):
        return State({k: v - n * self.rate * grad[k] for k, v in state.phi.items()}, {}, state.step + n)


def _scheduled(theta, t):
    """Every parameter moves with t, the optimiser too, and momentum pauses; nothing depends on θ."""
    return Adam(0.02, eps=1e-2) if t == 3 else SGD(0.1 / (1 + t), 0.0 if t % 2 else 0.9, 0.01 * t)


def _learned(theta, t):
    """Rates, momentum and weight decay that θ makes, in three ways, one of them where momentum is 0."""
    rate, momentum = theta["rate"].exp(), theta["momentum"] * (t > 1)
    return Adam(rate, (momentum, 0.99), 0.1, momentum) if t == 2 else SGD(rate / (1 + t), momentum, momentum * 0.1)


RATES = {"rate": torch.tensor(-2.0, dtype=F64), "momentum": torch.tensor(0.5, dtype=F64)}


def _with_rates(make):
    """The problem with rates in θ besides; its `init` keeps one of them."""
    problem, theta = make()

    def init(th):
        KEPT["rate"] = th["rate"].exp()
        return {name: value for name, value in problem.init(th).items() if name not in RATES}

    return Bilevel(init, problem.inner, problem.outer), {**theta, **RATES}


@pytest.mark.parametrize("windows", [(1,) * 5, (1, 2, 2), (2, 1, 2), (1,) * 20], ids=["steps", "122", "212", "many"])
@pytest.mark.parametrize("make", [maml, meta_network])
@pytest.mark.parametrize(
    "dynamics",
    [Keeping(), _Clipped(0.1, 0.9), _Slowing(0.1, 0.9, 0.1), _Leap(), _Module(), _scheduled, _learned],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_whatever_the_dynamics_are_they_are_differentiated_through_their_own_window(dynamics, make, windows):
    problem, theta = _with_rates(make)
    out = _compare(dynamics, sum(windows), windows, problem, theta)
    learns = {Keeping: ["rate"], _Slowing: ["rate"]}.get(type(dynamics), ["rate", "momentum"] * (dynamics is _learned))
    assert [name for name in RATES if out.grad[name] != 0] == learns
    if len(windows) == 3:
        loss = MultiStep(dynamics, 5, windows)
        assert relative_error(out.grad, finite_differences(lambda moved: loss(problem, moved).loss, theta)) < 1e-6


def test_rates_are_taken_at_the_first_step_of_each_window():
    seen = []

    def dynamics(theta, t):
        seen.append((t, theta["w"].item()))
        theta.clear()
        return SGD(0.1 * (1 + t))

    problem = Bilevel(lambda th: th, lambda p, th, t: p["w"].square() / 2, lambda p, th: p["w"])
    for backward in ("autograd", "adjoint"):
        out = MultiStep(dynamics, 4, (1, 2, 1), backward)(problem, {"w": torch.tensor(1.0, dtype=F64)})
        assert out.phi["w"].item() == pytest.approx(0.9 * (1 - 2 * 0.2) * (1 - 0.4))
        assert out.grad["w"].item() == pytest.approx(0.9 * 0.6 * 0.6)
    assert seen == [(0, 1.0), (1, 1.0), (3, 1.0)] * 2 + [(3, 1.0), (1, 1.0), (0, 1.0)]


@pytest.mark.parametrize("make", [maml, meta_network])
def test_estimators_without_second_derivatives_learn_rates_too(make):
    problem, theta = _with_rates(make)
    exact = MultiStep(_learned, 4)(problem, theta).grad
    assert relative_error(FiniteDifference(_learned, 4, 1e-5)(problem, theta).grad, exact) < 1e-8
    generator = torch.Generator().manual_seed(0)
    for kind in (EvolutionStrategies, GaussianSmoothing):
        found = kind(_learned, 4, 300, 1e-3, generator)(problem, theta).grad
        assert found["rate"].item() == pytest.approx(exact["rate"].item(), rel=0.5)


def test_an_inner_loss_may_read_what_init_made_of_theta():
    """Features that are computed once, say; also where the entry starts φ besides, all that FirstOrder sees."""
    problem, theta = maml()

    def init(th):
        KEPT["features"] = th["w2"].exp()
        return th

    reading = Bilevel(init, lambda p, th, t: (p["w2"] - KEPT["features"]).square().sum(), problem.outer)
    out = _compare(SGD(0.1, 0.9), 4, 1, reading, theta)
    plain = Bilevel(problem.init, lambda p, th, t: (p["w2"] - th["w2"].exp()).square().sum(), problem.outer)
    assert relative_error(out.grad, MultiStep(SGD(0.1, 0.9), 4)(plain, theta).grad) < 1e-12
    first, expected = (FirstOrder(SGD(0.1), 4)(each, theta).grad for each in (reading, plain))
    assert relative_error(first, expected) < 1e-12
