"""The binomial estimator against all its terms one by one, from dense Jacobians in float64."""

from itertools import combinations

import pytest
import torch
from problems import DYNAMICS, F64, MEMORIES, costs, jacobians, maml, meta_network, relative_error

from msmeta import SGD, Bilevel, Binomial, ConfigError, FirstOrder, MultiStep


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize("make", [maml, meta_network])
@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_equals_the_sum_of_its_terms(dynamics, make, depth):
    """A term takes ∂g of some steps and what acts past the gradient of the others; in (s, θ), where θ' = θ."""
    (inner, rule), (problem, theta) = DYNAMICS[dynamics], make()
    steps, multiplier, start = jacobians(problem, theta, rule, 5, MEMORIES[dynamics])
    size, width = start.shape
    row, total = torch.cat([multiplier, torch.zeros(width, dtype=F64)]), 0
    for count in range(depth + 1):
        for chosen in combinations(range(5), count):
            term = row
            for t in reversed(range(5)):
                by_state, by_grad, by_phi, by_theta = steps[t]
                if t in chosen:
                    factor = torch.cat([by_grad @ by_phi, by_grad @ by_theta], 1)
                    factor = torch.cat([factor, torch.zeros(width, size + width, dtype=F64)])
                else:
                    factor = torch.block_diag(by_state, torch.eye(width, dtype=F64))
                term = term @ factor
            total = total + term
    expected = total @ torch.cat([start, torch.eye(width, dtype=F64)])
    found = torch.cat([value.flatten() for value in Binomial(inner, 5, depth)(problem, theta).grad.values()])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_equals_the_published_formula_for_plain_sgd():
    """I + Σ_{l <= 2} Σ products of -ηH over increasing steps, times the outer gradient."""
    problem, theta = maml()
    steps, outer, _ = jacobians(problem, theta, DYNAMICS["sgd"][1], 4, 1)
    size = len(outer) // 2
    hessians, g = [by_phi[:, :size] for _, _, by_phi, _ in steps], outer[:size]
    expected = g - 0.1 * sum(h @ g for h in hessians)
    expected = expected + 0.01 * sum(hessians[i] @ hessians[j] @ g for i, j in combinations(range(4), 2))
    found = torch.cat([value.flatten() for value in Binomial(SGD(0.1), 4, 2)(problem, theta).grad.values()])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_at_its_limits_it_is_first_order_and_exact(dynamics):
    inner, (problem, theta) = DYNAMICS[dynamics][0], maml()
    first = FirstOrder(inner, 4)(problem, theta).grad
    assert relative_error(Binomial(inner, 4, 0)(problem, theta).grad, first) == 0
    for other, at in (maml(), meta_network()):
        exact = MultiStep(inner, 4)(other, at)
        found = Binomial(inner, 4, 4)(other, at)
        assert relative_error(found.grad, exact.grad) < 1e-10 and torch.equal(found.loss, exact.loss)
    with pytest.raises(ConfigError, match="acts in the inner loss without starting phi"):
        Binomial(inner, 4, 0)(*meta_network())


@pytest.mark.parametrize("depth", [1, 2, 3, 7, 8])
def test_costs_as_many_products_as_published(depth):
    seen, products = costs(Binomial(SGD(0.1, 0.9), 8, depth))
    assert products == depth * (8 - depth + 1) and seen == [*range(8), *reversed(range(7))]


def test_many_steps_are_recomputed_from_a_few_states():
    """Of 20 steps every 5th state is kept; the binomial series of a number ends where its terms do."""
    h, eta = 0.3, 0.1
    problem = Bilevel(lambda th: th, lambda p, th, t: h * p["x"].square().sum() / 2, lambda p, th: p["x"].sum())
    found = Binomial(SGD(eta), 20, 2)(problem, {"x": torch.ones(1, dtype=F64)}).grad["x"]
    assert found.item() == pytest.approx(1 - 20 * eta * h + 190 * (eta * h) ** 2, rel=1e-12)


def test_a_learned_rate_costs_no_order():
    """Its derivative at depth 1 is that of the carried multipliers with at most one Hessian each."""
    h, rate = 0.5, torch.tensor(0.1, dtype=F64)
    problem = Bilevel(
        lambda th: {"x": th["x"]}, lambda p, th, t: h * p["x"].square().sum() / 2, lambda p, th: p["x"].sum()
    )
    theta = {"x": torch.ones(1, dtype=F64), "rate": rate}
    found = Binomial(lambda th, t: SGD(th["rate"]), 3, 1)(problem, theta).grad
    # x₁, x₂, x₃ = 1, 1 - ηh, (1 - ηh)²: the rate acts by -h x_t, and 2, 1 and 0 steps follow.
    shrink = 1 - 0.1 * h
    expected = -h * sum(shrink**t * (1 - 0.1 * h * (2 - t)) for t in range(3))
    assert found["rate"].item() == pytest.approx(expected, rel=1e-12)
    assert found["x"].item() == pytest.approx(1 - 3 * 0.1 * h, rel=1e-12)
