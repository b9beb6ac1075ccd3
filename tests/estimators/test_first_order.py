"""First-order MAML by its definition, Eq. 16."""

import pytest
import torch
from problems import (
    DYNAMICS,
    F64,
    KEPT,
    Keeping,
    finite_differences,
    maml,
    meta_network,
    relative_error,
    start,
    unrolled,
)
from saved_bytes import SavedBytes

from msmeta import SGD, Adam, Bilevel, ConfigError, FirstOrder, Implicit, MultiStep, Reptile, State, transformed


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
    with pytest.raises(
        ConfigError,
        match=r"FirstOrder has no gradient for theta\['decay'\], which acts in the inner loss.*use MultiStep",
    ):
        FirstOrder(SGD(0.1), 4)(problem, theta)
    assert any(value.abs().max() > 0 for value in MultiStep(SGD(0.1), 4, 2)(problem, theta).grad.values())


def test_mistakes_end_in_one_clear_line():
    theta = {"x": torch.ones(2)}
    constant = Bilevel(lambda th: th, lambda p, th, t: p["x"].sum(), lambda p, th: torch.tensor(1.0))
    with pytest.raises(ConfigError, match="outer loss does not depend on theta"):
        FirstOrder(SGD(0.1), 2)(constant, theta)


class _Rates:
    """Inner rates are part of the state (Meta-SGD)."""

    def window(self, state, grad, n):
        rate = state.buffers["rate"]
        return State({k: v - n * rate[k] * grad[k] for k, v in state.phi.items()}, state.buffers, state.step + n)


WAYS = {
    "in the state": (_Rates(), lambda th: State({"w": th["w"]}, {"rate": {"w": th["rate"]}}), 0),
    "in a function": (lambda th, t: SGD(th["rate"][0]), lambda th: {"w": th["w"]}, 0),
    "from step 2 on": (lambda th, t: SGD(th["rate"][0] if t > 1 else 0.1), lambda th: {"w": th["w"]}, 0),
    "kept": (Keeping(), lambda th: KEPT.update(rate=th["rate"]) or {"w": th["w"]}, 0),
    "regulariser": (SGD(0.1), lambda th: {"w": th["w"]}, 1),
}


def _bowl(way):
    dynamics, init, weight = WAYS[way]

    def inner(phi, th, t):
        pulled = (phi["w"] - 1).square().sum()
        return pulled + (th["rate"] * phi["w"].square()).sum() if weight else pulled

    problem = Bilevel(init, inner, lambda phi, th: (phi["w"] - 2).square().sum())
    return dynamics, problem, {"w": torch.zeros(2, dtype=F64), "rate": torch.full((2,), 0.1, dtype=F64)}


@pytest.mark.parametrize(
    ("way", "kind"), [("regulariser", FirstOrder), *((way, kind) for way in WAYS for kind in (Implicit, Reptile))]
)
def test_what_acts_in_the_inner_steps_alone_is_refused_by_name(way, kind):
    """Beside the start; MultiStep learns it. Where the entry is frozen there is nothing to refuse."""
    dynamics, problem, theta = _bowl(way)
    with pytest.raises(ConfigError, match=r"'rate'.*use MultiStep") as caught:
        kind(dynamics, 4)(problem, theta)
    assert "\n" not in str(caught.value)
    assert MultiStep(dynamics, 4)(problem, theta).grad["rate"].abs().max() > 0.1
    if kind is not Reptile:
        frozen = {**theta, "rate": torch.nn.Parameter(theta["rate"], requires_grad=False)}
        out = kind(dynamics, 4)(problem, frozen)
        assert (out.grad["rate"] == 0).all() and (out.grad["w"] != 0).all()


@pytest.mark.parametrize("way", [way for way in WAYS if way != "regulariser"])
def test_a_rate_that_acts_in_the_dynamics_is_learned_wherever_it_is_kept(way):
    """-Σ_t g_t · ∂L/∂φ, as far as the step t uses it."""
    dynamics, problem, theta = _bowl(way)
    out, phi = FirstOrder(dynamics, 4)(problem, theta), torch.zeros(2, dtype=F64)
    summed = torch.zeros(2, dtype=F64)
    for t in range(4):
        grad = 2 * (phi - 1)
        summed += grad if way != "from step 2 on" or t > 1 else 0
        phi = phi - 0.1 * grad
    expected = -summed * 2 * (phi - 2)
    if way in ("in a function", "from step 2 on"):
        expected = torch.stack([expected.sum(), torch.zeros((), dtype=F64)])
    torch.testing.assert_close(out.phi["w"], phi)
    torch.testing.assert_close(out.grad["rate"], expected)
    torch.testing.assert_close(out.grad["w"], 2 * (phi - 2))


RATES = {"rate": 0.1, "momentum": 0.6, "decay": 0.05}
LEARNED = {
    "meta-sgd": lambda th, t: SGD({name: th[f"rate.{name}"] for name in start()}),
    "nesterov": lambda th, t: SGD({k: th[f"rate.{k}"] for k in start()}, th["momentum"], th["decay"], nesterov=True),
    "adam": lambda th, t: Adam(th["rate"] / (1 + t), (th["momentum"], 0.99), 1e-2, th["decay"]),
    "state": lambda th, t: SGD(0.1, 0.9),
}


@pytest.mark.parametrize("which", LEARNED)
def test_what_theta_does_in_the_dynamics_is_differentiated_with_the_inner_gradients_constant(which):
    problem, first = maml()
    names, seen = list(first), []
    theta = {**first, **{name: torch.tensor(value, dtype=F64) for name, value in RATES.items()}}
    theta |= {f"rate.{name}": 0.1 + 0.1 * torch.rand_like(value) for name, value in first.items()}
    theta |= {f"velocity.{name}": torch.ones_like(value) for name, value in first.items()}

    def init(th):
        buffers = {"velocity": {name: th[f"velocity.{name}"] for name in names}} if which == "state" else {}
        return State({name: th[name] for name in names}, buffers)

    problem = Bilevel(init, problem.inner, problem.outer)
    noting = transformed(LEARNED[which], lambda grad: seen.append(grad) or grad)
    found = FirstOrder(noting, 4)(problem, theta)

    def replayed(moved):
        state = State(first, init(moved).buffers)
        for t, grad in enumerate(seen[:4]):
            state = LEARNED[which](moved, t).window(state, grad, 1)
        return problem.outer(state.phi, moved)

    phi = {name: value.clone().requires_grad_() for name, value in found.phi.items()}
    by_phi = dict(zip(phi, torch.autograd.grad(problem.outer(phi, theta), list(phi.values())), strict=True))
    others = {name: value for name, value in theta.items() if name not in names}
    expected = by_phi | finite_differences(lambda moved: replayed({**first, **moved}), others)
    assert relative_error(found.grad, expected) < 1e-6
    assert any(expected[name].abs().max() > 1e-2 for name in others)


def test_one_state_is_held_unless_theta_acts_in_the_dynamics():
    """What of autograd's graphs outlives a step does not grow with the steps."""
    problem, theta = maml()
    peaks = []
    for steps in (2, 32):
        with SavedBytes() as saved:
            FirstOrder(SGD(0.1, 0.9), steps)(problem, theta)
        peaks.append(saved.peak)
    assert peaks[0] == peaks[1] > 0


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
