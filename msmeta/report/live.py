"""Live runs of a notebook: which data they use, and training them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

import pandas as pd

from msmeta import data, runs
from msmeta.errors import ConfigError
from msmeta.report.frame import Experiment, Values, frame


def train(
    experiment: Experiment,
    preset: str,
    dataset: str,
    methods: Iterable[Values],
    device: str,
    force: bool,
    say: Callable[[str], None] = print,
    missing: str = "",
    **values: Iterable[Any],
) -> tuple[pd.DataFrame, str]:
    """Trains each method with each of these values, on a data set or on glyphs; (runs, what data and why).

    Says how each run ended. Finished runs with the same config are reused unless `force`. missing: as in `choose_data`.
    values: of fields of the config; None is the preset's. Raises ConfigError where there is nothing to run.
    """
    dataset, why = choose_data(preset, dataset, missing)
    choices = [[(name, value) for value in own] for name, own in values.items()]
    configs = [
        experiment.module.preset_config(preset, dataset, **method, **{n: v for n, v in chosen if v is not None})
        for *chosen, method in product(*choices, methods)
    ]
    if not configs:
        raise ConfigError("nothing to run: an empty list was given where a method, a seed or a setting is needed")
    results = []
    for config in configs:
        results.append(experiment.module.train(config, device, resume=not force, force=force))
        (run,) = frame(experiment, results[-1:]).itertuples()
        say(
            f"{run.row}, {run.title}, {run.setting}, seed {run.seed}: {run.accuracy:.2f} % after {run.iterations:,} "
            f"iterations in {run.train_seconds:.0f} s on {run.device}"
        )
    return frame(experiment, results), why


def title(found: pd.DataFrame) -> str:
    """What a figure of live runs is of, by the first of them."""
    first = found.iloc[0]
    return f"Live run ({first['preset']}), {first['title']}, {first['setting']}"


def choose_data(preset: str, dataset: str, missing: str = "") -> tuple[str, str]:
    """(data set for live runs, which and why in words): itself, or glyphs of its kind where it cannot be had.

    missing: what else cannot be had, in words. The presets `cpu` and `paper` insist on the data set. Raises ConfigError
    for an unknown one.
    """
    title = data.find(dataset).title
    if preset == "smoke":
        return data.glyphs_like(dataset), f"The smoke preset always uses procedurally drawn glyphs, not {title}."
    if preset in runs.COMMITTED_PRESETS:
        return dataset, f"These runs used {title}."
    if missing:
        why = f"These runs used procedurally drawn glyphs, not {title}, because {missing}."
        return data.glyphs_like(dataset), why
    return data.real_or_glyphs(dataset)


def data_in_words(name: str) -> str:
    """Counts, origin, licence and hash of a data set, in Markdown."""
    entry = data.find(name)
    if entry.purpose == data.FEW_SHOT:
        train, test = (entry.classes_in(split) for split in ("train", "test"))
        what = f"{train:,} classes for meta-training and {test:,} others for meta-test"
        if entry.rotations > 1:
            counts = f"{entry.rotations * train:,} and {entry.rotations * test:,} classes"
            what += f", each also turned by 90, 180 and 270 degrees ({counts})"
        what += f", {entry.samples} images of each"
    else:
        train, validation, test = (f"{len(entry.splits[split]):,}" for split in ("train", "validation", "test"))
        counts = f"{train} images for training, {validation} for validation, {test} for the test"
        what = f"{entry.classes} classes; {counts}"
    return (
        f"**{entry.title}**: {what}, {entry.side}x{entry.side} pixels. Source: {entry.source.rstrip('.')}. "
        f"Licence: {entry.licence.rstrip('.')}. SHA-256 of the arrays: `{data.load(name).hash[:16]}`."
    )
