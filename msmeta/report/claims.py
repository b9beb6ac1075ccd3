"""The paper's claims, one line each: its figure, ours, and what a test says where there are seeds to test."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from msmeta.report import paper
from msmeta.report.frame import Experiment
from msmeta.report.style import markdown
from msmeta.report.tables import of_best_preset


@dataclass(frozen=True)
class Claim:
    """In `where`, `method` less `base` is more than `bound` points; each of them fields of a config.

    printed: whether the paper says so; else it is ours.
    """

    words: str
    method: dict[str, Any]
    base: dict[str, Any]
    where: dict[str, Any]
    bound: float = 0.0
    printed: bool = True


def claims_table(
    experiment: Experiment,
    number: int,
    found: pd.DataFrame,
    claims: Iterable[Claim],
    place: Callable[[Any], str],
    tests: dict[str, Callable[[pd.DataFrame, pd.DataFrame, float], str]],
) -> str:
    """Each claim on Table `number`, in Markdown.

    Both sides are runs of one preset, `paper` where it has run both. place: `where` in words, of a config. tests: by
    the heads of their columns, what is said of the runs of the method, those of the base and the bound.
    """
    rows = []
    for claim in claims:
        sides = claim.method, claim.base
        configs = [experiment.module.preset_config("paper", **claim.where, **side) for side in sides]
        reported = [paper.cell(number, vars(config)) if claim.printed else None for config in configs]
        own = of_best_preset(experiment, found, claim.where, sides)
        rows.append(
            [
                claim.words,
                f"{' less '.join(map(experiment.row, configs))}, {place(configs[0])}",
                f"> {claim.bound:+g}",
                f"{reported[0].value - reported[1].value:+.2f}" if all(reported) else "-",
                *(test(*own, claim.bound) for test in tests.values()),
            ]
        )
    return markdown(["The paper's words", "Difference (points)", "Claim", "Paper", *tests], rows)
