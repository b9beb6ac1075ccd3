"""Algorithm 1 on small networks in float64: its meta-gradient three ways, and what it leaves behind."""

import importlib
import itertools
from collections import Counter
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from problems import F64, double, relative_error
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorDeviceMismatchError, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from msmeta import SGD, Adam, ConfigError, DivergedError, MultiStep, State
from msmeta.bilevel import detach
from msmeta.experiments import graphs
from msmeta.experiments.transfer.step import (
    GraphedStepper,
    Iteration,
    TransferProblem,
    transfer_iteration,
    transfer_windows,
)
from msmeta.models.l2t import L2T
from msmeta.models.resnet_cifar import ResNet32
from msmeta.models.vgg9 import VGG9

SGD_, ADAM = SGD(0.05, 0.9, 1e-2), Adam(1e-2, weight_decay=1e-2)
NETWORK = VGG9(way=3, width=1 / 64)


@pytest.fixture
def problem():
    """Six random images, features of a random source, and meta-networks that are not at their start."""
    torch.manual_seed(0)
    l2t = L2T((2, 3), NETWORK.channels)
    source = l2t.source_batch(
        [torch.randn(6, 2, 32, 32, dtype=F64), torch.randn(6, 3, 16, 16, dtype=F64)],
        [(32 // 2**i, 32 // 2**i) for i in range(5)],
    )
    x, y = torch.randn(6, 3, 32, 32, dtype=F64), torch.tensor([0, 1, 2, 0, 1, 2])
    return TransferProblem(NETWORK, l2t, x, y, source)


@pytest.fixture
def theta(problem):
    return {k: v + 0.3 * torch.randn(v.shape, dtype=F64) for k, v in double(problem.l2t.init_meta()).items()}


@pytest.fixture
def state(problem):
    params, _ = NETWORK.init(1)
    phi = double(params | problem.l2t.init_matching(2))
    return State(phi, {"velocity": {name: 0.1 * torch.randn_like(value) for name, value in phi.items()}})


def gradient(loss, phi):
    """∂loss/∂φ with a graph; zero where the loss does not depend on φ, as a transfer loss on the head."""
    grads = torch.autograd.grad(loss, list(phi.values()), create_graph=True, allow_unused=True)
    return {k: torch.zeros_like(v) if g is None else g for (k, v), g in zip(phi.items(), grads, strict=True)}


def outer_loss(problem, state, theta, dynamics, transfer_steps, window):
    """Lines 6 to 14 as a plain loop, from the state after line 5; the graph is kept."""
    for _ in range(0, transfer_steps, window):
        grads = gradient(problem.transfer(state.phi, theta), state.phi)
        for _ in range(window):
            state = dynamics.window(state, grads, 1)
    grads = gradient(problem.classification(state.phi), state.phi)
    return problem.classification(dynamics.window(state, grads, 1).phi)


def require_grad(state):
    phi = {name: value.detach().requires_grad_() for name, value in state.phi.items()}
    return State(phi, state.buffers, state.step)


@pytest.mark.parametrize("dynamics", [SGD_, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize(("transfer_steps", "window"), [(1, 1), (2, 1), (2, 2), (3, 3), (3, 1)])
def test_meta_gradient_is_that_of_a_plain_loop(problem, state, theta, dynamics, transfer_steps, window):
    state = state if dynamics is SGD_ else State(state.phi)
    found = transfer_iteration(problem, state, theta, dynamics, transfer_steps, window)
    leaf = {name: value.clone().requires_grad_() for name, value in theta.items()}
    loss = outer_loss(problem, require_grad(found.state), leaf, dynamics, transfer_steps, window)
    expected = dict(zip(leaf, torch.autograd.grad(loss, list(leaf.values())), strict=True))
    assert found.meta.loss.item() == pytest.approx(loss.item(), rel=1e-12)
    assert relative_error(found.meta.grad, expected) < 1e-9


def test_meta_gradient_is_that_of_central_differences(problem, state, theta):
    found = transfer_iteration(problem, state, theta, SGD_, 2, 1)
    direction = {name: torch.randn_like(value) for name, value in theta.items()}

    def along(step):
        moved = {name: value + step * direction[name] for name, value in theta.items()}
        return outer_loss(problem, require_grad(found.state), moved, SGD_, 2, 1).item()

    slope = sum((found.meta.grad[name] * direction[name]).sum() for name in theta).item()
    h = 1e-4  # truncation h², rounding 1e-16 / h
    assert (along(h) - along(-h)) / (2 * h) == pytest.approx(slope, rel=1e-5)


def test_meta_gradient_is_that_of_the_replayed_reverse(problem, state, theta):
    """As L2T-ww is published: states are kept, and on the way back each step is run again and pulled back by hand.

    With α the multiplier of φ and β that of v: γ = -ηα + β multiplies g, and α' = α - ηωα + ωβ + ∂<γ, g>/∂φ,
    β' = μβ - ημα, where β begins at zero; θ's part is the sum of ∂<γ, g>/∂θ.
    """
    eta, mu, omega = SGD_.lr, SGD_.momentum, SGD_.weight_decay
    found = transfer_iteration(problem, state, theta, SGD_, 2, 1)
    losses = [problem.transfer, problem.transfer, lambda phi, theta: problem.classification(phi)]

    phi, v, states = found.state.phi, found.state.buffers["velocity"], []
    for loss in losses:
        states.append(phi)
        leaf = {k: p.detach().requires_grad_() for k, p in phi.items()}
        g = gradient(loss(leaf, theta), leaf)
        v = {k: mu * v[k] + g[k].detach() + omega * phi[k] for k in phi}
        phi = {k: phi[k] - eta * v[k] for k in phi}
    leaf = {k: p.detach().requires_grad_() for k, p in phi.items()}
    alpha = gradient(problem.classification(leaf), leaf)
    beta = {k: torch.zeros_like(p) for k, p in phi.items()}
    total = {k: torch.zeros_like(p) for k, p in theta.items()}
    for loss, kept in zip(reversed(losses), reversed(states), strict=True):
        leaf = {k: p.detach().requires_grad_() for k, p in kept.items()}
        meta = {k: p.detach().requires_grad_() for k, p in theta.items()}
        gamma = {k: (-eta * alpha[k] + beta[k]).detach() for k in leaf}
        inner = sum((gamma[k] * g).sum() for k, g in gradient(loss(leaf, meta), leaf).items())
        by_phi = torch.autograd.grad(inner, list(leaf.values()), retain_graph=True, allow_unused=True)
        by_theta = torch.autograd.grad(inner, list(meta.values()), allow_unused=True)
        for k, part in zip(meta, by_theta, strict=True):
            total[k] = total[k] if part is None else total[k] + part
        pulled = {k: 0 if part is None else part for k, part in zip(leaf, by_phi, strict=True)}
        alpha, beta = (
            {k: (1 - eta * omega) * alpha[k] + omega * beta[k] + pulled[k] for k in leaf},
            {k: mu * beta[k] - eta * mu * alpha[k] for k in leaf},
        )
    assert relative_error(found.meta.grad, total) < 1e-9


def test_the_inner_steps_leave_nothing_behind(problem, state, theta):
    """φ, velocity and batch statistics are those after one step on the total loss, whatever the inner steps did."""
    statistics = double(NETWORK.init(1)[1])
    expected_statistics = {name: value.clone() for name, value in statistics.items()}
    phi = {name: value.clone().requires_grad_() for name, value in state.phi.items()}
    logits, features = NETWORK(phi, problem.x, expected_statistics)
    loss = F.cross_entropy(logits, problem.y) + 0.5 * problem.l2t.loss(phi, theta, problem.source, features)
    grads = dict(zip(phi, torch.autograd.grad(loss, list(phi.values())), strict=True))
    after = SGD_.window(state, grads, 1)
    found = transfer_iteration(problem, state, theta, SGD_, 2, 2, statistics)
    assert found.total.item() == pytest.approx(loss.item(), rel=1e-12)
    assert relative_error(found.state.phi, after.phi) < 1e-12
    assert relative_error(found.state.buffers["velocity"], after.buffers["velocity"]) < 1e-12
    assert relative_error(statistics, expected_statistics) < 1e-12
    assert relative_error(found.meta.phi, found.state.phi) > 1e-3


def test_first_order_is_the_total_losss_own_gradient(problem, state, theta):
    found = transfer_iteration(problem, state, theta, SGD_, 2, 1, first_order=True)
    leaf = {name: value.clone().requires_grad_() for name, value in theta.items()}
    loss = problem.total(transfer_iteration(problem, state, theta, SGD_, 2, 1).meta.phi, leaf)
    expected = dict(zip(leaf, torch.autograd.grad(loss, list(leaf.values())), strict=True))
    assert relative_error(found.meta.grad, expected) < 1e-12


def test_change_of_the_gradient_is_that_of_the_first_two_steps(problem, state, theta):
    found = transfer_iteration(problem, state, theta, SGD_, 2, 1)
    first = gradient(problem.transfer((start := require_grad(found.state)).phi, theta), start.phi)
    after = require_grad(SGD_.window(start, first, 1))
    second = gradient(problem.transfer(after.phi, theta), after.phi)
    vectors = [torch.cat([g.detach().flatten() for g in grads.values()]) for grads in (first, second)]
    expected = (vectors[1] - vectors[0]).norm() / vectors[1].norm()
    assert found.gradient_change.item() == pytest.approx(expected.item(), rel=1e-12)
    off = theta | {
        name: torch.full_like(v, -9.0) for name, v in theta.items() if name.startswith("where") and "bias" in name
    }
    assert transfer_iteration(problem, state, off, SGD_, 2, 1).gradient_change == 0


def test_no_transfer_steps_no_meta_gradient(problem, state, theta):
    assert transfer_iteration(problem, state, theta, SGD_, 0).meta is None
    assert transfer_windows(0, 1) == (1,) and transfer_windows(4, 2) == (2, 2, 1)
    for steps, window in ((-1, 1), (3, 2)):
        with pytest.raises(ConfigError):
            transfer_windows(steps, window)


def test_bf16_rounds_the_convolutions_alone(problem, state, theta):
    """8 bits of mantissa: a meta-gradient close to float64's, of the same type, and not the same."""
    low = TransferProblem(VGG9(3, 1 / 64, "bf16"), problem.l2t, problem.x, problem.y, problem.source)
    exact, found = (transfer_iteration(p, state, theta, SGD(1e-3), 2, 1).meta for p in (problem, low))
    assert found.loss.item() == pytest.approx(exact.loss.item(), rel=0.05)
    assert all(value.dtype == F64 for value in found.grad.values())
    flat = [torch.cat([value.flatten() for value in part.grad.values()]) for part in (exact, found)]
    assert 0.9 < torch.nn.functional.cosine_similarity(*flat, dim=0) < 1 - 1e-9


@pytest.mark.parametrize("window", [1, 2])
def test_a_lower_weight_in_the_transfer_steps_is_that_of_weaker_pairs(problem, state, theta, window):
    """λ is linear in the parameters of "where": half of them and twice β weaken the transfer steps alone."""
    theta = {k: v if k.startswith("what") else 0.02 * v + (1.0 if "bias" in k else 0.0) for k, v in theta.items()}
    where = {k for k in theta if k.startswith("where")}
    halved = {k: v / 2 if k in where else v for k, v in theta.items()}
    found = transfer_iteration(replace(problem, inner_beta=0.5), state, theta, SGD_, 2, window, rollback=False)
    other = transfer_iteration(replace(problem, beta=2 * problem.beta), state, halved, SGD_, 2, window, rollback=False)
    assert relative_error(found.state.phi, other.state.phi) < 1e-12
    expected = {k: v / 2 if k in where else v for k, v in other.meta.grad.items()}
    assert relative_error(found.meta.grad, expected) < 1e-10
    plain = transfer_iteration(problem, state, theta, SGD_, 2, window, rollback=False)
    assert relative_error(found.state.phi, plain.state.phi) > 1e-6


@pytest.mark.parametrize("dynamics", [SGD_, ADAM], ids=["sgd", "adam"])
def test_rates_of_transfer_steps_go_by_the_step_and_not_by_how_often_they_are_asked_for(
    problem, state, theta, dynamics
):
    """`transfer_rate` scales the steps on the transfer loss alone; by the adjoint, which asks again, it is the same."""
    state = state if dynamics is SGD_ else State(state.phi)
    found = transfer_iteration(problem, state, theta, dynamics, 3, 1, transfer_rate=3.0, rollback=False)
    after = transfer_iteration(problem, state, theta, dynamics, 0)
    fast = replace(dynamics, lr=3 * dynamics.lr)
    bilevel = problem.bilevel(after.state, 3)
    again = MultiStep(lambda theta, t: fast if t < 3 else dynamics, 4, 1, "adjoint")(bilevel, theta)
    assert relative_error(again.grad, found.meta.grad) < 1e-9
    assert all(torch.equal(found.state.phi[name], again.phi[name]) for name in again.phi)
    assert found.state.step == after.state.step + 4


class Training:
    """Iterations with θ's steps, of a problem whose images change. source: of the features; else they stay."""

    def __init__(self, problem, state, theta, dynamics, steps=2, window=1, source=None, on_gpu=False, **how):
        self.problem, self.dynamics, self.how = problem, dynamics, {"transfer_steps": steps, "window": window, **how}
        self.source = source or (lambda x: problem.source)
        names = ("velocity",) if isinstance(dynamics, SGD) else ("mean", "square")
        zeros = {name: {k: torch.zeros_like(v) for k, v in state.phi.items()} for name in names}
        self.state = replace(state, buffers={name: state.buffers.get(name, zeros[name]) for name in names})
        self.theta = {name: torch.nn.Parameter(value.clone()) for name, value in theta.items()}
        self.optimizer = torch.optim.Adam(self.theta.values(), 1e-2, fused=on_gpu, capturable=on_gpu)
        for value in self.theta.values():
            value.grad = torch.zeros_like(value)

    def iterate(self, x, y, state, lr, statistics):
        problem = replace(self.problem, x=x, y=y, source=self.source(x))
        found = transfer_iteration(
            problem, state, self.theta, replace(self.dynamics, lr=lr), statistics=statistics, **self.how
        )
        if found.meta:
            for name, value in self.theta.items():
                value.grad.copy_(found.meta.grad[name])
            self.optimizer.step()
        return found

    def graphed(self, statistics, batch):
        return GraphedStepper(self.iterate, self.state, statistics, self.theta, self.optimizer, batch)


def batches():
    for seed in itertools.count():
        generator = torch.Generator().manual_seed(seed)
        yield torch.randn(6, 3, 32, 32, dtype=F64, generator=generator), torch.randperm(6, generator=generator) % 3


@pytest.mark.parametrize("dynamics", [SGD_, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize(
    "how",
    [{}, {"window": 2}, {"rollback": False}, {"first_order": True}, {"steps": 0}, {"transfer_rate": 2.0}],
    ids=str,
)
def test_graphed_iterations_are_the_ordinary_ones_and_move_all_in_place(problem, state, theta, dynamics, how):
    """On a CPU what the graph would hold is run as it stands. Two blocks, two rates; rates that are tensors round
    otherwise than numbers."""
    plain, graphed = (Training(problem, state, theta, dynamics, **how) for _ in range(2))
    expected, statistics, drawn = [], double(NETWORK.init(1)[1]), batches()
    for lr in (1e-2, 1e-2, 1e-3):
        found = plain.iterate(*next(drawn), plain.state, lr, statistics)
        plain.state = found.state
        change = None if found.gradient_change is None else found.gradient_change.item()
        expected.append((found.total.item(), found.meta.loss.item() if found.meta else None, change))

    own, drawn = double(NETWORK.init(1)[1]), batches()
    stepper = graphed.graphed(own, next(batches()))

    def tensors():
        buffers = [value for part in stepper.state.buffers.values() for value in part.values()]
        moments = [value for part in graphed.optimizer.state.values() for value in part.values()]
        grads = [value.grad for value in graphed.theta.values()]
        own_places = [*stepper.state.phi.values(), *buffers, *own.values(), *graphed.theta.values(), *grads, *moments]
        return [*own_places, stepper.x, stepper.y, stepper.lr, stepper.state.step, stepper.found, stepper.at]

    places = [value.data_ptr() for value in tensors()]
    rows = stepper.run(drawn, 0, 2, 1e-2) + stepper.run(drawn, 2, 1, 1e-3)
    assert [value.data_ptr() for value in tensors()] == places
    for row, other in zip(rows, expected, strict=True):
        assert [value is None for value in row] == [value is None for value in other]
        pairs = [(a, b) for a, b in zip(row, other, strict=True) if a is not None]
        assert all(a == pytest.approx(b, rel=1e-7) for a, b in pairs)  # the gradient's change is a small difference
    assert stepper.state.step == plain.state.step
    assert relative_error(stepper.state.phi, plain.state.phi) < 1e-9  # Adam divides small differences by small ones
    assert relative_error(detach(graphed.theta), detach(plain.theta)) < 1e-7
    assert relative_error(own, statistics) < 1e-9


def test_a_divergence_is_found_after_the_block_and_names_the_iteration(problem, state):
    totals = itertools.chain([1.0] * 4, [float("nan")], itertools.repeat(1.0))  # three runs for the capture

    def iterate(x, y, state, lr, statistics):
        return Iteration(state, torch.tensor(next(totals), dtype=F64))

    stepper = GraphedStepper(iterate, state, {}, {}, None, (problem.x, problem.y))
    with pytest.raises(DivergedError, match="diverged at iteration 9: total loss is nan"):
        stepper.run(batches(), 7, 3, 0.1)


@pytest.fixture
def on_meta(monkeypatch):
    """Makes trainings as on a GPU, all of whose tensors have shapes and a device, `meta`, but no numbers."""
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(graphs, "WARM_UPS", 1)  # they run the same
    optimisers = importlib.import_module("torch.optim.optimizer")
    monkeypatch.setattr(optimisers, "_get_fused_kernels_supported_devices", lambda: ["meta"])

    def make(dynamics, **how):
        def there(params):
            return {name: torch.empty_like(value, device="meta") for name, value in params.items()}

        resnet, l2t = ResNet32(3), L2T(ResNet32(3).channels, NETWORK.channels)
        weights, theta = there(resnet.init()), there(l2t.init_meta())
        phi, statistics = map(there, (NETWORK.init()[0] | l2t.init_matching(), NETWORK.init()[1]))
        batch = torch.empty(6, 3, 32, 32, device="meta"), torch.empty(6, dtype=torch.int64, device="meta")

        def source(x):
            return l2t.source_batch(resnet(weights, x)[1], NETWORK.sizes(32))

        problem = TransferProblem(NETWORK, l2t, *batch, None)
        training = Training(problem, State(phi), theta, dynamics, source=source, on_gpu=True, **how)
        return training.graphed(statistics, batch)

    with torch.library._scoped_library("aten", "IMPL", "Meta") as library:
        library.impl("_fused_adam_.tensor_lr", lambda *_, **__: None)
        yield make


@pytest.mark.parametrize(
    ("dynamics", "how"),
    [
        (ADAM, {}), (SGD_, {"window": 2}), (SGD_, {"rollback": False}), (ADAM, {"first_order": True}),
        (ADAM, {"steps": 0}),
    ],
    ids=str,
)  # fmt: skip
def test_a_captured_iteration_reads_no_number_and_mixes_no_devices(on_meta, dynamics, how):
    """The source's features, passes, updates of φ and θ and running statistics: fake tensors raise for either."""
    with FakeTensorMode(allow_non_fake_inputs=False):
        stepper = on_meta(dynamics, **how)
        stepper.replay()
        with pytest.raises(DataDependentOutputException):
            stepper.found.tolist()
        with pytest.raises(FakeTensorDeviceMismatchError):
            stepper.found + torch.zeros(3)


@pytest.mark.parametrize(("window", "most"), [(1, 5485), (2, 3490)])
def test_an_iteration_takes_no_more_kernels_than_this(on_meta, window, most):
    """Operations that compute, of a whole iteration traced: each is a launch, and a GPU waits for launches here."""
    stepper = on_meta(SGD_, window=window)
    traced = make_fx(lambda: stepper.replay(), tracing_mode="fake", _allow_non_fake_inputs=True)().graph.nodes
    called = [node.target for node in traced if isinstance(node.target, torch._ops.OpOverload)]
    computing = Counter(str(target) for target in called if not target.is_view and "empty" not in str(target))
    assert 0.9 * most < computing.total() <= most, computing.most_common(9)
