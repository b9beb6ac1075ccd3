"""A few-shot run's work on tasks, of which each worker does a share: meta-gradients and evaluation (`workers.Team`)."""

from __future__ import annotations

import torch
from torch import Tensor

from msmeta import machine
from msmeta.bilevel import Params, begin, detach
from msmeta.data import Episodes, EpisodeSampler, Images
from msmeta.dynamics import partition, walk
from msmeta.estimators.implicit import Proximal
from msmeta.experiments.few_shot.config import ESTIMATORS, TRAIN_SPLIT, FewShotConfig
from msmeta.experiments.few_shot.step import Found, chunk_gradient, episode_problem, mean
from msmeta.models import Conv4
from msmeta.workers import START_SECONDS, Team, Worker, count

TEST_SEED = 2020  # one set of test episodes for every run, so that methods are compared on the same tasks
EVALUATION_BLOCK = 20
"""Test episodes drawn at once; each worker has about so many at a time."""


class Work:
    """What each worker has: the images, θ, and room for what the chunks of a meta-batch give.

    chunk: tasks at a time. process: of those that share each meta-batch, which of them this one's team works for.
    Workers write to `theta` and `found` of one memory; each draws the episodes of its own chunks.
    """

    def __init__(
        self,
        config: FewShotConfig,
        model: Conv4,
        images: Images,
        chunk: int,
        process: Worker = Worker(),  # noqa: B008 - frozen
    ) -> None:
        self.config, self.model, self.images, self.chunk = config, model, images, chunk
        self.tasks = process.share(config.tasks)
        self.sampler = self._sampler(TRAIN_SPLIT[config.evaluate_on], config.seed)
        self.theta = {name: torch.empty_like(value, device=images.device) for name, value in model.init().items()}
        count = len(range(config.tasks)[self.tasks])
        self.counts = [min(chunk, count - start) for start in range(0, count, chunk)]
        values = 2 + len(config.told) + sum(value.numel() for value in self.theta.values())
        self.found = torch.empty(len(self.counts), values, device=images.device)
        self.test_samplers: dict[str, EpisodeSampler] = {}

    def _sampler(self, split: str, seed: int) -> EpisodeSampler:
        config = self.config
        return EpisodeSampler(self.images, split, config.way, config.shot, config.query, seed)

    def set_theta(self, theta: Params) -> None:
        for name, value in theta.items():
            self.theta[name].copy_(value.detach())

    def meta_gradients(self, worker: Worker, iteration: int) -> None:
        """Of the worker's chunks of a meta-batch, each to its row of `found`: what is logged, and the meta-gradient."""
        config, estimator, told = self.config, self.config.build_estimator(None), self.config.told
        places = torch.from_numpy(self.sampler.places(iteration, config.tasks)[self.tasks]).split(self.chunk)
        own = worker.share(len(places))
        with machine.one_thread(self.found.device):
            for row, part in zip(self.found[own], places[own], strict=True):
                episodes = self.sampler.gather(part)
                of_part = episodes, config.inner_shot, told
                numbers, grad = chunk_gradient(estimator, self.model, self.theta, *of_part)
                torch.cat([numbers, *(grad[name].flatten() for name in self.theta)], out=row)

    def mean(self) -> Found:
        """Of all chunks, once all workers are done."""
        sizes = [value.numel() for value in self.theta.values()]
        rows = []
        for numbers, *grad in (row.split([self.found.shape[1] - sum(sizes), *sizes]) for row in self.found):
            parts = zip(self.theta.items(), grad, strict=True)
            rows.append((numbers, {name: part.view_as(value) for (name, value), part in parts}))
        with machine.one_thread(self.found.device):
            return mean(rows, self.counts)

    def unshared_memory(self, worker: Worker) -> int:
        """Bytes (`machine.unshared_memory`) of the worker."""
        return machine.unshared_memory()

    def right_answers(
        self, worker: Worker, first: int, last: int, split: str, window: int | tuple[int, ...] | None
    ) -> list[int]:
        """In each of the worker's share of these test episodes."""
        sampler = self.test_samplers.setdefault(split, self._sampler(split, TEST_SEED))
        blocks = range(first, last, EVALUATION_BLOCK)
        chunks = [
            (block // EVALUATION_BLOCK, slice(start, min(start + self.chunk, EVALUATION_BLOCK, last - block)))
            for block in blocks
            for start in range(0, min(EVALUATION_BLOCK, last - block), self.chunk)
        ]
        found: list[int] = []
        with machine.one_thread(sampler.device):
            for block, part in chunks[worker.share(len(chunks))]:
                places = torch.from_numpy(sampler.places(block, part.stop)[part]).to(sampler.device)
                found += self._right(sampler.gather(places), window).tolist()
        return found

    def _right(self, episodes: Episodes, window: int | tuple[int, ...] | None) -> Tensor:
        """Right answers of each episode after the inner steps of test time."""
        config, estimator = self.config, self.config.build_estimator(None)
        problem = episode_problem(self.model, episodes, inner_shot=config.inner_shot)
        _, start = begin(problem, self.theta)
        if isinstance(estimator, Proximal):
            problem = estimator.regularised(problem, detach(start.phi))
        steps = partition(config.test_steps or config.steps, 1) if window is None else partition(config.steps, window)
        adapted, _ = walk(problem, start, self.theta, config.dynamics(), steps)
        with torch.no_grad():
            answers = self.model(adapted.phi, episodes.query_x).argmax(-1)
        return (answers == episodes.query_y).sum(1)


def team_of(work: Work, workers: str | int = "auto") -> Team:
    """The workers of a run: as many as are asked for, at the most one for each chunk of a meta-batch.

    One on a GPU, which works on all tasks, and where random directions are the whole meta-batch's. With `auto` there
    is one until the run has taken as long as others take to start. Raises ConfigError.
    """
    alone = work.found.device.type != "cpu" or ESTIMATORS[work.config.estimator].random
    size = min(count(workers), 1 if alone else len(work.counts))
    return Team(work, size, START_SECONDS if workers == "auto" else 0.0)


def evaluate(
    config: FewShotConfig,
    model: Conv4,
    theta: Params,
    images: Images,
    episodes: int,
    chunk: int,
    window: int | tuple[int, ...] | None = None,
    split: str | None = None,
    team: Team | None = None,
) -> list[int]:
    """Right answers in each of the first `episodes` test episodes, after the inner steps of test time.

    window: take `steps` in these windows; None takes `test_steps` with a gradient each. split: None for `evaluate_on`.
    team: the workers of a Work with the same config, model, images and chunk; None for this process alone.
    """
    team, found = team or Team(Work(config, model, images, chunk)), []
    with team.ready() as work:
        work.set_theta(theta)
        while len(found) < episodes:
            last = min(episodes, len(found) + EVALUATION_BLOCK * team.size)
            parts = team.call("right_answers", len(found), last, split or config.evaluate_on, window)
            found += [right for part in parts for right in part]
    return found
