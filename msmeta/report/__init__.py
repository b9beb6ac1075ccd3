"""Stored results -> the tables and figures of the notebooks.

Each table shows three kinds of number and says which is which: the paper's, the committed measurements of this
repository, and the live run. What was not run says so, beside the command that would run it.
`few_shot` and `transfer` have functions of the same names for what both experiments show.
"""

from msmeta.report import (
    adapted,
    answers,
    batch_norm,
    costs,
    data_sets,
    exploration,
    few_shot,
    few_shot_time,
    few_shot_tuning,
    gradients,
    interactive,
    live,
    outlook,
    paper,
    products,
    provenance,
    reliability,
    scaling,
    speed,
    status,
    transfer,
    transfer_figures,
    transfer_strength,
    transfer_time,
    transfer_words,
    turn,
    verdicts,
)
from msmeta.report.parameters import check_parameters, run_by_papermill
from msmeta.report.style import measured_with, origin, show, stored_benchmark, stored_benchmarks

__all__ = [
    "adapted", "answers", "batch_norm", "check_parameters", "costs", "data_sets", "exploration", "few_shot",
    "few_shot_time", "few_shot_tuning", "gradients", "interactive", "live", "measured_with", "origin", "outlook",
    "paper", "products", "provenance", "reliability", "run_by_papermill", "scaling", "show", "speed", "status",
    "stored_benchmark", "stored_benchmarks", "transfer", "transfer_figures", "transfer_strength", "transfer_time",
    "transfer_words", "turn", "verdicts",
]  # fmt: skip
