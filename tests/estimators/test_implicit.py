"""Implicit MAML against closed forms and dense solves in float64."""

from dataclasses import dataclass

import pytest
import torch
from problems import F64, maml, meta_network, relative_error, tasks_of

from msmeta import SGD, Adam, AdamW, Bilevel, ConfigError, Implicit, MultiStep, RMSprop, State, clipped, transformed
from msmeta.estimators.implicit import conjugate_gradients


def _bowl(size=5, seed=0):
    """L(φ) = ½(φ - a)ᵀH(φ - a), outer ½|φ - b|²."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, dtype=F64, generator=generator)
    a, b, x = torch.randn(3, size, dtype=F64, generator=generator)
    h = root @ root.T / size + 0.1 * torch.eye(size, dtype=F64)
    problem = Bilevel(
        init=lambda th: th,
        inner=lambda p, th, t: (p["x"] - a) @ h @ (p["x"] - a) / 2,
        outer=lambda p, th: (p["x"] - b).square().sum() / 2,
    )
    return problem, {"x": x}, h, a, b


@pytest.mark.parametrize("proximal", [0.5, 2.0])
def test_equals_the_closed_form_of_a_bowl(proximal):
    """φ* = (H + λI)⁻¹(Ha + λθ), so ∂L/∂θ = λ(H + λI)⁻¹(φ* - b)."""
    problem, theta, h, a, b = _bowl()
    out = Implicit(SGD(0.1), 2000, proximal, cg_steps=5, tolerance=1e-13)(problem, theta)
    regularised = h + proximal * torch.eye(5, dtype=F64)
    stationary = torch.linalg.solve(regularised, h @ a + proximal * theta["x"])
    torch.testing.assert_close(out.phi["x"], stationary, rtol=1e-10, atol=1e-12)
    expected = proximal * torch.linalg.solve(regularised, stationary - b)
    torch.testing.assert_close(out.grad["x"], expected, rtol=1e-9, atol=1e-11)
    assert out.info["cg_iterations"] == 5 and out.info["residual"] < 1e-10 and out.info["indefinite_tasks"] == 0


def test_weight_decay_belongs_to_the_inner_problem():
    """At the stationary point exact back-propagation through very many steps is the same gradient."""
    problem, theta, *_ = _bowl()
    inner = SGD(0.1, 0.5, weight_decay=0.3)
    implicit = Implicit(inner, 500, 2.0, cg_steps=10, tolerance=1e-14)(problem, theta)
    pulled = Bilevel(
        problem.init, lambda p, th, t: problem.inner(p, th, t) + (p["x"] - th["x"]).square().sum(), problem.outer
    )
    assert relative_error(implicit.grad, MultiStep(inner, 500)(pulled, theta).grad) < 1e-9


@pytest.mark.parametrize(("steps", "damping"), [(1, 0.0), (4, 0.0), (4, 5.0)])
def test_equals_a_dense_solve_away_from_the_stationary_point(steps, damping):
    problem, theta = maml()
    out = Implicit(SGD(0.1), steps, proximal=3.0, cg_steps=60, tolerance=1e-13, damping=damping)(problem, theta)
    names, sizes = list(theta), [value.numel() for value in theta.values()]

    def loss(flat, which):
        parts = [part.view(theta[name].shape) for name, part in zip(names, flat.split(sizes), strict=True)]
        return which(dict(zip(names, parts, strict=True)))

    flat = torch.cat([out.phi[name].flatten() for name in names])
    hessian = torch.autograd.functional.hessian(lambda f: loss(f, lambda p: problem.inner(p, theta, steps - 1)), flat)
    outer = torch.autograd.functional.jacobian(lambda f: loss(f, lambda p: problem.outer(p, theta)), flat)
    dense = torch.linalg.solve(torch.eye(len(flat), dtype=F64) + hessian / (3.0 + damping), outer)
    found = torch.cat([out.grad[name].flatten() for name in names])
    assert (found - dense).abs().max() / dense.abs().max() < 1e-9  # 60 iterations for 22 unknowns


def test_tasks_in_a_batch_are_solved_as_if_alone():
    batch, single, theta = tasks_of(3)
    estimator = Implicit(SGD(0.1), 4, proximal=2.0, cg_steps=3)
    together, alone = estimator(batch, theta), [estimator(one, theta) for one in single]
    mean = {name: sum(out.grad[name] for out in alone) / 3 for name in theta}
    assert relative_error(together.grad, mean) < 1e-12
    assert together.info["residual"] == pytest.approx(max(out.info["residual"] for out in alone))


def test_conjugate_gradients_stop_at_the_tolerance_and_report_the_residual():
    _, _, h, a, _ = _bowl(size=40, seed=2)
    matrix = h + torch.eye(40, dtype=F64)
    x, info = conjugate_gradients(lambda v: {"x": matrix @ v["x"]}, {"x": a}, 40, 1e-4)
    residual = (a - matrix @ x["x"]).norm() / a.norm()
    assert info["residual"] == pytest.approx(residual.item()) and residual <= 1e-4 and info["cg_iterations"] < 40
    x, info = conjugate_gradients(lambda v: {"x": matrix @ v["x"]}, {"x": a}, 2, 1e-4)
    residual = (a - matrix @ x["x"]).norm() / a.norm()
    assert info == {"cg_iterations": 2, "residual": pytest.approx(residual.item()), "indefinite_tasks": 0}
    zero, info = conjugate_gradients(lambda v: v, {"x": torch.zeros(3)}, 2, 1e-4)
    assert torch.equal(zero["x"], torch.zeros(3)) and info["cg_iterations"] == 0 and info["residual"] == 0


def test_negative_curvature_ends_a_task_and_is_reported():
    matrix = torch.stack([torch.diag(torch.tensor(d, dtype=F64)) for d in ([1.0, 2.0], [1.0, -3.0])])
    right = {"x": torch.ones(2, 2, dtype=F64)}
    x, info = conjugate_gradients(lambda v: {"x": torch.einsum("tij,tj->ti", matrix, v["x"])}, right, 5, 1e-12, 1)
    torch.testing.assert_close(x["x"][0], torch.tensor([1.0, 0.5], dtype=F64))
    assert torch.equal(x["x"][1], torch.zeros(2, dtype=F64)) and info["indefinite_tasks"] == 1
    assert info["residual"] == 1.0


def test_is_refused_for_a_meta_network_and_says_why():
    with pytest.raises(ConfigError, match="Implicit needs a theta that initialises phi: the proximal term ties"):
        Implicit(SGD(0.1), 4)(*meta_network())


@pytest.mark.parametrize(
    "settings", [{"proximal": 0.0}, {"cg_steps": 0}, {"tolerance": -1.0}, {"damping": -1.0}, {"steps": 0}]
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Implicit(SGD(0.1), **{"steps": 4, **settings})


@pytest.mark.parametrize(
    "init",
    [
        lambda th: {"x": th["x"] * th["y"]},
        lambda th: {"x": th["x"].tanh() + th["y"]},
        lambda th: {"x": th["x"] / th["y"].norm()},
    ],
)
def test_any_init_that_can_be_differentiated_will_do(init):
    """At the stationary point of the proximal problem, against back-propagation through very many steps of it."""
    problem, theta, *_ = _bowl()
    theta = {**theta, "y": 1 + theta["x"].abs()}
    started = Bilevel(init, problem.inner, problem.outer)
    pulled = Bilevel(
        init, lambda p, th, t: problem.inner(p, th, t) + (p["x"] - init(th)["x"]).square().sum(), problem.outer
    )
    implicit = Implicit(SGD(0.3), 60, 2.0, cg_steps=10, tolerance=1e-14)(started, theta)
    assert relative_error(implicit.grad, MultiStep(SGD(0.3), 60)(pulled, theta).grad) < 1e-9


@dataclass(frozen=True)
class _Decoupled:
    """Weight decay beside the gradient, as in AdamW: no part of the inner loss."""

    weight_decay: float = 0.0

    def window(self, state, grad, n):
        after = SGD(0.1).window(state, grad, n)
        return State({k: v - 0.1 * self.weight_decay * v for k, v in after.phi.items()}, {}, after.step)


class _Scaled(Adam):
    """A subclass whose step decays otherwise than Adam's."""

    def step(self, count, phi, grad, *moments):
        return super().step(count, 0.9 * phi, grad, *moments)


def test_the_weight_decay_of_dynamics_that_are_not_known_is_refused():
    problem, theta, *_ = _bowl()
    coupled = SGD(0.1, weight_decay={"x": 0.1})
    for dynamics in (_Decoupled(0.1), AdamW(0.1), RMSprop(0.1, weight_decay=0.1), _Scaled(0.1, weight_decay=0.1)):
        for wrapped in (dynamics, clipped(dynamics, 1.0), transformed(clipped(coupled, 1.0), dict)):
            with pytest.raises(ConfigError, match="Implicit knows the weight decay of SGD and Adam alone"):
                Implicit(wrapped, 4)(problem, theta)
    for dynamics in (clipped(SGD(0.1), 1e9), transformed(SGD(0.1), dict)):
        found = Implicit(dynamics, 4)(problem, theta)
        assert relative_error(found.grad, Implicit(SGD(0.1), 4)(problem, theta).grad) < 1e-12
    none = Implicit(_Decoupled(), 4)(problem, theta)
    assert relative_error(none.grad, Implicit(SGD(0.1), 4)(problem, theta).grad) < 1e-12
    decay = [
        Implicit(lambda theta, t, kind=kind: kind(0.1, weight_decay=0.5), 4)(problem, theta).grad
        for kind in (SGD, Adam)
    ]
    for kind, found in zip((SGD, Adam), decay, strict=True):
        assert relative_error(found, Implicit(kind(0.1, weight_decay=0.5), 4)(problem, theta).grad) < 1e-12
