"""Inner optimisers against torch.optim, and their windows against single steps."""

import math

import pytest
import torch
from problems import F64, maml, tensors

from msmeta import (
    SGD,
    Adam,
    AdamW,
    AMSGrad,
    ConfigError,
    EvolutionStrategies,
    FirstOrder,
    MultiStep,
    RMSprop,
    State,
    clipped,
)

OPTIMISERS = [
    (SGD(0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
    (SGD(0.1, 0.9), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
    (SGD(0.1, 0.9, 1e-2), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-2)),
    (SGD(0.1, 0.0, 1e-2), lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=1e-2)),
    (SGD(0.1, 0.9, 1e-2, nesterov=True), lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=1e-2, nesterov=True)),
    (Adam(0.01), lambda p: torch.optim.Adam(p, lr=0.01)),
    (
        Adam(0.01, (0.8, 0.95), 1e-6, 1e-2),
        lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=1e-2),
    ),
    (AdamW(), lambda p: torch.optim.AdamW(p)),
    (AdamW(0.1, (0.8, 0.95), 1e-6, 0.1), lambda p: torch.optim.AdamW(p, 0.1, (0.8, 0.95), 1e-6, 0.1)),
    (AMSGrad(0.1, (0.8, 0.9), 1e-6, 0.1), lambda p: torch.optim.Adam(p, 0.1, (0.8, 0.9), 1e-6, 0.1, amsgrad=True)),
    (RMSprop(), lambda p: torch.optim.RMSprop(p)),
    (RMSprop(0.1, 0.9, 1e-6, 0.1, 0.8), lambda p: torch.optim.RMSprop(p, 0.1, 0.9, 1e-6, 0.1, 0.8)),
]
NAMES = [str(dynamics) for dynamics, _ in OPTIMISERS]


@pytest.mark.parametrize(("dynamics", "reference"), OPTIMISERS, ids=NAMES)
def test_trajectory_equals_torch_optim(dynamics, reference):
    phi = tensors(0, 5)
    theirs = phi.clone().requires_grad_()
    optimizer = reference([theirs])
    state = State({"x": phi})
    for t in range(12):
        grad = torch.zeros(5, dtype=F64) if t == 3 else tensors(t + 1, 5)
        state = dynamics.window(state, {"x": grad}, 1)
        theirs.grad = grad.clone()
        optimizer.step()
        # Same arithmetic in another order: a few units in the last place of float64.
        torch.testing.assert_close(state.phi["x"], theirs.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 8])
@pytest.mark.parametrize("dynamics", [dynamics for dynamics, _ in OPTIMISERS], ids=NAMES)
def test_window_equals_single_steps_in_value_and_derivative(dynamics, n):
    phi, grad = tensors(0, 4).requires_grad_(), tensors(1, 4).requires_grad_()
    before = dynamics.window(State({"x": phi}), {"x": tensors(2, 4)}, 2)  # a state with buffers
    at_once = dynamics.window(before, {"x": grad}, n)
    stepwise = before
    for _ in range(n):
        stepwise = dynamics.window(stepwise, {"x": grad}, 1)
    assert at_once.step == stepwise.step == n + 2
    pairs = [(at_once.phi["x"], stepwise.phi["x"])]
    pairs += [(at_once.buffers[name]["x"], stepwise.buffers[name]["x"]) for name in stepwise.buffers]
    for fused, single in pairs:
        torch.testing.assert_close(fused, single, rtol=1e-12, atol=1e-12)
        for ours, theirs in zip(
            torch.autograd.grad(fused.sum(), (phi, grad), retain_graph=True, materialize_grads=True, allow_unused=True),
            torch.autograd.grad(
                single.sum(), (phi, grad), retain_graph=True, materialize_grads=True, allow_unused=True
            ),
            strict=True,
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_sgd_coefficients_are_the_powers_of_the_matrix_in_eq_13():
    sgd, n = SGD(0.1, 0.9, 1e-2), 5
    a = torch.tensor([[1 - 0.1 * 1e-2, -0.1 * 0.9], [1e-2, 0.9]], dtype=F64)
    b = torch.tensor([-0.1, 1.0], dtype=F64)
    power, total = sgd.coefficients(n)
    expected = sum(torch.linalg.matrix_power(a, i) @ b for i in range(n))
    torch.testing.assert_close(torch.tensor(power, dtype=F64), torch.linalg.matrix_power(a, n), rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(torch.tensor(total, dtype=F64), expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SGD(0.0),
        lambda: SGD(0.1, 1.0),
        lambda: SGD(0.1, weight_decay=-1),
        lambda: Adam(-1.0),
        lambda: Adam(betas=(0.9, 1.0)),
        lambda: Adam(eps=0.0),
        lambda: SGD("0.1"),
        lambda: SGD({"w": "0.1"}),
        lambda: SGD({"w": 0.1, "b": -0.1}),
        lambda: SGD(0.1, {"w": 1.0}),
        lambda: SGD({"w": torch.ones(2, dtype=int)}),
        lambda: Adam(eps={"w": 1e-8}),
        lambda: SGD(math.nan),
        lambda: SGD(0.1, math.nan),
        lambda: SGD(0.1, weight_decay=math.inf),
        lambda: SGD(torch.ones(2)),
        lambda: SGD(torch.tensor(1)),
        lambda: Adam(0.1, 0.9),
        lambda: Adam(0.1, (0.9,)),
        lambda: Adam(0.1, ("0.9", 0.9)),
    ],
)
def test_impossible_rates_are_refused(make):
    with pytest.raises(ConfigError, match="must"):
        make()


def test_derivatives_flow_through_rates_also_where_they_are_zero():
    for kind, names in ((SGD, ("lr", "momentum", "weight_decay")), (Adam, ("lr", "weight_decay"))):
        for value in (0.0, 0.3):
            rates = {name: torch.tensor(value, dtype=F64, requires_grad=True) for name in names}
            state = State({"x": tensors(0, 4)})
            for seed in (1, 2):
                state = kind(**rates).window(state, {"x": tensors(seed, 4)}, 2)
            found = torch.autograd.grad(state.phi["x"].sum(), list(rates.values()))
            for name, slope in zip(names, found, strict=True):
                sides = []
                for h in (1e-6, -1e-6):
                    moved = {k: v.detach() + h * (k == name) for k, v in rates.items()}
                    state = State({"x": tensors(0, 4)})
                    for seed in (1, 2):
                        state = kind(**moved).window(state, {"x": tensors(seed, 4)}, 2)
                    sides.append(state.phi["x"].sum())
                assert slope.item() == pytest.approx(((sides[0] - sides[1]) / 2e-6).item(), rel=1e-6, abs=1e-8)
                assert value == 0 or slope != 0


class _Holding:
    """A learned optimiser of a user's own."""

    def __init__(self, rate):
        self.rate = rate

    def window(self, state, grad, n):
        return State({k: v - n * self.rate * grad[k] for k, v in state.phi.items()}, {}, state.step + n)


class _Module(torch.nn.Module):
    def __init__(self, rate):
        super().__init__()
        self.rate = torch.nn.Parameter(rate.detach())

    window = _Holding.window


@pytest.mark.parametrize("backward", ["autograd", "adjoint"])
@pytest.mark.parametrize("kind", [SGD, Adam, _Holding, _Module])
def test_a_rate_whose_gradient_would_be_lost_is_refused(kind, backward):
    """It requires gradients and is no function of θ, whether the dynamics are given or returned."""
    problem, theta = maml()
    rate = torch.tensor(0.1, dtype=F64, requires_grad=True)
    for dynamics in (kind(rate), lambda theta, t: kind(rate * 1.0), clipped(kind(rate), 1.0)):
        for estimator in (
            MultiStep(dynamics, 2, 1, backward),
            FirstOrder(dynamics, 2),
            EvolutionStrategies(dynamics, 2),
        ):
            with pytest.raises(ConfigError, match=r"of (\w+) requires gradients but.* lambda theta, t: SGD"):
                estimator(problem, theta)
    assert MultiStep(kind(rate.detach()).requires_grad_(False) if kind is _Module else kind(rate.detach()), 2)(
        problem, theta
    ).loss.isfinite()


def _returning(result):
    class Returning:
        def window(self, state, grad, n):
            return result(state)

    return Returning()


@pytest.mark.parametrize("backward", ["autograd", "adjoint"])
@pytest.mark.parametrize(
    ("dynamics", "match"),
    [
        (_returning(lambda state: state.phi), r"window\(\) of Returning returned a dict: it must return a State"),
        (_returning(lambda state: None), "returned a NoneType"),
        (_returning(lambda state: State({"w1": state.phi["w1"]})), "other entries, types or shapes"),
        (_returning(lambda state: State({k: v[:1] for k, v in state.phi.items()})), "other entries, types or shapes"),
        (_returning(lambda state: State({k: 1.0 for k in state.phi})), "phi as window.* has a float under"),
        (_returning(lambda state: State(state.phi, {"count": {"w1": torch.tensor(1)}})), "count as .* torch.int64"),
        (lambda theta, t: None, r"what dynamics\(theta, 0\) returned is a NoneType: it must be an object with window"),
        (lambda theta, t: SGD, r"what dynamics\(theta, 0\) returned is SGD: it must be"),
        (MultiStep(SGD(0.1), 2), "dynamics is MultiStep, an estimator: give the inner optimiser"),
        (lambda theta: SGD(0.1), r"dynamics must take \(theta, t\): too many positional arguments"),
    ],
)
def test_dynamics_of_another_kind_are_refused_in_one_line(dynamics, match, backward):
    with pytest.raises(ConfigError, match=match) as caught:
        MultiStep(dynamics, 2, 1, backward)(*maml())
    assert "\n" not in str(caught.value)


def test_coefficients_that_float32_does_not_have_are_infinite_not_an_error():
    dynamics = SGD(lr=1e20, momentum=0.9, weight_decay=1e-4)
    state = State({"w": torch.ones(2)})
    assert not dynamics.window(state, {"w": torch.ones(2)}, 4).phi["w"].isfinite().any()
