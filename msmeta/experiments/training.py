"""The one training loop of both experiments: begin or resume, deadline or signal, log, look, checkpoint, result.

A boundary lies between two blocks of iterations: there the log, the learning curve and the model selection are up to
date with the parameters. Only what stands at a boundary is saved, so a run that was cut goes on as if it had not been.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from msmeta import checkout, data, machine, runs
from msmeta.checkpoints import size_of
from msmeta.data import Images
from msmeta.errors import ConfigError, DivergedError, UserError, WriteError
from msmeta.experiments import distributed
from msmeta.experiments.distributed import World
from msmeta.experiments.resume import require_fit
from msmeta.experiments.signals import Signals

CHECKPOINT_SECONDS = 60
Row = tuple[float | None, ...]
Columns = dict[str, list[Any]]


@dataclass(frozen=True)
class Progress:
    """What a progress bar shows after each block of iterations.

    fraction: how much of the training is done. speed: iterations a second. loss: the last iteration's. accuracy: in
    per cent, as the experiment has it; None where there is none yet.
    """

    iteration: int
    fraction: float
    speed: float
    loss: float
    accuracy: float | None


@dataclass
class Training:
    """How far a training has come; a checkpoint keeps it beside the experiment's own tensors.

    seconds: of the iterations alone. log, curve, selection: columns by name. recent: what the iterations since the last
    point of the log gave. best: the tensors of the best look at the validation data. commits: of the code, in turn.
    """

    log: Columns
    curve: Columns
    selection: Columns
    iteration: int = 0
    seconds: float = 0.0
    recent: list[Row] = field(default_factory=list)
    best: Any = None
    commits: list[str | None] = field(default_factory=list)


class Experiment(Protocol):
    """What is an experiment's own: one training of one config, on one device, perhaps one of several processes.

    images: what it is trained on. source: the frozen network it learns from, with a name and a hash, if any. logged:
    names of what an iteration gives. curve, selection: columns of the learning curve and of the looks at the
    validation data. out_of_memory: what to do then. how: for the provenance.
    """

    images: Images
    source: Any
    logged: tuple[str, ...]
    curve: tuple[str, ...]
    selection: tuple[str, ...]
    out_of_memory: str
    how: dict[str, Any]

    def __init__(self, config: Any, device: torch.device, world: World, **options: Any) -> None:
        """Loads what it needs. Raises UserError."""

    @staticmethod
    def place(config: Any, root: Path | None) -> runs.Run:
        """Where the config's result and checkpoint lie."""

    def begin(self, iteration: int, state: dict[str, Any] | None) -> None:
        """Makes the tensors that training changes: as they are at the start, or as `state` gave them."""

    def state(self) -> dict[str, Any]:
        """These tensors and plain values, for a checkpoint."""

    def expected(self) -> tuple[dict[str, Any], Any]:
        """A `state`, and a `best`, with the keys, shapes and types that those of a begun training have."""

    def fraction(self, training: Training) -> float:
        """How much of the training is done, 1 or more at its end."""

    def block(self, training: Training) -> list[Row]:
        """Some iterations, up to the next look at the most: what each gave, loss first, in the order of `logged`."""

    def look(self, training: Training) -> None:
        """Learning curve and model selection, where they are due."""

    def accuracy(self, training: Training, row: Row) -> float | None:
        """For the progress bar. row: of the last iteration."""

    def metrics(self, training: Training) -> dict[str, Any]:
        """The final evaluation."""

    def tested(self, training: Training) -> dict[str, Tensor]:
        """The parameters that `metrics` tells the accuracy of, to be kept."""


def place(
    kind: str,
    name: str,
    config: Any,
    root: Path | None,
    source: str | None = None,
    split: str = data.SEEDED,
    found: str | None = None,
) -> runs.Run:
    """Where this config's result and checkpoint lie. name: for readers. source: hash of a source network's weights.
    found: hash of the data, if it is not to be that of what is here.

    Raises DataError where the data set is not here: a run is known by its config and by the hash of its data.
    """
    kind = kind if config.evaluate_on == "test" else f"{kind}-tuning"
    found = found or data.stored_hash(config.dataset, split=split)
    defaults = {f.name: f.default for f in fields(config) if f.default is not MISSING}
    whole, name = runs.plain(config), name.replace(":", "-")  # as in folder:birds
    return runs.Run(kind, name, config.preset, whole, root or runs.results_root(), found, source, defaults)


def train(
    experiment: type[Experiment],
    config: Any,
    device: str = "auto",
    resume: bool = False,
    force: bool = False,
    time_budget: float | None = None,
    on_step: Callable[[Progress], None] = lambda progress: None,
    results_root: Path | None = None,
    **options: Any,
) -> dict[str, Any] | None:
    """Trains, evaluates and stores one run; returns its result, or None if `time_budget` (s) ended it early.

    A finished run with the same config and data is returned, not repeated, unless `force`. Training that was cut short
    goes on with `resume`, a repeat that was cut short as well. SIGINT and SIGTERM end it at the next boundary with a
    checkpoint and a KeyboardInterrupt; a second one ends it at once, and the last checkpoint stays. Under torchrun the
    processes share each batch; the first one writes the result and returns it, the others return None. options: the
    experiment's own, which change no result. Raises UserError, in one line, for whatever a user can mend: data,
    weights, options, memory, a diverged loss, a dead worker, another process that trains the same. Torch's settings,
    its random numbers and the handlers of signals are afterwards as they were; what is not is said by
    `machine.keep_freed_memory`.
    """
    where = experiment.place(config, results_root)
    if not force and (finished := where.finished(resume)):
        if distributed.is_first():
            where.tidy()
        return finished
    started = time.perf_counter()
    checkout.commit()
    world, device = distributed.join(device)
    chosen = machine.choose_device(device)
    if chosen.type == "cpu":
        machine.keep_freed_memory()
    with machine.settings(config.precision), world.together(), where.lock() if world.first else nullcontext():
        if world.of_first(world.first and (where.store_kept() or not force and where.finished(resume) is not None)):
            return where.result()  # which another process may have stored meanwhile
        if force and not resume and world.first:
            where.drop_checkpoint()
        own = experiment(config, chosen, world, **options)
        machine.reset_peak_memory(chosen)
        with machine.memory_errors(own.out_of_memory):
            training, resumed = _begin_or_resume(own, where, world, resume)
            deadline = started + (math.inf if time_budget is None else time_budget)
            loop = _Loop(own, training, where, config.log_every, chosen, world, deadline, on_step)
            if not (loop.run() and world.first):
                return None
            tested = own.tested(training)
            # Squares, since what is told of parameters, such as how far they moved, is to be a number as well.
            if not all(value.square().sum().isfinite() for value in tested.values()):
                raise DivergedError("training diverged at its last iterations: lower --meta-lr or --lr")
            metrics = own.metrics(training)
        how = {
            **runs.provenance(chosen),
            "processes": world.size,
            **own.how,
            "train_seconds": round(training.seconds, 3),
            "wall_seconds": round(time.perf_counter() - started, 3),
            "peak_memory_bytes": machine.peak_memory(chosen),
            "resumed": resumed,
            **({"earlier_commits": earlier} if (earlier := training.commits[:-1]) else {}),
        }
        _store(where, _result(own, training, metrics, how), tested)
    return where.result()


def add_point(columns: Columns, values: tuple[Any, ...], digits: int = 4) -> None:
    """Adds a value to each column, numbers rounded."""
    for column, value in zip(columns.values(), values, strict=True):
        column.append(round(value, digits) if isinstance(value, float) else value)


def _begin_or_resume(own: Experiment, where: runs.Run, world: World, resume: bool) -> tuple[Training, bool]:
    """The training as it begins, or as its checkpoint left it, and whether the latter.

    Raises UserError where the checkpoint does not fit, or where what training writes could not be written.
    """
    saved = world.of_first(where.load_checkpoint() if world.first else None)
    expected, best = own.expected()
    columns = {"log": ("iteration", "seconds", *own.logged), "curve": own.curve, "selection": own.selection}
    if saved is None:
        training = Training(*({name: [] for name in names} for names in columns.values()))
    else:
        try:
            require_fit(saved, expected, best, columns, len(own.logged))
        except ValueError as error:
            problem = f"checkpoint {where.checkpoint_path}: {error}; it is damaged: start again with --force"
            raise UserError(problem) from error
        training = Training(**{name: value for name, value in saved.items() if name != "state"})
        if not resume:
            raise ConfigError(
                f"an unfinished run with this config stopped at iteration {training.iteration}: "
                "continue it with --resume, or start again with --force"
            )
    if world.first:
        where.require_room(size_of(expected) + size_of(best), size_of(best))
    if training.commits[-1:] != [checkout.commit()]:
        training.commits.append(checkout.commit())
    own.begin(training.iteration, saved["state"] if training.iteration else None)
    return training, saved is not None


def _result(own: Experiment, training: Training, metrics: dict[str, Any], provenance: dict[str, Any]) -> dict[str, Any]:
    images, source = own.images, own.source
    return {
        "metrics": metrics,
        "log": training.log,
        "curve": training.curve,
        **({"selection": training.selection} if training.selection else {}),
        "data": {"name": images.name, "title": images.title, "hash": images.hash, **images.notes},
        "source": source and {"name": source.name, "hash": source.hash},
        "provenance": provenance,
    }


def _store(where: runs.Run, result: dict[str, Any], parameters: dict[str, Tensor]) -> None:
    """Stores a result; where that fails it is kept beside the checkpoint. Raises WriteError that says what to do."""
    try:
        where.save_result(result, parameters)
    except WriteError as error:
        try:
            kept = where.keep_result(result, parameters)
        except WriteError:
            kept = f"{where.checkpoint_path} has the trained network: make room, and --resume evaluates it again"
        else:
            kept = f"the result waits in {kept}: make room, and the same command stores it"
        raise WriteError(f"{error}; {kept}") from error


@dataclass
class _Loop:
    """From boundary to boundary, with all that a block of iterations needs."""

    own: Experiment
    training: Training
    where: runs.Run
    log_every: int
    device: torch.device
    world: World
    deadline: float
    on_step: Callable[[Progress], None]

    def run(self) -> bool:
        """Trains to the end, the deadline or a signal, and saves; whether the end was reached.

        Raises KeyboardInterrupt where a signal came.
        """
        whole, saved = True, time.perf_counter()
        with Signals() as signals:
            try:
                while True:
                    done = self.own.fraction(self.training) >= 1
                    # A mean over the processes, so that all of them stop together.
                    stops = [time.perf_counter() > self.deadline, signals.asked]
                    late, asked = self.world.mean(stops, self.device)
                    if done or late or asked:
                        break
                    whole = False
                    last = self._block()
                    whole = True
                    if time.perf_counter() - saved > CHECKPOINT_SECONDS:
                        self._save()
                        saved = time.perf_counter()
                    self._tell(last)
            except WriteError:
                raise
            except BaseException:
                if whole and not signals.asked:  # an interrupt that another handler raised, at a boundary by chance
                    self._save()
                raise
            self._save()
        if asked or signals.asked:
            raise KeyboardInterrupt
        return done

    def _block(self) -> Row:
        """From one boundary to the next; returns what the last iteration gave."""
        training, began = self.training, time.perf_counter()
        rows = self.own.block(training)
        (elapsed,) = self.world.mean([time.perf_counter() - began], self.device)
        training.iteration += len(rows)
        training.seconds += elapsed
        training.recent += rows
        if training.iteration % self.log_every == 0:
            means = map(_mean, zip(*training.recent, strict=True))
            add_point(training.log, (training.iteration, training.seconds, *means), digits=5)
            training.recent = []
        if self.world.first:
            self.own.look(training)
        return rows[-1]

    def _tell(self, last: Row) -> None:
        training = self.training
        fraction, speed = min(1.0, self.own.fraction(training)), training.iteration / training.seconds
        self.on_step(Progress(training.iteration, fraction, speed, last[0], self.own.accuracy(training, last)))

    def _save(self) -> None:
        if self.world.first:
            try:
                self.where.save_checkpoint({**vars(self.training), "state": self.own.state()})
            except WriteError as error:
                way_on = "make room, and --resume goes on from the last checkpoint"
                raise WriteError(f"{error}; stopped at iteration {self.training.iteration}: {way_on}") from error


def _mean(values: tuple[float | None, ...]) -> float | None:
    return None if None in values else sum(values) / len(values)
