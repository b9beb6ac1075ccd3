"""Results as one tidy pandas frame, a row a run, which every table and figure of an experiment is made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from msmeta import checkout
from msmeta.errors import UserError
from msmeta.experiments import few_shot, transfer
from msmeta.experiments.few_shot.agreement import percents
from msmeta.report.stored import results
from msmeta.statistics import half_width, mean_ci

Values = dict[str, Any]
"""Fields of a config: what `preset_config` takes beside the preset."""
_ADDED = ["title", "data_hash", "file", "log", "curve", "config", "cell", "setting", "label", "row"]


def frame(experiment: Experiment, results: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A row a run, in the order of the tables.

    Columns: the fields of the config, the metrics, the provenance (a metric hides a field of its name: `iterations` are
    those done), `accuracies` (%; on each test episode, or the one on all test images), `accuracy_ci95` (half-width of
    its interval over episodes), `title` and `data_hash` of the data set, `file` of a stored run below `results/`,
    `log`, `curve`, `config` (the config itself), `cell` (the config without its seed, so the same for all runs that a
    cell of a table is over), and as they are shown `setting`, `label` (the method) and `row` (its name in a table: with
    the epochs where they are not the preset's).
    Values are as they are in Python, None included; NaN stands where a run lacks a metric that others have.
    Raises UserError for a config that this version does not know.
    """
    rows = [_row(experiment, result) for result in results]
    rows.sort(key=lambda row: experiment.order(row["config"]))
    names = [f.name for f in fields(experiment.config)] + _ADDED
    return pd.DataFrame(rows, columns=None if rows else names, dtype=object)


def committed(experiment: Experiment, **wanted: Any) -> pd.DataFrame:
    """Committed runs whose config is a preset's own, so that their preset and `row` say all about it; `wanted`: values
    of columns."""
    found = stored(experiment, experiment.kind, **wanted)
    return found.loc[[experiment.preset(config) == config for config in found["config"]]]


def stored(experiment: Experiment, kind: str, **wanted: Any) -> pd.DataFrame:
    """All committed runs of a kind, such as `few-shot-tuning`; `wanted`: values of columns."""
    return where(frame(experiment, results(kind)), **wanted)


def where(found: pd.DataFrame, **wanted: Any) -> pd.DataFrame:
    """The rows with these values of columns."""
    for name, value in wanted.items():
        found = found[found[name] == value]
    return found


def commit_in_words(*provenances: Mapping[str, Any]) -> str:
    """The commits that results were measured at; where the package had changes that no commit holds, it says so."""
    commits = []
    for provenance in provenances:
        earlier = provenance.get("earlier_commits")
        commits += [*(earlier if isinstance(earlier, list) else []), provenance["commit"]]
    return ", ".join(dict.fromkeys(map(_in_words, commits)))


def _in_words(commit: str | None) -> str:
    if not commit:
        return "no commit"
    commit, dirty, _ = commit.partition(checkout.DIRTY)
    return commit[:7] + (" with changes that no commit holds: to be measured again" if dirty else "")


def many(count: int, noun: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def device_in_words(provenance: Mapping[str, Any]) -> str:
    """What a result was measured on, and on how many threads."""
    return f"{provenance['device']}, {many(provenance['threads'], 'thread')}"


def on_cpu(provenance: Mapping[str, Any]) -> bool:
    """Whether a result was measured on a processor, of which the name tells the cores."""
    return "cores" in provenance["device"]


@dataclass(frozen=True)
class Experiment:
    """What the report has to know of an experiment.

    kind: its folder in `results/`. required, optional: the fields that `preset_config` takes to make a preset's own
    config; from it a committed run differs in nothing but the seed. order: the place of a config in the tables.
    """

    kind: str
    module: ModuleType
    config: type
    required: tuple[str, ...]
    optional: tuple[str, ...]
    order: Callable[[Any], tuple[Any, ...]]

    def preset(self, config: Any, names: tuple[str, ...] = ()) -> Any:
        """What the preset of this config gives for the same method, data set and seed; or for these fields alone."""
        names = names or (*self.required, *self.optional, "seed")
        return self.module.preset_config(**{name: getattr(config, name) for name in names})

    def other_epochs(self, config: Any) -> bool:
        """Whether the epochs are not the preset's."""
        return "epochs" in self.optional and config.epochs != self.preset(config, self.required).epochs

    def row(self, config: Any) -> str:
        """The name of a row of a table: the method, and the epochs where they are not the preset's."""
        return self.module.label(config) + (f", {config.epochs} epochs" if self.other_epochs(config) else "")


FEW_SHOT = Experiment(
    "few-shot",
    few_shot,
    few_shot.FewShotConfig,
    ("dataset", "way", "shot", "estimator", "preset"),
    ("window", "steps"),
    lambda c: (
        c.way, c.shot, [*few_shot.ESTIMATORS].index(c.estimator), [*np.ravel(c.window)], c.proximal, c.meta_lr, c.seed,
    ),
)  # fmt: skip
TRANSFER = Experiment(
    "transfer",
    transfer,
    transfer.TransferConfig,
    ("dataset", "estimator", "optimizer", "preset"),
    ("steps", "window", "transfer_rate", "epochs"),
    lambda c: (
        c.optimizer != "sgd", transfer.ESTIMATORS.index(c.estimator), c.steps, c.transfer_rate, [*np.ravel(c.window)],
        c.epochs, c.meta_lr, c.seed,
    ),
)  # fmt: skip


def _row(experiment: Experiment, result: Mapping[str, Any]) -> dict[str, Any]:
    try:
        config = experiment.config(**result["config"])
    except UserError as error:
        raise UserError(f"a {experiment.kind} result has a config that this version does not know: {error}") from error
    return {
        **{field.name: getattr(config, field.name) for field in fields(config)},
        **result["metrics"],
        **_over_episodes(result["metrics"]),
        **result["provenance"],
        "title": result["data"]["title"],
        "data_hash": result["data"]["hash"],
        "file": result.get("file"),
        "log": result["log"],
        "curve": result["curve"],
        "config": config,
        "cell": replace(config, seed=0),
        "setting": experiment.module.setting(config),
        "label": experiment.module.label(config),
        "row": experiment.row(config),
    }


def _over_episodes(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The accuracies of a run and, where there are episodes, the half-widths of their means' intervals."""
    if "right_answers" not in metrics:
        return {"accuracies": [metrics["accuracy"]]}
    accuracies = percents(metrics["right_answers"], metrics["answers_per_episode"])
    deviation = metrics.get("windowed_accuracy_sd")  # none of a single episode, or without windows
    return {
        "accuracies": accuracies,
        "accuracy_ci95": mean_ci(accuracies)[1],
        "windowed_accuracy_ci95": deviation and half_width(deviation, len(accuracies)),
    }
