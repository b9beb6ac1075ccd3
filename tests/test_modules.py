"""Modules as functions of their parameters: their derivatives, and nothing that is moved aside."""

import copy

import pytest
import torch
import torchvision
from problems import F64, both, finite_differences, relative_error
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.checkpoint import checkpoint

from msmeta import SGD, Bilevel, ConfigError, FiniteDifference, FirstOrder, MultiStep, adapt, from_module, to_module

HEAVY = SGD(0.1, 0.9)


class Language(nn.Module):
    """An LSTM whose output layer is its embedding (tied)."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(4, 3)
        self.lstm = nn.LSTM(3, 3, batch_first=True)
        self.out = nn.Linear(3, 4, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, tokens):
        return self.out(self.lstm(self.embed(tokens))[0])


def _made(kind):
    """A module in float64, inputs and targets of an inner and of an outer loss."""
    torch.manual_seed(0)
    if kind == "lstm":
        return Language().double(), torch.randint(0, 4, (2, 2, 4)), torch.randn(2, 2, 4, 4, dtype=F64)
    module = {
        "attention": lambda: nn.TransformerEncoderLayer(2, 1, 3, dropout=0.0, batch_first=True),
        "batch norm": lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 4)),
        "spectral norm": lambda: nn.Sequential(
            nn.utils.parametrizations.spectral_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 4)
        ),
    }[kind]().double()
    shape = (2, 2, 3, 2) if kind == "attention" else (2, 6, 4)
    return module, torch.randn(shape, dtype=F64), torch.randn(shape, dtype=F64)


@pytest.mark.parametrize("kind", ["lstm", "attention", "batch norm", "spectral norm"])
def test_the_meta_gradient_of_a_module_is_that_of_a_plain_loop_and_of_differences(kind):
    module, x, y = _made(kind)
    before = copy.deepcopy(module)
    call, theta = from_module(module)
    problem = Bilevel(
        init=lambda theta: theta,
        inner=lambda phi, theta, t: mse_loss(call(phi, x[0]), y[0]),
        outer=lambda phi, theta: mse_loss(call(phi, x[1]), y[1]),
    )
    graph, recursion = (estimator(problem, theta) for estimator in both(HEAVY, 3))
    assert relative_error(recursion.grad, graph.grad) < 1e-10

    def plain(start):
        """Steps on copies of the module, so that buffers begin anew; attention by its plain kernel."""
        phi, velocity = start, dict.fromkeys(start, 0)
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            for _ in range(3):
                loss = mse_loss(functional_call(copy.deepcopy(before), phi, (x[0],)), y[0])
                grads = torch.autograd.grad(loss, list(phi.values()), create_graph=True)
                velocity = {k: 0.9 * velocity[k] + g for k, g in zip(phi, grads, strict=True)}
                phi = {k: value - 0.1 * velocity[k] for k, value in phi.items()}
            return mse_loss(functional_call(copy.deepcopy(before), phi, (x[1],)), y[1])

    start = {name: value.detach().clone().requires_grad_() for name, value in theta.items()}
    grads = torch.autograd.grad(plain(start), list(start.values()))
    assert relative_error(graph.grad, dict(zip(start, grads, strict=True))) < 1e-10
    if kind != "spectral norm":  # whose power iteration torch takes for a constant, which differences do not
        differences = finite_differences(
            lambda moved: MultiStep(HEAVY, 3)(problem, moved).loss, {k: v.detach() for k, v in theta.items()}
        )
        assert relative_error(graph.grad, differences) < 1e-6
    for name, value in before.state_dict().items():
        assert torch.equal(module.state_dict()[name], value), name


def test_resnet_18_has_the_derivative_of_differences_and_keeps_its_running_statistics():
    torch.manual_seed(0)
    module = torchvision.models.resnet18(num_classes=3).double()
    x, y = torch.randn(4, 3, 32, 32, dtype=F64), torch.randint(0, 3, (4,))
    call, theta = from_module(module)
    problem = Bilevel(
        init=lambda theta: theta,
        inner=lambda phi, theta, t: cross_entropy(call(phi, x), y),
        outer=lambda phi, theta: cross_entropy(call(phi, x.flip(-1)), (y + 1) % 3),
    )
    graph, recursion = (estimator(problem, theta) for estimator in both(SGD(0.01), 2))
    assert relative_error(recursion.grad, graph.grad) < 1e-10
    generator = torch.Generator().manual_seed(0)
    way = {name: torch.randn(value.shape, dtype=F64, generator=generator) for name, value in theta.items()}
    length = sum(value.square().sum() for value in way.values()).sqrt()

    def outer(h):
        moved = {name: value.detach() + h * way[name] / length for name, value in theta.items()}
        phi = adapt(problem, moved, SGD(0.01), 2).phi
        with torch.no_grad():
            return problem.outer(phi, moved)

    h = 3e-7  # so short that no ReLU turns
    along = sum((graph.grad[name] * way[name]).sum() for name in way) / length
    assert abs((outer(h) - outer(-h)) / (2 * h) / along - 1) < 1e-5
    statistics = {name: value for name, value in module.named_buffers()}
    assert all((statistics[name] == ("var" in name)).all() for name in statistics)  # as they were made


def test_tied_parameters_are_one_entry_and_load_as_one():
    module, *_ = _made("lstm")
    call, theta = from_module(module)
    assert "embed.weight" in theta and "out.weight" not in theta
    moved = {name: value.detach() + 1 for name, value in theta.items()}
    to_module(module, moved)
    assert module.out.weight is module.embed.weight and torch.equal(module.out.weight, moved["embed.weight"])
    assert all(theta[name] is value for name, value in module.named_parameters())
    tokens = torch.randint(0, 4, (1, 3))
    torch.testing.assert_close(call(moved, tokens), module(tokens))


def test_cudnn_is_off_for_an_rnn_whose_kernels_there_have_no_second_derivative():
    seen = []
    for module, x in ((nn.LSTM(2, 2), torch.ones(1, 2)), (nn.Linear(2, 2), torch.ones(1, 2))):
        module.register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.enabled))
        call, theta = from_module(module)
        call(theta, x)
        module(x)
    assert seen == [False, True, True, True]


def test_an_optimiser_of_the_module_moves_theta():
    module = nn.Linear(2, 1).double()
    call, theta = from_module(module)
    loss = lambda phi, *_: call(phi, torch.ones(1, 2, dtype=F64)).square().sum()  # noqa: E731
    before = {name: value.detach().clone() for name, value in theta.items()}
    grad = MultiStep(SGD(0.1), 2)(Bilevel(lambda theta: theta, loss, loss), theta).grad
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    for name, value in theta.items():
        value.grad = grad[name]
    optimizer.step()
    assert all(torch.equal(value, before[name] - 0.5 * grad[name]) for name, value in module.named_parameters())


def test_only_the_head_adapts_where_init_gives_it_alone():
    module, x, y = _made("batch norm")
    call, theta = from_module(module)
    problem = Bilevel(
        init=lambda theta: {name: theta[name] for name in ("3.weight", "3.bias")},
        inner=lambda phi, theta, t: mse_loss(call({**theta, **phi}, x[0]), y[0]),
        outer=lambda phi, theta: mse_loss(call({**theta, **phi}, x[1]), y[1]),
    )
    graph, recursion = (estimator(problem, theta) for estimator in both(HEAVY, 3))
    differences = finite_differences(
        lambda moved: MultiStep(HEAVY, 3)(problem, moved).loss, {k: v.detach() for k, v in theta.items()}
    )
    assert graph.phi.keys() == {"3.weight", "3.bias"} and relative_error(graph.grad, differences) < 1e-6
    assert relative_error(recursion.grad, graph.grad) < 1e-10
    alone = Bilevel(problem.init, lambda phi, theta, t: call(phi, x[0]).sum(), problem.outer)
    with pytest.raises(ConfigError, match="params lack '0.bias': .* give {..theta, ..phi}"):
        MultiStep(HEAVY, 3)(alone, theta)


def _dropping():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1)).double()
    return *from_module(module), torch.randn(5, 4, dtype=F64)


def test_dropout_has_a_seed_for_each_step_or_is_refused(monkeypatch):
    call, theta, x = _dropping()
    outer = lambda phi, theta: call(phi, x, seed=9).square().mean()  # noqa: E731
    problem = Bilevel(lambda th: th, lambda phi, th, t: (call(phi, x, seed=t) - 1).square().mean(), outer)
    state = torch.get_rng_state()
    graph, recursion = (estimator(problem, theta) for estimator in both(HEAVY, 4))
    assert relative_error(recursion.grad, graph.grad) < 1e-10
    near = FiniteDifference(HEAVY, 4, 1e-5)(problem, theta).grad
    assert relative_error(near, graph.grad) < 1e-6 and torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(call(theta, x, seed=0), call(theta, x, seed=1))
    assert torch.equal(call(theta, x, seed=1), call(theta, x, seed=1))
    with monkeypatch.context() as changed:  # what torch.manual_seed does to GPUs that have no part in it
        changed.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("all GPUs are seeded"))
        call(theta, x, seed=1)
    unseeded = Bilevel(problem.init, lambda phi, theta, t: call(phi, x).square().mean(), outer)
    for estimator in [*both(HEAVY, 4), FirstOrder(HEAVY, 4)]:
        with pytest.raises(ConfigError, match="the Sequential draws random numbers, .* call it with seed=t"):
            estimator(unseeded, theta)


def test_tasks_are_mapped_but_not_through_batch_norm():
    torch.manual_seed(0)
    normed = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1)).double()
    call, theta = from_module(normed)
    x = torch.randn(3, 5, 2, dtype=F64)

    def problem(x, tasks=None):
        mapped = torch.func.vmap(call) if tasks else call
        return Bilevel(
            init=lambda theta: {k: v.expand(tasks, *v.shape) if tasks else v for k, v in theta.items()},
            inner=lambda phi, theta, t: (mapped(phi, x) - 1).square().sum(),
            outer=lambda phi, theta: (mapped(phi, x) + 1).square().sum(),
            tasks=tasks,
        )

    dynamics = SGD(0.01, 0.9)
    together = MultiStep(dynamics, 3)(problem(x, 3), theta).grad
    alone = [MultiStep(dynamics, 3)(problem(each), theta).grad for each in x]
    assert relative_error(together, {k: sum(grad[k] for grad in alone) for k in theta}) < 1e-10

    module, data, _ = _made("batch norm")
    call, theta = from_module(module)
    phi = {name: value.detach().expand(2, *value.shape) for name, value in theta.items()}
    refused = "^1 is a BatchNorm1d in torch.func.vmap, whose second derivatives can be wrong"
    with pytest.raises(ConfigError, match=refused):
        torch.func.vmap(call)(phi, data)
    module.eval()
    torch.testing.assert_close(torch.func.vmap(call)(phi, data), torch.stack([module(each) for each in data]))


LINEAR = nn.Linear(2, 1)
BOTH = {"weight": torch.ones(1, 2), "bias": torch.zeros(1)}


def _called(module, params):
    return lambda: from_module(module)[0](params, torch.ones(1, 2))


class Checkpointing(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.first, self.second, self.reentrant = nn.Linear(3, 4), nn.Linear(4, 1), reentrant

    def forward(self, x):
        return self.second(checkpoint(lambda x: self.first(x).tanh(), x, use_reentrant=self.reentrant))


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("estimator", [MultiStep(SGD(0.1), 2), FirstOrder(SGD(0.1), 2)], ids=["exact", "first-order"])
def test_checkpointed_activations_are_refused(estimator, reentrant):
    """They would be calculated again with the module's own parameters, after the call."""
    call, theta = from_module(Checkpointing(reentrant))
    x = torch.ones(5, 3, requires_grad=True)
    loss = lambda phi, *_: call(phi, x).square().mean()  # noqa: E731
    with pytest.raises(ConfigError, match="checkpoint"):
        estimator(Bilevel(lambda theta: theta, loss, loss), theta)
    with torch.autograd.graph.save_on_cpu():  # hooks around the call do no harm, and stay
        from_module(LINEAR)[0](BOTH, torch.ones(5, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: from_module(nn.DataParallel(nn.Linear(2, 2))), "the module is a DataParallel, which cannot be called"),
        (lambda: from_module(lambda x: x), "the module is a function: it must be a torch.nn.Module"),
        (lambda: from_module(nn.LazyLinear(2)), "weight of the module has no shape yet"),
        (_called(LINEAR, [1]), "params is a list: it must be a dict"),
        (lambda: to_module(LINEAR, {"weight": [[1.0, 2.0]], "bias": [0.0]}), "params has a list under 'weight'"),
        (_called(LINEAR, BOTH | {"scale": torch.ones(1)}), "params have 'scale', which is no parameter"),
        (_called(LINEAR, BOTH | {"bias": torch.ones(2)}), r"params have shape \(2,\) and .* \(1,\) under 'bias'"),
        (_called(Language(), Language().state_dict()), "params have 'out.weight', which .* a tied parameter's second"),
        (_called(nn.BatchNorm1d(2), nn.BatchNorm1d(2).state_dict()), "params have 'num_batches_tracked', .* buffers"),
        (lambda: to_module(LINEAR, {"weight": BOTH["weight"]}), "params lack 'bias'"),
        (lambda: to_module(LINEAR, {k: v.expand(3, *v.shape) for k, v in BOTH.items()}), "give one task's"),
        (lambda: to_module(BOTH, LINEAR), "the module is a dict"),
    ],
)
def test_mistakes_end_in_one_clear_line(call, message):
    before = {name: value.detach().clone() for name, value in LINEAR.named_parameters()}
    with pytest.raises(ConfigError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in LINEAR.named_parameters())
