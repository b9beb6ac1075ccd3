"""Which window and which backward pass fit a memory, and what they take: the counts of `tally` at a machine's rates.

For a chunk of tasks that are worked on together, on one core,

    seconds = a F + b C + c M + d n + e m        bytes = u H + v W + r

F: floating-point operations of convolutions and products, at a s each. C: bytes that these read and write, at b s a
byte. M: bytes that all other kernels read and write, at c s a byte. n, m: how many there are of either kind, at d and
e s each. H: the most bytes of tensors at one time; W: of one convolution's operands; u and v (bytes a byte) are what
the C library and the convolutions' own memory add, r is what a process takes without any of it (bytes). No rate is
negative. Chunks follow one another: their seconds add up, and the largest one's bytes count.

The counts are affine in K, the windows: with an image's share of them, K windows of S support images and a query pass
of Q images take (K S + Q) shares of a gradient and K S of a Hessian-vector product, and `autograd` holds K S images'
graphs, `adjoint` one window's and K states (`msmeta.adjoint`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
import torch

from msmeta import runs
from msmeta.dynamics import partition
from msmeta.errors import ConfigError, UserError
from msmeta.experiments.few_shot.config import FewShotConfig
from msmeta.experiments.few_shot.step import network, task_chunk
from msmeta.experiments.few_shot.tally import Tally, of_meta_batch, recomputed
from msmeta.models import Conv4

PRECISION = "float32"
"""Whose seconds a machine's rates predict."""
MEASUREMENT = "benchmarks/scaling.json"
"""Where in the results a machine's rates are, with the points that they were fitted to and checked on."""


@dataclass(frozen=True)
class Rates:
    """What a machine takes for what is counted (the module's equations). Seconds are of one core.

    process: bytes of a process that has done next to nothing. off: by how much more than predicted, at the most, the
    points took that the rates were checked on, as a share: 0.2 for a fifth.
    """

    per_flop: float
    per_convolved: float
    per_moved: float
    per_convolution: float
    per_kernel: float
    per_held: float
    per_widest: float
    process: float
    off: float = 0.0

    def seconds(self, counted: Tally) -> float:
        """Of one core."""
        return float(np.dot(astuple(self)[:5], astuple(counted)[:5]))

    def growth(self, counted: Tally) -> float:
        """Bytes by which a process grows."""
        return self.per_held * counted.held + self.per_widest * counted.widest


def fit(tallies: Sequence[Tally], seconds: Sequence[float], grown: Sequence[float], process: float) -> Rates:
    """Rates that are not negative, with the least sum of squared relative errors, of what was measured as more than 0.

    tallies: of whole meta-iterations. grown: bytes by which a process grew.
    """
    counted = np.array([astuple(each) for each in tallies], dtype=float)
    time, memory = (_least(counted[:, part], values) for part, values in ((slice(5), seconds), (slice(5, 7), grown)))
    return Rates(*time, *memory, process)


def _least(columns: np.ndarray, values: Sequence[float]) -> list[float]:
    from scipy.optimize import nnls  # which would take a third of a second to import, in every process of a run

    values = np.asarray(values, dtype=float)
    relative = (columns / np.where(values > 0, values, 1)[:, None])[values > 0]  # a process may not have grown at all
    scale = relative.max(0)  # of counts as unlike as operations and kernels
    return (nnls(relative / scale, np.ones(len(relative)))[0] / scale).tolist()


def measured_rates() -> tuple[Rates, dict[str, Any]] | None:
    """The stored rates and the provenance of their measurement; None where there is none."""
    path = runs.results_root() / MEASUREMENT
    if not path.exists():
        return None
    result = runs.read_result(path)
    try:
        return Rates(**result["rates"]), result["provenance"]
    except (KeyError, TypeError) as error:
        raise UserError(f"result {path} is damaged: delete it, or measure again: msmeta bench scaling") from error


@dataclass(frozen=True)
class Option:
    """One way to take the meta-gradient.

    gradients, products: evaluations of an inner gradient, and Hessian-vector products, of each task. bytes: predicted;
    needs: what has to be there for it to fit. seconds: a meta-iteration, None where the device was not measured.
    """

    window: int
    backward: str
    gradients: int
    products: int
    bytes: float
    needs: float
    seconds: float | None
    fits: bool


@dataclass(frozen=True)
class Plan:
    """The options by window, exact first; of each window `autograd` first. chosen: None where none fits.

    chunk: tasks at once. measured_on: the machine whose rates were taken, None where none is measured. least: where
    nothing fits, the option that needs the least, as it is and with one task at a time.
    """

    options: list[Option]
    chosen: Option | None
    chunk: int
    measured_on: str | None
    least: tuple[Option, Option] | None

    def require_fit(self) -> Option:
        """The chosen option. Raises UserError, with what would fit, where there is none."""
        if self.chosen:
            return self.chosen
        least, alone = self.least
        line = f"nothing fits: N = {least.window} with {least.backward} needs {in_words(least.needs)}"
        if self.chunk > 1:
            line += f" with {self.chunk} tasks at a time, N = {alone.window} with {alone.backward} "
            line += f"{in_words(alone.needs)} with --task-chunk 1"
        raise UserError(f"{line}; --filters, --query or --shot lower it further")


def plan(config: FewShotConfig, memory: float, device: str = "cpu") -> Plan:
    """What each window that divides T takes with either backward pass, and the choice of what fits `memory` (bytes).

    The choice is the smallest window that fits, since it is the nearest to the exact meta-gradient, and of its backward
    passes the faster one; where times are not known, the one with fewer gradients. It fits where what is predicted, and
    more by as much as the rates were off at the most, is within `memory`. On a CPU the bytes are a process's, with one
    chunk of tasks at a time; on a GPU those of tensors alone, with all tasks at once, and no seconds.
    Raises ConfigError for a config of another estimator.
    """
    if config.estimator != "multistep":
        raise ConfigError(f"estimator {config.estimator} has no windows: only multistep is planned")
    on_cpu = torch.device(device).type == "cpu"
    chunk = min(config.tasks, task_chunk(config, torch.device(device)))
    found = measured_rates() if on_cpu else None
    rates = found[0] if found else None
    options = _options(config, memory, chunk, rates, on_cpu)
    fitting = [option for option in options if option.fits]
    least = None
    if not fitting:
        both = options, options if chunk == 1 else _options(config, memory, 1, rates, on_cpu)
        least = tuple(min(some, key=lambda option: option.needs) for some in both)
    chosen = min(fitting, key=lambda option: (option.window, option.seconds or 0.0, option.gradients), default=None)
    return Plan(options, chosen, chunk, found[1]["device"] if found else None, least)


def _options(config: FewShotConfig, memory: float, chunk: int, rates: Rates | None, on_cpu: bool) -> list[Option]:
    model, options = network(config), []
    for window in (n for n in range(1, config.steps + 1) if config.steps % n == 0):
        for backward in ("autograd", "adjoint"):
            changed = replace(config, window=window)
            counted = of_meta_batch(changed, model, chunk, backward, "cpu" if on_cpu else "cuda")
            windows = len(partition(config.steps, window))
            gradients = windows if backward == "autograd" else 2 * windows - 1 + recomputed(windows)
            inputs = input_bytes(config, model)
            size = counted.held + inputs if rates is None else rates.process + inputs + rates.growth(counted)
            needs = size if rates is None else size + rates.off * rates.growth(counted)
            known = rates is not None and config.precision == PRECISION
            seconds = rates.seconds(counted) if known else None
            options.append(Option(window, backward, gradients, windows, size, needs, seconds, needs <= memory))
    return options


def input_bytes(config: FewShotConfig, model: Conv4) -> int:
    """The meta-batch's images, and θ with its gradient and the meta-optimiser's two buffers, float32."""
    images = config.tasks * config.way * (config.shot + config.query) * model.channels * model.size**2
    return 4 * (images + 4 * model.parameters)


def in_words(size: float) -> str:
    """Bytes as people write them, decimal."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
