"""Inner steps alone, and steps that go on from others."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from problems import DYNAMICS, F64, finite_differences, maml, meta_network, relative_error, start

from msmeta import SGD, Adam, Bilevel, ConfigError, DivergedError, FirstOrder, LazyHessian, MultiStep, Truncated, adapt


@pytest.mark.parametrize("window", [1, 3, (1, 2, 3)], ids=str)
@pytest.mark.parametrize("make", [maml, meta_network])
@pytest.mark.parametrize("dynamics", [pair[0] for pair in DYNAMICS.values()], ids=DYNAMICS)
def test_ends_where_the_meta_gradients_steps_end(dynamics, make, window):
    problem, theta = make()
    state, out = adapt(problem, theta, dynamics, 6, window), MultiStep(dynamics, 6, window)(problem, theta)
    assert state.step == 6 and state.buffers.keys() == out.state.buffers.keys()
    for found, expected in [(state.phi, out.phi), *((state.buffers[k], out.state.buffers[k]) for k in state.buffers)]:
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-13)
            assert not found[name].requires_grad and found[name].grad_fn is None


@pytest.mark.parametrize("dynamics", [SGD(0.1, 0.9, 1e-2), Adam(0.02, eps=1e-2)], ids=["sgd", "adam"])
def test_goes_on_from_a_state_and_asks_neither_for_labels_nor_for_a_graph(dynamics):
    x = torch.linspace(-1, 1, 8, dtype=F64)

    def outer(phi, theta):
        raise AssertionError("there are no labels at test time")

    def inner(phi, theta, t):
        return (torch.tanh(x * phi["w"] + phi["b"]) - x**2).square().sum()

    theta = {name: torch.tensor(0.3, dtype=F64) for name in "wb"}
    problem = Bilevel(lambda theta: theta, inner, outer)
    with torch.no_grad():
        whole = adapt(problem, theta, dynamics, 6)
        half = adapt(problem, theta, dynamics, 2)
        again = adapt(Bilevel(lambda theta: half, inner, outer), theta, dynamics, 4)
    assert again.step == 6 and all(torch.equal(again.phi[name], whole.phi[name]) for name in theta)
    assert theta["w"] == 0.3 and not theta["w"].requires_grad


def test_what_is_frozen_stays_so_where_steps_go_on():
    theta = {"w": torch.zeros(2, dtype=F64), "f": torch.nn.Parameter(torch.ones(2, dtype=F64), requires_grad=False)}
    inner = lambda phi, theta, t: (phi["w"] * phi["f"] - 2).square().sum()  # noqa: E731
    problem = Bilevel(lambda theta: theta, inner, lambda phi, theta: inner(phi, theta, 0))
    whole = adapt(problem, theta, SGD(0.1), 4).phi
    for half in (adapt(problem, theta, SGD(0.1), 2), MultiStep(SGD(0.1), 2)(problem, theta).state):
        again = adapt(replace(problem, init=lambda theta, half=half: half), theta, SGD(0.1), 2).phi
        assert all(torch.equal(again[name], whole[name]) for name in theta) and again["f"].tolist() == [1, 1]


@pytest.mark.parametrize(
    "dynamics",
    [lambda th, t: SGD(th["rate"], 0.9, 1e-2), lambda th, t: Adam(th["rate"], eps=1e-2)],
    ids=["sgd", "adam"],
)
@pytest.mark.parametrize(
    "kind", [FirstOrder, LazyHessian, MultiStep, partial(MultiStep, backward="adjoint"), Truncated]
)
def test_a_meta_gradient_goes_on_from_the_state_of_another(kind, dynamics):
    """In blocks: the second one's gradient by a learned rate is that of its own steps from a constant state."""
    plain, at_first = maml()
    theta = {"rate": torch.tensor(0.02, dtype=F64)}
    problem = replace(plain, init=lambda th: at_first, inner=lambda phi, th, t: plain.inner(phi, th, 0))
    first = kind(dynamics, 3)(problem, theta)
    block = replace(problem, init=lambda th: first.state)
    second = kind(dynamics, 3)(block, theta)
    whole = adapt(problem, theta, dynamics, 6)
    assert second.state.step == whole.step == 6
    assert relative_error(second.phi, whole.phi) < 1e-12
    if kind not in (FirstOrder, Truncated):
        loss = lambda moved: MultiStep(dynamics, 3)(block, moved).loss  # noqa: E731
        assert relative_error(second.grad, finite_differences(loss, theta)) < 1e-6


def test_mistakes_end_in_one_clear_line():
    problem, theta = maml()
    steep = Bilevel(problem.init, lambda phi, theta, t: (phi["w1"] ** 3).sum() * 1e200, problem.outer)
    wanted = [
        (lambda: adapt(problem, theta, SGD(0.1), 0), ConfigError, "steps=0"),
        (lambda: adapt(problem, theta, SGD(0.1), 4, 3), ConfigError, "window=3 does not divide"),
        (lambda: adapt(problem, theta, SGD, 4), ConfigError, "dynamics is SGD"),
        (lambda: adapt(theta, problem, SGD(0.1), 4), ConfigError, "the problem is a dict"),
        (lambda: adapt(steep, start(), SGD(1e200), 1), DivergedError, r"phi\['w1'\] is not finite after the last step"),
        (lambda: adapt(steep, start(), SGD(1e200), 3), DivergedError, "inner loss is .* at step 1"),
    ]
    for call, error, message in wanted:
        with pytest.raises(error, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
