"""Tables 4 and 5: few-shot accuracy, the paper's beside what was measured here, and how it was measured."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd

from msmeta import data
from msmeta.experiments import few_shot
from msmeta.report import claims, frame, live, paper, tables
from msmeta.report.claims import Claim, Finding
from msmeta.report.few_shot_time import MAML, equal_iterations, equal_time, learning_curves, multi_step
from msmeta.report.frame import FEW_SHOT, Values
from msmeta.report.html import Rows
from msmeta.report.parameters import converted
from msmeta.report.tables import Columns, accuracy_text, listed, mean_text, of_config
from msmeta.statistics import Bounds

PAPER_DATA = {4: "omniglot", 5: "miniimagenet"}
"""Data set of each of the paper's tables."""
SETTINGS = {4: ((5, 1), (5, 5), (20, 1), (20, 5)), 5: ((5, 1), (5, 5))}
"""Way and shot of their columns."""
OTHERS = ("first-order", "implicit", "reptile")
FO_MAML, IMAML = {"estimator": "first-order"}, {"estimator": "implicit"}


def usual_steps(config: few_shot.FewShotConfig) -> int:
    """Inner steps of this method in the preset."""
    return FEW_SHOT.preset(config, FEW_SHOT.required).steps


def methods(windows: Sequence[int] = (1, 2, 4, 8), others: Sequence[str] = OTHERS) -> list[Values]:
    """One multi-step method for each window, and the other estimators. Raises ConfigError."""
    words = "a list of whole numbers, or of lists of them for windows that differ"
    windows = converted("windows", windows, list[int | tuple[int, ...]], [1, 4], words)
    others = converted("others", others, list[str], list(OTHERS))
    return [*map(multi_step, windows), *({"estimator": other} for other in others)]


train = partial(live.train, FEW_SHOT)
"""Trains live runs (`live.train`), on glyphs where the data set cannot be had."""


def committed(usual: bool = True, **wanted: Any) -> pd.DataFrame:
    """Committed runs (`frame.committed`) with as many inner steps as their preset has; not `usual`: with others."""
    found = frame.committed(FEW_SHOT, **wanted)
    return found.loc[[(config.steps == usual_steps(config)) is usual for config in found["config"]]]


def side_by_side(number: int, dataset: str) -> Rows:
    """Table 4 or 5 of the paper beside ours on a data set (`tables.side_by_side`)."""
    of = "" if dataset == PAPER_DATA[number] else data.find(dataset).title
    return tables.side_by_side(FEW_SHOT, number, committed(dataset=dataset), methods(), places(number, dataset), of)


def places(number: int, dataset: str) -> list[Values]:
    """The columns of Table 4 or 5, on a data set."""
    return [{"dataset": dataset, "way": way, "shot": shot} for way, shot in SETTINGS[number]]


def findings(number: int, found: pd.DataFrame) -> dict[str, list[Finding]]:
    """What is found of each claim on Table 4 or 5, of each data set, at equal iterations and in equal time.

    found: all runs of the page.
    """
    own = [
        Claim(words, method, base, {"dataset": dataset, "way": way, "shot": shot}, bounds, most=words == MARGIN)
        for dataset in dict.fromkeys([PAPER_DATA[number], *found["dataset"]])
        for words, method, base, settings, bounds in _CLAIMS[number]
        for way, shot in settings
    ]

    def place(config: few_shot.FewShotConfig) -> str:
        return f"{data.find(config.dataset).title}, {few_shot.setting(config)}"

    tests = {"Ours, equal iterations": equal_iterations, "Ours, equal time": equal_time}
    return {head: claims.find(FEW_SHOT, number, found, own, place, test) for head, test in tests.items()}


def claims_table(number: int, found: pd.DataFrame, only: tuple[Values, Values, tuple[int, int]] | None = None) -> Rows:
    """The same as a table. only: (method, base, (way, shot)) of the lines to show."""

    def shown(claim: Claim) -> bool:
        return only in (None, (claim.method, claim.base, (claim.where["way"], claim.where["shot"])))

    return claims.table(findings(number, found), f"The paper's claims on its Table {number}, one by one.", shown)


MARGIN = "in most cases, the margin of performance is under 0.4%"
EXCEPTION = "Multi-step (8) on 20-way tasks, which are at most 1.56%"
GAP = "20-way 1-shot (more than 5% accuracy gap)"
COMPETITIVE = "competitive with MAML and iMAML on all cases"
RETAIN = "retain performances when N ≤ 4"
DROP = "2.59% mean accuracy drop on 5-way 5-shot task"
OUTPERFORM = "outperforming or being competitive with other baselines"
_CLAIMS = {
    4: [
        *((MARGIN, multi_step(n), MAML, SETTINGS[4], Bounds(-0.4, 0.4)) for n in (2, 4)),
        (MARGIN, multi_step(8), MAML, SETTINGS[4][:2], Bounds(-0.4, 0.4)),
        (EXCEPTION, multi_step(8), MAML, SETTINGS[4][2:], Bounds(-1.56, 1.56)),
        *((GAP, multi_step(n), FO_MAML, [(20, 1)], Bounds(5)) for n in (2, 4, 8)),
        *((COMPETITIVE, multi_step(4), base, SETTINGS[4], Bounds(-1)) for base in (MAML, IMAML)),
    ],
    5: [
        *((RETAIN, multi_step(n), MAML, SETTINGS[5], Bounds(-0.4)) for n in (2, 4)),
        (OUTPERFORM, multi_step(4), FO_MAML, SETTINGS[5], Bounds(-1)),
        (OUTPERFORM, multi_step(4), IMAML, SETTINGS[5][:1], Bounds(-1)),
        (DROP, MAML, multi_step(8), [(5, 5)], Bounds(0)),
    ],
}
"""The paper's words, `method` less `base`, the settings in which it lies between these points."""


def commands(preset: str, number: int, dataset: str) -> str:
    """The commands that would fill the cells that this preset has not run, as a code block; empty if there are none."""
    values = [place | method for place in places(number, dataset) for method in methods()]
    return tables.commands(FEW_SHOT, preset, committed(dataset=dataset), values, [0])


def live_table(found: pd.DataFrame, number: int) -> str:
    """Live runs beside the paper's cell of the same method, where it is of the same data set, in Markdown."""
    own = {"Iterations/s": lambda seeds: mean_text(seeds["meta_iterations_per_second"], 1)}
    return tables.live_table(
        found, lambda c: paper.cell(number, vars(c)) if c.dataset == PAPER_DATA[number] else None, own
    )


def _tested(seeds: pd.DataFrame) -> str:
    """After which iteration θ was tested: where it did best on validation classes, if it was looked at there."""
    chosen = seeds.reindex(columns=["selected_iteration"])["selected_iteration"]
    return listed("the last" if pd.isna(at) else int(at) for at in chosen)


_SETTINGS: Columns = {
    "filters, image size if shrunk": of_config(
        lambda c: f"{c.filters}" + (f" at {c.image_size}x{c.image_size}" if c.image_size else "")
    ),
    "tasks / T / T at test": of_config(lambda c: f"{c.tasks} / {c.steps} / {c.test_steps or c.steps}"),
    "inner optimiser, lr / momentum / weight decay": "{optimizer} {lr:g} / {momentum:g} / {weight_decay:g}",
    "meta optimiser, lr": "{meta_optimizer} {meta_lr:g}",
}
_OUTCOMES: Columns = {
    "tested": _tested,
    "with training's windows (%)": lambda seeds: (
        accuracy_text(seeds, "windowed_accuracy")
        if seeds["estimator"].iloc[0] == "multistep" and seeds["window"].iloc[0] != 1
        else "-"
    ),
}
conditions = partial(tables.conditions, settings=_SETTINGS, outcomes=_OUTCOMES)
"""What the runs of each row were run with (`tables.conditions`)."""


def readme_picture(path: str) -> None:
    """Saves the learning curves of the committed runs of Omniglot 20-way 1-shot; README shows them."""
    found = committed(dataset="omniglot", way=20, shot=1)
    presets = " and ".join(sorted(set(found["preset"])))
    learning_curves(found, f"Omniglot 20-way 1-shot, preset {presets}", idle=True).save_png(path)
