"""How the settings of few-shot learning were chosen, and why methods whose settings were all tuned are behind."""

from __future__ import annotations

import statistics
from typing import Any

import pandas as pd

from msmeta.experiments import few_shot
from msmeta.report import paper, tuning
from msmeta.report.few_shot import MAML, usual_steps
from msmeta.report.few_shot_time import points
from msmeta.report.frame import FEW_SHOT
from msmeta.report.picture import Picture
from msmeta.report.speed import seconds_per_iteration
from msmeta.report.style import markdown
from msmeta.report.tuning import Grid
from msmeta.statistics import mean_ci, plus_minus

OWN_STEPS = ("implicit", "reptile")
"""Estimators whose number of inner steps is theirs to choose; that of others is part of the problem."""
MANY, SMALL = 0.01, 0.1
"""Share of tasks with negative curvature, and relative residual, by which runs of iMAML are told apart."""


def _place(run: Any) -> tuple[Any, ...]:
    return run.setting, run.label, None if run.estimator in OWN_STEPS else run.steps


def _grids(**wanted: Any) -> list[Grid]:
    return tuning.grids(FEW_SHOT, _place, points, **wanted)


def _by_setting(dataset: str) -> dict[str, list[Grid]]:
    """By its name."""
    found: dict[str, list[Grid]] = {}
    for grid in _grids(dataset=dataset):
        found.setdefault(_setting(grid.configs[0]), []).append(grid)
    return found


def _setting(config: few_shot.FewShotConfig) -> str:
    usual = config.estimator in OWN_STEPS or config.steps == usual_steps(config)
    return few_shot.setting(config) + ("" if usual else f", T = {config.steps}")


def tuning_table(dataset: str = "omniglot") -> str:
    """What was tried for each method and setting (`tuning.table`), in Markdown."""
    return _sections(dataset, lambda found: tuning.table(FEW_SHOT, found, "iterations"))


def tuned(dataset: str = "omniglot") -> pd.DataFrame:
    """The runs of this table."""
    return tuning.runs_of(_grids(dataset=dataset))


def tuning_stability(dataset: str = "omniglot") -> str:
    """Which of these is best at each point of the learning curves (`tuning.stability`), in Markdown."""
    return _sections(dataset, lambda found: tuning.stability(found, "iterations"))


def _sections(dataset: str, shown: Any) -> str:
    parts = [f"**{setting}**\n\n{shown(found)}" for setting, found in _by_setting(dataset).items()]
    return "\n\n".join(parts) or "No run yet."


def tuning_figures(dataset: str = "omniglot") -> list[Picture | str]:
    """The learning curves of these runs (`tuning.figure`), one figure a setting."""
    return [
        tuning.figure(found, f"Tuning, {found[0].found['title'].iloc[0]}, {setting}", "meta-iterations")
        for setting, found in _by_setting(dataset).items()
    ]


def sizes() -> str:
    """How the size of a run was chosen (results/sweeps/protocol.yaml), in Markdown: after equal iterations and in equal
    time, which is that of the run that ends first. Of each curve the point next before it counts."""
    grid, missing = tuning.of_sweep(FEW_SHOT, "protocol", points)
    if grid is None:
        return missing
    rates = [seconds_per_iteration(config) for config in grid.configs]
    ends = [max(own) * rate for own, rate in zip(grid.points, rates, strict=True) if rate]
    rows = []
    for i, (own, rate) in enumerate(zip(grid.points, rates, strict=True)):
        within = [at for at in own if rate and at * rate <= min(ends) * (1 + 1e-9)]
        timed = [f"{rate:.3f}" if rate else "not measured", "no point so early" if rate else "-", "-"]
        if within:
            share = 100 * max(within) * rate / min(ends)
            timed[1:] = [f"{max(within):,} ({share:.0f} % of the time)", _accuracy(own[max(within)])]
        last = max(own)
        rows.append([grid.values(i), _accuracy(own[grid.at]) if grid.at in own else "-", *timed, f"{last:,}",
                     _accuracy(own[last])])  # fmt: skip
    heads = ["Size", f"after {grid.at:,} iterations (%)", "seconds of an iteration", "iterations in equal time"]
    heads += ["in equal time (%)", "iterations in all", "at the end (%)"]
    minutes = f"Equal time: {min(ends) / 60:.0f} minutes of one idle core. " if ends else ""
    one = grid.found.iloc[0]
    return f"{one['title']}, {one['setting']}, {one['label']}. {minutes}{missing}\n\n{markdown(heads, rows)}"


def of_sweep(name: str) -> pd.DataFrame:
    """The runs for tuning that results/sweeps/NAME.yaml asks for, as far as they were made."""
    grid, _ = tuning.of_sweep(FEW_SHOT, name, points)
    return tuning.runs_of([grid] if grid else [])


def _accuracy(values: list[float]) -> str:
    return plus_minus(*mean_ci(values))


def behind_imaml() -> str:
    """What each of iMAML's settings does (results/sweeps/imaml.yaml), and what its conjugate gradients tell."""
    grid, missing = tuning.of_sweep(FEW_SHOT, "imaml", points)
    if grid is None:
        return missing
    told = {
        "residual": lambda run: f"{late(run, 'residual'):.2g}",
        "tasks of negative curvature (%)": lambda run: f"{100 * late(run, 'indefinite'):.1f}",
    }
    return "\n\n".join(filter(None, [_gap(grid), missing, tuning.profile(grid, told), _causes(grid)]))


def behind_reptile() -> str:
    """What each of Reptile's settings does, of all that were tried in 5-way 1-shot."""
    found = _grids(dataset="omniglot", way=5, shot=1, estimator="reptile")
    return "\n\n".join([_gap(found[0]), tuning.profile(found[0], {})]) if found else "Not run."


def late(run: pd.Series, name: str) -> float:
    """Mean of what was logged in the last quarter of a training; NaN of a run that has no such column."""
    values = run["log"].get(name) or [float("nan")]
    return statistics.fmean(values[-max(1, len(values) // 4) :])


def _gap(grid: Grid) -> str:
    """The best run beside MAML's best, on the classes held out, and the gap that the paper prints."""
    best, config = grid.best(), grid.configs[0]
    label, setting = few_shot.label(config), few_shot.setting(config)
    compared = sum(grid.at in own for own in grid.points)
    said = f"The best of {compared} runs of {label} in {setting} has {_accuracy(grid.points[best][grid.at])} % "
    said += f"after {grid.at:,} meta-iterations ({grid.values(best)})."
    exact = _grids(dataset=config.dataset, way=config.way, shot=config.shot, **MAML)
    exact = [own for own in exact if own.configs[0].steps == usual_steps(own.configs[0])]
    if exact and (base := exact[0].best(grid.at)) is not None:
        theirs = exact[0].points[base][grid.at]
        gap = mean_ci(grid.points[best][grid.at])[0] - mean_ci(theirs)[0]
        said += f" MAML's best has {_accuracy(theirs)} % then: a difference of {gap:+.2f} points."
    cells = [paper.cell(4, vars(config) | {"estimator": name, "window": 1}) for name in ("multistep", config.estimator)]
    if all(cells):
        said += f" The paper prints {cells[1].value:g} % for {label} and {cells[0].value:g} % for MAML."
    return said


def _causes(grid: Grid) -> str:
    """The best runs with and without what is suspected: linear systems left unsolved, and negative curvature."""
    rows = []
    for head, name, limit in (("residual", "residual", SMALL), ("tasks of negative curvature", "indefinite", MANY)):
        for below in (True, False):
            own = [i for i in range(len(grid.found)) if (late(grid.found.iloc[i], name) < limit) == below]
            own = [i for i in own if grid.at in grid.points[i]]
            best = max(own, key=lambda i: mean_ci(grid.points[i][grid.at])[0], default=None)
            shown = f"{limit:g}" if name == "residual" else f"{100 * limit:g} %"
            words = f"{head} {'below' if below else 'of at least'} {shown}"
            accuracy = "-" if best is None else _accuracy(grid.points[best][grid.at])
            rows.append([words, len(own), accuracy, "-" if best is None else grid.values(best)])
    return markdown(["Late in the training", "runs", f"best after {grid.at:,} (%)", "with"], rows)
