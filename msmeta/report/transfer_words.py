"""What the tables of meta-transfer say, in words that follow the stored results."""

from __future__ import annotations

import numpy as np
import pandas as pd

from msmeta.report.frame import where
from msmeta.report.tables import cells, difference
from msmeta.report.transfer import BASELINE
from msmeta.report.transfer_figures import in_time, usual


def comparison_words(found: pd.DataFrame) -> str:
    """Of runs with as many epochs as the Baseline: who is ahead of it then, and who for the time."""
    own, best = usual(found), in_time(found)
    baseline, lines = where(own, **BASELINE), []
    for seeds in cells(own.drop(baseline.index)):
        less, ours, theirs = difference(seeds, baseline), best(seeds), best(baseline)
        if less:
            said = f"after as many epochs {_apart(less.mean)} the Baseline on test images"
            timed = f"; in Multi-step's time {_apart(np.mean(ours) - np.mean(theirs))} it on validation images"
            lines.append(f"- {seeds['row'].iloc[0]}: {said}{timed if ours and theirs else ''}.")
    return "\n".join(lines)


STILL = 0.05
"""Weights λ that are this near to 1, where they start, have hardly moved."""


def _apart(points: float) -> str:
    return f"{abs(points):.2f} points {'ahead of' if points > 0 else 'behind'}"


def movement_words(found: pd.DataFrame) -> str:
    """The rows from the highest mean λ to the lowest with their accuracy and, of three or more, how well one rank tells
    the other (Spearman's coefficient), in words."""
    rows = []
    for seeds in cells(usual(found[found["estimator"] != "scratch"])):
        weight = float(np.mean([np.mean(weights) for weights in seeds["pair_weights"]]))
        rows.append((weight, seeds["accuracy"].mean(), seeds["row"].iloc[0]))
    if len(rows) < 2:
        return ""
    rows.sort(reverse=True)
    said = "; ".join(f"{row}: λ {weight:.2f}, accuracy {accuracy:.2f} %" for weight, accuracy, row in rows)
    if len(rows) == 2:
        return f"From the higher mean λ to the lower: {said}."
    weights, accuracies = (pd.Series(column) for column in list(zip(*rows, strict=True))[:2])
    correlation = weights.corr(accuracies, method="spearman")
    ranks = f"The rank correlation of λ and accuracy is {correlation:.2f}, over {len(rows)} rows"
    return f"From the highest mean λ to the lowest: {said}. {ranks}."


def still_words(found: pd.DataFrame) -> str:
    """A sentence for each row that could have moved its θ, and has no λ far from its start; empty if there is none."""
    learns = usual(found[(found["estimator"] != "scratch") & (found["steps"] > 0)])
    names = [
        seeds["row"].iloc[0]
        for seeds in cells(learns)
        if all(abs(np.array(weights) - 1).max() < STILL for weights in seeds["pair_weights"])
    ]
    return " ".join(
        f"At the rate that was best for it, θ of {name} has hardly moved (each weight λ of a pair stays within "
        f"{100 * STILL:.0f} % of its start): it is T = 0 in all but name, and says little of shared gradients."
        for name in names
    )
