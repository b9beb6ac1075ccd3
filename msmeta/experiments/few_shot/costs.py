"""Time and memory of one meta-iteration (Figures 2 and 5), measured, and predicted by counting.

On a GPU memory is what torch allocated at the most; on a CPU it is how much the largest resident set of a process of
its own grows by. The images are random: neither time nor memory depends on them.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from msmeta import machine, runs
from msmeta.data import Episodes
from msmeta.dynamics import partition
from msmeta.errors import ConfigError
from msmeta.experiments.few_shot.config import FewShotConfig, method
from msmeta.experiments.few_shot.presets import preset_config
from msmeta.experiments.few_shot.step import meta_gradient, task_chunk
from msmeta.models import Conv4
from msmeta.models.conv4 import BLOCKS

METHODS = {method("multistep", window): ("multistep", window) for window in (1, 2, 4, 8)}
METHODS |= {method(estimator): (estimator, 1) for estimator in ("first-order", "implicit", "reptile")}
"""Estimator and window by their name."""
REPEATS = 3


@dataclass(frozen=True)
class Cell:
    """One measurement. filters, tasks: of the network and the meta-batch. steps: T. task_chunk: tasks worked on at
    once, None for as many as in training. size: side of the images (px), which are drawings or `photographs`.
    backward: of `multistep`. Raises ConfigError."""

    estimator: str
    window: int
    way: int
    shot: int
    steps: int
    filters: int = 64
    tasks: int = 2
    task_chunk: int | None = None
    size: int = 28
    photographs: bool = False
    backward: str = "autograd"

    def __post_init__(self) -> None:
        self.config()

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Cell:
        """That of a stored measurement."""
        return cls(**{name: row[name] for name in cls.__dataclass_fields__ if name in row})

    @property
    def label(self) -> str:
        """The method's name, whether or not its window divides T."""
        return method(self.estimator, self.window)

    def config(self) -> FewShotConfig:
        """Omniglot's protocol with this many steps; where N does not divide T the last window is shorter."""
        window = 1 if self.window == 1 else uniform(self.steps, self.window)
        changes = {"steps": self.steps, "filters": self.filters, "tasks": self.tasks, "task_chunk": self.task_chunk}
        return preset_config("paper", "omniglot", self.way, self.shot, self.estimator, window, **changes)

    def model(self) -> Conv4:
        """The network: strided for drawings, pooled for photographs."""
        channels = 3 if self.photographs else 1
        return Conv4(self.way, channels, self.size, self.filters, pool=self.photographs)


def uniform(steps: int, window: int) -> tuple[int, ...]:
    """Windows of this length, with a shorter last one where it does not divide the steps."""
    whole, rest = divmod(steps, window)
    return (window,) * whole + (rest,) * (rest > 0)


@machine.memory_errors("out of memory: lower filters, tasks, way or shot")
def measure(cell: Cell, device: str = "auto") -> dict[str, float]:
    """Median seconds of a meta-iteration, bytes, and tasks in memory at once; on a CPU in a process of its own.

    Raises UserError, in one line, if the device is not there or the memory does not suffice.
    """
    chosen = machine.choose_device(device)
    if chosen.type == "cuda":
        return meta_iteration(cell, chosen)
    return machine.in_fresh_process(meta_iteration, cell, chosen)


def meta_iteration(cell: Cell, device: torch.device) -> dict[str, float]:
    """The same, in this process, which keeps its memory as in training; a single worker, one thread on a CPU."""
    warm_up(cell, device)
    times, memory = machine.timed(call(cell, device), device, REPEATS)
    at_once = min(cell.tasks, task_chunk(cell.config(), device))
    return {"seconds": statistics.median(times), "bytes": memory, "tasks_at_once": at_once}


def warm_up(cell: Cell, device: torch.device) -> None:
    """A tiny meta-iteration of the same kind, so that what the process grows by later is not the libraries' code."""
    call(replace(cell, steps=2, way=2, shot=1, filters=4, tasks=1, task_chunk=None, size=28), device)()


def call(cell: Cell, device: torch.device) -> Callable[[], object]:
    """The meta-iteration, on random images, in a process that keeps its memory."""
    if device.type == "cpu":
        machine.keep_freed_memory()
    config, model = cell.config(), cell.model()
    episodes = random_episodes(config, device, model.channels, model.size)
    theta = {name: value.to(device).requires_grad_() for name, value in model.init(0).items()}
    estimator, chunk = config.build_estimator(None, cell.backward), task_chunk(config, device)
    return lambda: meta_gradient(estimator, model, theta, episodes, chunk, config.inner_shot)


def random_episodes(config: FewShotConfig, device: torch.device, channels: int = 1, size: int = 28) -> Episodes:
    """A meta-batch of the config's shapes."""
    generator, labels = torch.Generator().manual_seed(0), torch.arange(config.way)

    def part(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.rand(config.tasks, config.way * count, channels, size, size, generator=generator)
        return x.to(device), labels.repeat_interleave(count).repeat(config.tasks, 1).to(device)

    return Episodes(*part(config.shot), *part(config.query))


@dataclass(frozen=True)
class Counts:
    """What one task costs in images: through a gradient (support or query), through a Hessian-vector product; images
    whose activations are held for one backward pass, and for two, at the worst moment; and states held."""

    gradient: float
    product: float
    held_once: float
    held_twice: float
    states: float


def counts(cell: Cell) -> Counts:
    """The cost model: K gradients and K products for windows, T gradients for first-order methods, and so on."""
    config = cell.config()
    support, query, steps = cell.way * cell.shot, cell.way * config.query, cell.steps
    if config.estimator == "multistep":
        windows = len(partition(config.steps, config.window))
        return Counts(windows * support + query, windows * support, query, windows * support, 2 * windows)
    if config.estimator == "first-order":
        return Counts(steps * support + query, 0, max(query, support), 0, 2)
    if config.estimator == "implicit":
        cg = config.cg_steps
        return Counts((steps + 1) * support + query, cg * support, max(query, support), support, 6)
    batch = cell.way * min(config.inner_shot or cell.shot, cell.shot + config.query)
    return Counts(steps * batch + support / 3, 0, batch, 0, 2)


def work(cell: Cell) -> tuple[float, float]:
    """Floating-point operations and bytes of a meta-iteration that these convolutions take at the least.

    With F operations of an image's forward pass, f of them in the first layer, whose input needs no gradient: a
    gradient takes 3F - f and a Hessian-vector product by double backward another 6F - 4f. Bytes: each convolution's
    output and its gradient are written once and read twice in a gradient, and as often again, twice, in a product.
    """
    forward, first, activations = _image_work(cell.model())
    found = counts(cell)
    flops = found.gradient * (3 * forward - first) + found.product * (6 * forward - 4 * first)
    passes = 6 * found.gradient + 12 * found.product
    return cell.tasks * flops, cell.tasks * passes * activations * 4


def floor_seconds(cell: Cell, speed: dict[str, float]) -> float:
    """The time that no implementation with these convolutions can go below, at a machine's `speed`."""
    flops, traffic = work(cell)
    return max(flops / speed["flops_per_second"], traffic / speed["bytes_per_second"])


def _image_work(model: Conv4) -> tuple[int, int, int]:
    """Of one image: operations of the forward pass and of its first layer, and values that convolutions put out."""
    size, channels, operations, activations = model.size, model.channels, [], 0
    for _ in range(BLOCKS):
        out = size if model.pool else (size + 1) // 2
        operations.append(2 * out * out * 9 * channels * model.filters)
        activations += out * out * model.filters
        size, channels = out // 2 if model.pool else out, model.filters
    return sum(operations) + 2 * model.features * model.way, operations[0], activations


@dataclass(frozen=True)
class CostModel:
    """Seconds = gradient images x `per_gradient` + product images x `per_product`, all of a meta-batch; bytes likewise
    from images held for one backward pass and for two, plus the states held, whose size is known."""

    per_gradient: float
    per_product: float
    per_held_once: float
    per_held_twice: float

    def seconds(self, cell: Cell) -> float:
        """Predicted time of a meta-iteration."""
        found = counts(cell)
        return cell.tasks * (self.per_gradient * found.gradient + self.per_product * found.product)

    def bytes(self, cell: Cell, tasks_at_once: int) -> float:
        """Predicted peak memory where so many tasks are in memory at once."""
        found = counts(cell)
        held = self.per_held_once * found.held_once + self.per_held_twice * found.held_twice
        return tasks_at_once * (held + found.states * state_bytes(cell))


def fit(cells: Sequence[Cell], measured: Sequence[dict[str, float]]) -> CostModel:
    """Two constants for time and two for memory, by least squares of the relative errors."""
    found = [counts(cell) for cell in cells]
    times = np.array([row["seconds"] for row in measured]) / np.array([cell.tasks for cell in cells])
    held = np.array([row["bytes"] for row in measured]) / np.array([row["tasks_at_once"] for row in measured])
    held = held - np.array([c.states * state_bytes(cell) for c, cell in zip(found, cells, strict=True)])
    per = _relative_least_squares([(c.gradient, c.product) for c in found], times)
    per_held = _relative_least_squares([(c.held_once, c.held_twice) for c in found], held)
    return CostModel(*per, *per_held)


def state_bytes(cell: Cell) -> int:
    """Parameters of one task, float32."""
    return 4 * cell.model().parameters


def _relative_least_squares(columns: Sequence[tuple[float, float]], values: np.ndarray) -> tuple[float, float]:
    """The two constants, neither of them negative. What was measured as nothing has no relative error and is left out:
    memory that grew by no more than the states have."""
    matrix = (np.array(columns, dtype=float) / values[:, None])[values > 0]
    solution, *_ = np.linalg.lstsq(matrix, np.ones(len(matrix)), rcond=None)
    if solution.min() >= 0:
        return float(solution[0]), float(solution[1])
    alone = matrix[:, 0]  # the second says nothing here, as where few images are held twice
    return float(alone.sum() / (alone @ alone)), 0.0


ALL = [(5, 1), (5, 5), (20, 1), (20, 5)]
"""Way and shot of the columns of Table 4."""
LIVE = {
    "smoke": ([(5, 1), (20, 1)], (2,), ("MAML", "Multi-step (2)", "FO-MAML")),
    "quick": (ALL, (1, 8), ("MAML", "Multi-step (4)", "Multi-step (8)", "FO-MAML")),
    "cpu": (ALL, tuple(range(1, 9)), tuple(METHODS)),
    "paper": (ALL, tuple(range(1, 9)), tuple(METHODS)),
}
"""Settings, inner steps and methods of a live measurement, by preset."""


def live(
    preset: str,
    settings: Sequence[Sequence[int]] | None,
    steps: Sequence[int] | None,
    methods: Sequence[str] | None,
    device: str,
    filters: int,
    tasks: int,
    rounds: int = 1,
) -> dict[str, Any]:
    """Measures every method at every number of inner steps in each setting, one after another: the preset's where none
    are given. rounds: how often, each time all of them. Returns a result as the store holds it. Raises ConfigError."""
    if preset not in LIVE:
        raise ConfigError(f"preset {preset!r} is unknown: choose from {', '.join(LIVE)}")
    settings, steps, methods = (
        list(own or usual) for own, usual in zip((settings, steps, methods), LIVE[preset], strict=True)
    )
    if unknown := [name for name in methods if name not in METHODS]:
        raise ConfigError(f"method {unknown[0]!r} is unknown: choose from {'; '.join(METHODS)}")
    found: dict[Cell, list[dict[str, float]]] = {}
    for _ in range(rounds):
        for (way, shot), count, name in itertools.product(settings, steps, methods):
            cell = Cell(*METHODS[name], way, shot, count, filters, tasks)
            row = measure(cell, device)
            took = f"{1000 * row['seconds']:.0f} ms, {row['bytes'] / 1e6:.0f} MB"
            print(f"{way}-way {shot}-shot, T = {count}, {name}: {took}")
            found.setdefault(cell, []).append(row)
    rows = [{**asdict(cell), **machine.medians(own)} for cell, own in found.items()]
    config = {"settings": settings, "steps": steps, "methods": methods, "filters": filters, "tasks": tasks}
    return {"config": config, "metrics": rows, "provenance": runs.provenance(machine.choose_device(device))}
