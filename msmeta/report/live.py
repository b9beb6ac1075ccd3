"""Live runs of a notebook: which data they use, and training them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

import pandas as pd

from msmeta import data, runs
from msmeta.errors import ConfigError, DataError
from msmeta.experiments.transfer import sources
from msmeta.report.frame import TRANSFER, Experiment, Values, frame


def train(
    experiment: Experiment,
    preset: str,
    dataset: str,
    methods: Iterable[Values],
    device: str,
    force: bool,
    say: Callable[[str], None] = print,
    **values: Iterable[Any],
) -> tuple[pd.DataFrame, str]:
    """Trains each method with each of these values, on a data set or on glyphs; (runs, what they used and why).

    Says how each run ended. Finished runs with the same config are reused unless `force`. values: of fields of the
    config; None is the preset's. Raises ConfigError where there is nothing to run.
    """
    dataset, why = _choose_data(experiment, preset, data.known_as(dataset, experiment.kind))
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


def _choose_data(experiment: Experiment, preset: str, dataset: str) -> tuple[str, str]:
    """(data set for live runs, what they use and why): itself, or glyphs where it or the source network is missing.

    The presets `cpu` and `paper` insist on the data set, as on a user's own folder all do. Raises ConfigError for an
    unknown one.
    """
    title, source = data.find(dataset).title, _source(experiment, preset, dataset)
    glyphs = f"These runs used procedurally drawn glyphs, not {title}, because"
    if preset in runs.COMMITTED_PRESETS or data.is_folder(dataset):
        name, why = dataset, f"These runs used {title}."
    elif preset == "smoke":
        name, why = data.glyphs_like(dataset), f"{glyphs} the smoke preset always does."
    elif source and (problem := _cannot_be_had(source)):
        name = data.glyphs_like(dataset)
        why = f"{glyphs} the source network {source} could not be had: {problem}"
    else:
        name, why = data.real_or_glyphs(dataset)
    if source := _source(experiment, preset, name):
        untrained = sources.SOURCES[source].file is None
        why += f" The source network is {source}" + (", untrained: it has nothing to teach." if untrained else ".")
    return name, why


def _source(experiment: Experiment, preset: str, dataset: str) -> str | None:
    """The network that meta-transfer learns from."""
    return experiment.module.preset_config(preset, dataset, "scratch").source if experiment is TRANSFER else None


def _cannot_be_had(source: str) -> str | None:
    """Why not, if the weights of a source network are not here and cannot be downloaded now."""
    try:
        sources.weights_hash(source)
    except DataError as error:
        return str(error)
    return None


def data_in_words(name: str) -> str:
    """Counts, origin, licence and hash of a data set, in Markdown."""
    entry = data.find(name)
    if entry.purpose == data.FEW_SHOT:
        train, test = (f"{entry.classes_in(split):,}" for split in ("train", "test"))
        turned = f", each in {entry.rotations} rotations" if entry.rotations > 1 else ""
        images = f"{entry.samples_in_words} images of each"
        what = f"{train} classes for meta-training and {test} others for meta-test{turned}, {images}"
    else:
        train, validation, test = (f"{len(entry.splits[split]):,}" for split in ("train", "validation", "test"))
        what = f"{entry.classes} classes; {train} images for training, {validation} for validation, {test} for the test"
    if entry.notes:
        what += "".join(f"; {name}: {found}" for name, found in data.in_words(entry) if name not in entry.splits)
    return (
        f"**{entry.title}**: {what}, {entry.side}x{entry.side} pixels. Source: {entry.source.rstrip('.')}. "
        f"Licence: {entry.licence.rstrip('.')}. SHA-256 of the arrays: `{data.load(name).hash[:16]}`."
    )
