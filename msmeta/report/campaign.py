"""What a sweep has done, what it lacks, how long that takes, and in which order it is worth doing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import torch

from msmeta import data
from msmeta.experiments import registry
from msmeta.experiments.config import Config
from msmeta.experiments.few_shot import FewShotConfig, network, task_chunk
from msmeta.experiments.few_shot.plan import PRECISION, measured_rates
from msmeta.experiments.few_shot.tally import of_meta_batch
from msmeta.report.speed import seconds_per_epoch, seconds_per_iteration


@dataclass
class Member:
    """The runs of a part of a sweep that differ in their seeds alone.

    name: as in the tables, with the fields of the config in which others of that name differ. done, missing: seeds.
    hours: of the training of one of them, on one idle core of the machine that `msmeta bench seconds` measured; where
    it has not measured such an iteration they are `predicted` by the cost model, which knows few-shot learning; else
    None.
    """

    part: str
    name: str
    config: Config
    hours: float | None
    predicted: bool = False
    done: list[int] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)

    @property
    def left(self) -> float | None:
        """Hours that its missing seeds take; None where that is not known."""
        return 0.0 if not self.missing else None if self.hours is None else self.hours * len(self.missing)


def plan(parts: dict[str, list[Config]], root: Path | None = None) -> list[Member]:
    """The members of a sweep's parts (`sweep.read_parts`) in their order; a run that two ask for is of the first."""
    found: dict[tuple[str, Config], Member] = {}
    for part, config in distinct(parts):
        cell = replace(config, seed=0)
        if (part, cell) not in found:
            measured = hours(config)
            own = predicted_hours(cell) if measured is None else measured
            found[part, cell] = Member(part, _name(cell), cell, own, measured is None and own is not None)
        member = found[part, cell]
        (member.missing if registry.place(config, root).result() is None else member.done).append(config.seed)
    for name in {member.name for member in found.values()}:
        _tell_apart([member for member in found.values() if member.name == name])
    return list(found.values())


def distinct(parts: dict[str, list[Config]]) -> list[tuple[str, Config]]:
    """Each run once, with the first part that asks for it."""
    first: dict[Config, str] = {}
    for part, configs in parts.items():
        for config in configs:
            first.setdefault(config, part)
    return [(part, config) for config, part in first.items()]


def by_worth(part: list[Config]) -> list[Config]:
    """The runs of a part as they are worth doing where time is short: one seed after another, so that methods can be
    compared early; of each seed what takes the least time first, by what is known of it."""
    known = {cell: known_hours(cell) or math.inf for cell in {replace(config, seed=0) for config in part}}
    return sorted(part, key=lambda config: (config.seed, known[replace(config, seed=0)]))


def known_hours(config: Config) -> float | None:
    """Measured or, where they were not, predicted."""
    measured = hours(config)
    return predicted_hours(config) if measured is None else measured


def _name(config: Config) -> str:
    _, module = registry.experiment_of(config)
    return f"{data.find(config.dataset).title}, {module.setting(config)}, {module.label(config)}"


def _tell_apart(members: list[Member]) -> None:
    names = [field.name for field in fields(members[0].config)]
    differing = [name for name in names if len({getattr(member.config, name) for member in members}) > 1]
    for member in members:
        member.name += "".join(f", {name} {getattr(member.config, name)}" for name in differing)


def hours(config: Config) -> float | None:
    """Of the training of a run, by what `msmeta bench seconds` measured; None where it was not."""
    if isinstance(config, FewShotConfig):
        return _hours_of(config, seconds_per_iteration(config))
    seconds = seconds_per_epoch(config)
    return seconds and seconds * config.epochs / 3600


def predicted_hours(config: Config) -> float | None:
    """Of a few-shot run on one core, by the cost model (`few_shot.plan`); None where the machine's rates are not known
    or are of another precision, and of meta-transfer."""
    found = measured_rates() if isinstance(config, FewShotConfig) and config.precision == PRECISION else None
    if found is None:
        return None
    counted = of_meta_batch(config, network(config), task_chunk(config, torch.device("cpu")))
    return _hours_of(config, found[0].seconds(counted))


def _hours_of(config: FewShotConfig, seconds: float | None) -> float | None:
    return seconds and min(seconds * config.iterations, config.train_seconds or math.inf) / 3600


def lines(members: list[Member]) -> list[str]:
    """The plan as text: of each part what it sums up to, and a line a member."""
    rows = [(member.name, _seeds(member.done), _seeds(member.missing), _each(member)) for member in members]
    name, done, missing, each = (max(map(len, column)) for column in zip(*rows, strict=True))
    found: dict[str, list[str]] = {}
    for member, row in zip(members, rows, strict=True):
        head = ["", f"{member.part}: {summary([own for own in members if own.part == member.part])}"]
        shown = f"  {row[0]:{name}}  done {row[1]:{done}}  missing {row[2]:{missing}}  {row[3]:>{each}} hours each"
        found.setdefault(member.part, head).append(shown)
    return [line for own in found.values() for line in own][1:]


def summary(members: list[Member]) -> str:
    """Of some members in words: runs done, and hours left; `~` where some of these are predicted."""
    done, missing = sum(len(member.done) for member in members), sum(len(member.missing) for member in members)
    unknown = sum(len(member.missing) for member in members if member.left is None)
    guessed = "~" if any(member.predicted and member.missing for member in members) else ""
    left = sum(member.left for member in members if member.left is not None)
    more = f", and those of {unknown} runs, which are not known" if unknown else ""
    return f"{done} of {done + missing} runs done, {guessed}{left:.1f} hours left{more}"


def _seeds(seeds: list[int]) -> str:
    return ",".join(map(str, seeds)) or "-"


def _each(member: Member) -> str:
    return "?" if member.hours is None else f"{'~' if member.predicted else ''}{member.hours:.2f}"
