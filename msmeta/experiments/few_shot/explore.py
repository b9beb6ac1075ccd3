"""One batch of few-shot tasks under every window: what notebooks/explore_n.ipynb measures while its sliders move."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from msmeta import data, machine
from msmeta.bilevel import Bilevel, MetaGradient, Params, State, adapt, partition
from msmeta.data import Episodes, EpisodeSampler
from msmeta.dynamics import SGD
from msmeta.errors import ConfigError
from msmeta.estimators import FirstOrder, MultiStep
from msmeta.experiments import few_shot
from msmeta.models import Conv4

META_ITERATIONS = {"smoke": 2, "quick": 40, "cpu": 400, "paper": 400}
"""Meta-iterations of exact MAML by preset, before the network is explored."""


@dataclass(frozen=True)
class Learner:
    """A network, meta-trained for a while, and the tasks to explore.

    title: of the data set. why: a sentence on which data were used.
    """

    model: Conv4
    theta: Params
    episodes: Episodes
    title: str
    why: str


@dataclass(frozen=True)
class Setting:
    """What the sliders set; `window` divides `steps`."""

    steps: int = 8
    window: int = 4
    lr: float = 0.1
    momentum: float = 0.9
    backward: str = "autograd"


def prepare(
    preset: str,
    way: int = 5,
    shot: int = 1,
    tasks: int = 4,
    meta_iterations: int | None = None,
    seed: int = 0,
    device: str = "auto",
) -> Learner:
    """Meta-trains a network by exact MAML and draws a batch of training tasks for it.

    Uses Omniglot, or glyphs where it cannot be had and in the smoke preset. Raises ConfigError for impossible settings.
    """
    if preset == "smoke":
        name, why = "glyphs", "The smoke preset always uses procedurally drawn glyphs, not Omniglot."
    else:
        name, why = data.real_or_glyphs("omniglot")
    iterations = META_ITERATIONS.get(preset, 0) if meta_iterations is None else meta_iterations
    config = few_shot.preset_config(preset, name, way, shot, "multistep", tasks=tasks, seed=seed)
    if iterations < 0:
        raise ConfigError(f"meta_iterations={iterations}: it must not be negative")
    chosen = machine.choose_device(device)
    images = data.load(name, device=chosen)
    sampler = EpisodeSampler(images, "train", way, shot, config.query, seed)
    model = few_shot.build_model(config, images)
    theta = {name: torch.nn.Parameter(value.to(chosen)) for name, value in model.init(seed).items()}
    optimizer, estimator = torch.optim.Adam(theta.values(), lr=3e-3), MultiStep(config.dynamics(), config.steps)
    for iteration in range(iterations):
        _, _, grad = few_shot.meta_gradient(estimator, model, theta, sampler.sample(iteration, tasks), tasks)
        for name, value in theta.items():
            value.grad = grad[name]
        optimizer.step()
    start = {name: value.detach() for name, value in theta.items()}
    return Learner(model, start, sampler.sample(1_000_000, tasks), images.title, why)


def divisors(steps: int) -> list[int]:
    """The windows that divide `steps`."""
    return [n for n in range(1, steps + 1) if steps % n == 0]


def compare(learner: Learner, setting: Setting) -> list[dict[str, Any]]:
    """A row each for exact, the setting's window, and first-order, on the same tasks.

    loss, accuracy (%): of the query images after the steps. cosine, ratio: of the meta-gradient with the exact one, and
    of their lengths. seconds: fastest of three calls after a first one. bytes: what the backward pass keeps.
    path: (step, query loss) where each gradient is evaluated, and after the last step.
    """
    inner = SGD(setting.lr, setting.momentum)
    exact = replace(setting, window=1)
    rows = [_row(learner, "exact", exact, MultiStep(inner, setting.steps, 1, setting.backward))]
    if setting.window != 1:
        shared = MultiStep(inner, setting.steps, setting.window, setting.backward)
        rows.append(_row(learner, f"N = {setting.window}", setting, shared))
    rows.append(_row(learner, "first-order", exact, FirstOrder(inner, setting.steps)))
    reference = rows[0]["grad"]
    for row in rows:
        row["cosine"] = (torch.dot(row["grad"], reference) / (row["grad"].norm() * reference.norm())).item()
        row["ratio"] = (row["grad"].norm() / reference.norm()).item()
    return rows


def _row(learner: Learner, method: str, setting: Setting, estimator: Callable[..., MetaGradient]) -> dict[str, Any]:
    logits: list[Tensor] = []
    problem = few_shot.episode_problem(learner.model, learner.episodes, logits)
    with SavedBytes() as saved:
        out = estimator(problem, learner.theta)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        estimator(problem, learner.theta).loss.item()
        times.append(time.perf_counter() - start)
    right = logits[0].argmax(-1) == learner.episodes.query_y
    return {
        "method": method,
        "loss": out.loss.item(),
        "accuracy": 100 * right.double().mean().item(),
        "grad": torch.cat([value.flatten() for value in out.grad.values()]).double(),
        "seconds": min(times),
        "bytes": saved.peak,
        "path": _path(learner, problem, setting),
    }


def _path(learner: Learner, problem: Bilevel, setting: Setting) -> list[tuple[int, float]]:
    states: list[Params] = []
    dynamics, windows = SGD(setting.lr, setting.momentum), partition(setting.steps, setting.window)
    start = State(problem.init(learner.theta))
    last, _ = adapt(problem, start, learner.theta, dynamics, windows, keep=lambda k, s: states.append(s.phi))
    with torch.no_grad():
        losses = [problem.outer(phi, learner.theta).item() for phi in (*states, last.phi)]
    return list(zip((*(k * setting.window for k in range(len(windows))), setting.steps), losses, strict=True))


class SavedBytes:
    """The most bytes that automatic differentiation held for backward passes at one time, on any device.

    Counted by its own hooks, so that no allocator's habits are in it. A tensor saved twice counts twice.
    """

    def __init__(self) -> None:
        self.now = self.peak = 0

    def __enter__(self) -> SavedBytes:
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda held: held.tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor) -> _Held:
        return _Held(self, tensor)


class _Held:
    """A saved tensor that says when it is let go."""

    def __init__(self, counter: SavedBytes, tensor: Tensor) -> None:
        # Detached, since an operation that saves its own result would otherwise never be let go.
        self.counter, self.tensor, self.bytes = counter, tensor.detach(), tensor.nbytes
        counter.now += self.bytes
        counter.peak = max(counter.peak, counter.now)

    def __del__(self) -> None:
        self.counter.now -= self.bytes


def controls(show: Callable[[Setting], None], setting: Setting) -> Any:
    """Sliders that begin at `setting` and call `show` with each new one; an ipywidgets box, for a live kernel.

    The window's slider offers only divisors of the steps, and keeps its value where it can.
    """
    import ipywidgets as widgets

    wide = {"continuous_update": False, "style": {"description_width": "9em"}, "layout": {"width": "28em"}}
    steps = widgets.IntSlider(setting.steps, 1, 16, description="steps T", **wide)
    window = widgets.SelectionSlider(
        options=divisors(setting.steps), value=setting.window, description="window N", **wide
    )
    lr = widgets.FloatLogSlider(setting.lr, base=10, min=-3, max=0, step=0.1, description="inner rate", **wide)
    momentum = widgets.FloatSlider(setting.momentum, min=0, max=0.95, step=0.05, description="momentum", **wide)
    backward = widgets.Dropdown(
        options=["autograd", "adjoint"], value=setting.backward, description="backward",
        style=wide["style"], layout=wide["layout"],
    )  # fmt: skip
    inputs: Sequence[Any] = (steps, window, lr, momentum, backward)

    def update(change: Any) -> None:
        if change["owner"] is steps:
            options = divisors(steps.value)
            kept = max(n for n in options if n <= window.value)
            window.unobserve(update, "value")
            window.options = options
            window.value = kept
            window.observe(update, "value")
        show(Setting(*(each.value for each in inputs)))

    for each in inputs:
        each.observe(update, "value")
    return widgets.VBox(inputs)
