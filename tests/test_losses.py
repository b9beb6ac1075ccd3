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


CASES = {
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
        ("graph", "depend on phi|flows back"),
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
