"""Lazy Hessians against dense Jacobians in float64."""

import pytest
import torch
from problems import DYNAMICS, F64, MEMORIES, costs, jacobians, maml, meta_network, relative_error

from msmeta import SGD, Bilevel, ConfigError, LazyHessian, MultiStep
from msmeta.dynamics import partition


@pytest.mark.parametrize("window", [2, 6, (1, 2, 3)])
@pytest.mark.parametrize("make", [maml, meta_network])
@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_equals_dense_products_with_the_first_steps_derivatives(dynamics, make, window):
    (inner, rule), (problem, theta) = DYNAMICS[dynamics], make()
    steps, multiplier, start = jacobians(problem, theta, rule, 6, MEMORIES[dynamics])
    expected, t = 0, 6
    for n in reversed(partition(6, window)):
        weights = 0
        for by_state, by_grad, _, _ in reversed(steps[t - n : t]):
            weights = weights + multiplier @ by_grad
            multiplier = multiplier @ by_state
        t -= n
        expected = expected + weights @ steps[t][3]
        multiplier = multiplier + weights @ steps[t][2]
    expected = expected + multiplier @ start
    out, exact = LazyHessian(inner, 6, window)(problem, theta), MultiStep(inner, 6)(problem, theta)
    torch.testing.assert_close(
        torch.cat([value.flatten() for value in out.grad.values()]), expected, rtol=1e-9, atol=1e-12
    )
    assert torch.equal(out.loss, exact.loss) and all(torch.equal(out.phi[k], exact.phi[k]) for k in exact.phi)


@pytest.mark.parametrize("make", [maml, meta_network])
@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_windows_of_one_step_are_exact(dynamics, make):
    inner, (problem, theta) = DYNAMICS[dynamics][0], make()
    assert relative_error(LazyHessian(inner, 5)(problem, theta).grad, MultiStep(inner, 5)(problem, theta).grad) < 1e-12


@pytest.mark.parametrize("window", [2, (1, 2, 3)])
def test_with_one_hessian_everywhere_it_is_the_jacobian_of_windows(window):
    """On a bowl with a linear outer loss nothing but the trajectory differs, which then makes no difference."""
    h = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=F64)
    problem = Bilevel(lambda th: th, lambda p, th, t: p["x"] @ h @ p["x"] / 2, lambda p, th: p["x"].sum())
    found, windows = (
        kind(SGD(0.1, 0.9, 1e-2), 6, window)(problem, {"x": torch.tensor([1.0, -1.0], dtype=F64)})
        for kind in (LazyHessian, MultiStep)
    )
    assert relative_error(found.grad, windows.grad) < 1e-12 and (found.phi["x"] - windows.phi["x"]).abs().max() > 0.01


@pytest.mark.parametrize(("window", "products"), [(1, 4), (2, 2), (4, 1), ((1, 3), 2)])
def test_costs_a_gradient_a_step_and_a_product_a_window(window, products):
    assert costs(LazyHessian(SGD(0.1, 0.9), 4, window)) == ([0, 1, 2, 3], products)


def test_what_acts_in_other_steps_losses_alone_is_refused_by_name():
    """Where a window begins at that step, or where it acts in the dynamics, it is learned."""
    problem, start = maml()
    theta = {**start, "c": torch.tensor(0.2, dtype=F64)}

    def inner(phi, th, t):
        return problem.inner(phi, th, t) + (th["c"] * phi["w1"].square().sum() if t == 3 else 0)

    apart = Bilevel(lambda th: {k: th[k] for k in start}, inner, problem.outer)
    with pytest.raises(ConfigError, match=r"LazyHessian has no gradient for theta\['c'\].*step 3 but not at step 2"):
        LazyHessian(SGD(0.1), 4, 2)(apart, theta)
    assert LazyHessian(SGD(0.1), 4, (3, 1))(apart, theta).grad["c"] != 0
    rates = Bilevel(apart.init, problem.inner, problem.outer)
    learned = lambda th, t: SGD(th["c"] if t == 3 else 0.1)  # noqa: E731
    lazy, exact = LazyHessian(learned, 4, 2)(rates, theta).grad, MultiStep(learned, 4)(rates, theta).grad
    torch.testing.assert_close(lazy["c"], exact["c"])  # the last step's rate: no Hessian comes after it


def test_the_first_window_begins_where_init_ends():
    """The inner loss reads θ, which also starts φ, in each of its steps."""
    problem, theta = maml()
    pulled = Bilevel(
        problem.init, lambda p, th, t: problem.inner(p, th, t) + (p["w1"] - th["w1"]).square().sum(), problem.outer
    )
    exact = MultiStep(SGD(0.01), 4)(pulled, theta).grad
    assert relative_error(LazyHessian(SGD(0.01), 4, 2)(pulled, theta).grad, exact) < 0.05
