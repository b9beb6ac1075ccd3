"""Stored runs of meta-transfer as training would write them, and how tests read the tables made from them."""

from msmeta import data, runs
from msmeta.experiments import transfer
from msmeta.report import transfer as report
from msmeta.report.frame import TRANSFER, frame

PROVENANCE = {"device": "a processor", "threads": 2, "torch": "2", "commit": "abc"}


def result(
    method="Baseline", accuracy=40.0, seed=0, preset="cpu", dataset="cifar-100", optimizer="sgd",
    device=PROVENANCE["device"], **changes
):  # fmt: skip
    """A stored run as training would write it; its numbers are this test's."""
    config = transfer.preset_config(
        preset, dataset, optimizer=optimizer, seed=seed, **report.METHODS[method], **changes
    )
    scratch = config.estimator == "scratch"
    epochs, measured = range(1, config.epochs + 1), config.steps > 1 and config.window == 1 and not scratch
    metrics = {
        "accuracy": accuracy, "last_accuracy": accuracy - 1, "validation_accuracy": accuracy + 1,
        "selected_epoch": config.epochs, "iterations": 100, "seconds_per_iteration": 0.5, "seconds_per_epoch": 10.0,
        "images": {"train": 5000, "validation": 5000, "test": 10000},
    }  # fmt: skip
    if not scratch:
        metrics["meta_movement"] = {"what": 2.0 + seed, "where": 0.5}
        metrics["pair_weights"] = [[1.0, 0.5 + seed / 2, 1.25]] * 5
    return {
        "kind": "transfer",
        "config": runs.plain(config),
        "metrics": metrics,
        "log": {
            "iteration": list(range(10, 101, 10)),
            "seconds": list(range(10)),
            "total_loss": [1.0] * 10,
            "outer_loss": [None if scratch else 1.0] * 10,
            "gradient_change": [0.5 - 0.04 * i + 0.01 * seed if measured else None for i in range(10)],
        },
        "curve": {
            "epoch": list(epochs),
            "seconds": [config.window * 10.0 * epoch for epoch in epochs],
            "accuracy": [max(0.0, accuracy + 1 - config.epochs + epoch) for epoch in epochs],
            "pair_weight": [None if scratch else 0.5] * len(epochs),
        },
        "data": {"name": dataset, "title": data.DATASETS[dataset].title, "hash": "0"},
        "source": None if scratch else {"name": config.source, "hash": "0"},
        "provenance": PROVENANCE | {"device": device, "train_seconds": 80.0},
    }


def few_shot(config, metrics, curve, seconds=180.0, **more):
    """A stored few-shot run with these numbers. seconds: of training."""
    return {
        "config": runs.plain(config),
        "metrics": metrics,
        "log": {"iteration": [], "seconds": [], "loss": [], "accuracy": []},
        "curve": curve,
        "data": {"name": config.dataset, "title": config.dataset.title(), "hash": "0"},
        "provenance": PROVENANCE | {"train_seconds": seconds},
    } | more


def committed(**changes):
    """The runs of Table 2 with three seeds: Scratch 30, 31, 32; Baseline 40, 41, 42; Multi-step 39.9, 41, 41.8."""
    accuracies = {"Scratch": (30, 31, 32), "Baseline": (40, 41, 42), "Multi-step": (39.9, 41, 41.8)}
    return [result(m, a, seed, **changes) for m, own in accuracies.items() for seed, a in enumerate(own)]


def of(*results):
    return frame(TRANSFER, results)


def cell(table, row, column):
    lines = [[part.strip() for part in line.strip("|").split("|")] for line in table.partition("\n\n")[0].splitlines()]
    (found,) = [line for line in lines if line[0] == row]
    return found[lines[0].index(column)]


def line(table, *parts):
    (found,) = [line for line in table.splitlines() if all(part in line for part in parts)]
    return [part.strip() for part in found.strip("|").split("|")]


def row_of(table, group, row):
    """The cells of a row of `report.html.Rows` by the heads of their columns."""
    (found,) = [own for title, rows in table.groups if group in title for own in rows if own[0] == row]
    return dict(zip(table.heads, found, strict=True))
