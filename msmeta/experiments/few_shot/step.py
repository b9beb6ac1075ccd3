"""One meta-iteration of few-shot learning (Eqs. 9 and 10): a meta-batch of tasks, its meta-gradient, a step of θ.

On a CPU a few tasks are worked on at a time, and workers share such chunks. On a GPU all tasks are worked on at once
and, where the estimator allows it, the whole meta-iteration is one CUDA graph, replayed many times for each time that
the host looks at the losses.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import reduce

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from msmeta import data, machine
from msmeta.bilevel import Bilevel, Params
from msmeta.data import Episodes, EpisodeSampler, like
from msmeta.data.images import require_shrinkable
from msmeta.errors import DivergedError
from msmeta.experiments import graphs
from msmeta.experiments.distributed import World
from msmeta.experiments.few_shot.config import ESTIMATORS, RGB, Estimator, FewShotConfig, Told
from msmeta.models import Conv4
from msmeta.models.layers import laid_out
from msmeta.workers import Team

Found = tuple[Tensor, Params]
"""What is logged of some tasks (mean outer loss, query accuracy, then what the estimator tells of itself: 1-d), and
their meta-gradient."""


def network(config: FewShotConfig) -> Conv4:
    """The network that a run of this config trains: strided for drawings, pooled for photographs, as in MAML.

    It is found without reading the data set.
    """
    dataset = data.find(config.dataset)
    channels, side = dataset.shape[0], config.image_size or dataset.side
    require_shrinkable(dataset.name, dataset.side, dataset.side, side)
    return Conv4(config.way, channels, side, config.filters, pool=channels == 3, precision=config.precision)


def episode_problem(
    model: Conv4, episodes: Episodes, logits: list[Tensor] | None = None, inner_shot: int | None = None
) -> Bilevel:
    """A batch of tasks as one bilevel problem: inner loss summed over tasks, outer loss their mean.

    The outer loss appends its logits (tasks, n, way) to `logits`, so that accuracy costs no second pass.
    inner_shot: each inner step sees a minibatch of so many images a class, in turn from `support_x`.
    """
    tasks = len(episodes)

    def outer(phi: Params, theta: Params) -> Tensor:
        scores = model(phi, episodes.query_x)
        if logits is not None:
            logits.append(scores.detach())
        return F.cross_entropy(scores.transpose(1, 2), episodes.query_y)

    def inner(phi: Params, theta: Params, t: int) -> Tensor:
        x, y = episodes.support_x, episodes.support_y
        if inner_shot is not None:
            x, y = _minibatch(x, y, model.way, inner_shot, t)
        return F.cross_entropy(model(phi, x).transpose(1, 2), y, reduction="sum") / y.shape[1]

    def init(theta: Params) -> Params:
        # Steps and gradients keep the layout that the weights have here.
        theta = {name: laid_out(value) if value.dim() == 4 else value for name, value in theta.items()}
        return {name: value.expand(tasks, *value.shape) for name, value in theta.items()}

    return Bilevel(init=init, inner=inner, outer=outer, tasks=tasks)


def reptile_episodes(episodes: Episodes, way: int) -> Episodes:
    """The tasks as Reptile trains on them: all images are for the inner steps; the loss that is logged is on the shots.

    That loss plays no part in Reptile's gradient, so it is taken where it costs least.
    """
    parts = ((episodes.support_x, episodes.query_x), (episodes.support_y, episodes.query_y))
    x, y = (torch.cat([part.unflatten(1, (way, -1)) for part in pair], 2).flatten(1, 2) for pair in parts)
    return Episodes(x, y, episodes.support_x, episodes.support_y)


def _minibatch(x: Tensor, y: Tensor, way: int, count: int, t: int) -> tuple[Tensor, Tensor]:
    """The t-th `count` images of each class, beginning anew after the last: x (tasks, way*n, ...), y (tasks, way*n)."""
    n = x.shape[1] // way
    chosen = [(t * count + i) % n for i in range(min(count, n))]
    return tuple(part.unflatten(1, (way, n))[:, :, chosen].flatten(1, 2) for part in (x, y))


def meta_gradient(
    estimator: Estimator,
    model: Conv4,
    theta: Params,
    episodes: Episodes,
    chunk: int,
    inner_shot: int | None = None,
    told: Told = (),
) -> Found:
    """Over all tasks, `chunk` of them at a time (Eq. 9), in this process. told: of the estimator, what is logged.

    A run on a CPU shares the same chunks among workers and has the same bits: each chunk is worked on by one thread,
    and they are added up in their order.
    """
    parts = list(episodes.chunks(chunk))
    with machine.one_thread(episodes.support_x.device):
        found = [chunk_gradient(estimator, model, theta, part, inner_shot, told) for part in parts]
        return mean(found, [len(part) for part in parts])


def chunk_gradient(
    estimator: Estimator, model: Conv4, theta: Params, episodes: Episodes, inner_shot: int | None, told: Told = ()
) -> Found:
    """Of tasks that are worked on together."""
    if inner_shot is not None:
        episodes = reptile_episodes(episodes, model.way)
    logits: list[Tensor] = []
    out = estimator(episode_problem(model, episodes, logits, inner_shot), theta)
    numbers = [out.loss, (logits[-1].argmax(-1) == episodes.query_y).to(out.loss.dtype).mean()]
    return torch.stack([*numbers, *(out.loss.new_tensor(tell(out.info, len(episodes))) for tell in told)]), out.grad


def mean(found: Sequence[Found], tasks: Sequence[int]) -> Found:
    """Over all tasks, from chunks of so many, added up in their order."""
    if len(found) == 1:
        return found[0]

    def over_chunks(values: Iterable[Tensor]) -> Tensor:
        return reduce(Tensor.add_, [value * (count / sum(tasks)) for value, count in zip(values, tasks, strict=True)])

    numbers, grads = zip(*found, strict=True)
    return over_chunks(numbers), {name: over_chunks(each[name] for each in grads) for name in grads[0]}


def task_chunk(config: FewShotConfig, device: torch.device) -> int:
    """Tasks processed together: the config's own number, or all on a GPU; on a CPU the fastest measured, which
    stays within 1 GB for two workers. It follows from config and kind of device alone, as sums are rounded by it."""
    if config.task_chunk is not None:
        return config.task_chunk
    if device.type == "cuda":
        return config.tasks
    if like(config.dataset) in RGB:
        return 1
    held = config.way * (config.shot + 5) * config.filters  # 2 tasks of 20-way 5-shot, 32 filters, take 430 MB
    return min(4, max(1, 16_000 // held), math.ceil(config.tasks / 2))


class MetaStepper:
    """Meta-iterations on one device: draws their tasks, takes their meta-gradients and moves θ.

    theta, optimizer: what is moved. chunk: tasks at a time. world: the processes that share each meta-batch. team: the
    workers of this one that share its tasks (their object is a `work.Work`); None where it works on them alone.
    block: meta-iterations at the most in one call of `run`.
    """

    block = 1

    def __init__(
        self,
        config: FewShotConfig,
        model: Conv4,
        theta: dict[str, torch.nn.Parameter],
        optimizer: torch.optim.Optimizer,
        sampler: EpisodeSampler,
        chunk: int,
        world: World,
        team: Team | None = None,
    ) -> None:
        self.config, self.model, self.theta, self.optimizer = config, model, theta, optimizer
        self.sampler, self.world, self.team = sampler, world, team
        # One generator serves all chunks, so where it is used there is one.
        self.chunk = config.tasks if ESTIMATORS[config.estimator].random else chunk
        self.generator = torch.Generator()
        self.estimator, self.told = config.build_estimator(self.generator), config.told
        self.device = next(iter(theta.values())).device
        for value in theta.values():  # filled at each iteration, where a graph finds it again
            value.grad = torch.zeros_like(value)

    def run(self, first: int, count: int, lr: float) -> list[tuple[float, ...]]:
        """`count` meta-iterations from number `first`: the loss and query accuracy of each, and what is told.

        lr: of the meta-optimiser. Raises DivergedError that names the iteration.
        """
        self._set_lr(lr)
        return [self._one(iteration) for iteration in range(first, first + count)]

    def _set_lr(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):  # a graph reads it where it lies
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def _one(self, iteration: int) -> tuple[float, ...]:
        # Random directions too are a function of the iteration alone, so that a resumed run draws the same ones.
        self.generator.manual_seed((self.config.seed << 32) + iteration * self.world.size + self.world.rank)
        try:
            if self.team:
                return tuple(self._move(*self._by_team(iteration, self.team)).tolist())
            return tuple(self._step(torch.from_numpy(self._places(iteration)).to(self.device)).tolist())
        except DivergedError as error:
            raise DivergedError(f"training diverged at iteration {iteration + 1}: {error}") from error

    def _places(self, iteration: int) -> np.ndarray:
        """Of this process's share of the meta-batch."""
        return self.sampler.places(iteration, self.config.tasks)[self.world.share(self.config.tasks)]

    def _by_team(self, iteration: int, team: Team) -> Found:
        """The meta-gradient, from all workers' chunks."""
        with team.ready() as work:
            work.set_theta(self.theta)
            team.call("meta_gradients", iteration)
            return work.mean()

    def _step(self, places: Tensor) -> Tensor:
        """One meta-iteration on these tasks: what is logged of the whole meta-batch."""
        episodes, inner_shot = self.sampler.gather(places), self.config.inner_shot
        return self._move(
            *meta_gradient(self.estimator, self.model, self.theta, episodes, self.chunk, inner_shot, self.told)
        )

    def _move(self, numbers: Tensor, grad: Params) -> Tensor:
        """Moves θ, given what this process's tasks gave; what is logged of the whole meta-batch."""
        share = len(range(self.config.tasks)[self.world.share(self.config.tasks)]) / self.config.tasks
        grads = [value.grad for value in self.theta.values()]
        torch._foreach_copy_(grads, [grad[name] for name in self.theta])
        if share != 1:
            torch._foreach_mul_([numbers, *grads], share)
        self.world.sum_([numbers, *grads])
        with machine.one_thread(self.device):
            self.optimizer.step()
        return numbers


class GraphedStepper(MetaStepper):
    """The same meta-iterations, each a replay of one CUDA graph, `block` of them for each time the host waits.

    The graph holds sampling, the forward, backward and double backward passes and the step of θ. Its inputs are the
    places of the block's images and a counter, which lie on the device; its losses are read after the block.
    """

    block = 25

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        device, places = self.device, torch.from_numpy(self._places(0))
        self.places = places.to(device).repeat(self.block, *[1] * places.dim())
        self.found = torch.zeros(self.block, 2, dtype=next(iter(self.theta.values())).dtype, device=device)
        self.at = torch.zeros(1, dtype=torch.int64, device=device)
        changed = [self.found, self.at, *(value.grad for value in self.theta.values())]
        self.replay = graphs.capture(self._next, changed, device, self.optimizer)

    def run(self, first: int, count: int, lr: float) -> list[tuple[float, ...]]:
        """As MetaStepper.run, at most `block` at a time."""
        self._set_lr(lr)
        places = np.stack([self._places(iteration) for iteration in range(first, first + count)])
        self.places[:count].copy_(torch.from_numpy(places))
        self.at.zero_()
        for _ in range(count):
            self.replay()
        found = self.found[:count].tolist()
        for i, (loss, _) in enumerate(found):
            if not math.isfinite(loss):
                raise DivergedError(
                    f"training diverged at iteration {first + i + 1}: outer loss is {loss}: lower the inner or the "
                    "meta learning rate"
                )
        return [tuple(pair) for pair in found]

    def _next(self) -> None:
        """The block's next meta-iteration; reads and writes only what lies on the device."""
        found = self._step(self.places.index_select(0, self.at)[0])
        self.found.index_copy_(0, self.at, found[None])
        self.at += 1


def stepper(config: FewShotConfig, device: torch.device) -> type[MetaStepper]:
    """The stepper for this device: CUDA graphs for the estimators that never ask the host to look at a number."""
    graphed = device.type == "cuda" and config.estimator in ("multistep", "first-order")
    return GraphedStepper if graphed else MetaStepper
