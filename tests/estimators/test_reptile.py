"""Reptile by its definition, Eq. 17."""

import pytest
import torch
from problems import DYNAMICS, F64, maml, meta_network, relative_error, unrolled

from msmeta import SGD, Bilevel, ConfigError, DivergedError, Reptile


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_is_the_way_back_from_the_adapted_parameters(dynamics):
    (inner, rule), (problem, theta) = DYNAMICS[dynamics], maml()
    adapted = []
    spied = Bilevel(problem.init, problem.inner, lambda p, th: adapted.append(p) or problem.outer(p, th))
    loss, _ = unrolled(spied, theta, rule, (1,) * 8)
    out = Reptile(inner, 8)(problem, theta)
    torch.testing.assert_close(out.loss, loss, rtol=1e-12, atol=0)
    assert relative_error(out.grad, {name: theta[name] - adapted[0][name].detach() for name in theta}) < 1e-12


def test_is_the_mean_over_a_batch_of_tasks():
    targets = torch.tensor([[1.0, 0.0], [3.0, -2.0], [0.0, 4.0]], dtype=F64)
    problem = Bilevel(
        init=lambda th: {"x": th["x"].expand(3, 2)},
        inner=lambda p, th, t: (p["x"] - targets).square().sum() / 2,
        outer=lambda p, th: (p["x"] - targets).square().mean(),
        tasks=3,
    )
    theta = {"x": torch.tensor([0.5, 0.5], dtype=F64)}
    out = Reptile(SGD(0.25), 2)(problem, theta)
    moved = (1 - 0.75**2) * (targets - theta["x"])  # what two steps on a bowl cover
    torch.testing.assert_close(out.grad["x"], -moved.mean(0))


@pytest.mark.parametrize(
    "init", [lambda th: {"x": 2 * th["x"]}, lambda th: {"y": th["x"]}, lambda th: {"x": th["x"][:1]}]
)
def test_is_refused_where_phi_does_not_start_at_theta(init):
    problem = Bilevel(init, lambda p, th, t: sum(v.square().sum() for v in p.values()), lambda p, th: th["x"].sum())
    with pytest.raises(ConfigError, match="subtracts the adapted phi from theta.*use MultiStep"):
        Reptile(SGD(0.1), 2)(problem, {"x": torch.ones(2, dtype=F64)})


def test_a_theta_that_is_not_a_number_is_told_so():
    """It starts φ all the same."""
    problem = Bilevel(lambda th: th, lambda p, th, t: p["x"].square().sum(), lambda p, th: p["x"].sum())
    with pytest.raises(DivergedError, match="inner loss is nan at step 0: .*look at theta"):
        Reptile(SGD(0.1), 2)(problem, {"x": torch.tensor([1.0, torch.nan], dtype=F64)})


def test_is_refused_for_a_meta_network():
    with pytest.raises(ConfigError, match="meta-network"):
        Reptile(SGD(0.1), 4)(*meta_network())
