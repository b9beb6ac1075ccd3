"""Meta-transfer learning (Section 5.1): meta-networks learn what a target network imitates of a frozen source."""

from msmeta.experiments.transfer.agreement import disagreements
from msmeta.experiments.transfer.config import ESTIMATORS, TARGETS, TransferConfig, label, setting
from msmeta.experiments.transfer.experiment import evaluate, reevaluate, run, train
from msmeta.experiments.transfer.presets import preset_config
from msmeta.experiments.transfer.step import TransferProblem, transfer_iteration
