"""Few-shot learning (Section 5.2 and Appendix F): MAML and its relatives meta-learn where a network starts."""

from msmeta.experiments.few_shot.config import ESTIMATORS, TRAIN_SPLIT, FewShotConfig, label, method, setting
from msmeta.experiments.few_shot.experiment import Progress, build_model, evaluate, run, train, tune
from msmeta.experiments.few_shot.presets import preset_config
from msmeta.experiments.few_shot.step import default_chunk, episode_problem, meta_gradient, task_losses

__all__ = [
    "ESTIMATORS",
    "TRAIN_SPLIT",
    "FewShotConfig",
    "Progress",
    "build_model",
    "default_chunk",
    "episode_problem",
    "evaluate",
    "meta_gradient",
    "label",
    "method",
    "preset_config",
    "run",
    "setting",
    "task_losses",
    "train",
    "tune",
]
