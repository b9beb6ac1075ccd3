"""What the tables of meta-transfer say, in words that follow the stored results."""

from __future__ import annotations

import numpy as np
import pandas as pd

from msmeta.report.frame import where
from msmeta.report.tables import cells, difference
from msmeta.report.transfer import BASELINE
from msmeta.report.transfer_figures import in_time, usual
from msmeta.statistics import plus_minus


def comparison_words(found: pd.DataFrame) -> str:
    """Of runs with as many epochs as the Baseline: their difference from it then, and for the time."""
    own, best = usual(found), in_time(found)
    baseline, lines = where(own, **BASELINE), []
    for seeds in cells(own.drop(baseline.index)):
        less, ours, theirs = difference(seeds, baseline), best(seeds), best(baseline)
        if less:
            apart = plus_minus(less.mean, less.half, "+.2f")
            said = f"after as many epochs {apart} points against the Baseline on test images"
            timed = f"; in Multi-step's time {np.mean(ours) - np.mean(theirs):+.2f} on validation images"
            lines.append(f"- {seeds['row'].iloc[0]}: {said}{timed if ours and theirs else ''}.")
    return "\n".join(lines)


RANKED = 5
"""Rows whose ranks may say something of each other."""
STILL = 0.05
"""Weights λ that are this near to 1, where they start, have hardly moved."""


def movement_words(found: pd.DataFrame) -> str:
    """The rows from the highest mean λ to the lowest with their accuracy, in words; of RANKED rows and more also how
    well one rank tells the other (Spearman's coefficient)."""
    rows = []
    for seeds in cells(usual(found[found["estimator"] != "scratch"])):
        weight = float(np.mean([np.mean(weights) for weights in seeds["pair_weights"]]))
        rows.append((weight, seeds["accuracy"].mean(), seeds["row"].iloc[0]))
    if len(rows) < 2:
        return ""
    rows.sort(reverse=True)
    said = "; ".join(f"{row}: λ {weight:.2f}, accuracy {accuracy:.2f} %" for weight, accuracy, row in rows)
    words = f"From the highest mean λ to the lowest: {said}."
    if len(rows) >= RANKED:
        weights, accuracies = (pd.Series(column) for column in list(zip(*rows, strict=True))[:2])
        correlation = weights.corr(accuracies, method="spearman")
        words += f" The rank correlation of λ and accuracy is {correlation:.2f}, over {len(rows)} rows."
    return words


def still(found: pd.DataFrame) -> list[str]:
    """The rows that could have moved their θ, and have no λ far from its start."""
    learns = usual(found[(found["estimator"] != "scratch") & (found["steps"] > 0)])
    return [
        seeds["row"].iloc[0]
        for seeds in cells(learns)
        if all(abs(np.array(weights) - 1).max() < STILL for weights in seeds["pair_weights"])
    ]


def still_words(found: pd.DataFrame) -> str:
    """A sentence on these rows; empty if there is none."""
    names = "; ".join(still(found))
    return names and (
        f"At the rate that was best for each, θ has hardly moved (every weight λ of a pair stays within "
        f"{100 * STILL:.0f} % of its start) with {names}: that is T = 0 in all but name, and says little of what θ can "
        "learn."
    )
