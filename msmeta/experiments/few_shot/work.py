"""A few-shot run's work on tasks, of which each worker does a share: meta-gradients and evaluation (`workers.Team`)."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from msmeta import machine
from msmeta.bilevel import Params, begin
from msmeta.data import Episodes, EpisodeSampler, Images
from msmeta.dynamics import walk
from msmeta.experiments.few_shot.at_test import inner_problem, query_logits, support_statistics, windows_at_test
from msmeta.experiments.few_shot.config import ESTIMATORS, FewShotConfig
from msmeta.experiments.few_shot.step import Found, chunk_gradient, mean
from msmeta.models import Conv4
from msmeta.workers import START_SECONDS, Team, Worker, count

TEST_SEED = 2020  # one set of test episodes for every run, so that methods are compared on the same tasks
EVALUATION_BLOCK = 20
"""Test episodes drawn at once; each worker has about so many at a time."""
GATHERED = 100
"""Training tasks that batch norm's running statistics are means over."""


class Work:
    """What each worker has: the images, θ, and room for what the chunks of a meta-batch give.

    chunk: tasks at a time. process: of those that share each meta-batch, which of them this one's team works for.
    Workers write to `theta`, `found` and `gathered` of one memory; each draws the episodes of its own chunks.
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
        self.sampler = self._sampler(config.train_split, config.seed)
        self.theta = {name: torch.empty_like(value, device=images.device) for name, value in model.init().items()}
        count = len(range(config.tasks)[self.tasks])
        self.counts = [min(chunk, count - start) for start in range(0, count, chunk)]
        values = 2 + len(config.told) + sum(value.numel() for value in self.theta.values())
        self.found = torch.empty(len(self.counts), values, device=images.device)
        self.test_samplers: dict[str, EpisodeSampler] = {}
        self.gathered: Params = {}
        if config.test_norm == "running":
            self.gathered = model.statistics(GATHERED, self.theta["head.bias"])

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

    def gather(self, worker: Worker, windows: tuple[int, ...]) -> None:
        """Batch norm's statistics over the support images of the worker's share of GATHERED training tasks, each at the
        φ that it adapts to, to `gathered`."""
        split = self.config.train_split
        with machine.one_thread(self.found.device):
            for own, episodes in self._episodes(worker, split, 0, GATHERED):
                found = support_statistics(self.model, self.adapted(episodes, windows), episodes.support_x)
                for name, value in found.items():
                    self.gathered[name][own] = value

    def right_answers(self, worker: Worker, first: int, last: int, split: str, windows: tuple[int, ...]) -> list[int]:
        """In each of the worker's share of these test episodes, after inner steps in these windows."""
        norm, found = self.config.test_norm, []
        with machine.one_thread(self.found.device):
            running = self.running()
            for _, episodes in self._episodes(worker, split, first, last):
                phi = self.adapted(episodes, windows)
                answers = query_logits(self.model, phi, episodes, norm, running).argmax(-1)
                found += (answers == episodes.query_y).sum(1).tolist()
        return found

    def running(self) -> Params:
        """Batch norm's running statistics, (1, filters) each, once all workers have gathered."""
        return {name: value.mean(0, keepdim=True) for name, value in self.gathered.items()}

    def _episodes(self, worker: Worker, split: str, first: int, last: int) -> Iterator[tuple[slice, Episodes]]:
        """The chunks of the worker's share of these episodes of a split, each with its place among all of them."""
        sampler = self.test_samplers.setdefault(split, self._sampler(split, TEST_SEED))
        blocks = range(first, last, EVALUATION_BLOCK)
        chunks = [
            (block, slice(start, min(start + self.chunk, EVALUATION_BLOCK, last - block)))
            for block in blocks
            for start in range(0, min(EVALUATION_BLOCK, last - block), self.chunk)
        ]
        for block, part in chunks[worker.share(len(chunks))]:
            places = torch.from_numpy(sampler.places(block // EVALUATION_BLOCK, part.stop)[part])
            yield slice(block + part.start, block + part.stop), sampler.gather(places.to(sampler.device))

    def adapted(self, episodes: Episodes, windows: tuple[int, ...]) -> Params:
        """φ of each task after the inner steps of test time."""
        problem = inner_problem(self.config, self.model, self.theta, episodes)
        _, start = begin(problem, self.theta)
        return walk(problem, start, self.theta, self.config.dynamics(), windows)[0].phi


def team_of(work: Work, workers: str | int = "auto") -> Team:
    """The workers of a run: as many as are asked for, at the most one for each chunk of a meta-batch.

    One on a GPU, which works on all tasks, and where random directions are the whole meta-batch's. With `auto` there
    is one until the run has taken as long as others take to start. Raises ConfigError.
    """
    alone = work.found.device.type != "cpu" or ESTIMATORS[work.config.estimator].random
    size = min(count(workers), 1 if alone else len(work.counts))
    return Team(work, size, START_SECONDS if workers == "auto" else 0.0)


def running_statistics(team: Team, theta: Params, windows: tuple[int, ...]) -> Params:
    """Batch norm's, as `Work.gather` has them. team: whose config has `running`."""
    with team.ready() as work:
        work.set_theta(theta)
        team.call("gather", windows)
        return work.running()


def evaluate(
    team: Team, theta: Params, episodes: int, windows: tuple[int, ...] | None = None, split: str | None = None
) -> list[int]:
    """Right answers in each of the first `episodes` test episodes, after the inner steps of test time.

    team: of a Work. windows: of the inner steps; None as `windows_at_test` has them. split: None for `evaluate_on`.
    """
    found: list[int] = []
    with team.ready() as work:
        windows, split = windows or windows_at_test(work.config), split or work.config.evaluate_on
        work.set_theta(theta)
        if work.config.test_norm == "running":
            team.call("gather", windows)
        while len(found) < episodes:
            last = min(episodes, len(found) + EVALUATION_BLOCK * team.size)
            parts = team.call("right_answers", len(found), last, split, windows)
            found += [right for part in parts for right in part]
    return found
