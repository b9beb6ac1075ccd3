"""Small bilevel problems in float64, and their meta-gradients by means that share no code with the estimators."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from msmeta import SGD, Adam, Bilevel, MultiStep, State
from msmeta.bilevel import DynamicsLike, Params

F64 = torch.float64


def tensors(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def double(params: Params) -> Params:
    return {name: value.double() for name, value in params.items()}


def _data(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(*shape, dtype=F64, generator=generator) for shape in ((6, 3), (6, 2), (6, 3), (6, 2)))


def network(phi: Params, x: Tensor) -> Tensor:
    """A two-layer tanh network, smooth so that finite differences are sharp."""
    return torch.tanh(x @ phi["w1"] + phi["b1"]) @ phi["w2"]


def start(seed: int = 1) -> Params:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"w1": (3, 4), "b1": (4,), "w2": (4, 2)}
    return {name: 0.5 * torch.randn(*shape, dtype=F64, generator=generator) for name, shape in shapes.items()}


def maml() -> tuple[Bilevel, Params]:
    """θ is φ₁; the inner loss also changes with the step."""
    x, y, query_x, query_y = _data()
    return (
        Bilevel(
            init=lambda theta: theta,
            inner=lambda phi, theta, t: (1 + 0.1 * t) * (network(phi, x) - y).square().mean(),
            outer=lambda phi, theta: (network(phi, query_x) - query_y).square().mean(),
        ),
        start(),
    )


def meta_network() -> tuple[Bilevel, Params]:
    """θ weighs the examples and regularises, only inside the inner loss; φ₁ does not depend on it."""
    x, y, query_x, query_y = _data()
    phi = start()
    theta = {"weight": torch.linspace(-1, 1, 6, dtype=F64), "decay": torch.tensor(-1.0, dtype=F64)}

    def inner(phi: Params, theta: Params, t: int) -> Tensor:
        errors = (network(phi, x) - y).square().mean(1)
        decay = sum(value.square().sum() for value in phi.values())
        return (torch.sigmoid(theta["weight"]) * errors).sum() + theta["decay"].exp() * 0.1 * decay

    return (
        Bilevel(
            init=lambda theta: phi,
            inner=inner,
            outer=lambda phi, theta: (network(phi, query_x) - query_y).square().mean(),
        ),
        theta,
    )


def both(dynamics: DynamicsLike, steps: int, window: int | Sequence[int] = 1) -> list[MultiStep]:
    return [MultiStep(dynamics, steps, window, backward) for backward in ("autograd", "adjoint")]


KEPT: dict[str, Tensor] = {}


class Keeping:
    """An optimiser that reads a rate which `init` made of θ and left lying about in `KEPT`."""

    def window(self, state: State, grad: Params, n: int) -> State:
        return State({k: v - n * KEPT["rate"] * grad[k] for k, v in state.phi.items()}, state.buffers, state.step + n)


def unrolled(problem: Bilevel, theta: Params, rule: Callable, windows: Sequence[int]) -> tuple[Tensor, Params]:
    """Outer loss and meta-gradient by writing every single step out and differentiating through all of them.

    `rule(phi, memory, grad, step)` is one step of an optimiser on one tensor; it returns the new phi and memory.
    """
    theta = {name: value.clone().requires_grad_() for name, value in theta.items()}
    phi = {name: value * 1.0 for name, value in problem.init(theta).items()}
    phi = {name: value if value.requires_grad else value.requires_grad_() for name, value in phi.items()}
    memory: dict = dict.fromkeys(phi)
    step, loss = 0, 0.0
    for n in windows:
        grads = torch.autograd.grad(problem.inner(phi, theta, step), list(phi.values()), create_graph=True)
        grads = dict(zip(phi, grads, strict=True))
        for _ in range(n):
            step += 1
            moved = {name: rule(phi[name], memory[name], grads[name], step) for name in phi}
            phi, memory = {k: v[0] for k, v in moved.items()}, {k: v[1] for k, v in moved.items()}
            if problem.outer_at and step < sum(windows):
                term = problem.outer_at(phi, theta, step)
                loss = loss if term is None else loss + term
    loss = loss + problem.outer(phi, theta)
    grads = torch.autograd.grad(loss, list(theta.values()))
    return loss.detach(), dict(zip(theta, grads, strict=True))


def jacobians(problem: Bilevel, theta: Params, rule: Callable, steps: int, memories: int) -> tuple:
    """Dense derivatives along the exact steps, where a state s is one vector, (φ, memory): a list of each step's
    ∂s'/∂s, ∂s'/∂g, ∂g/∂s and ∂g/∂θ; then ∂L(φ)/∂s after the last step, and ∂s/∂θ of the first state.

    memories: how many numbers the rule remembers of an entry.
    """
    first, by = problem.init(theta), torch.autograd.functional.jacobian
    size, found = sum(value.numel() for value in first.values()), []

    def named(vector: Tensor, like: Params) -> Params:
        parts = vector.split([value.numel() for value in like.values()])
        return {name: part.view(value.shape) for part, (name, value) in zip(parts, like.items(), strict=True)}

    def vector(values: Params) -> Tensor:
        return torch.cat([value.flatten() for value in values.values()])

    def start(th: Tensor) -> Tensor:
        return torch.cat([vector(problem.init(named(th, theta))), torch.zeros(memories * size, dtype=F64)])

    def gradient(phi: Tensor, th: Tensor, t: int) -> Tensor:
        phi = phi if phi.requires_grad else phi.clone().requires_grad_()
        loss = problem.inner(named(phi, first), named(th, theta), t)
        return torch.autograd.grad(loss, phi, create_graph=True)[0]

    def step(state: Tensor, grad: Tensor, t: int) -> Tensor:
        phi, *memory = state.split(size)
        phi, memory = rule(phi, memory[0] if memories == 1 else tuple(memory), grad, t + 1)
        return torch.cat([phi, memory] if memories == 1 else [phi, *memory])

    flat = vector(theta)
    state = start(flat)
    for t in range(steps):
        grad = gradient(state[:size], flat, t).detach()
        own = by(lambda s, g, t=t: step(s, g, t), (state, grad))
        by_phi, by_theta = by(lambda phi, th, t=t: gradient(phi, th, t), (state[:size], flat))
        found.append((*own, torch.nn.functional.pad(by_phi, (0, memories * size)), by_theta))
        state = step(state, grad, t)
    return found, by(lambda s: problem.outer(named(s[:size], first), theta), state), by(start, flat)


def finite_differences(loss_at: Callable[[Params], Tensor], theta: Params, h: float = 1e-5) -> Params:
    """Central differences of a scalar function, entry by entry; error O(h²)."""
    grads = {}
    for name, value in theta.items():
        grad = torch.empty(value.numel(), dtype=F64)
        for i in range(value.numel()):
            sides = []
            for sign in (1, -1):
                moved = value.clone()
                moved.view(-1)[i] += sign * h
                sides.append(loss_at({**theta, name: moved}))
            grad[i] = (sides[0] - sides[1]) / (2 * h)
        grads[name] = grad.view(value.shape)
    return grads


def relative_error(found: Params, expected: Params) -> float:
    """Largest difference, relative to the largest entry of the expected meta-gradient."""
    assert found.keys() == expected.keys()
    scale = max(value.abs().max() for value in expected.values())
    return float(max((found[name] - expected[name]).abs().max() for name in expected) / scale)


# Single steps written from the optimisers' papers, to hold against the package's windows.
def sgd_rule(lr, momentum, weight_decay):
    def rule(phi, velocity, grad, step):
        velocity = (0 if velocity is None else momentum * velocity) + grad + weight_decay * phi
        return phi - lr * velocity, velocity

    return rule


def adam_rule(lr, beta1=0.9, beta2=0.999, eps=1e-8):
    def rule(phi, moments, grad, step):
        mean, square = moments or (0, 0)
        mean, square = beta1 * mean + (1 - beta1) * grad, beta2 * square + (1 - beta2) * grad**2
        corrected = mean / (1 - beta1**step), square / (1 - beta2**step)
        return phi - lr * corrected[0] / (corrected[1].sqrt() + eps), (mean, square)

    return rule


class Counted(torch.autograd.Function):
    """x², whose backward and double backward count themselves."""

    counts = {"gradient": 0, "second order": 0}

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, grad):
        return _CountedBackward.apply(grad, *ctx.saved_tensors)


class _CountedBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, grad, x):
        Counted.counts["gradient"] += 1
        ctx.save_for_backward(grad, x)
        return 2 * x * grad

    @staticmethod
    def backward(ctx, along):
        Counted.counts["second order"] += 1
        grad, x = ctx.saved_tensors
        return 2 * x * along, 2 * grad * along


def costs(estimator: Callable) -> tuple[list[int], int]:
    """The steps at which the estimator evaluates the inner gradient, in this order, and its Hessian-vector products."""
    seen = []

    def inner(phi, theta, t):
        seen.append(t)
        return Counted.apply(phi["x"] * theta["x"]).sum()

    problem = Bilevel(lambda theta: theta, inner, lambda phi, theta: phi["x"].sum())
    Counted.counts.update({"gradient": 0, "second order": 0})
    estimator(problem, {"x": torch.tensor([1.0, 2.0], dtype=F64)})
    assert Counted.counts["gradient"] == len(seen)
    return seen, Counted.counts["second order"]


def tasks_of(count: int) -> tuple[Bilevel, list[Bilevel], Params]:
    """So many tasks as one problem, each of them as a problem of its own, and θ."""
    x, y = torch.randn(2, count, 6, 3, dtype=F64, generator=torch.Generator().manual_seed(5))
    theta = start()

    def losses(phi):
        hidden = torch.tanh(torch.einsum("tni,tih->tnh", x, phi["w1"]) + phi["b1"][:, None])
        return (torch.einsum("tnh,tho->tno", hidden, phi["w2"]) - y[..., :2]).square().mean((1, 2))

    batch = Bilevel(
        init=lambda th: {name: value.expand(count, *value.shape) for name, value in th.items()},
        inner=lambda p, th, t: losses(p).sum(),
        outer=lambda p, th: losses(p).mean(),
        tasks=count,
    )

    def one(i: int) -> Bilevel:
        loss = lambda p, *_: (network(p, x[i]) - y[i, :, :2]).square().mean()  # noqa: E731
        return Bilevel(lambda th: th, loss, loss)

    return batch, [one(i) for i in range(count)], theta


DYNAMICS = {
    "sgd": (SGD(0.1), sgd_rule(0.1, 0, 0)),
    "sgd-momentum": (SGD(0.1, 0.9, 1e-2), sgd_rule(0.1, 0.9, 1e-2)),
    # A large eps: with one gradient for all steps Adam moves by its sign alone, and the meta-gradient all but vanishes.
    "adam": (Adam(0.02, eps=1e-2), adam_rule(0.02, eps=1e-2)),
}
MEMORIES = {"sgd": 1, "sgd-momentum": 1, "adam": 2}
"""How many numbers their rules remember of an entry."""
