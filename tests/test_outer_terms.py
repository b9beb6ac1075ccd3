"""A meta-objective that looks at the states on the way, too: MAML++'s multi-step loss."""

from dataclasses import replace

import pytest
import torch
from problems import (
    DYNAMICS,
    F64,
    MEMORIES,
    both,
    finite_differences,
    jacobians,
    maml,
    meta_network,
    network,
    relative_error,
    unrolled,
)

from msmeta import (
    SGD,
    Adam,
    Bilevel,
    Binomial,
    ConfigError,
    DivergedError,
    EvolutionStrategies,
    FiniteDifference,
    FirstOrder,
    GaussianSmoothing,
    Implicit,
    LazyHessian,
    MultiStep,
    Perturbed,
    Reptile,
    State,
    Truncated,
)
from msmeta.dynamics import partition

WINDOWS = [1, 3, 6, (1, 2, 3)]


def _weighed(make):
    """Weights that grow with the step, none at step 2, and a direct part of θ."""
    problem, theta = make()
    x = torch.linspace(-1, 1, 9, dtype=F64).view(3, 3)

    def outer_at(phi, theta, t):
        assert 1 <= t <= 5
        part = sum(value.square().sum() for value in theta.values())
        return None if t == 2 else 0.1 * t * network(phi, x).square().sum() + 0.01 * t * part

    return replace(problem, outer_at=outer_at), theta


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("make", [maml, meta_network])
@pytest.mark.parametrize("name", DYNAMICS)
def test_both_modes_equal_a_plain_loop_and_differences(name, make, window):
    problem, theta = _weighed(make)
    dynamics, rule = DYNAMICS[name]
    graph, recursion = (estimator(problem, theta) for estimator in both(dynamics, 6, window))
    windows = window if isinstance(window, tuple) else (window,) * (6 // window)
    loss, grad = unrolled(problem, theta, rule, windows)
    for out in (graph, recursion):
        assert out.loss.item() == pytest.approx(loss.item(), rel=1e-12) and relative_error(out.grad, grad) < 1e-10
        assert not out.loss.requires_grad
    if name == "sgd-momentum":
        differences = finite_differences(lambda moved: MultiStep(dynamics, 6, window)(problem, moved).loss, theta)
        assert relative_error(graph.grad, differences) < 1e-6
    plain = MultiStep(dynamics, 6, window)(replace(problem, outer_at=None), theta)
    assert relative_error(plain.grad, grad) > 1e-2 and torch.equal(plain.phi["w1"], graph.phi["w1"])


def test_many_windows_are_recomputed_with_the_velocity_that_the_terms_need():
    problem, theta = maml()
    outer_at = lambda phi, theta, t: 0.01 * t * phi["w2"].square().sum()  # noqa: E731
    problem = replace(problem, outer_at=outer_at)
    for dynamics in (SGD(0.05, 0.9, 1e-2), Adam(0.02, eps=1e-2), lambda theta, t: SGD(0.1 / (1 + t), 0.5)):
        graph, recursion = (estimator(problem, theta) for estimator in both(dynamics, 40, 2))
        assert relative_error(recursion.grad, graph.grad) < 1e-10


def test_learned_rates_starts_of_buffers_and_entries_that_some_losses_leave_alone():
    generator = torch.Generator().manual_seed(0)
    theta = {name: 0.5 + torch.rand(3, dtype=F64, generator=generator) for name in ("w", "v", "h")}
    theta |= {"lr": torch.tensor(0.05, dtype=F64)}
    problem = Bilevel(
        init=lambda th: State({"w": th["w"], "h": th["h"]}, {"velocity": {"w": th["v"]}}),
        inner=lambda phi, th, t: (phi["w"] * (phi["h"] if t % 2 else 2.0) - 1).square().sum(),
        outer=lambda phi, th: phi["w"].square().sum(),
        outer_at=lambda phi, th, t: (t * phi["h"] * phi["w"]).sum() + th["lr"] * t,
    )
    learned = lambda th, t: SGD(th["lr"], 0.9, 0.1)  # noqa: E731
    for window in (1, 2, (1, 3)):
        graph, recursion = (estimator(problem, theta) for estimator in both(learned, 4, window))
        loss_at = lambda moved, window=window: MultiStep(learned, 4, window)(problem, moved).loss  # noqa: E731
        assert relative_error(graph.grad, finite_differences(loss_at, theta)) < 1e-6
        assert relative_error(recursion.grad, graph.grad) < 1e-10
    constant = both(SGD(0.05, 0.9, 0.1), 4, 2)
    graph, recursion = (estimator(problem, theta) for estimator in constant)
    assert relative_error(recursion.grad, graph.grad) < 1e-10


def test_a_batch_of_tasks_is_each_of_them():
    targets = torch.randn(3, 2, dtype=F64, generator=torch.Generator().manual_seed(0))

    def problem(targets, tasks=None):
        inner = lambda phi, th, t: (phi["w"].sin() - targets).square().sum()  # noqa: E731
        lead = () if tasks is None else (tasks,)
        return Bilevel(lambda th: {"w": th["w"].expand(*lead, 2)}, inner, lambda phi, th: inner(phi, th, 0), tasks,
                       lambda phi, th, t: t * inner(phi, th, t))  # fmt: skip

    theta = {"w": torch.tensor([0.3, -0.2], dtype=F64)}
    alone = sum(MultiStep(SGD(0.1, 0.9), 4, 2)(problem(each), theta).grad["w"] for each in targets)
    for estimator in both(SGD(0.1, 0.9), 4, 2):
        torch.testing.assert_close(estimator(problem(targets, 3), theta).grad["w"], alone, rtol=1e-10, atol=1e-12)


def _flat(values):
    return torch.cat([value.flatten() for value in values.values()])


def _terms(problem, theta, inner, steps, memories):
    """The terms' derivatives after t steps: by the state as one vector, as `jacobians` has it, and directly by θ."""
    for t in range(1, steps):
        phi = {name: v.requires_grad_() for name, v in MultiStep(inner, t)(problem, theta).phi.items()}
        leaf = {name: value.clone().requires_grad_() for name, value in theta.items()}
        if (term := problem.outer_at(phi, leaf, t)) is not None:
            grads = torch.autograd.grad(term, [*phi.values(), *leaf.values()])
            by_phi = _flat(dict(zip(phi, grads[: len(phi)], strict=True)))
            by_theta = _flat(dict(zip(leaf, grads[len(phi) :], strict=True)))
            yield t, torch.nn.functional.pad(by_phi, (0, memories * len(by_phi))), by_theta


@pytest.mark.parametrize("estimator", [LazyHessian, Truncated], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("make", [maml, meta_network])
@pytest.mark.parametrize("name", DYNAMICS)
def test_lazy_and_truncated_ones_equal_dense_products(name, make, estimator):
    """What the terms hand to a state goes back with what comes there from later ones."""
    problem, theta = _weighed(make)
    inner, rule = DYNAMICS[name]
    plain, memories = replace(problem, outer_at=None), MEMORIES[name]
    steps, last, start = jacobians(plain, theta, rule, 6, memories)
    terms = {t: own for t, *own in _terms(problem, theta, inner, 6, memories)}
    none = torch.zeros_like(last), 0
    for setting in ((1, 2, 3), 2, 6) if estimator is LazyHessian else (0, 1, 4, 6):
        if make is meta_network and setting == 0:
            continue
        expected, multiplier, t = sum(direct for _, direct in terms.values()), last, 6
        if estimator is LazyHessian:
            for n in reversed(partition(6, setting)):
                weights = 0
                for i in reversed(range(t - n, t)):
                    multiplier = multiplier + terms.get(i + 1, none)[0]
                    weights = weights + multiplier @ steps[i][1]
                    multiplier = multiplier @ steps[i][0]
                t -= n
                expected = expected + weights @ steps[t][3]
                multiplier = multiplier + weights @ steps[t][2]
            expected = expected + multiplier @ start
        else:
            size = len(start) // (1 + memories)
            for i in reversed(range(6 - setting, 6)):
                multiplier = multiplier + terms.get(i + 1, none)[0]
                expected = expected + multiplier @ steps[i][1] @ steps[i][3]
                multiplier = multiplier @ (steps[i][0] + steps[i][1] @ steps[i][2])
            multiplier = multiplier + sum(term for t, (term, _) in terms.items() if t <= 6 - setting)
            expected = expected + multiplier[:size] @ start[:size]
        out = estimator(inner, 6, setting)(problem, theta)
        torch.testing.assert_close(_flat(out.grad), expected, rtol=1e-9, atol=1e-12)
        assert out.loss.item() == pytest.approx(MultiStep(inner, 6)(problem, theta).loss.item(), rel=1e-12)


@pytest.mark.parametrize("depth", [0, 1, 3, 5])
@pytest.mark.parametrize("make", [maml, meta_network])
@pytest.mark.parametrize("name", DYNAMICS)
def test_low_orders_are_those_of_each_term_by_itself(name, make, depth):
    """The sum of the estimates for the terms' own numbers of steps, as outer losses of problems without terms."""
    problem, theta = _weighed(make)
    inner = DYNAMICS[name][0]
    if make is meta_network and depth == 0:
        return
    expected = Binomial(inner, 6, depth)(replace(problem, outer_at=None), theta).grad
    for t in (1, 3, 4, 5):
        own = replace(problem, outer_at=None, outer=lambda phi, th, t=t: problem.outer_at(phi, th, t))
        found = Binomial(inner, t, min(depth, t))(own, theta).grad
        expected = {k: value + found[k] for k, value in expected.items()}
    out = Binomial(inner, 6, depth)(problem, theta)
    assert relative_error(out.grad, expected) < 1e-10
    assert out.loss.item() == pytest.approx(MultiStep(inner, 6)(problem, theta).loss.item(), rel=1e-12)


def test_first_order_holds_the_inner_gradients_constant_and_differentiates_all_else():
    """A learned rate, a learned velocity and a direct part; Truncated does so in its earlier steps."""
    problem, start = maml()
    theta = {**start, "lr": torch.tensor(0.05, dtype=F64), "v": torch.tensor(0.3, dtype=F64)}

    def init(th):
        phi = {name: th[name] for name in start}
        return State(phi, {"velocity": {name: th["v"] * torch.ones_like(value) for name, value in phi.items()}})

    outer_at = lambda phi, th, t: t * phi["w2"].square().sum() + th["lr"] * t  # noqa: E731
    learned = replace(problem, init=init, outer_at=outer_at)
    for depth in (0, 2, 4):
        leaf = {name: value.clone().requires_grad_() for name, value in theta.items()}
        phi, v, total = {k: leaf[k] for k in start}, dict.fromkeys(start, leaf["v"]), 0.0
        for t in range(4):
            at = phi if t >= 4 - depth else {k: value.detach().requires_grad_() for k, value in phi.items()}
            grads = torch.autograd.grad(problem.inner(at, leaf, t), list(at.values()), create_graph=t >= 4 - depth)
            v = {k: 0.9 * v[k] + g for k, g in zip(start, grads, strict=True)}
            phi = {k: phi[k] - leaf["lr"] * v[k] for k in start}
            total = total + (outer_at(phi, leaf, t + 1) if t < 3 else problem.outer(phi, leaf))
        expected = dict(zip(leaf, torch.autograd.grad(total, list(leaf.values())), strict=True))
        dynamics = lambda th, t: SGD(th["lr"], 0.9)  # noqa: E731
        found = [Truncated(dynamics, 4, depth)(learned, theta)]
        found += [FirstOrder(dynamics, 4)(learned, theta)] if depth == 0 else []
        for out in found:
            assert out.loss.item() == pytest.approx(total.item(), rel=1e-12)
            assert relative_error(out.grad, expected) < 1e-12


def test_losses_of_all_states_may_read_what_init_made_of_theta():
    problem, theta = maml()
    kept = {}

    def init(th):
        kept["features"] = th["w2"].exp()
        return th

    def term(phi, th, t):
        return (phi["w2"] * kept["features"]).sum()

    reading = replace(problem, init=init, outer_at=term, outer=lambda p, th: problem.outer(p, th) + term(p, th, 0))
    exact = MultiStep(SGD(0.1), 3)(reading, theta).grad
    for estimator in (Truncated(SGD(0.1), 3, 3), LazyHessian(SGD(0.1), 3)):
        assert relative_error(estimator(reading, theta).grad, exact) < 1e-12
    first = FirstOrder(SGD(0.1), 3)(reading, theta)
    phis = [MultiStep(SGD(0.1), t)(replace(problem, outer_at=None), theta).phi["w2"] for t in (1, 2, 3)]
    outer = FirstOrder(SGD(0.1), 3)(problem, theta).grad["w2"]
    features = theta["w2"].exp()
    torch.testing.assert_close(first.grad["w2"], outer + 3 * features + sum(phis) * features)


def test_estimators_without_second_derivatives_heed_it():
    problem, theta = _weighed(maml)
    exact = MultiStep(SGD(0.1, 0.9), 6)(problem, theta)
    assert relative_error(FiniteDifference(SGD(0.1, 0.9), 6, 1e-5)(problem, theta).grad, exact.grad) < 1e-6
    for estimator in (GaussianSmoothing(SGD(0.1, 0.9), 6), EvolutionStrategies(SGD(0.1, 0.9), 6)):
        assert estimator(problem, theta).loss.item() == pytest.approx(exact.loss.item(), rel=1e-12)
    bowl = Bilevel(
        lambda th: th, lambda phi, th, t: phi["w"].square().sum(), lambda phi, th: phi["w"].square().sum(),
        outer_at=lambda phi, th, t: t * phi["w"].square().sum(),
    )  # fmt: skip
    one = {"w": torch.tensor(1.0, dtype=F64)}  # a quadratic of one parameter: each pair of values is exact but for ε²
    found = EvolutionStrategies(SGD(0.1), 3, samples=1)
    torch.manual_seed(0)
    epsilon = torch.randn((), dtype=F64)
    torch.manual_seed(0)
    torch.testing.assert_close(found(bowl, one).grad["w"], MultiStep(SGD(0.1), 3)(bowl, one).grad["w"] * epsilon**2)


@pytest.mark.parametrize(
    "estimator",
    [Implicit(SGD(0.1), 6), Reptile(SGD(0.1), 6), Perturbed(SGD(0.1), 6)],
    ids=lambda estimator: type(estimator).__name__,
)
def test_the_others_refuse_it_in_one_line(estimator):
    with pytest.raises(ConfigError, match="outer_at, and this estimator looks at the last state alone: use") as caught:
        estimator(*_weighed(maml))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("estimator", both(SGD(0.1), 4, 2), ids=["autograd", "adjoint"])
def test_mistakes_end_in_one_clear_line(estimator):
    problem, theta = maml()
    for term, error, message in [
        (lambda phi, theta, t: phi["w1"], ConfigError, "outer_at after . steps is not a 0-d tensor"),
        (lambda phi, theta, t: 1.0, ConfigError, "outer_at after . steps is not a 0-d tensor"),
        (lambda phi, theta, t: phi["w1"].sum() * float("inf"), DivergedError, "outer loss is"),
    ]:
        with pytest.raises(error, match=message) as caught:
            estimator(replace(problem, outer_at=term), theta)
        assert "\n" not in str(caught.value)
