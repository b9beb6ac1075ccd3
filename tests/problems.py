"""Small bilevel problems in float64, and their meta-gradients by means that share no code with the estimators."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from msmeta import SGD, Adam, Bilevel
from msmeta.bilevel import Params

F64 = torch.float64


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


def unrolled(problem: Bilevel, theta: Params, rule: Callable, windows: Sequence[int]) -> tuple[Tensor, Params]:
    """Outer loss and meta-gradient by writing every single step out and differentiating through all of them.

    `rule(phi, memory, grad, step)` is one step of an optimiser on one tensor; it returns the new phi and memory.
    """
    theta = {name: value.clone().requires_grad_() for name, value in theta.items()}
    phi = {name: value * 1.0 for name, value in problem.init(theta).items()}
    if not any(value.requires_grad for value in phi.values()):
        phi = {name: value.requires_grad_() for name, value in phi.items()}
    memory: dict = dict.fromkeys(phi)
    step = 0
    for n in windows:
        grads = torch.autograd.grad(problem.inner(phi, theta, step), list(phi.values()), create_graph=True)
        grads = dict(zip(phi, grads, strict=True))
        for _ in range(n):
            step += 1
            moved = {name: rule(phi[name], memory[name], grads[name], step) for name in phi}
            phi, memory = {k: v[0] for k, v in moved.items()}, {k: v[1] for k, v in moved.items()}
    loss = problem.outer(phi, theta)
    grads = torch.autograd.grad(loss, list(theta.values()))
    return loss.detach(), dict(zip(theta, grads, strict=True))


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


DYNAMICS = {
    "sgd": (SGD(0.1), sgd_rule(0.1, 0, 0)),
    "sgd-momentum": (SGD(0.1, 0.9, 1e-2), sgd_rule(0.1, 0.9, 1e-2)),
    # A large eps: with one gradient for all steps Adam moves by its sign alone, and the meta-gradient all but vanishes.
    "adam": (Adam(0.02, eps=1e-2), adam_rule(0.02, eps=1e-2)),
}
