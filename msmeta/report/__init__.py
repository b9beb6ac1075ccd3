"""Stored results -> the tables and figures of the notebooks.

Each table shows three kinds of number and says which is which: the paper's, the committed measurements of this
repository, and the live run. What was not run says so, beside the command that would run it.
"""

from msmeta.report.claims import claims_table, pooled
from msmeta.report.costs import cost_constants, cost_figure, cost_table, few_shot_costs, speed_ratio
from msmeta.report.exploration import exploration_figure, exploration_table
from msmeta.report.few_shot import (
    accuracy_over_time,
    by_setting,
    committed,
    comparison,
    conditions,
    data_in_words,
    describe,
    few_shot_methods,
    learning_curves,
    live_table,
    measured_table,
    missing_commands,
    paper_table,
    readme_picture,
    train_live,
    tuning_table,
)
from msmeta.report.gradients import (
    GRADIENT_PROBLEMS,
    gradients_by_cost,
    gradients_by_partition,
    gradients_by_window,
    gradients_table,
    memory_over_steps,
    meta_gradients,
    steps_memory,
)
from msmeta.report.speed import convolutions_table, graph_table, step_ratio, step_table, step_times
from msmeta.report.style import COLOURS, MARKERS, METHODS, check_parameters, origin

__all__ = [
    "COLOURS",
    "GRADIENT_PROBLEMS",
    "MARKERS",
    "METHODS",
    "accuracy_over_time",
    "by_setting",
    "check_parameters",
    "claims_table",
    "committed",
    "comparison",
    "conditions",
    "convolutions_table",
    "cost_constants",
    "cost_figure",
    "cost_table",
    "data_in_words",
    "describe",
    "exploration_figure",
    "exploration_table",
    "few_shot_costs",
    "few_shot_methods",
    "gradients_by_cost",
    "gradients_by_partition",
    "gradients_by_window",
    "gradients_table",
    "graph_table",
    "learning_curves",
    "live_table",
    "measured_table",
    "memory_over_steps",
    "meta_gradients",
    "missing_commands",
    "origin",
    "paper_table",
    "pooled",
    "readme_picture",
    "speed_ratio",
    "step_ratio",
    "step_table",
    "step_times",
    "steps_memory",
    "train_live",
    "tuning_table",
]
