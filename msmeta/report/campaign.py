"""What a sweep has done, what it lacks, and how long that takes."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from msmeta import data
from msmeta.experiments import sweep
from msmeta.experiments.few_shot import FewShotConfig
from msmeta.experiments.sweep import Config
from msmeta.report.speed import seconds_per_iteration


@dataclass
class Member:
    """The runs of a part of a sweep that differ in their seeds alone.

    name: as in the tables, with the fields of the config in which others of that name differ. done, missing: seeds.
    hours: of the training of one of them, on one idle core of the machine that `msmeta bench seconds` measured; None
    where it has not measured such an iteration.
    """

    part: str
    name: str
    config: Config
    hours: float | None
    done: list[int] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)

    @property
    def left(self) -> float | None:
        """Hours that its missing seeds take; None where that is not known."""
        return 0.0 if not self.missing else None if self.hours is None else self.hours * len(self.missing)


def plan(parts: dict[str, list[Config]], root: Path | None = None) -> list[Member]:
    """The members of a sweep's parts (`sweep.read_parts`) in their order; a run that two ask for is of the first."""
    found: dict[Config, Member] = {}
    for part, configs in parts.items():
        for config in configs:
            cell = replace(config, seed=0)
            member = found.setdefault(cell, Member(part, _name(cell), cell, hours(config)))
            if config.seed not in (*member.done, *member.missing):
                seeds = member.missing if sweep.place(config, root).result() is None else member.done
                seeds.append(config.seed)
    for name in {member.name for member in found.values()}:
        _tell_apart([member for member in found.values() if member.name == name])
    return list(found.values())


def _name(config: Config) -> str:
    _, module = sweep.experiment_of(config)
    return f"{data.find(config.dataset).title}, {module.setting(config)}, {module.label(config)}"


def _tell_apart(members: list[Member]) -> None:
    names = [field.name for field in fields(members[0].config)]
    differing = [name for name in names if len({getattr(member.config, name) for member in members}) > 1]
    for member in members:
        member.name += "".join(f", {name} {getattr(member.config, name)}" for name in differing)


def hours(config: Config) -> float | None:
    """Of the training of a run, likewise."""
    seconds = seconds_per_iteration(config)
    if seconds is None:
        return None
    if isinstance(config, FewShotConfig):
        return min(seconds * config.iterations, config.train_seconds or float("inf")) / 3600
    images = config.train_images or len(data.find(config.dataset).splits["train"])
    return seconds * config.epochs * (images // config.batch) / 3600
