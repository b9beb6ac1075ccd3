"""What every estimator makes of a problem: copies, tasks, frozen and unused parameters, one line for mistakes."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from problems import F64, both, finite_differences, maml, relative_error, start, tasks_of
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from msmeta import (
    SGD,
    Adam,
    AMSGrad,
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
    RMSprop,
    SignSGD,
    State,
    Truncated,
    UserError,
    clipped,
    compare,
)

W = torch.zeros(2, dtype=F64)


def _inner(phi, theta, t):
    return (phi["w"] - 1).square().sum()


def _outer(phi, theta):
    return (phi["w"] - 2).square().sum()


def _bowl(init=lambda theta: theta, inner=_inner, outer=_outer, tasks=None):
    return Bilevel(init, inner, outer, tasks)


def _all(dynamics=SGD(0.1), steps=3):  # noqa: B008
    sampled = [kind(dynamics, steps, samples=2) for kind in (GaussianSmoothing, EvolutionStrategies)]
    kinds = (FirstOrder, Reptile, Implicit, FiniteDifference)
    rivals = [Truncated(dynamics, steps, 2), Binomial(dynamics, steps, 2), LazyHessian(dynamics, steps, steps)]
    rivals.append(Perturbed(dynamics, steps))
    return [*both(dynamics, steps), *sampled, *(kind(dynamics, steps) for kind in kinds), *rivals]


NAMES = ["autograd", "adjoint", "smoothing", "strategies", "first-order", "reptile", "implicit", "differences"]
NAMES += ["truncated", "binomial", "lazy", "perturbed"]


def _refused(function, match, error=ConfigError):
    with pytest.raises(error, match=match) as caught:
        function()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("problem", "theta", "match"),
    [
        (_bowl(), [W], "theta is a list: it must be a dict of tensors"),
        (_bowl(), torch.nn.Linear(2, 2), "theta is a Linear"),
        (_bowl(), {"w": {"x": W}}, "theta has a dict under 'w'"),
        (_bowl(lambda theta: {"w": theta["w"]}), {"w": W, "scale": 2.0}, "theta has a float under 'scale'"),
        (_bowl(), {"w": W.numpy()}, "theta has a ndarray under 'w'"),
        (_bowl(), {}, "theta has nothing to learn"),
        (_bowl(), {"w": W, "count": torch.tensor(3)}, "theta has torch.int64 under 'count'"),
        (_bowl(), {"w": W, "mask": torch.tensor([True])}, "theta has torch.bool under 'mask'"),
        (
            _bowl(lambda theta: {"w": theta["w"], "n": torch.tensor(1)}),
            {"w": W},
            "phi as init .* torch.int64 under 'n'",
        ),
        (_bowl(lambda theta: None), {"w": W}, "phi as init returned it is a NoneType"),
        (_bowl(lambda theta: State({"w": W}, {"velocity": W})), {"w": W}, "velocity as init returned it is a Tensor"),
        (_bowl(lambda theta: State({"w": W}, {"v": {"x": W}})), {"w": W}, "v as init .* shape .* under 'x'"),
        (_bowl(lambda theta: State({"w": W}, None)), {"w": W}, "buffers as init returned them are a NoneType"),
        (_bowl(lambda theta: State({"w": W}, step=-1)), {"w": W}, "step as init returned it is -1"),
        (_bowl(tasks=3), {"w": W}, r"phi as init returned it has shape \(2,\) under 'w': with tasks=3"),
        (
            _bowl(lambda theta: State({"w": theta["w"].expand(3, 2)}, {"velocity": {"w": W}}), tasks=3),
            {"w": W},
            "velocity as init returned it has shape",
        ),
        (lambda theta: theta, {"w": W}, "the problem is a function: it must be a Bilevel"),
        (_bowl(inner=lambda p, th, t: p["w"].sum() * 1j), {"w": W}, "inner loss at step 0 is not a 0-d .*complex"),
    ],
)
@pytest.mark.parametrize("estimator", _all(), ids=NAMES)
def test_a_problem_of_another_kind_is_refused_in_one_line(estimator, problem, theta, match):
    _refused(lambda: estimator(problem, theta), match)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"init": {"w": W}}, "init of the problem is a dict: it must be a function"),
        ({"inner": None}, "inner of the problem is a NoneType"),
        ({"outer": torch.tensor(1.0)}, "outer of the problem is a Tensor"),
        ({"outer_at": [0.5, 0.5]}, "outer_at of the problem is a list"),
        ({"init": lambda: W}, r"init of the problem must take \(theta\): too many"),
        ({"inner": _outer}, r"inner of the problem must take \(phi, theta, t\): too many positional arguments"),
        ({"outer": _inner}, r"outer of the problem must take \(phi, theta\): missing a required argument: 't'"),
        ({"outer_at": _outer}, r"outer_at of the problem must take \(phi, theta, t\)"),
        ({"tasks": "3"}, "tasks='3': it must be a whole number"),
        ({"tasks": 0}, "tasks=0: it must be a whole number, at least one"),
        ({"tasks": True}, "tasks=True"),
        ({"tasks": 2.0}, "tasks=2.0"),
    ],
)
def test_a_problem_is_checked_where_it_is_made(given, match):
    functions = {"init": lambda theta: theta, "inner": _inner, "outer": _outer}
    _refused(lambda: Bilevel(**{**functions, **given}), match)


@pytest.mark.parametrize(
    ("dynamics", "name", "uses"),
    [
        (SGD(0.1, 0.9), "momentum_buffer", "SGD's steps as set: they use velocity"),
        (SGD(0.1), "velocity", "SGD's steps as set: they use none"),
        (clipped(Adam(0.1), 1.0), "exp_avg", "Adam's steps as set: they use mean, square"),
        (AMSGrad(0.1), "max", "they use mean, square, largest"),
        (RMSprop(0.1), "momentum", "they use mean_square"),
        (SignSGD(0.1), "velocity", "they use none"),
    ],
)
def test_a_learned_buffer_that_no_step_uses_is_refused(dynamics, name, uses):
    """Of another optimiser's name, say: it would never learn. One that is carried along is not learned."""
    theta = {"w": W, "start": W}
    for estimator in both(dynamics, 2):
        learned = _bowl(lambda theta: State({"w": theta["w"]}, {name: {"w": theta["start"]}}))
        _refused(lambda: estimator(learned, theta), f"buffers as init .* have '{name}', learned, .* {uses}")  # noqa: B023
        carried = _bowl(lambda theta: State({"w": theta["w"]}, {name: {"w": W}}))
        assert torch.equal(estimator(carried, theta).state.buffers[name]["w"], W)


class _Traced(SGD):
    """A subclass with a buffer of its own."""

    def window(self, state, grad, n):
        phi = {
            name: value - n * (self.lr * grad[name] + state.buffers["trace"][name]) for name, value in state.phi.items()
        }
        return State(phi, state.buffers, state.step + n)


def test_a_subclass_may_learn_buffers_of_its_own():
    problem = _bowl(lambda theta: State({"w": theta["w"]}, {"trace": {"w": theta["start"]}}))
    out = MultiStep(_Traced(0.1), 2)(problem, {"w": W, "start": 0.1 * W})
    assert (out.grad["start"] != 0).all()


@pytest.mark.parametrize("estimator", _all(), ids=NAMES)
def test_inference_mode_is_named_and_its_tensors_may_be_used_outside(estimator):
    with torch.inference_mode():
        theta = {"w": torch.zeros(2)}
        _refused(lambda: estimator(_bowl(), theta), "torch.inference_mode is on")
    source = getattr(estimator, "generator", torch.default_generator)
    source.manual_seed(0)
    inside = estimator(_bowl(), theta)
    source.manual_seed(0)
    with torch.no_grad():
        assert torch.equal(inside.grad["w"], estimator(_bowl(), {"w": torch.zeros(2)}).grad["w"])


@pytest.mark.parametrize("dynamics", [SGD(0.1), Adam(0.1)], ids=["sgd", "adam"])
@pytest.mark.parametrize("place", range(len(NAMES)), ids=NAMES)
def test_the_callers_no_grad_changes_nothing(dynamics, place):
    """Where the Hessian is not the same everywhere, so that it cannot be lost without a trace."""
    estimator, theta = _all(dynamics)[place], {"w": torch.tensor([0.5, 0.9], dtype=F64)}
    problem = _bowl(inner=lambda phi, theta, t: phi["w"].pow(4).sum())
    source = getattr(estimator, "generator", torch.default_generator)
    source.manual_seed(0)
    found = estimator(problem, theta).grad["w"]
    source.manual_seed(0)
    with torch.no_grad():
        assert torch.equal(estimator(problem, theta).grad["w"], found)


def test_users_functions_can_change_neither_dictionaries_nor_the_callers_tensors():
    """Each of them empties what it is given, and the inner loss clips φ in place."""
    fixed = {"w": torch.tensor([3.0, -0.5]), "b": torch.tensor([5.0])}
    velocity = {"w": torch.ones(2), "b": torch.ones(1)}

    class Emptying:
        def window(self, state, grad, n):
            after = SGD(0.1, 0.9).window(State(dict(state.phi), dict(state.buffers)), dict(grad), n)
            for values in (state.phi, grad, *state.buffers.values(), state.buffers, state.skipped):
                values.clear()
            return after

    def emptying(function, clip=False):
        def called(*given):
            if clip:
                given[0]["w"].data.clamp_(-1, 1)
            result = function(*(dict(value) if isinstance(value, dict) else value for value in given))
            for value in given:
                if isinstance(value, dict):
                    value.clear()
            return result

        return called

    inner = emptying(lambda phi, theta, t: (phi["w"] * theta["a"]).square().sum() + phi["b"].sum(), clip=True)
    outer = emptying(lambda phi, theta: phi["w"].sum() + phi["b"].sum() + theta["a"])
    for given, init in (
        ({"a": torch.tensor(1.0)}, lambda theta: State(fixed, {"velocity": velocity})),
        ({"a": torch.tensor(1.0), **fixed}, lambda theta: {"w": theta["w"], "b": theta["b"]}),
    ):
        theta = {name: value.clone() for name, value in given.items()}
        found = [e(Bilevel(emptying(init), inner, outer), theta) for e in both(Emptying(), 4, 2)]
        torch.testing.assert_close(found[0].grad["a"], found[1].grad["a"])
        assert found[0].grad["a"] != 1
        assert theta.keys() == given.keys() and all(torch.equal(theta[k], given[k]) for k in theta)
    assert fixed["w"].tolist() == [3, -0.5] and velocity["w"].tolist() == [1, 1]


RIVALS = [(Truncated, 0), (Truncated, 2), (Truncated, 4), (Binomial, 1), (Binomial, 3), (LazyHessian, 2)]


@pytest.mark.parametrize(("kind", "setting"), RIVALS)
def test_tasks_in_a_batch_are_as_if_alone(kind, setting):
    batch, single, theta = tasks_of(3)
    estimator = kind(SGD(0.1, 0.9, 1e-2), 4, setting)
    alone = [estimator(one, theta).grad for one in single]
    mean = {name: sum(grad[name] for grad in alone) / 3 for name in theta}
    assert relative_error(estimator(batch, theta).grad, mean) < 1e-12


@pytest.mark.parametrize("estimator", _all(SGD(0.1, 0.9, 0.5)), ids=NAMES)
def test_what_is_frozen_is_not_adapted_and_has_no_meta_gradient(estimator):
    """Parameters that say `requires_grad=False`; plain tensors, which cannot help it, are adapted."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
    model[0].requires_grad_(False)
    x, y = torch.randn(8, 3, dtype=F64), torch.randn(8, 2, dtype=F64)

    def loss(phi, *_):
        return (functional_call(model, phi, (x,)) - y).square().mean()

    names = dict(model.named_parameters())
    out = estimator(Bilevel(lambda theta: theta, loss, loss), names)
    for name, value in names.items():
        moved = not torch.equal(out.phi[name], value)
        assert moved == name.startswith("2") == bool(out.grad[name].abs().max() > 0), name
    plain = estimator(Bilevel(lambda theta: theta, loss, loss), {k: v.detach() for k, v in names.items()})
    assert all(not torch.equal(plain.phi[name], value) for name, value in names.items())


def test_the_frozen_are_frozen_in_a_batch_of_tasks_and_where_phi_starts_elsewhere():
    frozen = torch.nn.Parameter(torch.ones(2, dtype=F64), requires_grad=False)
    loss = lambda phi, *_: (phi["w"] * phi["f"] - 1).square().sum()  # noqa: E731
    tasks = Bilevel(lambda theta: {k: v.expand(3, 2) for k, v in theta.items()}, loss, loss, tasks=3)
    apart = Bilevel(lambda theta: {"w": theta["w"], "f": frozen}, loss, loss)
    view = Bilevel(lambda theta: {"w": theta["w"], "f": frozen.view(2)}, loss, loss)
    for problem, theta in ((tasks, {"w": W, "f": frozen}), (apart, {"w": W}), (view, {"w": W})):
        for estimator in both(SGD(0.1, weight_decay=0.5), 2):
            out = estimator(problem, theta)
            assert (out.phi["f"] == 1).all() and (out.phi["w"] != 0).all() and (out.grad["w"] != 0).all()
    _refused(lambda: MultiStep(SGD(0.1), 2)(_bowl(), {"w": frozen}), "theta has nothing to learn")


OPTIMISERS = [
    (SGD(0.1, weight_decay=0.5), lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.5)),
    (SGD(0.1, 0.9, 0.5), lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=0.5)),
    (Adam(0.1, eps=1e-2, weight_decay=0.5), lambda p: torch.optim.Adam(p, 0.1, eps=1e-2, weight_decay=0.5)),
]


@pytest.mark.parametrize("windows", [(1,) * 6, (2, 1, 3)], ids=["steps", "windows"])
@pytest.mark.parametrize(("dynamics", "reference"), OPTIMISERS, ids=["sgd", "momentum", "adam"])
def test_steps_leave_alone_what_their_loss_does_not_use_as_torch_optim_does(dynamics, reference, windows):
    """Two heads that take turns, one of them from the second window on; `idle` is never used."""
    heads = {sum(windows[:k]): ("first", "second")[k % 2] for k in range(len(windows))}

    def inner(phi, theta, t):
        return (phi["w"] * phi[heads[t]] - 2 - t).square().sum()

    def outer(phi, theta):
        return sum((k + 1) * value.square().sum() for k, value in enumerate(phi.values()))

    generator = torch.Generator().manual_seed(0)
    names = ("w", "first", "second", "idle")
    theta = {name: 0.5 + torch.rand(2, dtype=F64, generator=generator) for name in names}
    params = {name: torch.nn.Parameter(value.clone()) for name, value in theta.items()}
    optimizer = reference(params.values())
    for k, n in enumerate(windows):
        optimizer.zero_grad()
        inner(params, None, sum(windows[:k])).backward()
        for _ in range(n):
            optimizer.step()
    problem = Bilevel(lambda theta: theta, inner, outer)
    graph, recursion = (estimator(problem, theta) for estimator in both(dynamics, 6, windows))
    for name, value in params.items():
        torch.testing.assert_close(graph.phi[name], value.detach(), rtol=1e-12, atol=1e-13)
    assert torch.equal(graph.phi["idle"], theta["idle"])
    assert relative_error(recursion.grad, graph.grad) < 1e-10
    differences = finite_differences(lambda moved: MultiStep(dynamics, 6, windows)(problem, moved).loss, theta)
    assert relative_error(graph.grad, differences) < 1e-5


@pytest.mark.parametrize("dynamics", [SGD(0.1, 0.9, 1e-2), Adam(0.02, eps=1e-2)], ids=["sgd", "adam"])
def test_the_last_state_is_one_to_go_on_from(dynamics):
    problem, theta = maml()
    constant = Bilevel(problem.init, lambda phi, theta, t: problem.inner(phi, theta, 0), problem.outer)
    for estimator in _all(dynamics, 4):
        out = estimator(constant, theta)
        assert out.state.step == 4 and out.phi is out.state.phi
        assert not any(isinstance(value, torch.nn.Parameter) for value in out.phi.values())  # none is frozen
        assert not any(v.requires_grad for values in out.state.buffers.values() for v in values.values())
    whole, half = MultiStep(dynamics, 8)(constant, theta), MultiStep(dynamics, 4)(constant, theta)
    onwards = Bilevel(lambda theta: half.state, constant.inner, lambda p, th: constant.outer(p, th) + th["b1"].sum())
    again = MultiStep(dynamics, 4)(onwards, theta)
    assert all(torch.equal(again.phi[name], whole.phi[name]) for name in whole.phi) and again.state.step == 8


def test_the_number_of_tasks_is_said_and_not_guessed_from_shapes():
    """θ and φ of one shape but for a first dimension, which is not one of tasks: the weights of a single layer."""
    targets = torch.tensor([[1.0, 0.0], [3.0, -2.0], [0.0, 4.0]], dtype=F64)
    inner = lambda phi, theta, t: (phi["w"] - targets).square().sum() / 2  # noqa: E731
    outer = lambda phi, theta: (phi["w"] - targets).square().mean()  # noqa: E731
    expand = lambda theta: {"w": theta["w"].expand(3, 2)}  # noqa: E731
    tied, tasks = Bilevel(expand, inner, outer), Bilevel(expand, inner, outer, tasks=np.int64(3))
    _refused(lambda: Reptile(SGD(0.1), 2)(tied, {"w": W}), "unlike 'w'.*number of tasks")
    moved = (1 - 0.9**2) * targets
    torch.testing.assert_close(Reptile(SGD(0.1), 2)(tasks, {"w": W}).grad["w"], -moved.mean(0))
    exact = MultiStep(SGD(0.1), 2)(tied, {"w": W}).grad
    for problem in (tied, tasks):
        out = Implicit(SGD(0.1), 2, proximal=1.0, cg_steps=5)(problem, {"w": W})
        assert out.info["residual"] < 1e-6
        assert relative_error(FiniteDifference(SGD(0.1), 2, 1e-3)(problem, {"w": W}).grad, exact) < 1e-9


@pytest.mark.parametrize("estimator", both(SGD(0.1), 2), ids=["autograd", "adjoint"])
def test_a_meta_gradient_that_is_not_finite_is_named_and_not_blamed_on_the_rate(estimator):
    """The outer loss is |φ|, a root of squares, where φ is 0 and stays so: it is finite, its derivative 0/0."""
    problem = _bowl(inner=lambda p, th, t: p["w"].sum() * 0, outer=lambda p, th: p["w"].square().sum().sqrt())
    with pytest.raises(DivergedError, match=r"meta-gradient is not finite for theta\['w'\]") as caught:
        estimator(problem, {"w": W})
    assert "rate" not in str(caught.value)


@pytest.mark.parametrize(
    ("theta", "inner", "advice"),
    [
        (torch.ones(2), lambda p, th, t: p["w"].sum() * math.inf, "step 0: no step was taken yet"),
        (torch.ones(2), lambda p, th, t: p["w"].sum() / (1 - t), "step 1: lower the inner learning rate"),
        (torch.ones(2).half(), lambda p, th, t: p["w"].sum() / (1 - t), "step 1: torch.float16 may .*float32"),
        (torch.ones(2).bfloat16(), lambda p, th, t: p["w"].sum() * math.nan, "step 0: torch.bfloat16 may .*float32"),
    ],
)
def test_what_diverged_is_blamed_on_what_may_have_done_it(theta, inner, advice):
    for estimator in _all():
        _refused(lambda estimator=estimator: estimator(_bowl(inner=inner), {"w": theta}), advice, DivergedError)


def test_adam_in_half_precision_is_not_told_to_lower_its_rate():
    """eps = 1e-8 is 0 there, so an entry without a gradient becomes 0/0."""
    problem = _bowl(inner=lambda p, th, t: p["w"][0].square() + 0 * p["w"].sum())
    with pytest.raises(DivergedError, match="torch.float16 may over- or underflow") as caught:
        MultiStep(Adam(0.1), 3)(problem, {"w": torch.ones(2).half()})
    assert "rate" not in str(caught.value)


def _noisy(inner_noise):
    x, y = torch.randn(2, 6, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    return Bilevel(
        lambda theta: theta,
        lambda phi, theta, t: ((inner_noise(x) @ phi["w"] - y[:, 0]).square()).mean(),
        lambda phi, theta: phi["w"].square().sum(),
    )


@pytest.mark.parametrize("noise", [torch.nn.functional.dropout, lambda x: x[torch.randperm(6)[:4].repeat(2)[:6]]])
@pytest.mark.parametrize("name", ["adjoint", "smoothing", "implicit", "differences", "binomial", "perturbed"])
def test_an_inner_loss_that_is_no_function_is_refused_where_one_is_needed(name, noise):
    estimator, theta = dict(zip(NAMES, _all(), strict=True))[name], {"w": torch.ones(3, dtype=F64)}
    torch.manual_seed(1)
    _refused(lambda: estimator(_noisy(noise), theta), r"inner loss at step \d is .* again, .*without dropout")
    estimator(_noisy(lambda x: x), theta)
    # Rounding as by another order of sums is no other value.
    estimator(_noisy(lambda x: x * (1 + 1e-14 * torch.randn(()))), theta)


@pytest.mark.parametrize("name", ["autograd", "first-order", "reptile", "strategies", "truncated", "lazy"])
def test_other_estimators_take_an_inner_loss_with_random_numbers(name):
    dict(zip(NAMES, _all(), strict=True))[name](_noisy(torch.nn.functional.dropout), {"w": torch.ones(3, dtype=F64)})


@pytest.mark.filterwarnings("ignore")  # of torch's compiler, about itself
def test_a_compiled_inner_loss_is_refused_where_its_second_derivative_is_needed():
    problem, theta = maml()
    loss = torch.compile(lambda phi: problem.inner(phi, None, 0), backend="aot_eager")
    compiled = Bilevel(problem.init, lambda p, th, t: loss(p) + 0.1 * p["w1"].square().sum(), problem.outer)
    eager = Bilevel(
        problem.init, lambda p, th, t: problem.inner(p, None, 0) + 0.1 * p["w1"].square().sum(), problem.outer
    )
    for name, estimator in zip(NAMES, _all(), strict=True):
        if name in ("autograd", "adjoint", "implicit", "truncated", "binomial", "lazy"):
            _refused(lambda estimator=estimator: estimator(compiled, theta), "inner loss at step . is compiled")
        elif name in ("first-order", "reptile", "differences", "perturbed"):
            assert relative_error(estimator(compiled, theta).grad, estimator(eager, theta).grad) < 1e-9


class Square(torch.autograd.Function):
    """As many third parties write it."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


def test_a_backward_pass_without_a_derivative_is_refused_where_one_is_needed():
    """Torch would leave out what comes through it, without a word."""
    problem, theta = maml()

    def made(square):
        inner = lambda phi, th, t: problem.inner(phi, th, t) + square(phi["w1"]).sum().sigmoid()  # noqa: E731
        outer = lambda phi, th: problem.outer(phi, th) + square(phi["w2"]).sum()  # noqa: E731
        return Bilevel(problem.init, inner, outer)

    for name, one, other in zip(NAMES, _all(), _all(), strict=True):
        if name in ("autograd", "adjoint", "implicit", "truncated", "binomial", "lazy"):
            _refused(lambda one=one: one(made(Square.apply), theta), "Square is once_differentiable")
        else:
            found, expected = one(made(Square.apply), theta), other(made(torch.square), theta)
            assert relative_error(found.grad, expected.grad) < 1e-12


def test_an_operation_whose_gradient_torch_cannot_differentiate_is_refused_in_one_line():
    x, labels, lengths = torch.randn(8, 2, 4), torch.randint(1, 5, (2, 3)), (torch.tensor([8, 8]), torch.tensor([3, 3]))
    loss = lambda phi, *_: F.ctc_loss(F.log_softmax(x @ phi["w"], -1), labels, *lengths)  # noqa: E731
    problem, theta = Bilevel(lambda theta: theta, loss, loss), {"w": torch.randn(4, 5)}
    for estimator in both(SGD(0.1), 2):
        _refused(
            lambda estimator=estimator: estimator(problem, theta), "cannot be differentiated again .*_ctc_loss_back"
        )
    rows = compare(problem, theta, [FirstOrder(SGD(0.1), 2), MultiStep(SGD(0.1), 2)], costs=False).rows
    assert [bool(row.failure) for row in rows] == [False, True]


def test_checkpointing_in_a_loss_is_right_or_refused():
    x = torch.ones(6, 3, dtype=F64, requires_grad=True)

    def made(call):
        inner = lambda phi, th, t: (call(lambda x: (x @ phi["w1"]).tanh(), x) @ phi["w2"] - 1).square().mean()  # noqa: E731
        return Bilevel(lambda theta: theta, inner, lambda phi, th: inner(phi, th, 0))

    theta, plain = {name: start()[name] for name in ("w1", "w2")}, made(lambda function, x: function(x))
    for estimator in (*both(SGD(0.1), 3), FirstOrder(SGD(0.1), 3)):
        found = estimator(made(partial(checkpoint, use_reentrant=False)), theta).grad
        assert relative_error(found, estimator(plain, theta).grad) < 1e-12
        again = made(partial(checkpoint, use_reentrant=True))
        _refused(lambda estimator=estimator, again=again: estimator(again, theta), "with use_reentrant=True")


@pytest.mark.parametrize("by", ["inputs", "phi"])
def test_a_loss_may_differentiate_inside(by):
    """A penalty on the gradient by the inputs or by φ, which has a closed form."""
    x = torch.linspace(-1, 1, 18, dtype=F64).reshape(6, 3)

    def inside(phi, *_):
        own = {"inputs": x.clone().requires_grad_(), "phi": phi["w"]}
        values = ((own["inputs"] if by == "inputs" else x) @ phi["w"]).tanh().sum()
        (found,) = torch.autograd.grad(values, own[by], create_graph=True)
        return found.square().mean()

    def closed(phi, *_):
        slope = (1 - (x @ phi["w"]).tanh().square())[:, None]
        return (slope * phi["w"]).square().mean() if by == "inputs" else (slope * x).sum(0).square().mean()

    theta = {"w": torch.ones(3, dtype=F64)}
    for one, other in zip(_all(), _all(), strict=True):
        heeds = isinstance(one, MultiStep | FirstOrder | EvolutionStrategies)
        made = [Bilevel(lambda th: th, loss, loss, outer_at=loss if heeds else None) for loss in (inside, closed)]
        found, expected = one(made[0], theta), other(made[1], theta)
        assert relative_error(found.grad, expected.grad) < 1e-9 and found.loss == pytest.approx(expected.loss.item())


@pytest.mark.parametrize("where", ["inner", "outer"])
def test_a_loss_may_read_what_init_made_of_theta(where):
    """All evaluations share its graph. Held against the same problem whose loss makes it anew."""
    kept = {}

    def init(theta):
        kept["z"] = theta["a"].tanh() * theta["a"]
        return {"w": theta["w"] * theta["w"]}

    def made(z):
        plain, reading = (
            lambda phi: (phi["w"] - 1).square().sum(),
            lambda phi, th: (phi["w"] * z(th) - 1).square().sum(),
        )
        if where == "inner":
            return Bilevel(init, lambda phi, th, t: reading(phi, th), lambda phi, th: plain(phi))
        return Bilevel(init, lambda phi, th, t: plain(phi), reading)

    theta = {"w": torch.full((3,), 1.2, dtype=F64), "a": torch.full((3,), 0.5, dtype=F64)}
    for one, other in zip(_all(SGD(0.05)), _all(SGD(0.05)), strict=True):
        if isinstance(one, Reptile) or where == "inner" and isinstance(one, FirstOrder | Implicit):
            continue
        found = one(made(lambda th: kept["z"]), theta).grad
        expected = other(made(lambda th: th["a"].tanh() * th["a"]), theta).grad
        assert relative_error(found, expected) < 1e-12 and found["a"].abs().min() > 0


def test_small_numbers_in_half_precision_are_not_lost():
    """Their squares underflow. On a bowl with H = λ = 1: (1 - η)³, λ / (H + λ), and that times 1 - (1 - 2η)³."""
    problem = _bowl(
        inner=lambda phi, theta, t: (phi["w"] - 2).square().sum() / 2, outer=lambda phi, th: (phi["w"] * 1e-4).sum()
    )
    for dtype in (torch.float32, torch.float16):
        exact = {MultiStep: 0.75**3, FiniteDifference: 0.75**3, Implicit: 0.5, Perturbed: 0.5 * (1 - 0.5**3)}
        for kind, expected in exact.items():
            grad = kind(SGD(0.25), 3)(problem, {"w": torch.zeros(3, dtype=dtype)}).grad["w"]
            assert grad[0].item() == pytest.approx(1e-4 * expected, rel=0.06), (kind, dtype)


@pytest.mark.parametrize("estimator", _all(SGD(0.1, 0.0, 0.5)), ids=NAMES)
def test_what_the_inner_loss_does_not_use_stays_where_it_starts(estimator):
    problem = _bowl(outer=lambda phi, theta: phi["w"].sum() + 3 * phi["idle"].sum())
    out = estimator(problem, {"w": W, "idle": torch.ones(2, dtype=F64)})
    assert out.phi["idle"].tolist() == [1, 1] and out.phi["w"].abs().min() > 0
    if isinstance(estimator, Implicit):
        torch.testing.assert_close(out.grad["w"], torch.full((2,), 1 / 3.5, dtype=F64))  # λ / (λ + H + ω)
    if not isinstance(estimator, Reptile | EvolutionStrategies):  # which do not look at the outer loss, or at random
        assert out.grad["idle"].tolist() == [3, 3]


def test_complex_parameters_are_right_or_refused():
    """Against the same problem in real and imaginary parts, whose gradient is torch's of the complex one."""
    generator = torch.Generator().manual_seed(0)
    a, b, w = (torch.randn(*shape, generator=generator, dtype=torch.complex128) for shape in ((5, 3), (5,), (3,)))
    error = lambda phi: (a @ phi["w"] - b).abs().square().mean()  # noqa: E731
    apart = lambda phi: (phi["w"] - 1).abs().pow(3).sum()  # noqa: E731
    whole = Bilevel(lambda th: th, lambda p, th, t: error(p), lambda p, th: apart(p))
    join = lambda phi: {"w": torch.view_as_complex(phi["w"])}  # noqa: E731
    parts = Bilevel(lambda th: th, lambda p, th, t: error(join(p)), lambda p, th: apart(join(p)))
    kinds = [*both(SGD(0.1, 0.9), 4, 2), FirstOrder(SGD(0.1), 3), Reptile(SGD(0.1), 3), Implicit(SGD(0.1), 3)]
    kinds += [FiniteDifference(SGD(0.1), 3, 1e-4), Truncated(SGD(0.1), 3), Binomial(SGD(0.1), 3, 2)]
    kinds += [LazyHessian(SGD(0.1), 4, 2), Perturbed(SGD(0.1), 3, strength=1e-4)]
    for estimator in kinds:
        found, expected = estimator(whole, {"w": w}), estimator(parts, {"w": torch.view_as_real(w)})
        torch.testing.assert_close(torch.view_as_real(found.grad["w"]), expected.grad["w"], rtol=1e-7, atol=1e-9)
    exact = MultiStep(SGD(0.1), 1)(whole, {"w": w}).grad["w"]
    for kind in (EvolutionStrategies, GaussianSmoothing):
        sampled = kind(SGD(0.1), 1, 1500, 1e-3, torch.Generator().manual_seed(0))(whole, {"w": w}).grad["w"]
        assert (sampled - exact).abs().max() < 0.2 * exact.abs().max()
    _refused(lambda: MultiStep(Adam(0.1), 2)(whole, {"w": w}), "Adam takes no complex parameters")


@pytest.mark.parametrize("tasks", [None, 2])
@pytest.mark.parametrize("estimator", _all(), ids=NAMES)
def test_parameters_of_several_precisions_keep_their_own(estimator, tasks):
    generator = torch.Generator().manual_seed(0)
    theta = {name: value.float() if name == "w1" else value for name, value in start().items() if name != "b1"}
    x = torch.randn(8, 3, generator=generator)

    def loss(phi, *_):
        return (torch.tanh(x @ phi["w1"]).double() @ phi["w2"] - 1).square().mean()

    lead = (lambda v: v) if tasks is None else (lambda v: v.expand(tasks, *v.shape))
    out = estimator(Bilevel(lambda th: {k: lead(v) for k, v in th.items()}, loss, loss, tasks), theta)
    assert all(out.grad[name].dtype == out.phi[name].dtype == theta[name].dtype for name in theta)


def test_numbers_may_be_numpys_or_whole_floats():
    exact = MultiStep(SGD(0.1), 4, 2)(_bowl(), {"w": W}).grad["w"]
    for steps, window in ((np.int64(4), np.int64(2)), (4.0, 2.0), (np.float32(4), np.array([2, 2])), (4, [2.0, 2])):
        out = MultiStep(SGD(np.float64(0.1)), steps, window)(_bowl(), {"w": W})
        assert torch.equal(out.grad["w"], exact) and out.state.step == 4
    for estimator in (
        *_all(steps=4.0),
        Implicit(SGD(0.1), 4, cg_steps=5.0),
        GaussianSmoothing(SGD(0.1), 4, np.int64(3)),
    ):
        estimator(_bowl(), {"w": W})


@pytest.mark.parametrize(
    "make",
    [
        lambda: MultiStep(SGD(0.1), 4, None),
        lambda: MultiStep(SGD(0.1), 4, "22"),
        lambda: MultiStep(SGD(0.1), 4, 1.5),
        lambda: MultiStep(SGD(0.1), math.nan),
        lambda: FirstOrder(SGD(0.1), math.inf),
        lambda: Reptile(SGD(0.1), "4"),
        lambda: Implicit(SGD(0.1), 4, proximal="1"),
        lambda: Implicit(SGD(0.1), 4, cg_steps=2.5),
        lambda: FiniteDifference(SGD(0.1), 4, radius=math.nan),
        lambda: EvolutionStrategies(SGD(0.1), 4, samples=None),
        lambda: GaussianSmoothing(SGD(0.1), 4, deviation=math.inf),
        lambda: EvolutionStrategies(SGD(0.1), 4, generator=0),
        lambda: MultiStep(SGD(0.1), 4)(_bowl(init=None), {"w": W}),
        lambda: MultiStep(SGD(0.1), 4)(_bowl(inner=None), {"w": W}),
        lambda: MultiStep(SGD(0.1), 4)(_bowl(outer=None), {"w": W}),
        lambda: Truncated(SGD(0.1), 4, 1.5),
        lambda: Truncated(SGD(0.1), 4, -1),
        lambda: Binomial(SGD(0.1), 4, 5),
        lambda: LazyHessian(SGD(0.1), 4, "22"),
        lambda: Perturbed(SGD(0.1), 4, strength="1"),
        lambda: MultiStep(torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1), 2),
        lambda: MultiStep(SGD, 2),
        lambda: MultiStep(None, 2),
    ],
)
def test_settings_of_another_kind_are_refused_in_one_line(make):
    _refused(make, ": it must be", UserError)
