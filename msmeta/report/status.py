"""The status of the reproduction: each cell of Tables 2 to 5, with what was run for it, or the command that would."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from msmeta import data
from msmeta.report import few_shot, paper, tables, transfer
from msmeta.report.frame import FEW_SHOT, TRANSFER, Experiment, Values
from msmeta.report.style import markdown
from msmeta.report.tables import accuracy_text, listed


def cells(number: int) -> str:
    """The cells of Table 2, 3, 4 or 5 of the paper, in Markdown: a row each, and the commands that those take which
    were not run."""
    experiment, found, places = _table(number)
    rows = [_row(experiment, number, found, place, method) for place, method in places]
    heads = ["Cell", "Paper (%)", "Ours (%)", "preset", "seeds", "iterations", "hours of training"]
    missing: dict[str, list[Values]] = {"cpu": [], "paper": []}
    for place, method in places:
        if _seeds(experiment, found, place, method).empty:
            missing["paper" if data.DATASETS[place["dataset"]].side == 224 else "cpu"].append(place | method)
    commands = [tables.commands(experiment, preset, found, values, [0]) for preset, values in missing.items()]
    return "\n\n".join([markdown(heads, rows) + tables.PLUS_MINUS, *filter(None, commands)])


def summary() -> str:
    """How many cells of each table were run, by how many seeds at the least and at the most, in Markdown."""
    rows = []
    for number in (2, 3, 4, 5):
        experiment, found, places = _table(number)
        ran = [len(own) for place, method in places if len(own := _seeds(experiment, found, place, method))]
        seeds = listed([min(ran), max(ran)]).replace(", ", " to ") if ran else "-"
        rows.append([number, len(places), len(ran), seeds])
    return markdown(["Table", "cells of the paper", "run", "seeds of each"], rows)


def _table(number: int) -> tuple[Experiment, pd.DataFrame, list[tuple[Values, Values]]]:
    """The experiment, its committed runs, and (place, method) of each cell in which the paper has a number."""
    if number in transfer.OPTIMIZERS:
        experiment, found, methods = TRANSFER, transfer.committed(), transfer.TABLE_METHODS
        own = {"optimizer": transfer.OPTIMIZERS[number]}
        places = [{"dataset": dataset, **own} for dataset in transfer.DATASETS]
    else:
        experiment, found, methods = FEW_SHOT, few_shot.committed(), few_shot.methods()
        places = few_shot.places(number, few_shot.PAPER_DATA[number])
    return experiment, found, list(_printed(experiment, number, places, methods))


def _printed(experiment: Experiment, number: int, places: list[Values], methods: list[Values]) -> Iterator[tuple]:
    for place in places:
        for method in methods:
            if paper.cell(number, vars(experiment.module.preset_config("paper", **place, **method))):
                yield place, method


def _seeds(experiment: Experiment, found: pd.DataFrame, place: Values, method: Values) -> pd.DataFrame:
    return tables.of_best_preset(experiment, found, place, [method])[0]


def _row(experiment: Experiment, number: int, found: pd.DataFrame, place: Values, method: Values) -> list[object]:
    config, own = experiment.module.preset_config("paper", **place, **method), _seeds(experiment, found, place, method)
    name = f"{data.DATASETS[config.dataset].title}, {experiment.module.setting(config)}, {experiment.row(config)}"
    reported = paper.cell(number, vars(config))
    if own.empty:
        return [name, reported, "not run", *["-"] * 4]
    hours = own["train_seconds"].sum() / 3600
    counts = listed(own["seed"]), listed(own["iterations"]), f"{hours:.2f}"
    return [name, reported, accuracy_text(own), own["preset"].iloc[0], *counts]
