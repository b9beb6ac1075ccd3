"""What "Turn N on measured data" shows: accuracy, seconds, memory and cosine of each method, as they are stored."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from msmeta import data
from msmeta.experiments import few_shot, transfer
from msmeta.experiments.config import Config
from msmeta.experiments.few_shot.costs import Cell, uniform
from msmeta.report import frame, gradients, paper, products
from msmeta.report.few_shot import PAPER_DATA, SETTINGS, methods
from msmeta.report.frame import FEW_SHOT, TRANSFER
from msmeta.report.interactive import Interactive
from msmeta.report.speed import seconds_per_iteration
from msmeta.report.style import Result, find_benchmark, find_benchmarks
from msmeta.report.tables import cells
from msmeta.report.transfer import DATASETS, OPTIMIZERS, TABLE_METHODS
from msmeta.statistics import mean_ci

Point = dict[str, Any]
Key = tuple[str, str, int, tuple[int, ...]]  # setting, method without its window, T, lengths of the windows
MULTI_STEP, TRANSFERRED = "Multi-step (MAML where N = 1)", "Multi-step (L2T-ww where N = 1)"
_EXACT = {MULTI_STEP: "MAML", TRANSFERRED: "L2T-ww"}
_NETWORK = gradients.GRADIENT_PROBLEMS["omniglot"]
_MOMENTUM = 0.9  # of the inner SGD in all committed runs


def points() -> list[Point]:
    """A point for each setting, method, T and partition of which anything was measured.

    exact: what a method of windows is called where each is of one step. accuracy (%): mean over seeds; half: half-width
    of its 95 % interval, over seeds or else over episodes. seconds: of an iteration of the same configs, alone on one
    idle core. cost: {seconds, bytes} of a meta-iteration of the costs' benchmark. cosine: with the exact meta-gradient,
    with its half-width, and `problem`, on which it was measured. paper: {value, spread}. What was not measured is None.
    """
    found = _trained()
    for row in (_costs() or {"metrics": []})["metrics"]:
        own = Cell.of(row)
        if own.window <= own.steps:
            setting = f"{data.find('omniglot').title}, {own.way}-way {own.shot}-shot"
            key = setting, _family(own.estimator), own.steps, _windows(own.estimator, own.window, own.steps)
            found.setdefault(key, {})["cost"] = {name: row[name] for name in ("seconds", "bytes")}
    for key, reported in _reported().items():
        found.setdefault(key, {})["paper"] = reported
    near = _cosines()
    for method, steps, windows in (key for key, own in near.items() if own["problem"] == _NETWORK):
        found.setdefault((f"{data.find('omniglot').title}, 5-way 1-shot", method, steps, windows), {})
    made = []
    for key in sorted(found, key=_order):
        setting, method, steps, windows = key
        named = {"setting": setting, "method": method, "exact": _EXACT.get(method), "steps": steps}
        named["windows"] = list(windows)
        usual = dict.fromkeys(("accuracy", "half", "seconds", "cost", "paper", "runs"))
        made.append(named | usual | {"cosine": near.get((method, steps, windows))} | found[key])
    return made


def view() -> Interactive:
    """The page's part."""
    found = _costs()
    config = found and found["config"]
    size = found and f"{config['filters']} filters, {config['tasks']} tasks, {found['provenance']['device']}"
    return Interactive("turn", points=points(), size=size or "", windows=[4, 4])


def _costs() -> Result | None:
    """A processor's where there is one, as the seconds of an iteration are."""
    return next(reversed(find_benchmarks("benchmarks/few_shot_costs")), None)


def _trained() -> dict[Key, Point]:
    """Committed runs with a preset's epochs and a transfer step's usual rate; of the presets that have run the same the
    paper's counts."""
    every = [*cells(frame.committed(FEW_SHOT)), *cells(frame.committed(TRANSFER, transfer_rate=1.0))]
    usual = [seeds for seeds in every if seeds["row"].iloc[0] == seeds["label"].iloc[0]]
    usual.sort(key=lambda seeds: seeds["preset"].iloc[0])
    return {_key(seeds["title"].iloc[0], seeds["config"].iloc[0]): _of_runs(seeds) for seeds in usual}


def _key(title: str, config: Config) -> Key:
    """Without transfer steps, which have no windows either, a method of meta-transfer has its own name."""
    if isinstance(config, few_shot.FewShotConfig):
        setting, method, steps = few_shot.setting(config), _family(config.estimator), config.steps
    elif config.estimator == "multistep" and config.steps:
        setting, method, steps = transfer.setting(config), TRANSFERRED, config.steps
    else:
        steps = 0 if config.estimator == "scratch" else config.steps
        return f"{title}, {transfer.setting(config)}", transfer.label(config), steps, ()
    return f"{title}, {setting}", method, steps, _windows(config.estimator, config.window, steps)


def _of_runs(seeds: pd.DataFrame) -> Point:
    run = seeds.iloc[0]
    mean, half = mean_ci(list(seeds["accuracy"]))
    iterations = sorted(set(seeds["iterations"]))
    return {
        "accuracy": mean,
        "half": run.get("accuracy_ci95") if half is None else half,
        "seconds": seconds_per_iteration(run["config"]),
        "runs": {"preset": run["preset"], "seeds": list(seeds["seed"]), "iterations": iterations,
                 "files": [file for file in seeds["file"] if file]},
    }  # fmt: skip


def _reported() -> dict[Key, Point]:
    """What the paper has in Tables 2 to 5, with the steps that its protocol has."""
    configs: list[tuple[int, Config]] = [
        (number, few_shot.preset_config("paper", dataset, way, shot, **values))
        for number, dataset in PAPER_DATA.items()
        for (way, shot), values in product(SETTINGS[number], methods())
    ]
    configs += [
        (number, transfer.preset_config("paper", dataset, optimizer=optimizer, **values))
        for (number, optimizer), dataset, values in product(OPTIMIZERS.items(), DATASETS, TABLE_METHODS)
    ]
    printed = ((config, paper.cell(number, vars(config))) for number, config in configs)
    return {
        _key(data.find(config.dataset).title, config): {"value": cell.value, "spread": cell.spread}
        for config, cell in printed
        if cell
    }


def _cosines() -> dict[tuple[str, int, tuple[int, ...]], Point]:
    """After meta-training with exact gradients, on Omniglot where that was measured, else on sine regression."""
    found = {}
    measured, _ = products.measured()
    for problem in ("sine", "omniglot"):
        for (name, steps), result in measured.items():
            if name == problem:
                last = max(row["iterations"] for row in result["metrics"])
                for row in products.rows_at(measured, (name, steps, last, _MOMENTUM)):
                    if row["cosine"]:
                        found[_of_row(row, steps)] = _cosine(*mean_ci(row["cosine"]), problem)
    if result := find_benchmark("meta-gradients/omniglot"):
        last = max(row["iterations"] for row in result["metrics"])
        for row in result["metrics"]:
            place = row["iterations"], row["trained_window"], row["momentum"]
            if place == (last, 1, _MOMENTUM) and "cosine" in row:
                key = _of_row(row, result["config"]["steps"])
                found[key] = _cosine(row["cosine"], gradients.half_width(row, "cosine"), "omniglot")
    return {key: value for key, value in found.items() if key[0]}


def _cosine(mean: float, half: float | None, problem: str) -> Point:
    return {"value": mean, "half": half, "problem": gradients.GRADIENT_PROBLEMS[problem]}


def _of_row(row: dict[str, Any], steps: int) -> tuple[str, int, tuple[int, ...]]:
    estimator = row["estimator"]
    method = _family(estimator) if estimator in few_shot.ESTIMATORS else ""
    return method, steps, _windows(estimator, row.get("window") or 1, steps)


def _family(estimator: str) -> str:
    """A method without its window."""
    return MULTI_STEP if estimator == "multistep" else few_shot.method(estimator)


def _windows(estimator: str, window: Any, steps: int) -> tuple[int, ...]:
    """The lengths of the windows; none of a method that has none."""
    if estimator != "multistep":
        return ()
    if np.ndim(window):
        return tuple(window)
    return uniform(steps, window)


def _order(key: Key) -> tuple[Any, ...]:
    setting, method, steps, windows = key
    return setting != "Omniglot, 20-way 1-shot", setting, method not in _EXACT, method, steps, -len(windows), windows
