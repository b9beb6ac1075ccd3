"""Meta-transfer learning (Section 5.1): meta-networks learn what a target network imitates of a frozen source."""

from msmeta.experiments.transfer.config import ESTIMATORS, TransferConfig, label, setting
from msmeta.experiments.transfer.experiment import evaluate, run, train
from msmeta.experiments.transfer.presets import preset_config
from msmeta.experiments.transfer.step import (
    Iteration,
    TransferProblem,
    scratch_iteration,
    transfer_iteration,
    transfer_windows,
)

__all__ = [
    "ESTIMATORS",
    "Iteration",
    "TransferConfig",
    "TransferProblem",
    "evaluate",
    "label",
    "preset_config",
    "run",
    "scratch_iteration",
    "setting",
    "train",
    "transfer_iteration",
    "transfer_windows",
]
