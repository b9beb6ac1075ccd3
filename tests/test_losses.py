"""What a gradient would not see of a loss or an inner optimiser, or torch has wrong, is refused in one line."""

from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from problems import finite_differences, maml, relative_error
from torch import nn

from msmeta import (
    SGD,
    Bilevel,
    Binomial,
    ConfigError,
    FiniteDifference,
    FirstOrder,
    Implicit,
    LazyHessian,
    MultiStep,
    State,
    Truncated,
    adapt,
    clipped,
    from_module,
    transformed,
)

F64 = torch.float64
SECOND_ORDER = [
    MultiStep(SGD(0.1), 3), MultiStep(SGD(0.1), 3, backward="adjoint"), Truncated(SGD(0.1), 3, 2),
    Binomial(SGD(0.1), 3, 2), LazyHessian(SGD(0.1), 3, 3), Implicit(SGD(0.1), 3),
]  # fmt: skip
IDS = ["autograd", "adjoint", "truncated", "binomial", "lazy", "implicit"]


def refused(call, match):
    with pytest.raises(ConfigError, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)


def of_module(module, x, y):
    """The module's squared error, at the start from theta, and theta in float64."""
    call, theta = from_module(module.to(F64))
    loss = lambda phi, *_: (call(phi, x) - y).square().mean()  # noqa: E731
    return Bilevel(lambda theta: theta, loss, loss), {name: value.detach() for name, value in theta.items()}


def adapted_loss(problem, dynamics, steps=3):
    """The outer loss after the inner steps, as a function of theta."""
    return lambda moved: problem.outer(adapt(problem, moved, dynamics, steps).phi, moved)


X, Y = torch.randn(2, 5, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
LABELS, TOKENS = torch.tensor([0, 2, 1, 1, 0]), torch.tensor([0, 1, 1, 3, 2])
chunked = getattr(nn, "LinearCrossEntropyOptions", None)


def _chunked(phi, *_):
    return F.linear_cross_entropy(X, phi["w"], LABELS, options=chunked())


def _penalised(norm):
    """A problem whose inner loss has the squared length of a gradient through `norm`, and its θ."""

    def inner(phi, *_):
        w = phi["w"]
        with torch.enable_grad():
            w = w if w.requires_grad else w.detach().requires_grad_()
            loss = (norm(X @ w) - Y).square().mean()
            (slope,) = torch.autograd.grad(loss, w, create_graph=True)
        return loss + slope.square().sum()

    return Bilevel(lambda theta: theta, inner, lambda phi, _: (phi["w"] - 1).square().sum()), {"w": Y[:3] / 2}


def _batch_norm(x, training=True):
    return F.batch_norm(x, torch.zeros(3, dtype=F64), torch.ones(3, dtype=F64), training=training)


CASES = {
    "layer_norm": (lambda: _penalised(lambda x: F.layer_norm(x, (3,))), "differentiates layer_norm inside"),
    "batch_norm": (lambda: _penalised(_batch_norm), "differentiates batch_norm or instance_norm inside"),
    "instance_norm": (lambda: _penalised(lambda x: F.instance_norm(x[None])[0]), "batch_norm or instance_norm inside"),
    "weight_norm": (lambda: of_module(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), X, Y), "weight_norm"),
    "sparse": (lambda: of_module(nn.Embedding(4, 3, sparse=True), TOKENS, Y), "make the embedding with sparse=False"),
    "chunked": (lambda: (Bilevel(lambda theta: theta, _chunked, _chunked), {"w": Y}), "chunked by its options"),
}


@pytest.mark.parametrize("estimator", SECOND_ORDER, ids=IDS)
@pytest.mark.parametrize("case", [name for name in CASES if chunked or name != "chunked"])
def test_what_has_no_right_second_derivative_in_torch_is_refused_where_it_is_needed(case, estimator):
    (problem, theta), match = CASES[case][0](), CASES[case][1]
    refused(lambda: estimator(problem, theta), match)
    differences = finite_differences(adapted_loss(problem, SGD(0.1)), theta)
    assert relative_error(FiniteDifference(SGD(0.1), 3, 1e-4)(problem, theta).grad, differences) < 1e-5
    assert FirstOrder(SGD(0.1), 3)(problem, theta).grad.keys() == theta.keys()


@pytest.mark.parametrize("backward", ["autograd", "adjoint"])
def test_batch_norm_by_running_statistics_may_be_differentiated_inside(backward):
    problem, theta = _penalised(lambda x: _batch_norm(x, training=False))
    found = MultiStep(SGD(0.1), 3, backward=backward)(problem, theta).grad
    assert relative_error(found, finite_differences(adapted_loss(problem, SGD(0.1)), theta)) < 1e-6


def test_an_embedding_bag_is_refused_in_one_line():
    problem, theta = of_module(nn.EmbeddingBag(4, 3), TOKENS[:, None], Y)
    refused(lambda: MultiStep(SGD(0.1), 3)(problem, theta), "cannot be differentiated again")


@pytest.mark.parametrize("where", ["inner", "outer"])
def test_a_loss_that_changes_phi_in_place_is_refused(where):
    def clamped(phi, *_):
        with torch.no_grad():
            phi["w"].clamp_(0, 1)
        return (phi["w"] - 2).square().sum()

    plain = lambda phi, *_: (phi["w"] - 1).square().sum()  # noqa: E731
    problem = replace(Bilevel(lambda theta: theta, plain, plain), **{where: clamped})
    for estimator in (*SECOND_ORDER, FirstOrder(SGD(0.1), 3), FiniteDifference(SGD(0.1), 3)):
        match = f"^{where} loss.* changes 'w' in place"
        refused(lambda estimator=estimator: estimator(problem, {"w": Y}), match)
    problem, theta = of_module(nn.Embedding(4, 3, max_norm=0.5), TOKENS, Y)
    refused(lambda: MultiStep(SGD(0.1), 3)(problem, theta), "changes 'weight' in place")


def _plain(phi, *_):
    return (phi["w"] - 1).square().sum()


@torch.no_grad()
def _clamp(values, name):
    return {**values, name: values[name].clamp_(0, 1)}


EVERY = [*SECOND_ORDER, FirstOrder(SGD(0.1), 3), FiniteDifference(SGD(0.1), 3)]


@pytest.mark.parametrize("estimator", EVERY, ids=[*IDS, "first-order", "differences"])
def test_a_start_a_schedule_or_a_term_on_the_way_that_writes_in_place_is_refused(estimator):
    start = Bilevel(lambda theta: _clamp(theta, "w"), _plain, _plain)
    refused(lambda: estimator(start, {"w": Y}), "^init changes 'w' in place")
    on_the_way = lambda phi, theta, t: _plain(_clamp(phi, "w"))  # noqa: E731
    if not isinstance(estimator, Implicit):
        problem = Bilevel(lambda theta: theta, lambda phi, *_: phi["w"].pow(4).sum(), _plain, outer_at=on_the_way)
        match = "^(outer_at after . steps changes 'w' in place|the problem has outer_at)"
        refused(lambda: estimator(problem, {"w": Y}), match)
        learned = replace(estimator, dynamics=lambda theta, t: SGD(_clamp(theta, "lr")["lr"]))
        theta = {"w": Y, "lr": torch.tensor(-0.1, dtype=F64)}
        problem = Bilevel(lambda theta: {"w": theta["w"]}, _plain, _plain)
        refused(lambda: learned(problem, theta), "^dynamics at step 0 changes 'lr' in place")


@pytest.mark.parametrize("estimator", EVERY, ids=[*IDS, "first-order", "differences"])
def test_a_hook_which_would_act_on_the_meta_gradient_as_well_is_refused(estimator):
    def masked(phi, *_):
        phi["w"].register_hook(lambda grad: grad * (grad > 0))
        return _plain(phi)

    problem = Bilevel(lambda theta: theta, masked, _plain)
    refused(lambda: estimator(problem, {"w": Y}), "^inner loss at step 0 hooks the gradient of 'w'.*transformed")


@pytest.mark.parametrize("backward", ["autograd", "adjoint"])
@pytest.mark.parametrize(("windows", "theta_in_outer"), [((1, 1, 1), False), ((4,), True), ((1,), True)])
def test_a_gradient_that_is_changed_without_its_graph_is_refused(backward, windows, theta_in_outer):
    """Else the estimator would be first-order without a word, or the outer loss's direct part alone."""

    @torch.no_grad()
    def unit(grad):
        return {name: value / value.norm() for name, value in grad.items()}

    @dataclass(frozen=True)
    class Half:
        def window(self, state, grad, n):
            with torch.no_grad():
                steps = {name: 0.1 * n * value for name, value in grad.items()}
            return replace(state, phi={name: value - steps[name] for name, value in state.phi.items()})

    outer = lambda phi, theta: _plain(phi) + theta_in_outer * theta["w"].sum()  # noqa: E731
    problem = Bilevel(lambda theta: theta, lambda phi, *_: phi["w"].pow(4).sum(), outer)
    for dynamics in (transformed(SGD(0.1), unit), Half()):
        estimator = MultiStep(dynamics, sum(windows), windows, backward)
        refused(lambda estimator=estimator: estimator(problem, {"w": Y}), "without the graph of its gradient")
        FirstOrder(dynamics, 3)(problem, {"w": Y})


@pytest.mark.parametrize(
    ("dynamics", "buffers", "match"),
    [
        (transformed(SGD(0.1), lambda grad: {k: v.double() for k, v in grad.items()}), {}, "returned other entries"),
        (SGD(0.1, 0.9), {"velocity": {"w": Y}}, "velocity as init returned it has shape .* and torch.float64"),
        (lambda theta, t: SGD(theta["lr"]), {}, "lr of SGD is of torch.float64: with it phi.s .s. turns"),
    ],
)
def test_a_step_that_would_change_the_type_of_phi_is_refused(dynamics, buffers, match):
    start = lambda theta: State({"w": theta["w"], "s": theta["s"]}, buffers)  # noqa: E731
    problem = Bilevel(start, lambda phi, *_: _plain(phi) * phi["s"], _plain)
    theta = {"w": Y.float(), "s": torch.tensor(1.0), "lr": torch.tensor(0.1, dtype=F64)}
    refused(lambda: MultiStep(dynamics, 2)(problem, theta), match)


def test_a_loss_of_random_structure_is_refused_where_it_is_taken_again():
    def inner(phi, theta, t):
        return phi["abc"[draws.pop()]].square().sum()

    problem = Bilevel(lambda theta: theta, inner, lambda phi, _: sum(value.sum() for value in phi.values()))
    theta = dict.fromkeys("abc", Y[0])
    draws = [0, 1, 2, 0]
    match = r"^inner loss at step \d uses .* again, others: this estimator needs"
    refused(lambda: MultiStep(SGD(0.1), 2, backward="adjoint")(problem, theta), match)


@dataclass(frozen=True)
class Written:
    """Gradient descent that is no function of its arguments."""

    fault: str

    def window(self, state, grad, n):
        with torch.no_grad():
            if self.fault == "phi":
                new = {k: v.sub_(n * 0.1 * grad[k]) for k, v in state.phi.items()}
            elif self.fault == "grad":
                new = {k: v - grad[k].mul_(n * 0.1) for k, v in state.phi.items()}
            else:
                new = {k: v - n * 0.1 * grad[k] for k, v in state.phi.items()}
        return replace(state, phi=new, step=state.step + n)


@pytest.mark.parametrize(
    ("fault", "match"),
    [
        ("phi", r"^window\(\) of Written changes '\w+' in place"),
        ("grad", "changes '.*' in place"),
        ("graph", "flows back"),
    ],
)
def test_an_inner_optimiser_that_loses_the_gradient_is_refused(fault, match):
    problem, theta = maml()
    dynamics = Written(fault)
    for estimator in (
        MultiStep(dynamics, 3), MultiStep(dynamics, 3, backward="adjoint"), LazyHessian(dynamics, 3, 3),
        Truncated(dynamics, 3, 2), Binomial(dynamics, 3, 2), FiniteDifference(dynamics, 3),
    ):  # fmt: skip
        refused(lambda estimator=estimator: estimator(problem, theta), match)


def test_an_inner_optimiser_with_random_numbers_is_refused_where_its_steps_are_taken_again():
    problem, theta = maml()
    noisy = transformed(SGD(0.1), lambda grad: {k: v * (torch.rand(v.shape) < 0.5) for k, v in grad.items()})
    torch.manual_seed(0)
    refused(lambda: MultiStep(noisy, 4, backward="adjoint")(problem, theta), "^squared phi after step 3 is .* again")
    MultiStep(noisy, 4)(problem, theta)


def test_entries_without_dimensions_are_clipped_and_solved_for():
    problem = Bilevel(
        lambda theta: theta,
        lambda phi, theta, t: (phi["s"] - 3).square() + (phi["w"] * phi["s"] - 1).square().sum(),
        lambda phi, theta: phi["s"].cos() + phi["w"].square().sum(),
    )
    theta = {"s": torch.tensor(0.5, dtype=F64), "w": torch.tensor([0.3, -0.2], dtype=F64)}
    dynamics = clipped(SGD(0.1), 1.0)
    differences = finite_differences(adapted_loss(problem, dynamics), theta)
    for backward in ("autograd", "adjoint"):
        found = MultiStep(dynamics, 3, backward=backward)(problem, theta).grad
        assert relative_error(found, differences) < 1e-7
    assert Implicit(SGD(0.1), 3)(problem, theta).grad["s"].shape == ()
