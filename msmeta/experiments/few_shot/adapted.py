"""A meta-trained network adapted to a user's own pictures: a few of each class, and others to be classified."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from msmeta import data, machine, paths
from msmeta.adaptation import adapt
from msmeta.bilevel import Params
from msmeta.data import Episodes
from msmeta.data.images import in_unit_range
from msmeta.data.pictures import Pictures, read_pictures
from msmeta.errors import ConfigError, DataError
from msmeta.experiments.few_shot.again import fitting
from msmeta.experiments.few_shot.at_test import inner_problem, query_logits, windows_at_test, with_way
from msmeta.experiments.few_shot.config import FewShotConfig
from msmeta.experiments.few_shot.step import network, task_chunk
from msmeta.experiments.few_shot.work import Work, running_statistics, team_of

AT_ONCE = 256
"""Pictures that are answered together, where no answer depends on another picture."""


@dataclass(frozen=True)
class Adapted:
    """names: of the classes. support, query: pictures as the network took them. probabilities: (n, way) of each query
    picture. norm: batch norm's statistics for them, as `query_logits` has it."""

    names: list[str]
    support: Pictures
    query: Pictures
    probabilities: Tensor
    norm: str

    @property
    def answers(self) -> list[str]:
        """The likeliest class of each query picture."""
        return [self.names[place] for place in self.probabilities.argmax(1).tolist()]

    @property
    def accuracy(self) -> float | None:
        """In per cent, of the query pictures that lie in a folder of their class; None where there are none."""
        known = [own == answer for own, answer in zip(self.query.classes, self.answers, strict=True) if own is not None]
        return 100 * sum(known) / len(known) if known else None

    def table(self) -> str:
        """As CSV: file, its folder's class if any, answer, confidence, and the probability of each class."""
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(["file", "class", "prediction", "confidence", *self.names])
        for file, own, answer, row in zip(
            self.query.files, self.query.classes, self.answers, self.probabilities.tolist(), strict=True
        ):
            lines.writerow([file, own or "", answer, f"{max(row):.4f}", *(f"{value:.4f}" for value in row)])
        return text.getvalue()


def adapt_to(
    trained: FewShotConfig,
    theta: Params,
    support: Path | str,
    query: Path | str,
    norm: str | None = None,
    steps: int | None = None,
    window: int | tuple[int, ...] | None = None,
    device: str = "auto",
    follow_links: bool = False,
) -> Adapted:
    """The network of a run, adapted to a folder of class folders, and its answers to the pictures in another folder.

    trained, theta: of a finished run. steps, window: of the inner steps, else the run's own at test time. norm: as
    `answer`. follow_links: whether pictures that are links are read. Raises UserError in one line.
    """
    model = network(trained)
    support, query = (paths.user_path(*given) for given in ((support, "support"), (query, "query")))
    squash = data.parse(trained.dataset).squash if data.is_folder(trained.dataset) else None
    own, asked = (
        read_pictures(folder, model.channels, model.size, squash, follow_links) for folder in (support, query)
    )
    names = sorted(set(filter(None, own.classes)))
    if None in own.classes or len(names) < 2:
        loose = next((f": {file} lies in none" for file, c in zip(own.files, own.classes, strict=True) if not c), "")
        raise DataError(f"{support} must have a folder of pictures for each of two or more classes{loose}")
    if unknown := sorted(set(filter(None, asked.classes)) - set(names)):
        raise DataError(f"{query} has a folder {unknown[0]}, which is no class of {support}: {', '.join(names)}")
    labels = torch.tensor([names.index(name) for name in own.classes])
    norm = norm or trained.test_norm
    found = answer(trained, theta, own.x, labels, asked.x, norm, steps, window, device)
    return Adapted(names, own, asked, found, norm)


def answer(
    trained: FewShotConfig,
    theta: Params,
    support_x: Tensor,
    support_y: Tensor,
    query_x: Tensor,
    norm: str = "transductive",
    steps: int | None = None,
    window: int | tuple[int, ...] | None = None,
    device: str = "auto",
) -> Tensor:
    """Probabilities (n, way) of the classes of query pictures, after the inner steps on the support pictures.

    support_x, query_x: uint8 (n, C, H, W), as the run's network takes them. support_y: int64 (n,), classes 0 to way - 1
    in any order, each as often as it is. norm: as `query_logits` has it; `transductive` takes all query pictures
    together, and `running` reads the run's data set. Raises ConfigError, DataError or DivergedError.
    """
    shots = support_y.bincount()
    if trained.inner_shot is not None and (shots != shots[0]).any():
        raise ConfigError("this run's inner steps take minibatches: give as many support pictures of each class")
    config = replace(trained, way=len(shots), shot=int(shots.min()), test_norm=norm)
    windows, chosen = windows_at_test(config, window, steps), machine.choose_device(device)
    model, order = network(config), support_y.argsort(stable=True)
    theta = {name: value.to(chosen) for name, value in with_way(theta, config.way).items()}
    x, y, query = (value.to(chosen) for value in (support_x[order], support_y[order], query_x))
    no_memory = machine.memory_errors("out of memory: give fewer query pictures, or --norm support")
    with machine.settings(config.precision), no_memory:
        task = Episodes(in_unit_range(x)[None], y[None], query[None], y[None])
        phi = adapt(inner_problem(config, model, theta, task), theta, config.dynamics(), sum(windows), windows).phi
        running = _running(config, theta, windows, chosen) if norm == "running" else None
        parts = [query] if norm == "transductive" else query.split(AT_ONCE)
        tasks = (replace(task, query_x=in_unit_range(part)[None]) for part in parts)
        logits = torch.cat([query_logits(model, phi, each, norm, running)[0] for each in tasks])
    return F.softmax(logits, 1).cpu()


def _running(config: FewShotConfig, theta: Params, windows: tuple[int, ...], device: torch.device) -> Params:
    images = fitting(config, data.load(config.dataset, device))
    try:
        team = team_of(Work(config, network(config), images, task_chunk(config, device)))
    except ConfigError as error:
        raise ConfigError(f"running statistics are of training tasks with as many classes as yours: {error}") from error
    return running_statistics(team, theta, windows)
