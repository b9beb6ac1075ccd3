"""The small twin of a run: the same method and the same kind of task, of the sizes of the smoke preset.

That it runs says that the run of a stored result could be repeated by this version.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from msmeta.errors import UserError
from msmeta.experiments import stored
from msmeta.experiments.config import Config, resolve
from msmeta.experiments.registry import experiment_of

SMALL = {
    "few-shot": {
        "dataset": "glyphs", "filters": 4, "tasks": 1, "iterations": 2, "test_episodes": 2, "curve_episodes": 2,
    },
    "transfer": {"dataset": "glyphs-rgb"},
}  # fmt: skip
"""What every twin has."""
SIZES = {
    "few-shot": {"image_size", "task_chunk", "train_seconds", "select_every", "curve_every"},
    "transfer": {"source", "width", "split", "train_images", "epochs", "batch"},
}
"""Fields that it has from the smoke preset, of each experiment."""
OF_BOTH = {"preset", "lr", "meta_lr", "log_every", "seed"}
"""And of both, with rates that suit these sizes."""
MOST_STEPS = 4
"""At test time."""


def twin(config: Config) -> Config:
    """Of a config. Configs that differ in sizes, rates, data or seed alone have the same one."""
    experiment, module = experiment_of(config)
    small = SMALL[experiment].keys() | SIZES[experiment] | OF_BOTH
    values = {field.name: getattr(config, field.name) for field in fields(config) if field.name not in small}
    if getattr(config, "test_steps", None):
        values["test_steps"] = min(config.test_steps, MOST_STEPS)
    if getattr(config, "select_every", None):
        values["select_every"] = 1
    return resolve(type(config), module.presets.RULES, {"preset": "smoke", **SMALL[experiment], **values})


def problem(config: Config) -> str | None:
    """Why a twin does not run, or what its result is not; None where it is sound."""
    _, module = experiment_of(config)
    with tempfile.TemporaryDirectory() as folder:
        try:
            module.train(config, "cpu", results_root=Path(folder))
            for path in Path(folder).glob("live/*/*.json"):
                stored.read(path)
        except UserError as error:
            return f"the smoke twin of {module.label(config)} does not run: {error}"
    return None


def of(configs: Mapping[Path, Config]) -> dict[Config, list[Path]]:
    """The twins of runs by their files, each with the files that it is a twin of."""
    found: dict[Config, list[Path]] = {}
    for path, config in configs.items():
        found.setdefault(twin(config), []).append(path)
    return found
