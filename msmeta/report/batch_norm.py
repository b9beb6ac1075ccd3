"""What the statistics of batch norm at test time cost: the same φ and query images, three ways to normalise them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd

from msmeta import runs
from msmeta.experiments import evaluations, finished
from msmeta.experiments.few_shot import NORMS, FewShotConfig
from msmeta.experiments.few_shot.agreement import percents
from msmeta.experiments.few_shot.at_test import windows_at_test
from msmeta.report import stored, tables
from msmeta.report.frame import FEW_SHOT, frame
from msmeta.report.tables import Columns, accuracy_text, cells, difference_text, listed
from msmeta.statistics import Difference, paired

DATASETS = ("omniglot", "miniimagenet")
OTHERS = NORMS[1:]
"""Beside the paper's own, which every run was tested with."""
Tested = dict[tuple[FewShotConfig, str], list[float]]
"""Accuracies (%) on the test episodes of a run, by its config and the statistics."""


def table(datasets: Sequence[str] = DATASETS) -> str:
    """Committed runs tested with each statistics, in Markdown, and the commands that would test the others."""
    found, tested = _committed(datasets)
    columns: Columns = {
        "Setting": "{title}, {setting}",
        "Method": "{row}",
        "preset": "{preset}",
        "seeds": lambda seeds: listed(seeds["seed"]),
        "transductive (%)": accuracy_text,
        **{f"{norm}, less that (points)": partial(_cost_text, tested=tested, norm=norm) for norm in OTHERS},
    }
    return "\n\n".join(filter(None, [tables.table(cells(found), columns), commands(datasets)]))


def _cost_text(seeds: pd.DataFrame, tested: Tested, norm: str) -> str:
    less = _less(seeds, tested, norm)
    return difference_text(less) if less else "not run"


def summary(datasets: Sequence[str] = DATASETS) -> str:
    """What each costs, from the least to the most over the rows of the table, in a sentence."""
    found, tested = _committed(datasets)
    parts = []
    for norm in OTHERS:
        costs = [-less.mean for seeds in cells(found) if (less := _less(seeds, tested, norm))]
        if costs:
            parts.append(f"the {norm} statistics cost {min(costs):.2f} to {max(costs):.2f} points ({len(costs)} rows)")
    return f"Of what was run, {' and '.join(parts)}." if parts else "Not run yet."


def commands(datasets: Sequence[str] = DATASETS) -> str:
    """Those that would test what θ is kept and was not tested, as a code block, and how many runs kept none; empty if
    nothing is left, or there is no run."""
    known = _runs(datasets)
    tested = _tested(known)
    lines, lost = set(), 0
    for config, kept in ((run.config, run.theta_path.exists()) for run in known.values()):
        if any((config, norm) not in tested for norm in OTHERS):
            lost += not kept
            if kept:
                names = f"{config.dataset}-*-{config.preset}-s{config.seed}-*"
                lines.add(f"msmeta evaluate '{names}' --norm {','.join(OTHERS)} --save")
    told = [f"Of {lost} runs θ was not kept: they would have to be trained again."] if lost else []
    block = ["\n".join(["```bash", *sorted(lines), "```"])] if lines else []
    return "\n\n".join(block + told)


def _less(seeds: pd.DataFrame, tested: Tested, norm: str) -> Difference | None:
    """Accuracy with these statistics less the run's own, paired over seeds and episodes; None where none was tested."""
    both = [(run.seed, tested.get((run.config, norm)), run.accuracies) for run in seeds.itertuples()]
    own, usual = ({row[0]: row[side] for row in both if row[1]} for side in (1, 2))
    return paired(own, usual)


def _committed(datasets: Sequence[str]) -> tuple[pd.DataFrame, Tested]:
    """Committed runs with a preset's own config, and what was found of their θ."""
    known = _runs(datasets)
    return frame(FEW_SHOT, [each.result for each in known.values()]), _tested(known)


def _tested(known: dict[str, finished.Finished]) -> Tested:
    tested: Tested = {}
    for result in stored.results(evaluations.KIND):
        run = known.get(result["config"]["run"])
        if run and runs.hash_of(result, "source") == run.theta_hash:
            _add(tested, run, result)
    return tested


def _runs(datasets: Sequence[str]) -> dict[str, finished.Finished]:
    """Committed runs with a preset's own config, by name."""
    return {
        each.name: each
        for each in stored.all_of(live=False)
        if each.experiment == "few-shot"
        and each.config.dataset in datasets
        and FEW_SHOT.preset(each.config) == each.config
    }


def _add(tested: Tested, run: finished.Finished, result: dict[str, Any]) -> None:
    """Where the test differs from the run's own in the statistics alone."""
    own = {name: value for name, value in result["config"].items() if name not in ("run", "test_windows")}
    config, metrics = FewShotConfig(**own), result["metrics"]
    same = result["config"]["test_windows"] == list(windows_at_test(run.config))
    if same and config == replace(run.config, test_norm=config.test_norm):
        accuracies = percents(metrics["right_answers"], metrics["answers_per_episode"])
        tested[run.config, config.test_norm] = accuracies
