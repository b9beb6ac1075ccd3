"""The status of the reproduction: how many cells of Tables 2 to 5 were run, and what that took."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from msmeta.report import few_shot, paper, stored, tables, transfer
from msmeta.report.frame import FEW_SHOT, TRANSFER, Experiment, Values, many, on_cpu
from msmeta.report.html import Rows, link
from msmeta.report.style import markdown
from msmeta.report.tables import listed


def summary() -> Rows:
    """How many cells of each table were run, by how many seeds at the least and at the most, and the hours of training
    of all its runs."""
    rows = []
    for number in (2, 3, 4, 5):
        experiment, found, places = _table(number)
        ran = [own for place, method in places if len(own := _seeds(experiment, found, place, method))]
        seeds = listed([min(map(len, ran)), max(map(len, ran))]).replace(", ", " to ") if ran else "-"
        presets = listed(own["preset"].iloc[0] for own in ran) or "-"
        hours = sum(own["train_seconds"].sum() for own in ran) / 3600
        own = link(f"Table {number}", f"table_{number}")
        rows.append([own, str(len(places)), str(len(ran)), seeds, presets, f"{hours:.1f}"])
    heads = ["Table", "Cells of the paper", "Run", "Seeds of each", "Preset", "Hours of training"]
    return Rows("What was run of the paper's tables.", heads, [("", rows)], heads[1:])


CORE_WATTS = 10
"""Of one busy core of a server with its share of memory: an assumption, for no meter was read."""
GPU_WATTS = 700
"""The most that the data sheets of an H100 and an H200 allow."""
_KINDS = {
    "few-shot": "few-shot learning", "transfer": "meta-transfer learning",
    "few-shot-tuning": "choosing settings, few-shot", "transfer-tuning": "choosing settings, meta-transfer",
}  # fmt: skip


def cost() -> str:
    """Hours of training of all committed runs, and an estimate of their energy, in Markdown."""
    rows, total, elsewhere = [], 0.0, []
    for kind, name in _KINDS.items():
        every = [result["provenance"] for result in stored.results(kind)]
        found = [own for own in every if on_cpu(own)]
        elsewhere += [own["train_seconds"] / 3600 for own in every if not on_cpu(own)]
        hours = sum(own["train_seconds"] * _cores(own) for own in found) / 3600
        total += hours
        rows.append([name, len(found), f"{hours:.1f}", f"{hours * CORE_WATTS / 1000:.2f}"])
    rows.append(["all", sum(row[1] for row in rows), f"{total:.1f}", f"{total * CORE_WATTS / 1000:.2f}"])
    table = markdown(["Committed runs", "runs", "hours of one core", f"kWh at {CORE_WATTS} W a core"], rows)
    said = "Energy is an estimate: no meter was read. Evaluation, and runs not kept, are left out."
    if elsewhere:
        most = sum(elsewhere) * GPU_WATTS / 1000
        said += (
            f" {many(len(elsewhere), 'more run')} took {sum(elsewhere):.1f} hours on a GPU, which several may have "
            f"shared: {most:.2f} kWh at the most, at {GPU_WATTS} W."
        )
    return f"{table}\n\n{said}"


def _cores(provenance: Values) -> int:
    """That a training kept busy."""
    return provenance.get("workers", provenance["threads"]) * provenance.get("processes", 1)


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
