"""The experiments by name, and what is asked of any of them."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from msmeta import runs
from msmeta.experiments import few_shot, transfer
from msmeta.experiments.config import Config
from msmeta.experiments.few_shot import FewShotConfig
from msmeta.experiments.transfer import TransferConfig

EXPERIMENTS: dict[str, tuple[type[Config], ModuleType]] = {
    "few-shot": (FewShotConfig, few_shot),
    "transfer": (TransferConfig, transfer),
}
"""The config of each experiment, and the module with what is done with it, by the same names in both."""


def place(config: Config, root: Path | None = None) -> runs.Run:
    """The place of this config's result and checkpoint."""
    _, module = experiment_of(config)
    return module.run(config, root)


def experiment_of(config: Config) -> tuple[str, ModuleType]:
    """Name and module of the experiment that a config belongs to."""
    return next((name, module) for name, (kind, module) in EXPERIMENTS.items() if isinstance(config, kind))
