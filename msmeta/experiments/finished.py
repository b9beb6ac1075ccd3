"""A finished run taken up again: found by its name among the stored results, with its config and its θ."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from torch import Tensor

from msmeta import data, runs
from msmeta.errors import ConfigError, UserError
from msmeta.experiments.config import Config
from msmeta.experiments.registry import EXPERIMENTS

T = TypeVar("T")
LeaveOut = Callable[[UserError], None]
"""Is told of a result that does not fit and is left out: the line that names it."""
KINDS = tuple(kind for name in EXPERIMENTS for kind in (name, f"{name}-tuning"))
KEPT_BYTES, KEPT_BYTES_EACH = 8_000_000, 500_000
"""The most that parameters take in version control: in all, and of a run. `.gitignore` says of which runs they are."""
SHOWN = 3
"""Names that an error gives of those that fit."""


def refuse(error: UserError) -> None:
    """To leave nothing out."""
    raise error


@dataclass(frozen=True)
class Finished:
    """A stored result. path: of its JSON file. experiment: `few-shot` or `transfer`."""

    path: Path
    result: dict[str, Any]
    experiment: str
    config: Config

    @property
    def name(self) -> str:
        """As `msmeta results` lists it."""
        return self.path.stem

    @property
    def module(self) -> ModuleType:
        """Of the experiment."""
        return EXPERIMENTS[self.experiment][1]

    @property
    def theta_path(self) -> Path:
        """Where these parameters lie, if they are kept."""
        return self.path.with_suffix(".pt")

    @property
    def theta_hash(self) -> str | None:
        """Of the parameters that it tells the accuracy of."""
        return runs.hash_of(self.result, "parameters")

    def remove_theta(self) -> None:
        """Deletes them, if they are kept. Raises UserError."""
        try:
            self.theta_path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"cannot delete {self.theta_path}: {error.strerror or error}") from error

    def parameters(self) -> dict[str, Tensor]:
        """These parameters, on the CPU. Raises UserError where they are not here, or are others."""
        return runs.read_parameters(self.theta_path, self.result)


def read(path: Path) -> Finished:
    """The run of a result file. Raises UserError where it is none of a run, or of one that this version cannot know."""
    result = runs.read_result(path)
    experiment = str(result.get("kind")).removesuffix("-tuning")
    if experiment not in EXPERIMENTS:
        raise UserError(f"{path} is no result of a run of {' or '.join(EXPERIMENTS)}")
    found = Finished(path, result, experiment, config_of(path, EXPERIMENTS[experiment][0], result["config"]))
    if wrong := next(disagreements(found), None):
        raise UserError(f"{path} does not hold together: {wrong}: delete it, or repeat the run with --force")
    return found


def config_of(path: Path, kind: type[T], values: dict[str, Any]) -> T:
    """The config of a result. Raises UserError, which names the file, where this version does not know it."""
    try:
        if data.is_path(values.get("dataset")):  # which would be looked through
            raise ConfigError("dataset: a folder is known by its name and hash")
        return kind(**values)
    except ConfigError as error:
        raise UserError(f"{path} has a config that this version does not know: {error}") from error


def disagreements(found: Finished) -> Iterator[str]:
    """What in a result does not belong to the rest of it, each in words: its name, config, data and numbers."""
    result, config = found.result, found.config
    place = found.module.run(config, of=result)
    if found.name != place.name:
        yield f"its config and data are those of {place.name}"
    if result["kind"] != place.kind:
        yield f"it says that it is of {result['kind']}, and is of {place.kind}"
    yield from disagreeing_data(config.dataset, result)
    yield from found.module.disagreements(config, result)
    yield from _of_training(config, result)


def _of_training(config: Config, result: dict[str, Any]) -> Iterator[str]:
    """Likewise of the log, the time and the speed."""
    log, done, took = result["log"], result["metrics"]["iterations"], result["provenance"]["train_seconds"]
    last = (log.get("iteration") or [0])[-1]
    if not done - config.log_every < last <= done:
        yield f"the log ends at {last:,} of {done:,} iterations"
    if (log.get("seconds") or [0])[-1] > took + 0.1:
        yield f"{took:g} seconds of training, which the log has passed"
    speed = result["metrics"].get("meta_iterations_per_second")
    if speed is not None and abs(speed * took - done) > 0.02 * done + 1:
        yield f"{speed:g} iterations a second are not {done:,} in {took:g} seconds"


def disagreeing_data(name: str, result: dict[str, Any]) -> Iterator[str]:
    """Likewise of the data alone."""
    told, known = result["data"], data.find(name)
    if told["name"] != name or told["title"] != known.title:
        yield f"its data are those of {told['title']}, and its config asks for {known.title}"


def stored(root: Path | None = None) -> dict[str, Path]:
    """The result files of all runs by their names: evidence first, then live runs."""
    root = root or runs.results_root()
    folders = [part / kind for part in (root, root / "live") for kind in KINDS]
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.json"))}


def all_of(live: bool, leave_out: LeaveOut = refuse) -> list[Finished]:
    """The runs of the tables, without those for tuning; with `live` those of the smoke and quick presets."""
    folder = runs.results_root() / ("live" if live else "")
    return list(fitting((path for kind in EXPERIMENTS for path in sorted((folder / kind).glob("*.json"))), leave_out))


def fitting(paths: Iterable[Path], leave_out: LeaveOut, read: Callable[[Path], T] = read) -> Iterator[T]:
    """What is read of files, without those that do not fit, each of which `leave_out` is told of."""
    for path in paths:
        try:
            yield read(path)
        except UserError as error:
            leave_out(error)


def find(texts: Sequence[str], root: Path | None = None) -> list[Finished]:
    """The runs that these name, each once: by a result file, by the name, by its beginning if no other begins so, or by
    a pattern such as `omniglot-*`. Runs for tuning are meant only where no others fit.

    Raises UserError in one line where none fits, or several do and the text is no pattern.
    """
    known = stored(root)
    paths = [path for text in texts for path in _named(text, known)]
    return [read(path) for path in dict.fromkeys(paths)]


def few_shot_run(text: str) -> Finished:
    """The one few-shot run that a text names, whose network can be adapted. Raises UserError."""
    found = find([text])
    if len(found) > 1:
        raise UserError(f"{text} fits {len(found)} results: name one")
    if found[0].experiment != "few-shot":
        raise UserError(f"{found[0].name} was trained for the classes of its data set alone: name a few-shot run")
    return found[0]


def _named(text: str, known: dict[str, Path]) -> list[Path]:
    if text.endswith(".json") and os.path.isfile(text):  # which no text makes raise an error
        return [Path(text)]
    name = Path(text).name.removesuffix(".json").removesuffix(".pt")
    if name in known:
        return [known[name]]
    pattern = any(sign in text for sign in "*?[")
    fitting = [own for own in known if fnmatchcase(own, name if pattern else f"{name}*")]
    fitting = [own for own in fitting if known[own].parent.name in EXPERIMENTS] or fitting
    if not fitting or not name:
        raise UserError(f"there is no result {text}: `msmeta results` lists them, with --live those of short presets")
    if len(fitting) > 1 and not pattern:
        shown = ", ".join(fitting[:SHOWN]) + (", ..." if len(fitting) > SHOWN else "")
        raise UserError(f"{text} fits {len(fitting)} results ({shown}): give more of the name, or {text}* for all")
    return [known[own] for own in fitting]
