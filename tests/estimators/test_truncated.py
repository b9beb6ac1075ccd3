"""Truncated back-propagation against dense Jacobians in float64."""

import pytest
import torch
from problems import DYNAMICS, F64, MEMORIES, costs, jacobians, maml, meta_network, relative_error

from msmeta import SGD, Adam, Bilevel, ConfigError, FirstOrder, MultiStep, State, Truncated


def _flat(grad):
    return torch.cat([value.flatten() for value in grad.values()])


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("make", [maml, meta_network])
@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_equals_the_last_terms_of_dense_products(dynamics, make, depth):
    """The multiplier of φ, and not the memory's, goes on from the first step that is kept to φ₁."""
    (inner, rule), (problem, theta) = DYNAMICS[dynamics], make()
    steps, multiplier, start = jacobians(problem, theta, rule, 5, MEMORIES[dynamics])
    expected, size = 0, len(multiplier) // (1 + MEMORIES[dynamics])
    for by_state, by_grad, by_phi, by_theta in steps[: 4 - depth : -1] if depth < 5 else steps[::-1]:
        expected = expected + multiplier @ by_grad @ by_theta
        multiplier = multiplier @ (by_state + by_grad @ by_phi)
    expected = expected + multiplier[:size] @ start[:size]
    out = Truncated(inner, 5, depth)(problem, theta)
    torch.testing.assert_close(_flat(out.grad), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_at_its_limits_it_is_first_order_and_exact(dynamics):
    inner, (problem, theta) = DYNAMICS[dynamics][0], maml()
    exact, none, all_ = MultiStep(inner, 4)(problem, theta), Truncated(inner, 4, 0), Truncated(inner, 4, 4)
    first = FirstOrder(inner, 4)(problem, theta)
    assert relative_error(none(problem, theta).grad, first.grad) < 1e-12 < relative_error(first.grad, exact.grad)
    found = all_(problem, theta)
    assert relative_error(found.grad, exact.grad) < 1e-12
    assert torch.equal(found.loss, exact.loss) and all(torch.equal(found.phi[k], exact.phi[k]) for k in exact.phi)
    network, weights = meta_network()
    assert relative_error(all_(network, weights).grad, MultiStep(inner, 4)(network, weights).grad) < 1e-12


@pytest.mark.parametrize("depth", [0, 1, 2, 4])
def test_costs_a_gradient_a_step_and_a_product_for_each_that_is_kept(depth):
    assert costs(Truncated(SGD(0.1, 0.9), 4, depth)) == ([0, 1, 2, 3], depth)


def _refused(estimator, problem, theta, match):
    with pytest.raises(ConfigError, match=match) as caught:
        estimator(problem, theta)
    assert "\n" not in str(caught.value)


def test_what_acts_in_the_earlier_losses_alone_is_refused_by_name():
    """Unless it starts φ as well, as FirstOrder has it; in depth enough it is learned."""
    problem, start = maml()

    def inner(phi, theta, t):
        own = problem.inner(phi, theta, t)
        return own + theta["c"] * phi["w1"].square().sum() if t < 2 else own

    theta = {**start, "c": torch.tensor(0.2, dtype=F64)}
    apart = Bilevel(lambda th: {k: th[k] for k in start}, inner, problem.outer)
    _refused(Truncated(SGD(0.1), 4, 2), apart, theta, r"Truncated has no gradient for theta\['c'\].*before the last 2")
    assert Truncated(SGD(0.1), 4, 3)(apart, theta).grad["c"] != 0
    starting = Bilevel(lambda th: {**apart.init(th), "w1": th["w1"] * th["c"]}, inner, problem.outer)
    assert Truncated(SGD(0.1), 4, 2)(starting, theta).grad["c"] != 0


def test_a_meta_network_needs_a_step_that_is_kept():
    problem, theta = meta_network()
    _refused(
        Truncated(SGD(0.1), 4, 0), problem, theta, r"no gradient for theta\['decay'\].*the last 0 steps alone: raise"
    )


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_a_learned_rate_acts_in_all_steps(depth):
    """On a bowl of curvature h it acts by -h x_t at step t; what follows is multiplied in the last `depth` steps."""
    h, eta, steps = 0.5, 0.1, 3
    problem = Bilevel(
        lambda th: {"x": th["x"]}, lambda p, th, t: h * p["x"].square().sum() / 2, lambda p, th: p["x"].sum()
    )
    theta = {"x": torch.ones(1, dtype=F64), "rate": torch.tensor(eta, dtype=F64)}
    found = Truncated(lambda th, t: SGD(th["rate"]), steps, depth)(problem, theta).grad
    shrink = 1 - eta * h
    expected = sum(-h * shrink**t * shrink ** min(depth, steps - 1 - t) for t in range(steps))
    assert found["rate"].item() == pytest.approx(expected, rel=1e-12)
    assert found["x"].item() == pytest.approx(shrink**depth, rel=1e-12)


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize(
    ("dynamics", "buffers"), [(SGD(0.1, 0.9), ("velocity",)), (Adam(0.02, eps=1e-2), ("mean", "square"))]
)
def test_a_learned_initial_optimiser_state_acts_through_all_steps(dynamics, buffers, depth):
    """At the limits as first-order and exact; between, what the earlier steps make of it reaches the cut."""
    problem, start = maml()
    theta = {**start, "buffer": torch.tensor(0.3, dtype=F64)}

    def init(th):
        phi = {name: th[name] for name in start}
        filled = {name: th["buffer"].square() * torch.ones_like(value) for name, value in phi.items()}
        return State(phi, dict.fromkeys(buffers, filled), step=2)

    learned = Bilevel(init, problem.inner, problem.outer)
    found, exact = Truncated(dynamics, 3, depth)(learned, theta).grad, MultiStep(dynamics, 3)(learned, theta).grad
    if depth == 1:
        assert 1e-6 < (found["buffer"] / exact["buffer"] - 1).abs() < 0.5
    else:
        expected = exact if depth == 3 else FirstOrder(dynamics, 3)(learned, theta).grad
        assert relative_error(found, expected) < 1e-12 and exact["buffer"] != 0


def test_losses_may_read_what_init_made_of_theta():
    problem, theta = maml()
    kept = {}

    def init(th):
        kept["features"] = th["w2"].exp()
        return th

    def inner(phi, th, t):
        return (phi["w2"] - kept["features"]).square().sum()

    reading = Bilevel(init, inner, lambda p, th: problem.outer(p, th) + kept["features"].sum())
    exact = MultiStep(SGD(0.1), 3)(reading, theta).grad
    assert relative_error(Truncated(SGD(0.1), 3, 3)(reading, theta).grad, exact) < 1e-12
