"""Does meta-transfer depend on more than how strongly it transfers, which is β times the mean weight of the pairs?

With T = 0 θ stays at its start, where each weight λ is about 1. With a lower β it then transfers as weakly as a method
that has lowered its λ. If strength is all that θ changes, both do equally well; if θ has found which pairs are worth
imitating, the method does better. Runs with shorter, weaker or fewer transfer steps tell what of a window lowers λ.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from msmeta.experiments.transfer import TransferConfig
from msmeta.report import claims, tables
from msmeta.report.frame import TRANSFER, stored, where
from msmeta.report.html import Cell, Rows, interval, quiet
from msmeta.report.picture import Picture, panels, styled
from msmeta.report.style import drawn, plain_ticks
from msmeta.report.tables import cells, difference
from msmeta.statistics import Bounds, Difference, holm, mean_ci

NEAR = 0.05
"""As strong as a method is a run whose strength differs by less than this part."""
MARGIN = Bounds(-1, 1)
"""Equal, as the paper has it in its Tables 2 and 3."""
REASONS = {
    "the longer way": ({"transfer_rate": 0.5}, True),
    "no answer": ({"steps": 1}, False),
    "too strong": ({"window": 2, "inner_beta": 0.5}, True),
}
"""Why a window may lower λ faster: the runs that tell, and whether λ must keep up in them."""


def tested(optimizer: str) -> pd.DataFrame:
    """Committed runs on CIFAR-100 whose config is the `cpu` preset's own, with T = 0 in all but β."""
    found = _with_strength(stored(TRANSFER, "transfer", dataset="cifar-100", optimizer=optimizer, preset="cpu"))
    return found.loc[[_of_preset(config) for config in found["config"]]]


def tuned(optimizer: str) -> pd.DataFrame:
    """Those by which rates were chosen, of T = 0 with other β, and with other transfer steps."""
    return _with_strength(stored(TRANSFER, "transfer-tuning", dataset="cifar-100", optimizer=optimizer))


def _of_preset(config: TransferConfig) -> bool:
    preset = TRANSFER.preset(config)
    return config == (preset if config.steps else replace(preset, beta=config.beta))


def _with_strength(found: pd.DataFrame) -> pd.DataFrame:
    """The runs that transfer and have kept λ; `strength` is β times λ, a mean over pairs and over the epochs."""
    kept = [None not in curve.get("pair_weight", [None]) for curve in found["curve"]]
    own = found.loc[kept]
    strengths = [run.beta * float(np.mean(run.curve["pair_weight"])) for run in own.itertuples()]
    return own.assign(strength=strengths)


@styled
def figure(optimizer: str) -> Picture | str:
    """Validation accuracy against strength: T = 0 with several β, and each other run by which rates were chosen."""
    found = _plain(tuned(optimizer))
    fixed = where(found, steps=0)  # θ does not move
    others = found.drop(fixed.index)
    best = fixed.loc[fixed.groupby("beta")["accuracy"].idxmax()].sort_values("strength") if len(fixed) else fixed
    if len(best) < 2:
        return "No figure of accuracy against strength: T = 0 was not run with two β."
    picture, ((axis,),) = panels(1)
    axis.plot(best["strength"], best["accuracy"], label="T = 0, other β", **drawn("0-step"))
    for label, own in others.groupby("label", sort=False):
        axis.plot(own["strength"], own["accuracy"], linestyle="none", label=label, **drawn(label))
    axis.set_xscale("log")
    plain_ticks(axis.xaxis, sorted({round(beta, 2) for beta in best["beta"]}))
    axis.set(xlabel="β times mean λ", ylabel="validation accuracy (%)", title=f"CIFAR-100, {best['setting'].iloc[0]}")
    return picture.label_lines()


def causes_table(optimizer: str) -> str:
    """What could make a window lower λ: runs with shorter, weaker and fewer transfer steps, beside the methods with the
    same rates of φ and θ, in Markdown; in words where there are none.

    Of what Multi-step's strength is below the Baseline's, the last column has the part that is not lost.
    """
    shown = _causes(optimizer)
    if shown["way"].isna().all():
        return "Not run: `msmeta sweep results/sweeps/transfer_strength.yaml`."
    columns = {
        "Method": "{label}", "rate of φ": "{lr:g}", "rate of θ": "{meta_lr:g}", "β times mean λ": "{strength:.3f}",
        "validation accuracy (%)": "{accuracy:.2f}", "from Multi-step to the Baseline (%)": "{way:.0f}",
    }  # fmt: skip
    return tables.table(cells(shown), columns)


def causes_words(optimizer: str) -> str:
    """Which reasons the runs of `causes_table` leave standing, in a sentence."""
    shown = _causes(optimizer)

    def told(fields: dict[str, float], keeps_up: bool) -> str:
        way = where(shown, **fields)["way"].mean()
        return "not run" if np.isnan(way) else f"{'for it' if (way > 50) == keeps_up else 'against it'} ({way:.0f})"

    reasons = ", ".join(f"*{reason}* {told(*how)}" for reason, how in REASONS.items())
    return f"Each reason has a run of one seed that speaks for or against it, by half of the way: {reasons}."


def _causes(optimizer: str) -> pd.DataFrame:
    """Runs with other transfer steps, and the methods with the same rates. way: from Multi-step's strength to the
    Baseline's, in %; NaN without both."""
    found = tuned(optimizer)
    methods, other = where(_plain(found), steps=2), found.drop(_plain(found).index)
    same = methods.merge(other[["lr", "meta_lr"]].drop_duplicates())
    windows, exact = (where(same, window=window)["strength"].mean() for window in (2, 1))
    shown = pd.concat([same, other])
    return shown.assign(way=100 * (shown["strength"] - windows) / (exact - windows))


def _plain(found: pd.DataFrame) -> pd.DataFrame:
    """The runs whose transfer steps, if any, are as many, as long and as strong as the tables' methods have them."""
    own = where(found, transfer_rate=1.0, inner_beta=1.0)
    return own[own["steps"] != 1]


def table(optimizer: str) -> Rows | str:
    """Each method beside T = 0 that transfers as strongly, on test images, by seed; p-values are corrected (Holm).

    In words where no method was run.
    """
    found = tested(optimizer)
    of_fixed = where(found, steps=0)
    fixed, methods = cells(of_fixed), cells(found.drop(of_fixed.index))
    if not methods:
        return "No table of methods beside T = 0 that is as strong: no run has kept λ after each epoch."
    equals = [_as_strong(own, fixed) for own in methods]
    apart = [None if base is None else difference(own, base) for own, base in zip(methods, equals, strict=True)]
    corrected = holm([less and less.p(MARGIN) for less in apart])
    rows = [_row(*each) for each in zip(methods, equals, apart, corrected, strict=True)]
    heads = ["Method", "β times mean λ", "Accuracy (%)", "T = 0 as strong: β", "Accuracy of it (%)", "Less it (points)"]
    return Rows(
        "Methods beside T = 0 with a lower β, which transfers as strongly and has learned no θ. Equal: within "
        f"{MARGIN} points.", heads, [("", rows)], heads[1:-1],
    )  # fmt: skip


def _as_strong(own: pd.DataFrame, fixed: list[pd.DataFrame]) -> pd.DataFrame | None:
    """The runs of T = 0 whose strength is nearest, where it is near."""
    strength = own["strength"].mean()
    near = [base for base in fixed if abs(base["strength"].mean() - strength) < NEAR * strength]
    return min(near, key=lambda base: abs(base["strength"].mean() - strength), default=None)


def _row(own: pd.DataFrame, equal: pd.DataFrame | None, less: Difference | None, p: float | None) -> list[str]:
    row = [own["row"].iloc[0], _mean(own["strength"], ".3f"), _mean(own["accuracy"])]
    beside = [quiet("–")] * 2 if equal is None else [f"{equal['beta'].iloc[0]:g}", _mean(equal["accuracy"])]
    return [*row, *beside, claims.cell(less, MARGIN, p)]


def _mean(values: pd.Series, form: str = ".2f") -> Cell:
    return interval(*mean_ci(list(values)), form)
