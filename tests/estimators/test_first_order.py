"""First-order MAML by its definition, Eq. 16."""

import pytest
import torch
from problems import DYNAMICS, maml, meta_network, relative_error, unrolled

from msmeta import SGD, Bilevel, ConfigError, DivergedError, FirstOrder, MultiStep


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_is_the_outer_gradient_at_the_adapted_parameters(dynamics):
    (inner, rule), (problem, theta) = DYNAMICS[dynamics], maml()
    out = FirstOrder(inner, 8)(problem, theta)
    loss, _ = unrolled(problem, theta, rule, (1,) * 8)
    torch.testing.assert_close(out.loss, loss, rtol=1e-12, atol=0)  # same trajectory as the exact method
    phi = {name: value.clone().requires_grad_() for name, value in out.phi.items()}
    grads = torch.autograd.grad(problem.outer(phi, theta), list(phi.values()))
    assert relative_error(out.grad, dict(zip(phi, grads, strict=True))) < 1e-12


def test_carries_the_gradient_through_init_and_adds_the_direct_part():
    """φ₁ = (2θ, 2θ) for two tasks: each task's gradient comes back doubled; the outer loss also reads θ."""
    problem = Bilevel(
        init=lambda theta: {"x": (2 * theta["x"]).expand(2, 3)},
        inner=lambda phi, theta, t: phi["x"].square().sum(),
        outer=lambda phi, theta: phi["x"].pow(3).sum() / 3 + 5 * theta["x"].sum(),
        tasks=2,
    )
    out = FirstOrder(SGD(0.1), 2)(problem, {"x": torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)})
    torch.testing.assert_close(out.grad["x"], 2 * 2 * out.phi["x"][0].square() + 5)


def test_is_refused_for_a_meta_network_and_says_why():
    problem, theta = meta_network()
    with pytest.raises(ConfigError, match="initialises phi.*MultiStep"):
        FirstOrder(SGD(0.1), 4)(problem, theta)
    assert any(value.abs().max() > 0 for value in MultiStep(SGD(0.1), 4, 2)(problem, theta).grad.values())


def test_mistakes_end_in_one_clear_line():
    theta = {"x": torch.ones(2)}
    constant = Bilevel(lambda th: th, lambda p, th, t: p["x"].sum(), lambda p, th: torch.tensor(1.0))
    with pytest.raises(ConfigError, match="outer loss does not depend on theta"):
        FirstOrder(SGD(0.1), 2)(constant, theta)
    diverging = Bilevel(lambda th: th, lambda p, th, t: p["x"].sum() / (t - 1), lambda p, th: p["x"].sum())
    with pytest.raises(DivergedError, match="inf at step 1"):
        FirstOrder(SGD(0.1), 3)(diverging, theta)
