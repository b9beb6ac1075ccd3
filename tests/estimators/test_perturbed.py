"""FO-B-MAML against closed forms, dense solves and long back-propagation in float64."""

import pytest
import torch
from problems import F64, maml, meta_network, relative_error, tasks_of

from msmeta import SGD, Bilevel, ConfigError, DivergedError, Implicit, MultiStep, Perturbed


@pytest.mark.parametrize("proximal", [0.5, 2.0])
def test_equals_the_closed_form_of_a_bowl(proximal):
    """There differences have no error: ∂L/∂θ = λ(H + λI)⁻¹(φ* - b), and a direct part."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(5, 5, dtype=F64, generator=generator)
    a, b, x = torch.randn(3, 5, dtype=F64, generator=generator)
    h = root @ root.T / 5 + proximal * torch.eye(5, dtype=F64)
    problem = Bilevel(
        lambda th: th,
        lambda p, th, t: (p["x"] - a) @ (root @ root.T / 5) @ (p["x"] - a) / 2,
        lambda p, th: (p["x"] - b).square().sum() / 2 + 3 * th["x"].sum(),
    )
    out = Perturbed(SGD(0.25), 240, proximal)(problem, {"x": x})
    stationary = torch.linalg.solve(h, (root @ root.T / 5) @ a + proximal * x)
    torch.testing.assert_close(out.phi["x"], stationary, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        out.grad["x"], proximal * torch.linalg.solve(h, stationary - b) + 3, rtol=1e-8, atol=1e-10
    )


@pytest.mark.parametrize("make", [maml, meta_network])
def test_the_error_falls_with_the_square_of_the_strength(make):
    """To exact back-propagation through very many steps, also of a meta-network."""
    problem, theta = make()
    first, inner = problem.init(theta) if make is meta_network else None, SGD(0.1, 0.5, 0.01)
    steady = Bilevel(problem.init, lambda phi, th, t: problem.inner(phi, th, 0), problem.outer)

    def pulled(phi, th, t):
        return problem.inner(phi, th, 0) + sum((phi[k] - (first or th)[k]).square().sum() for k in phi)

    exact = MultiStep(inner, 200, backward="adjoint")(Bilevel(problem.init, pulled, problem.outer), theta).grad
    errors = [relative_error(Perturbed(inner, 200, 2.0, s)(steady, theta).grad, exact) for s in (0.1, 0.05, 0.025)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1) and errors[1] / errors[2] == pytest.approx(4, rel=0.1)
    assert errors[2] < 1e-3


@pytest.mark.parametrize("steps", [1, 4])
def test_away_from_the_stationary_point_it_is_how_the_end_moves(steps):
    """λ times the derivative of φ_{T+1} by -ν, here by automatic differentiation through the steps."""
    problem, theta = maml()
    out = Perturbed(SGD(0.1), steps, 3.0, 1e-4)(problem, theta)
    leaf = {k: v.clone().requires_grad_() for k, v in out.phi.items()}
    slope = dict(zip(leaf, torch.autograd.grad(problem.outer(leaf, theta), list(leaf.values())), strict=True))

    def end(nu):
        phi = {k: v.clone().requires_grad_() for k, v in theta.items()}
        for t in range(steps):
            loss = problem.inner(phi, theta, t) + 1.5 * sum((phi[k] - theta[k]).square().sum() for k in phi)
            loss = loss + nu * sum((phi[k] * slope[k]).sum() for k in phi)
            grads = torch.autograd.grad(loss, list(phi.values()), create_graph=True)
            phi = {k: phi[k] - 0.1 * g for k, g in zip(phi, grads, strict=True)}
        return tuple(phi.values())

    by_nu = torch.autograd.functional.jacobian(end, torch.tensor(0.0, dtype=F64))
    assert relative_error(out.grad, {k: -3.0 * d for k, d in zip(theta, by_nu, strict=True)}) < 1e-7


def test_tasks_in_a_batch_are_as_if_alone_and_as_implicit_has_them():
    batch, single, theta = tasks_of(3)
    together = Perturbed(SGD(0.1), 200, 2.0, 1e-4)(batch, theta).grad
    alone = [Perturbed(SGD(0.1), 200, 2.0, 1e-4)(one, theta).grad for one in single]
    assert relative_error(together, {k: sum(grad[k] for grad in alone) / 3 for k in theta}) < 1e-7
    implicit = Implicit(SGD(0.1), 200, 2.0, cg_steps=30, tolerance=1e-12)(batch, theta).grad
    assert relative_error(together, implicit) < 1e-6


def test_what_has_no_effect_at_a_stationary_point_is_refused_by_name():
    problem, start = maml()
    theta = {**start, "c": torch.tensor(0.1, dtype=F64)}
    apart = Bilevel(lambda th: {k: th[k] for k in start}, problem.inner, problem.outer)
    early = Bilevel(
        apart.init, lambda p, th, t: problem.inner(p, th, t) + (th["c"] * p["w1"].sum() if t == 0 else 0), problem.outer
    )
    for dynamics, wrong in ((lambda th, t: SGD(th["c"]), apart), (SGD(0.1), early)):
        with pytest.raises(ConfigError, match=r"Perturbed has no gradient for theta\['c'\].*use MultiStep") as caught:
            Perturbed(dynamics, 3)(wrong, theta)
        assert "\n" not in str(caught.value)
    with pytest.raises(DivergedError, match="inner loss is (inf|nan) at step"):
        Perturbed(SGD(1e200), 4)(problem, start)
    for settings in ({"proximal": 0.0}, {"strength": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            Perturbed(SGD(0.1), 4, **settings)
