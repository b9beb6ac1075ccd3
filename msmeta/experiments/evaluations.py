"""Tests of finished runs with other tasks, steps or statistics of batch norm: stored as results, and found again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from msmeta import data, machine, runs
from msmeta.errors import ConfigError
from msmeta.experiments.few_shot import FewShotConfig
from msmeta.experiments.finished import Finished

KIND = "evaluations"
"""Their folder among the results."""


def evaluate(
    finished: Finished,
    given: dict[str, Any],
    device: str = "auto",
    workers: str | int = "auto",
    save: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """The test of a run's θ: metrics, data and provenance, as results have them.

    given: what differs from the run's own test, as `few_shot.reevaluate` takes it. save: store it, or return what was
    stored, unless `force`. Raises UserError in one line for what a user can mend.
    """
    if finished.experiment == "transfer" and given:
        named = ", ".join(f"--{name.removeprefix('test_').replace('_', '-')}" for name in given)
        raise ConfigError(f"{named}: a transfer run is tested on all its test images, with its running statistics")
    where = place(finished, given) if save else None
    if where and not force and (known := where.result()):
        return known
    theta, how = finished.parameters(), given | {"device": device}
    if finished.experiment == "few-shot":
        how["workers"] = workers
    images, metrics = finished.module.reevaluate(finished.config, theta, **how)
    result = {
        "metrics": metrics,
        "data": {"name": images.name, "title": images.title, "hash": images.hash},
        "source": {"name": finished.name, "hash": finished.theta_hash},
        "provenance": runs.provenance(machine.choose_device(device)),
    }
    if where is None:
        return result
    where.save_result(result)
    return where.result()


def tested_config(trained: FewShotConfig, given: dict[str, Any]) -> FewShotConfig:
    """The config of the test, whose inner steps may have a `window` of their own. Raises ConfigError."""
    return replace(trained, **{name: value for name, value in given.items() if name != "window"})


def place(finished: Finished, given: dict[str, Any]) -> runs.Run:
    """Where it is stored: a test is known by its run and θ, its data and all that it is done with."""
    config, window = finished.config, given.get("window")
    if finished.experiment == "few-shot":
        config = tested_config(config, given)
    window = list(window) if isinstance(window, tuple) else window
    whole = {"run": finished.name, **runs.plain(config), "test_window": window}
    hashes = data.stored_hash(config.dataset), finished.theta_hash
    return runs.Run(KIND, finished.name, config.preset, whole, runs.results_root(), *hashes)
