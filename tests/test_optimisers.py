"""Inner optimisers beside SGD, and what wraps dynamics; their values against torch.optim are in test_dynamics.py."""

import pytest
import torch
from problems import F64, finite_differences, maml, meta_network, relative_error, tasks_of, tensors

from msmeta import (
    SGD,
    Adam,
    AdamW,
    AMSGrad,
    Bilevel,
    ConfigError,
    FirstOrder,
    MultiStep,
    RMSprop,
    SignSGD,
    State,
    adapt,
    clipped,
    transformed,
)


def test_adam_is_differentiable_where_a_gradient_is_exactly_zero():
    """A dead ReLU: torch.sqrt alone has derivative ∞ · 0 = NaN there; the value must still be torch.optim.Adam's."""
    x = torch.tensor([1.0, -2.0], dtype=F64, requires_grad=True)
    grad = torch.relu(x) * torch.tensor([3.0, 1.0], dtype=F64)
    assert grad[1] == 0
    adam = Adam(0.01)
    state = State({"x": x * 1.0})
    for _ in range(3):
        state = adam.window(state, {"x": grad}, 1)
    (by_x,) = torch.autograd.grad(state.phi["x"].sum(), x)
    assert torch.isfinite(by_x).all()
    assert by_x[1] == 1  # no gradient, no step: only the identity is left

    theirs = x.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([theirs], lr=0.01)
    for _ in range(3):
        theirs.grad = grad.detach().clone()
        optimizer.step()
    torch.testing.assert_close(state.phi["x"], theirs.detach(), rtol=1e-12, atol=1e-12, check_device=False)


def _recorded(adam, state, grad, n):
    """Adam's steps as plain arithmetic whose graph holds all of it; no entry is exactly zero."""
    phi, moments, (beta1, beta2) = state.phi, [dict(state.buffers[name]) for name in ("mean", "square")], adam.betas
    for name in phi:
        for step in range(state.step + 1, state.step + n + 1):
            count, decayed = step - state.skipped.get(name, 0), grad[name] + adam.weight_decay * phi[name]
            moments[0][name] = beta1 * moments[0][name] + (1 - beta1) * decayed
            moments[1][name] = beta2 * moments[1][name] + (1 - beta2) * decayed**2
            mean, square = moments[0][name] / (1 - beta1**count), moments[1][name] / (1 - beta2**count)
            phi = {**phi, name: phi[name] - adam.lr * mean / (square.sqrt() + adam.eps)}
    return State(phi, dict(zip(("mean", "square"), moments, strict=True)))


@pytest.mark.parametrize("n", [1, 3])
def test_adams_derivatives_to_second_order_are_those_of_plain_arithmetic(n):
    """By state, gradient and rates, of all that a window gives, where entries have been skipped differently often."""
    torch.manual_seed(0)
    places = [("a", 3), ("b", 2)]
    phi, mean, grad, root = ({k: torch.randn(size, dtype=F64).requires_grad_() for k, size in places} for _ in range(4))
    square = {name: (0.1 + value.detach() ** 2).requires_grad_() for name, value in root.items()}
    lr, decay = (torch.tensor(value, dtype=F64, requires_grad=True) for value in (0.1, 0.01))
    adam = Adam(lr, (0.8, 0.9), 1e-2, decay)
    state = State(phi, {"mean": mean, "square": square}, 5, {"b": 2})
    inputs = [*(v for part in (phi, mean, square, grad) for v in part.values()), lr, decay]

    def derivatives(window):
        after = window(state, grad, n)
        values = [after.phi[k] for k in phi] + [after.buffers[name][k] for name in state.buffers for k in phi]
        first = torch.autograd.grad(sum(v.pow(3).sum() for v in values), inputs, create_graph=True)
        return *values, *first, *torch.autograd.grad(sum(v.pow(2).sum() for v in first), inputs)

    expected = derivatives(lambda *place: _recorded(adam, *place))
    for own, other in zip(derivatives(adam.window), expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-10)


def test_a_graph_of_adams_steps_holds_its_arguments_alone():
    tensors = {name: torch.rand(1000).requires_grad_() for name in ("phi", "mean", "square", "grad")}
    held = []
    with torch.autograd.graph.saved_tensors_hooks(lambda value: held.append(value.numel()), lambda value: value):
        state = State({"x": tensors["phi"]}, {name: {"x": tensors[name]} for name in ("mean", "square")})
        Adam().window(state, {"x": tensors["grad"]}, 4)
    assert sum(held) <= 4 * 1000


def _bent(grad):
    """Neither linear nor an entry by itself."""
    size = sum(value.square().sum() for value in grad.values())
    return {name: value.tanh() * (1 + size) for name, value in grad.items()}


NEW = {
    "nesterov": SGD(0.1, 0.9, 1e-2, nesterov=True),
    "adamw": AdamW(0.02, eps=1e-2, weight_decay=0.5),
    "amsgrad": AMSGrad(0.02, (0.8, 0.9), 1e-2, 0.1),
    "rmsprop": RMSprop(0.02, 0.9, 1e-2, 0.1),
    "rmsprop-momentum": RMSprop(0.02, 0.9, 1e-2, 0.1, 0.8),
    "sign": SignSGD(0.01),
    "clipped": clipped(SGD(0.1, 0.9, 0.1), 0.5),
    "clipped-adam": clipped(Adam(0.02, eps=1e-2), 0.5),
    "transformed": transformed(SGD(0.1, 0.9, 0.1), _bent),
    "function": transformed(clipped(lambda theta, t: SGD(0.1 / (1 + t), 0.5), 0.5), _bent),
}


@pytest.mark.parametrize("windows", [(1,) * 4, (2, 2), (1, 2, 1)], ids=str)
@pytest.mark.parametrize("make", [maml, meta_network])
@pytest.mark.parametrize("dynamics", NEW)
def test_both_ways_back_are_the_derivative(dynamics, make, windows):
    problem, theta = make()
    graph, recursion = (MultiStep(NEW[dynamics], 4, windows, way) for way in ("autograd", "adjoint"))
    found = graph(problem, theta)
    scale = max(value.abs().max() for value in found.grad.values())
    assert all((recursion(problem, theta).grad[k] - found.grad[k]).abs().max() <= 1e-10 * scale for k in theta)
    if windows == (1, 2, 1):
        expected = finite_differences(lambda moved: graph(problem, moved).loss, theta)
        assert all((found.grad[k] - expected[k]).abs().max() <= 1e-6 * max(scale, 1e-3) for k in theta)


def test_rmsprop_and_amsgrad_are_differentiable_where_a_gradient_is_exactly_zero():
    for dynamics in (RMSprop(0.1, momentum=0.5), AMSGrad(0.1)):
        x = torch.tensor([1.0, -2.0], dtype=F64, requires_grad=True)
        state = State({"x": x * 1.0})
        for _ in range(3):
            state = dynamics.window(state, {"x": torch.relu(x)}, 2)
        (by_x,) = torch.autograd.grad(state.phi["x"].sum(), x)
        assert torch.isfinite(by_x).all() and by_x[1] == 1


@pytest.mark.parametrize("dynamics", [RMSprop(), AMSGrad(), SignSGD(0.1)])
def test_complex_parameters_are_refused(dynamics):
    with pytest.raises(ConfigError, match=f"{type(dynamics).__name__} takes no complex parameters"):
        dynamics.window(*[State({"z": torch.ones(2, dtype=torch.complex128)}), {"z": torch.ones(2) * 1j}], 1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SignSGD(0.0),
        lambda: RMSprop(alpha=1.0),
        lambda: RMSprop(momentum=-0.1),
        lambda: AdamW(weight_decay=-1.0),
        lambda: clipped(SGD(0.1), 0.0),
        lambda: clipped(lambda theta, t: SGD(0.1), 0.0),
        lambda: clipped(SGD(0.1), {"w": 1.0}),
        lambda: clipped(SGD, 1.0),
        lambda: transformed(0.1, _bent),
        lambda: transformed(SGD(0.1), 2.0),
        lambda: transformed(SGD(0.1), lambda grad, t: grad),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(ConfigError, match="must"):
        make()


def test_sign_sgd_steps_by_the_sign_and_first_order_is_exact():
    state = SignSGD(0.5).window(State({"x": torch.zeros(3, dtype=F64)}), {"x": torch.tensor([2.0, 0.0, -1e-9])}, 3)
    assert state.phi["x"].tolist() == [-1.5, 0.0, 1.5] and state.step == 3
    problem, start = maml()
    theta = {**start, "rate": torch.tensor(0.02, dtype=F64)}
    learning = Bilevel(lambda th: {name: th[name] for name in start}, problem.inner, problem.outer)
    exact, first = (
        kind(lambda th, t: SignSGD(th["rate"]), 4)(learning, theta).grad for kind in (MultiStep, FirstOrder)
    )
    assert relative_error(first, exact) < 1e-12 and exact["rate"] != 0


@pytest.mark.parametrize("norm", [0.3, 100.0])
def test_clipping_equals_torchs(norm):
    dynamics = clipped(SGD(0.1, 0.9, 1e-2), norm)
    state = State({"x": tensors(0, 5), "y": tensors(1, 2, 3)})
    theirs = {name: value.clone().requires_grad_() for name, value in state.phi.items()}
    optimizer = torch.optim.SGD(theirs.values(), 0.1, 0.9, weight_decay=1e-2)
    for t in range(4):
        grad = {name: 3 * tensors(2 + t, *value.shape) for name, value in theirs.items()}
        for name, value in theirs.items():
            value.grad = grad[name].clone()
        torch.nn.utils.clip_grad_norm_(theirs.values(), norm)
        optimizer.step()
        state = dynamics.window(state, grad, 1)
        for name, value in theirs.items():
            torch.testing.assert_close(state.phi[name], value.detach(), rtol=1e-12, atol=1e-12)


def test_a_long_gradient_in_float16_is_clipped_and_does_not_vanish():
    grad = {"x": torch.full((4,), 1000.0, dtype=torch.float16)}
    after = clipped(SGD(1.0), 2.0).window(State({"x": torch.zeros(4, dtype=torch.float16)}), grad, 1)
    assert after.phi["x"].tolist() == [-1.0] * 4


def test_a_gradient_that_is_zero_is_clipped_and_differentiated():
    x = torch.zeros(2, dtype=F64, requires_grad=True)
    after = clipped(SGD(0.1), 1.0).window(State({"x": x * 1.0}), {"x": x * 3}, 1)
    (by_x,) = torch.autograd.grad(after.phi["x"].sum(), x)
    torch.testing.assert_close(by_x, torch.full((2,), 0.7, dtype=F64))


@pytest.mark.parametrize("backward", ["autograd", "adjoint"])
def test_tasks_are_clipped_each_by_its_own_norm(backward):
    """As many tasks as there are hidden units; the problem says that they are tasks, not the shapes."""
    together, single, theta = tasks_of(4)
    estimator = MultiStep(clipped(SGD(0.1, 0.9), 0.2), 4, (1, 2, 1), backward)
    found, alone = estimator(together, theta), [estimator(one, theta).grad for one in single]
    assert relative_error(found.grad, {name: sum(grad[name] for grad in alone) / 4 for name in theta}) < 1e-12
    unclipped = MultiStep(SGD(0.1, 0.9), 4, (1, 2, 1), backward)(together, theta)
    assert relative_error(unclipped.grad, found.grad) > 1e-2


@pytest.mark.parametrize("backward", ["autograd", "adjoint"])
def test_a_norm_may_be_learned(backward):
    problem, start = maml()
    theta = {**start, "norm": torch.tensor(0.3, dtype=F64)}
    learning = Bilevel(lambda th: {name: th[name] for name in start}, problem.inner, problem.outer)
    estimator = MultiStep(lambda th, t: clipped(SGD(0.1, 0.9), th["norm"]), 4, (1, 2, 1), backward)
    found = estimator(learning, theta).grad
    assert relative_error(found, finite_differences(lambda moved: estimator(learning, moved).loss, theta)) < 1e-6
    assert found["norm"] != 0


@pytest.mark.parametrize("backward", ["autograd", "adjoint"])
@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda grad: grad.clear(), "the gradient as the function given to transformed returned it is a NoneType"),
        (lambda grad: {"w1": grad["w1"]}, "other entries, types or shapes"),
        (lambda grad: {name: value.sum() for name, value in grad.items()}, "other entries, types or shapes"),
    ],
)
def test_a_function_that_returns_something_else_is_refused_in_one_line(function, match, backward):
    with pytest.raises(ConfigError, match=match) as caught:
        MultiStep(transformed(SGD(0.1), function), 2, 1, backward)(*maml())
    assert "\n" not in str(caught.value)


def _torch_after(first, second, start):
    """Parameters after three steps of one of torch's optimisers and two of another that begins there."""
    x = start.clone().requires_grad_()
    for optimizer, steps in ((first([x]), 3), (second([x]), 2)):
        for _ in range(steps):
            optimizer.zero_grad()
            (x**4 / 4).sum().backward()
            optimizer.step()
    return x.detach()


SWITCHED = {
    "sgd": (SGD(0.01, 0.9), lambda p: torch.optim.SGD(p, 0.01, 0.9)),
    "adam": (Adam(0.05), lambda p: torch.optim.Adam(p, 0.05)),
    "adam by name": (Adam({"x": 0.05}), lambda p: torch.optim.Adam(p, 0.05)),
    "rmsprop": (RMSprop(0.01, momentum=0.9), lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9)),
}


@pytest.mark.parametrize(
    "names", [("sgd", "adam"), ("sgd", "adam by name"), ("rmsprop", "sgd"), ("adam", "rmsprop"), ("rmsprop", "adam")]
)
def test_an_optimiser_that_takes_over_begins_as_torch_optims_does(names):
    """By a schedule, whose derivative is that of differences, and in a next call that goes on from the state."""
    (ours, theirs), (then, their_next) = (SWITCHED[name] for name in names)
    loss = lambda phi, *_: (phi["x"] ** 4 / 4).sum()  # noqa: E731
    problem, theta = Bilevel(lambda th: th, loss, loss), {"x": torch.tensor([1.0, -2.0], dtype=F64)}
    schedule = lambda _, t: ours if t < 3 else then  # noqa: E731
    expected = _torch_after(theirs, their_next, theta["x"])
    differences = finite_differences(lambda th: loss(adapt(problem, th, schedule, 5).phi), theta)
    for backward in ("autograd", "adjoint"):
        out = MultiStep(schedule, 5, backward=backward)(problem, theta)
        torch.testing.assert_close(out.phi["x"], expected, rtol=1e-12, atol=1e-12, check_device=False)
        assert relative_error(out.grad, differences) < 1e-6
    first = adapt(problem, theta, ours, 3)
    again = adapt(Bilevel(lambda _: first, loss, loss), theta, then, 2)
    torch.testing.assert_close(again.phi["x"], expected, rtol=1e-12, atol=1e-12, check_device=False)


@pytest.mark.parametrize("rate", [0.1, {"w": 0.1, "b": 0.1}], ids=["one rate", "by name"])
def test_an_optimiser_that_takes_over_begins_for_an_entry_where_that_is_first_used(rate):
    """Three steps of SGD; then Adam, whose first loss does not use b."""
    aim = torch.tensor([1.0, 2.0, -1.0], dtype=F64)

    def inner(phi, theta, t):
        loss = (phi["w"] - aim).square().sum()
        return loss if t == 3 else loss + ((phi["b"] - aim) ** 4).sum() + (phi["w"] * phi["b"]).sum()

    theta = {"w": torch.zeros(3, dtype=F64), "b": torch.full((3,), 0.3, dtype=F64)}
    problem = Bilevel(lambda th: th, inner, lambda phi, th: (phi["b"] + phi["w"]).square().sum())
    own = {name: value.clone().requires_grad_() for name, value in theta.items()}
    for optimizer, steps in (
        (torch.optim.SGD(own.values(), 0.05), range(3)),
        (torch.optim.Adam(own.values(), 0.1), range(3, 8)),
    ):
        for t in steps:
            optimizer.zero_grad()
            inner(own, None, t).backward()
            optimizer.step()
    schedule = lambda _, t: SGD(0.05) if t < 3 else Adam(rate)  # noqa: E731
    differences = finite_differences(lambda th: problem.outer(adapt(problem, th, schedule, 8).phi, th), theta)
    for backward in ("autograd", "adjoint"):
        out = MultiStep(schedule, 8, backward=backward)(problem, theta)
        for name, value in own.items():
            torch.testing.assert_close(out.phi[name], value.detach(), rtol=1e-12, atol=1e-12, check_device=False)
        assert relative_error(out.grad, differences) < 1e-6
