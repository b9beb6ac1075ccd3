"""Tests of finished runs with other tasks, steps or statistics of batch norm: stored as results, and found again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from msmeta import checkout, data, machine, runs
from msmeta.errors import ConfigError, UserError
from msmeta.experiments import few_shot
from msmeta.experiments.few_shot import FewShotConfig
from msmeta.experiments.few_shot.at_test import windows_at_test
from msmeta.experiments.finished import Finished, config_of, disagreeing_data
from msmeta.experiments.transfer import TransferConfig

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
    checkout.commit()
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
    config, windows = finished.config, None
    if finished.experiment == "few-shot":
        config = tested_config(config, given)
        windows = list(windows_at_test(config, given.get("window"), given.get("test_steps")))
    whole = {"run": finished.name, **runs.plain(config), "test_windows": windows}
    hashes = data.stored_hash(config.dataset, split=getattr(config, "split", data.SEEDED)), finished.theta_hash
    return runs.Run(KIND, finished.name, config.preset, whole, runs.results_root(), *hashes)


def read(path: Path) -> dict[str, Any]:
    """A stored test. Raises UserError, which names the file, where it does not fit or does not hold together."""
    result = runs.read_result(path)
    if result.get("kind") != KIND:
        raise UserError(f"{path} is no test of a finished run")
    if wrong := next(disagreements(path, result), None):
        raise UserError(f"{path} does not hold together: {wrong}: delete it, or repeat the test with --force")
    return result


def disagreements(path: Path, result: dict[str, Any]) -> Iterator[str]:
    """What in a test does not belong to the rest of it, each in words."""
    whole, metrics = result["config"], result["metrics"]
    if "run" not in whole or "test_windows" not in whole:
        yield "its config says neither of which run it is nor with which windows"
        return
    hashes = runs.hash_of(result, "data"), runs.hash_of(result, "source")
    named = runs.Run(KIND, str(whole["run"]), "", whole, path.parent, *hashes).name
    if path.stem != named or result["source"]["name"] != whole["run"]:
        yield f"its config, data and θ are those of {named}"
    own = {name: value for name, value in whole.items() if name not in ("run", "test_windows")}
    kind = FewShotConfig if "way" in own else TransferConfig
    config = config_of(path, kind, own)
    yield from disagreeing_data(config.dataset, result)
    if (kind is FewShotConfig) != ("right_answers" in metrics):
        yield "right answers belong to few-shot learning, and to nothing else"
    elif kind is FewShotConfig:
        yield from few_shot.agreement.of_test(config, metrics)
