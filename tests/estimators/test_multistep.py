"""The multi-step estimator against independent computations in float64."""

import math

import pytest
import torch
from problems import DYNAMICS, F64, costs, finite_differences, maml, meta_network, relative_error, unrolled

from msmeta import SGD, Bilevel, ConfigError, DivergedError, MultiStep, State
from msmeta.dynamics import partition

WINDOWS = [(8, 1), (8, 2), (8, 4), (8, 8), (3, (2, 1)), (8, (1, 1, 2, 4))]


@pytest.mark.parametrize(("steps", "window"), WINDOWS, ids=str)
@pytest.mark.parametrize("make", [maml, meta_network])
@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_equals_unrolled_autograd_and_finite_differences(dynamics, make, steps, window):
    (inner, rule), (problem, theta) = DYNAMICS[dynamics], make()
    estimator = MultiStep(inner, steps, window)
    out = estimator(problem, theta)

    loss, grad = unrolled(problem, theta, rule, partition(steps, window))
    torch.testing.assert_close(out.loss, loss, rtol=1e-12, atol=0)
    assert relative_error(out.grad, grad) < 1e-10  # the same derivative in another order of operations

    differences = finite_differences(lambda moved: estimator(problem, moved).loss, theta)
    assert relative_error(out.grad, differences) < 1e-6


def _quadratic(momentum, weight_decay):
    """E(φ; θ) = ½φᵀHφ + φᵀCθ, so that ∂g/∂φ = H and ∂g/∂θ = C are explicit."""
    generator = torch.Generator().manual_seed(3)
    h = torch.randn(3, 3, dtype=F64, generator=generator)
    h, c = h @ h.T / 3, torch.randn(3, 2, dtype=F64, generator=generator)
    target, phi = torch.randn(3, dtype=F64, generator=generator), torch.randn(3, dtype=F64, generator=generator)
    problem = Bilevel(
        init=lambda theta: {"x": phi},
        inner=lambda p, theta, t: p["x"] @ h @ p["x"] / 2 + p["x"] @ c @ theta["y"],
        outer=lambda p, theta: (p["x"] - target).square().sum() / 2,
    )
    return problem, {"y": torch.randn(2, dtype=F64, generator=generator)}, h, c, target


@pytest.mark.parametrize("n", [1, 2, 4])
def test_equals_eq_13_evaluated_from_explicit_jacobians(n):
    eta, mu, omega, windows = 0.1, 0.9, 1e-2, 3
    problem, theta, h, c, target = _quadratic(mu, omega)
    out = MultiStep(SGD(eta, mu, omega), windows * n, n)(problem, theta)

    eye, zero = torch.eye(3, dtype=F64), torch.zeros(3, 3, dtype=F64)
    a = torch.cat([torch.cat([(1 - eta * omega) * eye, -eta * mu * eye], 1), torch.cat([omega * eye, mu * eye], 1)])
    b = torch.cat([-eta * eye, eye])
    shared = sum(torch.linalg.matrix_power(a, i) for i in range(n)) @ b  # Σ Aⁱ [-η, 1]ᵀ
    multiplier = torch.cat([out.phi["x"] - target, torch.zeros(3, dtype=F64)])  # Λ_T = ∂L/∂s_{T+1}
    expected = torch.zeros(2, dtype=F64)
    for _ in range(windows):
        expected += multiplier @ shared @ c  # Eq. 13
        multiplier = multiplier @ (torch.linalg.matrix_power(a, n) + shared @ torch.cat([h, zero], 1))  # Eq. 12
    torch.testing.assert_close(out.grad["y"], expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_equals_eqs_14_and_15_for_plain_sgd(n):
    eta, windows = 0.1, 3
    problem, theta, h, c, target = _quadratic(0, 0)
    out = MultiStep(SGD(eta), windows * n, n)(problem, theta)
    multiplier, expected = out.phi["x"] - target, torch.zeros(2, dtype=F64)
    for _ in range(windows):
        expected += multiplier @ (-n * eta * c)  # Eq. 14
        multiplier = multiplier @ (torch.eye(3, dtype=F64) - n * eta * h)  # Eq. 15
    torch.testing.assert_close(out.grad["y"], expected, rtol=1e-11, atol=1e-13)
    wide = MultiStep(SGD(n * eta), windows, 1)(problem, theta)  # as the paper says: η' = nη, T' = K
    torch.testing.assert_close(out.grad["y"], wide.grad["y"], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("backward", ["autograd", "adjoint"])
@pytest.mark.parametrize(("steps", "window"), WINDOWS, ids=str)
def test_each_window_costs_as_many_gradients_and_products_as_stated(steps, window, backward):
    windows = partition(steps, window)
    first = [sum(windows[:k]) for k in range(len(windows))]  # the first step of each window
    expected = first if backward == "autograd" else first + first[-2::-1]  # the last one's graph is kept
    assert costs(MultiStep(SGD(0.1, 0.9), steps, window, backward)) == (expected, len(windows))


def test_theta_that_is_both_start_and_part_of_the_inner_loss():
    """Where init returns θ itself, the inner gradient must be the partial derivative by φ, not the total one."""
    problem = Bilevel(lambda theta: theta, lambda p, th, t: (p["x"] * th["x"]).sum(), lambda p, th: p["x"].sum())
    out = MultiStep(SGD(0.1), 1)(problem, {"x": torch.tensor([3.0], dtype=F64)})
    torch.testing.assert_close(out.phi["x"], torch.tensor([2.7], dtype=F64))  # x - 0.1 x, not x - 0.2 x
    torch.testing.assert_close(out.grad["x"], torch.tensor([0.9], dtype=F64))


def test_init_may_give_optimiser_buffers():
    problem, theta = maml()
    velocity = {name: torch.ones_like(value) for name, value in theta.items()}
    with_buffers = Bilevel(lambda th: State(th, {"velocity": velocity}), problem.inner, problem.outer)
    estimator = MultiStep(SGD(0.1, 0.9), 4, 2)
    assert estimator(with_buffers, theta).loss != estimator(problem, theta).loss
    differences = finite_differences(lambda moved: estimator(with_buffers, moved).loss, theta)
    assert relative_error(estimator(with_buffers, theta).grad, differences) < 1e-6


def test_unused_entries_get_zeros_and_theta_is_left_alone():
    problem, theta = maml()
    theta["spare"] = torch.ones(2, dtype=F64, requires_grad=True)
    out = MultiStep(SGD(0.1, 0.9), 4, 2)(problem, theta)
    assert torch.equal(out.grad["spare"], torch.zeros(2, dtype=F64))
    assert theta["spare"].grad is None and not any(value.requires_grad for value in out.phi.values())


def _problem(**changes):
    parts = {
        "init": lambda theta: theta,
        "inner": lambda phi, theta, t: phi["x"].square().sum(),
        "outer": lambda phi, theta: phi["x"].sum(),
    }
    return Bilevel(**(parts | changes))


@pytest.mark.parametrize("backward", ["autograd", "adjoint"])
@pytest.mark.parametrize(
    ("problem", "error", "message"),
    [
        (_problem(inner=lambda p, th, t: p["x"].square()), ConfigError, "inner loss at step 0 is not a 0-d tensor"),
        (
            _problem(inner=lambda p, th, t: 1.0),
            ConfigError,
            "inner loss at step 0 is not a 0-d tensor .* float: return the",
        ),
        (_problem(inner=lambda p, th, t: th["x"].sum()), ConfigError, "step 0 does not depend on phi"),
        (_problem(inner=lambda p, th, t: torch.tensor(1.0)), ConfigError, "step 0 does not depend on phi"),
        (_problem(outer=lambda p, th: p["x"]), ConfigError, "outer loss is not a 0-d tensor"),
        (_problem(outer=lambda p, th: torch.tensor(1.0)), ConfigError, "outer loss does not depend on theta"),
        (
            _problem(inner=lambda p, th, t: p["x"].sum() * (math.nan if t == 2 else 1)),
            DivergedError,
            "inner loss is nan at step 2",
        ),
        (_problem(outer=lambda p, th: p["x"].sum() * math.inf), DivergedError, "outer loss is inf"),
    ],
)
def test_mistakes_end_in_one_clear_line(problem, error, message, backward):
    with pytest.raises(error, match=message) as caught:
        MultiStep(SGD(0.1), 4, 2, backward)(problem, {"x": torch.ones(2, dtype=F64)})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("steps", "window", "message"),
    [
        (8, 3, "does not divide"),
        (8, 0, "does not divide"),
        (8, (), "no partition"),
        (8, (4, 2), "no partition"),
        (3, (4, -1), "no partition"),
        (0, 1, "at least one"),
    ],
)
def test_impossible_windows_are_refused(steps, window, message):
    with pytest.raises(ConfigError, match=message):
        MultiStep(SGD(0.1), steps, window)


def test_an_unknown_backward_is_refused():
    with pytest.raises(ConfigError, match="backward='forward' is unknown: choose autograd or adjoint"):
        MultiStep(SGD(0.1), 4, 2, "forward")
