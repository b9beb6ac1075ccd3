"""Few-shot learning (Section 5.2 and Appendix F): MAML and its relatives meta-learn where a network starts."""

from msmeta.experiments.few_shot.adapted import adapt_to
from msmeta.experiments.few_shot.again import reevaluate
from msmeta.experiments.few_shot.agreement import disagreements
from msmeta.experiments.few_shot.config import ESTIMATORS, NORMS, FewShotConfig, label, method, setting
from msmeta.experiments.few_shot.experiment import run, train, tune
from msmeta.experiments.few_shot.presets import preset_config
from msmeta.experiments.few_shot.step import episode_problem, meta_gradient, network, task_chunk
from msmeta.experiments.few_shot.work import Work, evaluate, team_of
