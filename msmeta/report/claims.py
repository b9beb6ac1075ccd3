"""The paper's claims on few-shot learning, one line each: its figure, ours, and a two-sided test."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from msmeta.report.few_shot import best_evidence, common_iteration, paired, paper_cell
from msmeta.report.style import Result, markdown


@dataclass(frozen=True)
class Claim:
    """`method` less `base` in `setting` is more than `bound` points, so the paper says."""

    words: str
    method: str
    base: str
    setting: str
    bound: float


SETTINGS = {
    4: ("5-way 1-shot", "5-way 5-shot", "20-way 1-shot", "20-way 5-shot"),
    5: ("5-way 1-shot", "5-way 5-shot"),
}
_FEW = ("Multi-step (2)", "Multi-step (4)")
_CLAIMS = {
    4: [
        *(Claim("margin under 0.4 %", method, "MAML", s, -0.4) for s in SETTINGS[4] for method in _FEW),
        *(Claim("margin under 0.4 %", "Multi-step (8)", "MAML", s, -0.4) for s in SETTINGS[4][:2]),
        *(Claim("at most 1.56 %", "Multi-step (8)", "MAML", s, -1.56) for s in SETTINGS[4][2:]),
        *(Claim("over 5 % more than FO-MAML", f"Multi-step ({n})", "FO-MAML", "20-way 1-shot", 5) for n in (2, 4, 8)),
        *(Claim("competitive with iMAML", "Multi-step (4)", "iMAML", s, -1) for s in SETTINGS[4]),
    ],
    5: [
        *(Claim("retains performance, N up to 4", method, "MAML", s, -0.4) for s in SETTINGS[5] for method in _FEW),
        *(Claim("outperforms first-order", "Multi-step (4)", "FO-MAML", s, 0) for s in SETTINGS[5]),
        Claim("N = 8 drops by 2.59 %", "MAML", "Multi-step (8)", "5-way 5-shot", 0),
    ],
}  # fmt: skip


def claims_table(number: int, results: Sequence[Result], only: tuple[str, str, str] | None = None) -> str:
    """Each claim on Table 4 or 5: what the paper's table gives, and ours at equal time and at equal iterations.

    A difference comes with its 95 % confidence interval and the p-value of the two-sided test that it is the claim's
    bound. "holds" and "does not hold": the interval lies on one side of the bound; else "undecided".
    only: (method, base, setting) of the lines to show.
    """
    rows = []
    for claim in _CLAIMS[number]:
        if only not in (None, (claim.method, claim.base, claim.setting)):
            continue
        reported = [paper_cell(number, method, claim.setting) for method in (claim.method, claim.base)]
        figure = f"{reported[0].value - reported[1].value:+.2f}" if all(reported) else "-"
        rows.append(
            [
                claim.words,
                f"{claim.method} less {claim.base}, {claim.setting}",
                f"> {claim.bound:+g}",
                figure,
                *(_ours(claim, results, equal_iterations) for equal_iterations in (False, True)),
            ]
        )
    head = ["The paper's words", "Difference (points)", "Claim", "Paper", "Ours, equal time", "Ours, equal iterations"]
    return markdown(head, rows)


def _ours(claim: Claim, results: Sequence[Result], equal_iterations: bool) -> str:
    runs = [
        {r["config"]["seed"]: r for r in best_evidence(results, m, claim.setting)} for m in (claim.method, claim.base)
    ]
    seeds = sorted(runs[0].keys() & runs[1].keys())
    pairs = [(runs[0][seed], runs[1][seed]) for seed in seeds]
    found = [paired(*pair, equal_iterations) for pair in pairs]
    if not found:
        return "not run"
    if not all(found):
        return "too few iterations to compare"
    mean, error = pooled(found)
    p = math.erfc(abs(mean - claim.bound) / error / math.sqrt(2)) if error else float(mean == claim.bound)
    verdict = "undecided"
    if abs(mean - claim.bound) > 1.96 * error:
        verdict = "holds" if mean > claim.bound else "does not hold"
    at = f" at {common_iteration(*pairs[0]):,}" if equal_iterations else ""
    small = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return f"{mean:+.2f} ±{1.96 * error:.2f}{at}, {small}: {verdict}"


def pooled(differences: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Mean and standard error of paired differences, one list a seed.

    The error has the spread over test episodes, which all seeds share, and with several seeds the spread between them.
    """
    by_episode = [statistics.mean(column) for column in zip(*differences, strict=True)]
    variance = statistics.variance(by_episode) / len(by_episode)
    if len(differences) > 1:
        variance += statistics.variance([statistics.mean(each) for each in differences]) / len(differences)
    return statistics.mean(by_episode), math.sqrt(variance)
