"""Rates by parameter name: values against torch.optim's parameter groups, derivatives against finite differences."""

from dataclasses import replace

import pytest
import torch
from problems import F64, finite_differences, maml, meta_network, relative_error, start, tasks_of, tensors

from msmeta import (
    SGD,
    Adam,
    AdamW,
    AMSGrad,
    Bilevel,
    Binomial,
    ConfigError,
    FiniteDifference,
    FirstOrder,
    Implicit,
    LazyHessian,
    MultiStep,
    RMSprop,
    SignSGD,
    State,
    Truncated,
    clipped,
)

NAMES = list(start())


def _nesterov(groups, **options):
    return torch.optim.SGD(groups, momentum=0.5, **options)  # which every group overrides, but torch asks for


GROUPS = [
    (SGD, torch.optim.SGD, {"lr": (0.1, 0.02), "momentum": (0.9, 0.0), "weight_decay": (0.0, 0.1)}, {}),
    (SGD, _nesterov, {"lr": (0.1, 0.02), "momentum": (0.9, 0.5)}, {"nesterov": True}),
    (Adam, torch.optim.Adam, {"lr": (0.1, 0.02), "weight_decay": (0.0, 0.1)}, {}),
    (AdamW, torch.optim.AdamW, {"lr": (0.1, 0.02), "weight_decay": (0.0, 0.1)}, {}),
    (RMSprop, torch.optim.RMSprop, {"lr": (0.1, 0.02), "alpha": (0.9, 0.5), "momentum": (0.0, 0.8)}, {}),
]


@pytest.mark.parametrize(("kind", "reference", "rates", "others"), GROUPS, ids=lambda v: getattr(v, "__module__", ""))
@pytest.mark.parametrize("value", [float, lambda rate: torch.full((3, 1), rate, dtype=F64)], ids=["number", "tensor"])
def test_equals_torchs_parameter_groups(kind, reference, rates, others, value):
    state = State({"a": tensors(0, 3, 2), "b": tensors(1, 3, 4)})
    theirs = {name: phi.clone().requires_grad_() for name, phi in state.phi.items()}
    groups = [{"params": [theirs[k]], **{name: pair[i] for name, pair in rates.items()}} for i, k in enumerate("ab")]
    optimizer = reference(groups, **others)
    ours = kind(**{name: dict(zip("ab", map(value, pair), strict=True)) for name, pair in rates.items()}, **others)
    for t in range(5):
        grad = {name: tensors(2 + t, *phi.shape) for name, phi in theirs.items()}
        for name, phi in theirs.items():
            phi.grad = grad[name].clone()
        optimizer.step()
        state = ours.window(state, grad, 1)
        for name, phi in theirs.items():
            torch.testing.assert_close(state.phi[name], phi.detach(), rtol=1e-12, atol=1e-12)
    assert state.step == 5


def _by_entry(th, what, scale=1.0):
    """θ has a rate for each number, or one for a whole entry."""
    return {name: scale * th[f"{what}.{name}"] for name in NAMES}


KINDS = {
    "sgd": lambda th, t: SGD(_by_entry(th, "rate")),
    "momentum": lambda th, t: SGD(_by_entry(th, "rate"), _by_entry(th, "mix"), _by_entry(th, "mix", 0.1)),
    "nesterov": lambda th, t: SGD(_by_entry(th, "rate"), _by_entry(th, "mix"), 0.1, nesterov=True),
    "adam": lambda th, t: Adam(_by_entry(th, "rate", 0.1), (_by_entry(th, "mix"), 0.9), 1e-2, _by_entry(th, "mix")),
    "adamw": lambda th, t: AdamW(_by_entry(th, "rate", 0.1), (0.9, _by_entry(th, "mix")), 1e-2, _by_entry(th, "mix")),
    "amsgrad": lambda th, t: AMSGrad(_by_entry(th, "rate", 0.1), (0.8, 0.9), 1e-2, _by_entry(th, "mix")),
    "rmsprop": lambda th, t: RMSprop(_by_entry(th, "rate", 0.1), _by_entry(th, "mix"), 1e-2, 0.1, _by_entry(th, "mix")),
    "sign": lambda th, t: SignSGD(_by_entry(th, "rate", 0.1)),
    "clipped": lambda th, t: clipped(SGD(_by_entry(th, "rate"), 0.9), 0.5),
    "each step": lambda th, t: SGD({name: th[f"steps.{name}"][t] for name in NAMES}, 0.9),
}


def _learning(make=maml):
    """The problem with rates in θ besides: of each number, of each entry, of each entry and step."""
    problem, theta = make()
    rates = {f"rate.{name}": 0.05 + 0.1 * value.sigmoid() for name, value in start(2).items()}
    rates |= {f"mix.{name}": 0.5 + 0.1 * torch.tensor(i, dtype=F64) for i, name in enumerate(NAMES)}
    rates |= {f"steps.{name}": 0.05 + 0.05 * torch.arange(4, dtype=F64) for name in NAMES}

    def init(th):
        return {name: value for name, value in problem.init(th).items() if name not in rates}

    return Bilevel(init, problem.inner, problem.outer), {**theta, **rates}


@pytest.mark.parametrize("windows", [(1,) * 4, (2, 2), (1, 2, 1), (4,)], ids=str)
@pytest.mark.parametrize("make", [maml, meta_network])
@pytest.mark.parametrize("kind", KINDS)
def test_both_ways_back_are_the_derivative(kind, make, windows):
    problem, theta = _learning(make)
    graph, recursion = (MultiStep(KINDS[kind], 4, windows, way) for way in ("autograd", "adjoint"))
    found = graph(problem, theta)
    assert relative_error(recursion(problem, theta).grad, found.grad) < 1e-10
    learned = "steps.w1" if kind == "each step" else "rate.w1"
    assert found.grad[learned].abs().max() > 1e-4
    if windows == (1, 2, 1):
        some = {name: value for name, value in theta.items() if not name.endswith("w1")}
        expected = finite_differences(lambda moved: graph(problem, {**theta, **moved}).loss, some)
        assert relative_error({name: found.grad[name] for name in some}, expected) < 1e-6


@pytest.mark.parametrize("kind", ["momentum", "adam", "clipped"])
def test_other_estimators_learn_them_too(kind):
    problem, theta = _learning()
    exact = MultiStep(KINDS[kind], 4)(problem, theta).grad
    for estimator in (Truncated(KINDS[kind], 4, 4), Binomial(KINDS[kind], 4, 4), LazyHessian(KINDS[kind], 4, 1)):
        assert relative_error(estimator(problem, theta).grad, exact) < 1e-10
    assert relative_error(FiniteDifference(KINDS[kind], 4, 1e-5)(problem, theta).grad, exact) < 1e-7


@pytest.mark.parametrize("backward", ["autograd", "adjoint"])
@pytest.mark.parametrize("kind", ["momentum", "adam"])
def test_a_rate_without_the_task_dimension_serves_every_task(kind, backward):
    """As many tasks as hidden units: b1 is (4, 4) with its tasks, and its rates (4,) are those of the units."""
    problem, theta = _learning()
    batch, single, _ = tasks_of(4)
    together = replace(batch, init=lambda th: {name: th[name].expand(4, *th[name].shape) for name in NAMES})
    estimator = MultiStep(KINDS[kind], 4, (1, 2, 1), backward)
    found = estimator(together, theta).grad
    alone = [estimator(replace(one, init=problem.init), theta).grad for one in single]
    assert relative_error(found, {name: sum(grad[name] for grad in alone) / 4 for name in theta}) < 1e-12


def test_a_window_stays_closed_with_a_rate_for_each_number():
    """Whatever n is, a graph holds the same of the size of a batch of tasks: nothing but the arguments."""
    rate = torch.rand(8, dtype=F64).requires_grad_()
    arguments = phi, velocity, grad = [torch.rand(100, 8, dtype=F64).requires_grad_() for _ in range(3)]
    for n in (2, 8):
        held = []
        with torch.autograd.graph.saved_tensors_hooks(lambda value, held=held: held.append(value), lambda value: value):
            SGD({"x": rate}, 0.9, 0.1).window(State({"x": phi}, {"velocity": {"x": velocity}}), {"x": grad}, n)
        large = {value.data_ptr() for value in held if value.numel() == phi.numel()}
        assert large == {value.data_ptr() for value in arguments}


def test_numbers_by_name_are_the_same_as_for_all():
    problem, theta = maml()
    for backward in ("autograd", "adjoint"):
        for kind, rates in ((SGD, (0.1, 0.9, 0.01)), (SGD, (0.1,)), (RMSprop, (0.02, 0.9))):
            one = MultiStep(kind(*rates), 20, (1, 3) * 5, backward)(problem, theta)
            each = MultiStep(kind(*(dict.fromkeys(NAMES, rate) for rate in rates)), 20, (1, 3) * 5, backward)
            assert relative_error(each(problem, theta).grad, one.grad) < 1e-12


def _anil():
    """The head `w2` alone is adapted, the body in three ways: no rate, from θ in the inner loss, no part of φ."""
    problem, theta = maml()
    body = lambda th: {"w1": th["w1"], "b1": th["b1"]}  # noqa: E731
    head = Bilevel(
        lambda th: {"w2": th["w2"]},
        lambda phi, th, t: problem.inner({**body(th), **phi}, th, t),
        lambda phi, th: problem.outer({**body(th), **phi}, th),
    )
    from_theta = Bilevel(problem.init, lambda phi, th, t: problem.inner({**phi, **body(th)}, th, t), problem.outer)
    return theta, (SGD({"w1": 0.0, "b1": 0.0, "w2": 0.2}), problem), (SGD(0.2), from_theta), (SGD(0.2), head)


@pytest.mark.parametrize("backward", ["autograd", "adjoint"])
def test_anil_adapts_the_head_alone(backward):
    theta, *ways = _anil()
    found = [MultiStep(dynamics, 4, (1, 2, 1), backward)(problem, theta) for dynamics, problem in ways]
    estimator, problem = MultiStep(ways[2][0], 4, (1, 2, 1)), ways[2][1]
    expected = finite_differences(lambda moved: estimator(problem, moved).loss, theta)
    for out in found:
        assert relative_error(out.grad, expected) < 1e-6 and relative_error(out.grad, found[0].grad) < 1e-12
    assert all(torch.equal(out.phi[name], theta[name]) for out in found[:2] for name in ("w1", "b1"))
    first = [FirstOrder(dynamics, 4)(problem, theta).grad for dynamics, problem in ways[:2]]
    assert relative_error(first[0], first[1]) < 1e-12 and first[0]["w1"].abs().max() > 1e-3
    with pytest.raises(ConfigError, match="acts in the inner loss"):  # half of the body's gradient would be missing
        FirstOrder(*ways[2][:1], 4)(ways[2][1], theta)


def test_what_is_not_adapted_needs_no_rate():
    problem, theta = maml()
    frozen = {**theta, "w1": torch.nn.Parameter(theta["w1"], requires_grad=False)}
    out = MultiStep(SGD({"b1": 0.1, "w2": 0.1}), 2)(problem, frozen)
    assert torch.equal(out.phi["w1"], theta["w1"]) and not torch.equal(out.phi["w2"], theta["w2"])


@pytest.mark.parametrize("backward", ["autograd", "adjoint"])
@pytest.mark.parametrize(
    ("dynamics", "match"),
    [
        (SGD({"w1": 0.1, "b1": 0.1}), r"lr of SGD is a dict without 'w2', an entry of phi: give it"),
        (Adam(betas=({}, 0.9)), r"betas of Adam is a dict without 'w1'"),
        (clipped(RMSprop(momentum={"w1": 0.1}), 1.0), r"momentum of RMSprop is a dict without 'b1'"),
        (SGD({k: torch.ones(5, dtype=F64) for k in NAMES}), r"lr of SGD has shape \(5,\) under 'w1'.* phi's \(3, 4\)"),
        (SGD({k: torch.ones(2, 3, 4, dtype=F64) for k in NAMES}), r"shape \(2, 3, 4\) under 'w1'"),
        (SGD({k: torch.ones(0, dtype=F64) for k in NAMES}), r"shape \(0,\) under 'w1'"),
    ],
)
def test_a_dict_that_does_not_fit_phi_is_refused_in_one_line(dynamics, match, backward):
    with pytest.raises(ConfigError, match=match) as caught:
        MultiStep(dynamics, 2, 1, backward)(*maml())
    assert "\n" not in str(caught.value)


def test_a_rate_that_would_change_phis_type_is_refused():
    phi = torch.ones(2, 3)
    turns, one, wide = (
        "with it phi's 'x' turns from torch.float32 into torch.float64",
        phi[0, 0],
        torch.tensor(0.1, dtype=F64),
    )
    for dynamics, entry, what in [
        (SGD({"x": torch.ones(3, dtype=F64)}), phi, "lr of SGD, under 'x', is of torch.float64"),
        (SGD(wide), one, "lr of SGD is of torch.float64"),  # of two numbers the wider type wins
        (Adam(0.1, (wide, 0.9)), one, "betas of Adam is of torch.float64"),
        (Adam({"x": 0.1}, weight_decay=wide), one, "weight_decay of Adam is of torch.float64"),
    ]:
        with pytest.raises(ConfigError, match=f"{what}: {turns}, so give it that type"):
            dynamics.window(State({"x": entry}), {"x": entry}, 1)
    assert SGD(wide).window(State({"x": phi}), {"x": phi}, 1).phi["x"].dtype == torch.float32
    after = SGD({"x": torch.ones(3, dtype=torch.bfloat16)}).window(State({"x": phi}), {"x": phi}, 1)
    assert after.phi["x"].dtype == torch.float32


@pytest.mark.parametrize("backward", ["autograd", "adjoint"])
def test_a_tensor_in_a_dict_whose_gradient_would_be_lost_is_refused(backward):
    problem, theta = maml()
    rates = {name: torch.tensor(0.1, dtype=F64, requires_grad=True) for name in NAMES}
    for dynamics, name in (
        (SGD(rates), r"lr\.w1 of SGD"),
        (Adam(0.1, (0.9, rates["w1"])), r"betas\.1 of Adam"),
        (clipped(SGD(rates), 1.0), r"dynamics\.lr\.w1 of Clipped"),
    ):
        with pytest.raises(ConfigError, match=f"{name} requires gradients but does not come from theta"):
            MultiStep(dynamics, 2, 1, backward)(problem, theta)


class _Halved(SGD):
    """A subclass whose map is not SGD's."""

    def window(self, state, grad, n):
        return super().window(state, {name: value / 2 for name, value in grad.items()}, n)


def test_a_subclass_changes_the_gradient_once():
    problem, theta = maml()
    for backward in ("autograd", "adjoint"):
        found = MultiStep(_Halved(dict.fromkeys(NAMES, 0.2)), 4, 2, backward)(problem, theta).grad
        assert relative_error(found, MultiStep(SGD(0.1), 4, 2)(problem, theta).grad) < 1e-12


def test_implicit_knows_the_decay_of_each_entry():
    """Against exact back-propagation through very many steps at the stationary point."""
    h, a = tensors(0, 5, 5), tensors(1, 5)
    h = h @ h.T / 5 + torch.eye(5, dtype=F64)
    theta = {"x": tensors(2, 5), "y": tensors(3, 5)}
    joint = lambda p: (p["x"] - a) @ h @ (p["y"] - a) / 4 + sum((v - a) @ h @ (v - a) for v in p.values())  # noqa: E731
    outer = lambda p, th: sum((v - 1).square().sum() for v in p.values())  # noqa: E731
    problem = Bilevel(lambda th: th, lambda p, th, t: joint(p), outer)
    pulled = Bilevel(lambda th: th, lambda p, th, t: joint(p) + sum((p[k] - th[k]).square().sum() for k in p), outer)
    for decay in ({"x": 0.3, "y": 0.0}, {"x": torch.linspace(0, 1, 5, dtype=F64), "y": 0.1}):
        inner = SGD(0.08, 0.5, decay)
        implicit = Implicit(inner, 120, 2.0, cg_steps=20, tolerance=1e-14)(problem, theta)
        assert relative_error(implicit.grad, MultiStep(inner, 120)(pulled, theta).grad) < 1e-9
