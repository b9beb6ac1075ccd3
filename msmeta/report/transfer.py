"""Section 5.1: accuracy of meta-transfer, the paper's beside what was measured here, and how it was measured."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import pandas as pd

from msmeta import data
from msmeta.errors import ConfigError
from msmeta.experiments import transfer
from msmeta.report import claims, frame, live, paper, tables, tuning
from msmeta.report.claims import Claim, Finding
from msmeta.report.frame import TRANSFER, Values
from msmeta.report.html import Rows
from msmeta.report.picture import Picture
from msmeta.report.style import markdown
from msmeta.report.tables import Column, Columns, at_the_end, mean_text, of_config
from msmeta.statistics import Bounds

SCRATCH = {"estimator": "scratch"}
BASELINE = {"estimator": "multistep", "steps": 2, "window": 1, "transfer_rate": 1.0}
MULTI_STEP = BASELINE | {"window": 2}
FIXED = BASELINE | {"steps": 0}
"""Transfer with a θ that stays at its start, which Baseline and Multi-step become as the rate of θ goes to zero."""
METHODS: dict[str, Values] = {
    "Scratch": SCRATCH,
    "Baseline": BASELINE,
    "Multi-step": MULTI_STEP,
    "0-step": FIXED,
    "1-step": BASELINE | {"steps": 1},
    "1-step, 2·lr": BASELINE | {"steps": 1, "transfer_rate": 2.0},
    "3-step": BASELINE | {"steps": 3},
    "3-step Est. (3)": BASELINE | {"steps": 3, "window": 3},
    "First-order": {"estimator": "first-order"},
}
"""The methods of Tables 2 and 3, then those that Figure 4 and Section 5.1 add, by the names that a user gives."""
TABLE_METHODS = (SCRATCH, BASELINE, MULTI_STEP)
ROWS = (SCRATCH, FIXED, BASELINE, MULTI_STEP)
"""Those of the paper's Tables 2 and 3, and the rows of ours."""
OPTIMIZERS = {2: "sgd", 3: "adam"}
"""Inner optimiser of each of the paper's tables."""
DATASETS = tuple(data.TABLE_6)
"""Their columns."""
SEEDS = (0, 1, 2)
"""The paper's ± is over three models."""


def methods(names: Sequence[str]) -> list[Values]:
    """Methods by their names in the tables. Raises ConfigError for an unknown one."""
    if unknown := [name for name in names if name not in METHODS]:
        raise ConfigError(f"unknown method {unknown[0]!r}: choose from {'; '.join(METHODS)}")
    return [METHODS[name] for name in names]


def window_methods(steps: int = 2, window: int = 2) -> list[Values]:
    """No transfer, T steps exactly, and T steps in windows of N."""
    return [SCRATCH, BASELINE | {"steps": steps}, BASELINE | {"steps": steps, "window": window}]


train = partial(live.train, TRANSFER)
"""Trains live runs (`live.train`), on glyphs where the data set or the source network cannot be had."""
committed = partial(frame.committed, TRANSFER)
"""Committed runs (`frame.committed`)."""


def side_by_side(number: int) -> Rows:
    """Table 2 or 3 of the paper beside ours (`tables.side_by_side`).

    Rows that the paper lacks, T = 0 and such as Scratch with more epochs, are added.
    """
    found = committed(optimizer=OPTIMIZERS[number])
    methods = [each for base in ROWS for each in (base, *longer(found, base))]
    places = [{"dataset": dataset, "optimizer": OPTIMIZERS[number]} for dataset in DATASETS]
    return tables.side_by_side(TRANSFER, number, found, methods, places)


def of_table(found: pd.DataFrame) -> pd.DataFrame:
    """The runs of the rows of Tables 2 and 3, whatever their epochs."""
    return found.loc[[any(m.items() <= vars(config).items() for m in ROWS) for config in found["config"]]]


def longer(found: pd.DataFrame, method: Values) -> list[Values]:
    """A method with each number of epochs that is not its preset's and that it was run with."""
    own = frame.where(found, **method)["config"]
    epochs = {config.epochs for config in own if TRANSFER.other_epochs(config)}
    return [method | {"epochs": count} for count in sorted(epochs)]


COMPETITIVE = "competitive results compared with Baseline"
BOOSTS = "greatly boosts the performance of transfer learning"


def findings(number: int, found: pd.DataFrame) -> list[Finding]:
    """What is found of each claim on Table 2 or 3 for the data sets that were run, or else for CIFAR-100.

    Rows of which the paper says nothing are added: with more epochs than the preset's Multi-step's against the
    Baseline and what transfers against Scratch's, and what learns θ against T = 0.
    """
    own = []
    for dataset in [name for name in DATASETS if name in set(found["dataset"])] or ["cifar-100"]:
        where = {"dataset": dataset, "optimizer": OPTIMIZERS[number]}
        here = found[found["dataset"] == dataset]
        own += [
            Claim(COMPETITIVE, MULTI_STEP, BASELINE, where, Bounds(-1)),
            Claim(BOOSTS, BASELINE, SCRATCH, where, Bounds(0)),
            Claim(BOOSTS, MULTI_STEP, SCRATCH, where, Bounds(0)),
        ]
        pairs = [(method, BASELINE) for method in longer(here, MULTI_STEP)]
        others = [*longer(here, SCRATCH), *([FIXED] if len(frame.where(here, **FIXED)) else [])]
        pairs += [(method, other) for other in others for method in (BASELINE, MULTI_STEP)]
        own += [Claim("not in the paper", *pair, where, Bounds(0), printed=False) for pair in pairs]

    def place(config: transfer.TransferConfig) -> str:
        return f"{data.find(config.dataset).title}, {transfer.setting(config)}"

    return claims.find(TRANSFER, number, found, own, place, at_the_end)


def claims_table(number: int, found: pd.DataFrame) -> Rows:
    """The same as a table."""
    return claims.table({"Ours": findings(number, found)}, f"The paper's claims on its Table {number}, one by one.")


def commands(preset: str, optimizer: str, methods: Iterable[Values], datasets: Iterable[str]) -> str:
    """The commands that would run what this preset has not run, as a code block; empty if there are none."""
    values = [{"dataset": dataset, **method, "optimizer": optimizer} for dataset in datasets for method in methods]
    return tables.commands(TRANSFER, preset, committed(optimizer=optimizer), values, SEEDS)


def presets(optimizer: str) -> str:
    """What a run of each preset is on CIFAR-100, in Markdown; the `paper` preset is the paper's protocol."""
    counts, columns = data.TABLE_6["cifar-100"], []
    for preset in ("paper", "cpu", "quick"):
        place = {"preset": preset, "dataset": "cifar-100", "optimizer": optimizer}
        scratch, own, windows = (transfer.preset_config(**place, **method) for method in TABLE_METHODS)
        images = own.train_images or counts["train"]
        columns.append(
            {
                "": f"`{preset}`",
                "training images": f"{images:,}",
                "validation images, for the choice of the epoch": f"{counts['validation']:,}",
                "test images": f"{counts['test']:,}",
                "split": own.split,
                "source network": own.source,
                "target network": _network(own),
                "images of a minibatch": own.batch,
                "epochs": own.epochs,
                "iterations": f"{own.epochs * (images // own.batch):,}",
                "first rate of φ, annealed by Eq. 55": f"{own.lr:g}, weight decay {own.weight_decay:g}",
                "first rate of φ, Scratch": f"{scratch.lr:g}",
                "rate of θ (Adam)": f"{own.meta_lr:g}, weight decay {own.meta_weight_decay:g}",
                "rate of θ, Multi-step": f"{windows.meta_lr:g}",
                "β": f"{own.beta:g}",
            }
        )
    head, *rows = zip(columns[0], *(column.values() for column in columns), strict=True)
    return markdown(head, rows)


def _network(config: transfer.TransferConfig) -> str:
    return config.target if config.width == 1 else f"{config.target}, channels x {config.width:g}"


def tuning_table(optimizer: str) -> str:
    """What was tried for the `cpu` preset's rates, in Markdown: best accuracy (%) on validation images of the epochs,
    and pairs that are off."""

    def note(run: pd.Series) -> str:
        return "" if run["estimator"] == "scratch" else f" ({pairs_off(run['pair_weights'])} off)"

    return tuning.table(TRANSFER, _tuned(optimizer), "epochs", note)


def tuned(optimizer: str) -> pd.DataFrame:
    """The runs of this table."""
    return tuning.runs_of(_tuned(optimizer))


def tuning_stability(optimizer: str) -> str:
    """Which of these was best after each epoch (`tuning.stability`), in Markdown."""
    return tuning.stability(_tuned(optimizer), "epochs")


def tuning_figure(optimizer: str) -> Picture | str:
    """The curves of these runs (`tuning.figure`)."""
    return tuning.figure(_tuned(optimizer), "Tuning, validation images", "epochs")


def _tuned(optimizer: str) -> list[tuning.Grid]:
    return tuning.grids(TRANSFER, lambda run: (run.dataset, run.label, run.epochs), _best_so_far, optimizer=optimizer)


def _best_so_far(run: Any) -> tuning.Points:
    """By the epoch: the network of the best one is what is tested."""
    best = itertools.accumulate(run.curve["accuracy"], max)
    return {epoch: [accuracy] for epoch, accuracy in zip(run.curve["epoch"], best, strict=True)}


def pairs_off(pair_weights: Sequence[Sequence[float]]) -> int:
    """Pairs with λ under 0.01: they take no part, and ReLU6 passes them hardly any gradient to come back."""
    return sum(weight < 0.01 for row in pair_weights for weight in row)


def live_table(found: pd.DataFrame) -> str:
    """Live runs beside the paper's cell of the same method, data set and optimiser, in Markdown."""
    numbers = {optimizer: number for number, optimizer in OPTIMIZERS.items()}
    own = {
        "Validation (%)": lambda seeds: mean_text(seeds["validation_accuracy"]),
        "Epochs": "{epochs}",
        "ms an iteration": lambda seeds: mean_text(1000 * seeds["seconds_per_iteration"], 0),
    }
    return tables.live_table(found, lambda config: paper.cell(numbers[config.optimizer], vars(config)), own)


def steps_text(config: transfer.TransferConfig) -> str:
    """T and N; nothing where nothing is transferred."""
    return "-" if config.estimator == "scratch" else f"{config.steps} / {config.window}"


def _of_transfer(template: str) -> Column:
    """Of a config that transfers; Scratch has none of it."""
    return of_config(lambda config: "-" if config.estimator == "scratch" else template.format(**vars(config)))


_SETTINGS: Columns = {
    "images for training / validation / test": "{images[train]:,} / {images[validation]:,} / {images[test]:,}",
    "split": "{split}",
    "source": _of_transfer("{source}"),
    "target": of_config(_network),
    "T / N": of_config(steps_text),
    "lr / momentum or β₁ / weight decay": "{lr:g} / {momentum:g} / {weight_decay:g}",
    "meta lr": _of_transfer("{meta_lr:g}"),
    "minibatch": "{batch}",
    "epochs": "{epochs}",
}
_OUTCOMES: Columns = {
    "epochs selected": lambda seeds: ", ".join(map(str, seeds["selected_epoch"])),
    "last epoch's test accuracy (%)": lambda seeds: mean_text(seeds["last_accuracy"]),
}
conditions = partial(tables.conditions, settings=_SETTINGS, outcomes=_OUTCOMES)
"""What the runs of each row were run with (`tables.conditions`)."""
