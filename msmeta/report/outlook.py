"""What changes with ten and a thousand times as much, on paper: counts of a meta-iteration that nobody has run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from msmeta.experiments.few_shot import FewShotConfig, network, preset_config
from msmeta.experiments.few_shot.tally import Tally, tally
from msmeta.report.style import table_of

TIMES = (1, 10, 1000)
LARGEST = 2**31 - 1
"""Elements of a tensor that 32-bit indices reach."""
WAYS = {"exact, autograd": (1, "autograd"), "exact, adjoint": (1, "adjoint"), "N = T": (None, "autograd")}
"""Window, None for T, and backward pass."""


@dataclass(frozen=True)
class Link:
    """What connects GPUs. rate: bytes a second that each sends. delay: seconds until a message begins to arrive."""

    name: str
    rate: float
    delay: float

    def all_reduce(self, size: float, count: int) -> float:
        """Seconds of a ring's sum of so many bytes over `count` GPUs: 2 (G - 1) messages of a G-th each."""
        return 2 * (count - 1) * (size / count / self.rate + self.delay)


def base() -> FewShotConfig:
    """The paper's 20-way 1-shot Omniglot."""
    return preset_config("paper", "omniglot", 20, 1, "multistep")


def scaled() -> Iterator[tuple[str, int, FewShotConfig]]:
    """What is multiplied, by how much, and the config; filters grow as the root of the parameters."""
    config = base()
    for times in TIMES:
        yield "tasks", times, replace(config, tasks=config.tasks * times)
    for times in TIMES[1:]:
        yield "parameters", times, replace(config, filters=round(config.filters * math.sqrt(times)))
    for times in TIMES[1:]:
        yield "steps", times, replace(config, steps=min(config.steps * times, 10_000))


def counted(config: FewShotConfig, way: str) -> Tally:
    """Of one task on a GPU."""
    window, backward = WAYS[way]
    return tally(replace(config, window=window or config.steps), network(config), 1, backward, "cuda")


def growth_table(memory: float) -> str:
    """Bytes of tensors of all tasks at once, and how many tasks fit a GPU's memory (bytes), in Markdown."""
    rows = []
    for what, times, config in scaled():
        tallies = [counted(config, way) for way in WAYS]
        cells = [f"{what} x {times:,}" if times > 1 else "as it is", f"{network(config).parameters / 1e6:.2g}"]
        cells += [f"{config.tasks:,}", f"{config.steps:,}"]
        cells += [f"{found.held * config.tasks / 1e9:,.3g}" for found in tallies]
        cells += [f"{int(memory // found.held):,}" for found in tallies]
        rows.append(" | ".join(cells))
    head = [f"{way} (GB)" for way in WAYS] + [f"{way}: tasks in {memory / 1e9:.0f} GB" for way in WAYS]
    return table_of(" | ".join(["What grows", "parameters (M)", "tasks", "T", *head]), rows)


def communication_table(links: Sequence[Link], flops_per_second: float, counts: Sequence[int]) -> str:
    """Time of the one sum over GPUs in a meta-iteration as a share of what each of them computes, in Markdown.

    flops_per_second: that a GPU sustains. counts: of GPUs, of which each takes its share of the tasks.
    """
    rows = []
    for what, times, config in scaled():
        if what == "steps":
            continue
        size = 4 * network(config).parameters
        for way in ("exact, autograd", "N = T"):
            work = counted(config, way).flops * config.tasks / flops_per_second
            name = f"{what} x {times:,}" if times > 1 else "as it is"
            cells = [name, way, f"{size / 1e6:.3g}", f"{1e3 * work:.3g}"]
            for link in links:
                shares = [link.all_reduce(size, count) / (work / count) for count in counts]
                cells += [" / ".join(f"{100 * share:.2g}" for share in shares), few(link, size, work, config.tasks)]
            rows.append(" | ".join(cells))
    head, gpus = ["What grows", "Method", "θ's gradient (MB)", "work of one GPU (ms)"], " / ".join(map(str, counts))
    for link in links:
        head += [f"{link.name}, {gpus} GPUs (%)", f"{link.name}: a tenth from"]
    return table_of(" | ".join(head), rows)


def few(link: Link, size: float, work: float, tasks: int) -> str:
    """The number of GPUs from which the sum takes a tenth of what each computes, at most one GPU a task."""
    found = next((n for n in range(2, tasks + 1) if link.all_reduce(size, n) > 0.1 * work / n), None)
    return f"{found:,} GPUs" if found else "never: one GPU a task"


def indexed_table() -> str:
    """How many tasks can lie in one tensor, before it has more elements than 32-bit indices reach, in Markdown."""
    rows = []
    for what, times, config in scaled():
        if what != "steps":
            model = network(config)
            side = (model.size + 1) // 2
            images = config.way * config.query
            most = LARGEST // (images * config.filters * side**2)
            name = f"{what} x {times:,}" if times > 1 else "as it is"
            rows.append(f"{name} | {config.tasks:,} | {config.tasks * config.filters:,} | {most:,}")
    return table_of("What grows | tasks | channels side by side | tasks in one tensor at the most", rows)
