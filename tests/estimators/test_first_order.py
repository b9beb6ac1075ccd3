"""First-order MAML by its definition, Eq. 16."""

import pytest
import torch
from problems import DYNAMICS, F64, maml, meta_network, relative_error, unrolled

from msmeta import SGD, Bilevel, ConfigError, DivergedError, FirstOrder, Implicit, MultiStep, Reptile, State


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


class _Rates:
    """Inner rates are part of the state (Meta-SGD)."""

    def window(self, state, grad, n):
        rate = state.buffers["rate"]
        return State({k: v - n * rate[k] * grad[k] for k, v in state.phi.items()}, state.buffers, state.step + n)


class _Keeping:
    """A rate that `init` made of θ and left lying about."""

    def window(self, state, grad, n):
        return State({k: v - n * KEPT["rate"] * grad[k] for k, v in state.phi.items()}, state.buffers, state.step + n)


KEPT = {}
WAYS = {
    "in the state": (_Rates(), lambda th: State({"w": th["w"]}, {"rate": {"w": th["rate"]}}), 0),
    "in a function": (lambda th, t: SGD(th["rate"][0]), lambda th: {"w": th["w"]}, 0),
    "from step 2 on": (lambda th, t: SGD(th["rate"][0] if t > 1 else 0.1), lambda th: {"w": th["w"]}, 0),
    "kept": (_Keeping(), lambda th: KEPT.update(rate=th["rate"]) or {"w": th["w"]}, 0),
    "regulariser": (SGD(0.1), lambda th: {"w": th["w"]}, 1),
}


@pytest.mark.parametrize("kind", [FirstOrder, Implicit, Reptile])
@pytest.mark.parametrize("way", WAYS)
def test_what_acts_in_the_inner_steps_alone_is_refused_by_name(way, kind):
    """Beside the start; MultiStep learns it. Where the entry is frozen, or starts φ too, there is nothing to refuse."""
    dynamics, init, weight = WAYS[way]
    problem = Bilevel(
        init,
        lambda phi, th, t: (phi["w"] - 1).square().sum() + weight * (th["rate"] * phi["w"].square()).sum(),
        lambda phi, th: (phi["w"] - 2).square().sum(),
    )
    theta = {"w": torch.zeros(2, dtype=F64), "rate": torch.full((2,), 0.1, dtype=F64)}
    with pytest.raises(ConfigError, match=r"'rate'.*use MultiStep") as caught:
        kind(dynamics, 4)(problem, theta)
    assert "\n" not in str(caught.value)
    assert MultiStep(dynamics, 4)(problem, theta).grad["rate"].abs().max() > 0.1
    if kind is not Reptile:
        frozen = {**theta, "rate": torch.nn.Parameter(theta["rate"], requires_grad=False)}
        out = kind(dynamics, 4)(problem, frozen)
        assert (out.grad["rate"] == 0).all() and (out.grad["w"] != 0).all()


def test_an_entry_that_starts_phi_may_act_in_the_inner_loss_besides_but_not_for_implicit():
    problem, theta = maml()
    pulled = Bilevel(
        problem.init, lambda p, th, t: problem.inner(p, th, t) + (p["w1"] - th["w1"]).square().sum(), problem.outer
    )
    out = FirstOrder(SGD(0.1), 4)(pulled, theta)
    phi = {name: value.clone().requires_grad_() for name, value in out.phi.items()}
    expected = dict(zip(phi, torch.autograd.grad(problem.outer(phi, theta), list(phi.values())), strict=True))
    assert relative_error(out.grad, expected) < 1e-12
    with pytest.raises(ConfigError, match=r"Implicit has no gradient for theta\['w1'\]"):
        Implicit(SGD(0.1), 4)(pulled, theta)


@pytest.mark.parametrize("kind", [FirstOrder, Implicit, Reptile])
def test_rates_that_t_schedules_are_taken(kind):
    problem, theta = maml()
    fixed, scheduled = kind(SGD(0.1), 4)(problem, theta), kind(lambda theta, t: SGD(0.1), 4)(problem, theta)
    assert all(torch.equal(fixed.grad[name], scheduled.grad[name]) for name in theta)
    falling = kind(lambda theta, t: SGD(0.1 / (1 + t)), 4)(problem, theta)
    assert relative_error(falling.grad, fixed.grad) > 1e-3
