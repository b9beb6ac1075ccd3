"""The estimators without second derivatives: order of convergence, and freedom from bias with a stated confidence."""

import pytest
import torch
from problems import DYNAMICS, F64, maml, meta_network, relative_error

from msmeta import (
    SGD,
    Bilevel,
    ConfigError,
    EvolutionStrategies,
    FiniteDifference,
    GaussianSmoothing,
    Implicit,
    MultiStep,
    Perturbed,
)

# Two-sided: a standard normal number is beyond it with probability 7e-6, so one of a dozen coordinates with 8e-5.
# The generators are seeded: a test that passes goes on passing.
Z = 4.5


@pytest.mark.parametrize("make", [maml, meta_network])
@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_finite_differences_converge_with_the_square_of_the_radius(dynamics, make):
    inner, (problem, theta) = DYNAMICS[dynamics][0], make()
    exact = MultiStep(inner, 4)(problem, theta)
    errors = [
        relative_error(FiniteDifference(inner, 4, r)(problem, theta).grad, exact.grad) for r in (4e-2, 2e-2, 1e-2)
    ]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05) and errors[1] / errors[2] == pytest.approx(4, rel=0.05)
    best = FiniteDifference(inner, 4, 1e-5)(problem, theta)
    assert relative_error(best.grad, exact.grad) < 1e-8
    assert torch.equal(best.loss, exact.loss) and all(torch.equal(best.phi[k], exact.phi[k]) for k in exact.phi)


def _bowl():
    """A bowl whose outer loss, too, is quadratic in φ, hence in θ."""
    generator = torch.Generator().manual_seed(7)
    root = torch.randn(4, 4, dtype=F64, generator=generator)
    a, b, x = torch.randn(3, 4, dtype=F64, generator=generator)
    h = root @ root.T / 4
    problem = Bilevel(
        init=lambda th: th,
        inner=lambda p, th, t: (p["x"] - a) @ h @ (p["x"] - a) / 2,
        outer=lambda p, th: (p["x"] - b).square().sum() / 2,
    )
    return problem, {"x": x}


def _weighted_bowl():
    """A meta-network in small: θ enters by the inner loss φᵀCθ alone."""
    problem, theta = _bowl()
    c = torch.randn(4, 3, dtype=F64, generator=torch.Generator().manual_seed(8))
    phi = theta
    mixed = Bilevel(
        init=lambda th: phi, inner=lambda p, th, t: problem.inner(p, th, t) + p["x"] @ c @ th["y"], outer=problem.outer
    )
    return mixed, {"y": torch.ones(3, dtype=F64)}


@pytest.mark.parametrize("estimator", [EvolutionStrategies, GaussianSmoothing])
@pytest.mark.parametrize("make", [_bowl, _weighted_bowl])
def test_random_directions_have_no_bias_on_a_bowl(estimator, make):
    problem, theta = make()
    inner, runs = SGD(0.2, 0.5, 1e-2), 500
    exact = MultiStep(inner, 2)(problem, theta).grad
    (name,) = theta
    generator = torch.Generator().manual_seed(0)
    method = estimator(inner, 2, samples=2, generator=generator)
    found = torch.stack([method(problem, theta).grad[name] for _ in range(runs)])
    error, bound = (found.mean(0) - exact[name]).abs(), Z * found.std(0) / runs**0.5
    assert (error <= bound).all()
    assert bound.max() < 0.4 * exact[name].abs().max()  # the bound is no empty one
    assert (found.std(0) > 0).all()


def test_the_variance_of_evolution_strategies_is_that_of_their_definition():
    """On a linear F with gradient a, the estimate is (a·ε)ε: variance |a|² + aᵢ², over the samples."""
    a = torch.tensor([1.0, -2.0, 0.5], dtype=F64)
    problem = Bilevel(lambda th: th, lambda p, th, t: p["x"].sum(), lambda p, th: a @ p["x"])
    method = EvolutionStrategies(SGD(0.1), 1, samples=2, generator=torch.Generator().manual_seed(1))
    found = torch.stack([method(problem, {"x": torch.ones(3, dtype=F64)}).grad["x"] for _ in range(2000)])
    # The relative error of a variance from 2000 draws with kurtosis < 12 is below sqrt(11 / 2000) = 7 %.
    torch.testing.assert_close(found.var(0), (a @ a + a**2) / 2, rtol=0.2, atol=0)


def test_smoothing_uses_the_curvature_of_each_task_alone():
    """Two tasks of very different scale in one batch: the small one's estimate has no noise of the large one's."""
    scale = torch.tensor([[1.0], [1e4]], dtype=F64)
    problem = Bilevel(
        init=lambda th: {"x": th["x"].expand(2, 3)},
        inner=lambda p, th, t: (1e-4 * scale * p["x"].square()).sum() / 2,
        outer=lambda p, th: (scale * p["x"]).sum(),
        tasks=2,
    )
    first = Bilevel(lambda th: th, lambda p, th, t: 1e-4 * p["x"].square().sum() / 2, lambda p, th: p["x"].sum())
    theta = {"x": torch.ones(3, dtype=F64)}
    spied = []
    batch = Bilevel(lambda th: {"x": th["x"].expand(2, 3).clone().requires_grad_()}, problem.inner, problem.outer)

    def init(th):
        state = batch.init(th)
        state["x"].register_hook(lambda multiplier: spied.append(multiplier))
        return state

    generator = torch.Generator().manual_seed(2)
    GaussianSmoothing(SGD(0.1), 2, generator=generator)(Bilevel(init, problem.inner, problem.outer, tasks=2), theta)
    alone = MultiStep(SGD(0.1), 2)(first, theta).grad["x"]
    torch.testing.assert_close(spied[0][0], alone, rtol=1e-3, atol=0)


@pytest.mark.parametrize("estimator", [EvolutionStrategies, GaussianSmoothing])
def test_directions_come_from_the_generator_and_are_drawn_anew(estimator):
    problem, theta = maml()
    first, second = (estimator(SGD(0.1), 2, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    one, other = first(problem, theta).grad, second(problem, theta).grad
    assert all(torch.equal(one[name], other[name]) for name in theta)
    assert any(not torch.equal(one[name], value) for name, value in first(problem, theta).grad.items())


@pytest.mark.parametrize(
    ("estimator", "settings"),
    [
        (EvolutionStrategies, {"samples": 0}),
        (EvolutionStrategies, {"deviation": 0.0}),
        (GaussianSmoothing, {"samples": 0}),
        (GaussianSmoothing, {"deviation": -1.0}),
        (FiniteDifference, {"radius": 0.0}),
        (FiniteDifference, {"radius": torch.tensor(0.1, requires_grad=True)}),  # whose graph the result would have
        (GaussianSmoothing, {"deviation": torch.tensor(0.1)}),
        (Perturbed, {"strength": torch.tensor(0.1)}),
        (Implicit, {"proximal": torch.tensor(1.0, requires_grad=True)}),
        (Implicit, {"damping": torch.tensor(0.1)}),
        (Implicit, {"tolerance": torch.tensor(0.1)}),
    ],
)
def test_impossible_settings_are_refused(estimator, settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        estimator(SGD(0.1), 4, **settings)
