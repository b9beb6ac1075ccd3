"""Speed of a few-shot meta-iteration: beside a plain loop, above its floor, and by formulation of the convolution."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from typing import Any

from msmeta import data, runs
from msmeta.experiments import few_shot
from msmeta.experiments.config import Config
from msmeta.experiments.few_shot import method
from msmeta.experiments.registry import experiment_of
from msmeta.experiments.transfer import TransferConfig
from msmeta.report import stored
from msmeta.report.frame import FEW_SHOT, TRANSFER, commit_in_words
from msmeta.report.style import Result, disturbance, find_benchmark, markdown, measured_with, table_of
from msmeta.statistics import paired, plus_minus

Row = dict[str, Any]
STEP_METHODS = {"1": method("multistep"), "first-order": method("first-order")} | {
    str(window): method("multistep", window) for window in (2, 4, 8)
}
CODES = {"plain": "plain loop", "higher": "higher", "torchopt": "TorchOpt", "msmeta": "msmeta"}
"""Whose code, by its name in the result of few_shot_step.py."""
PEERS = ("higher", "torchopt")
_TOLD = {"few-shot": (FEW_SHOT, ("window",)), "transfer": (TRANSFER, ("steps", "window"))}
"""What the tables below tell of a run beside what each preset asks for: all else is the preset's."""


def step_table(result: Result) -> str:
    """A meta-iteration on a CPU as a multiple of the plain exact loop's time, and in seconds; beside it the floor."""
    base = result["metrics"]["plain 1"]["seconds"]

    def shown(row: Row) -> str:
        return f"{row['seconds'] / base:.2f} ({row['seconds']:.2f} s)"

    floors = [shown({"seconds": result["metrics"][f"plain {name}"]["floor_seconds"]}) for name in STEP_METHODS]
    return _by_code(result, shown, floor=floors)


def step_memory(result: Result) -> str:
    """Memory of the same (MB)."""
    return _by_code(result, lambda row: f"{row['bytes'] / 1e6:.0f}")


def _by_code(result: Result, shown: Callable[[Row], str], **more: list[str]) -> str:
    """A row a method and a column a code, in Markdown; and more columns."""
    peers = result.get("peers", {})

    def cell(code: str, name: str) -> str:
        if row := result["metrics"].get(f"{code} {name}"):
            return shown(row)
        return "-" if code in peers or name != "1" else "not run"

    rows = (
        " | ".join([label, *(cell(code, name) for code in CODES), *(column[i] for column in more.values())])
        for i, (name, label) in enumerate(STEP_METHODS.items())
    )
    return table_of(" | ".join(["Method", *CODES.values(), *more]), rows)


def peers_line(result: Result) -> str:
    """Which versions of others' codes the table shows, or how those that it lacks are run."""
    found = result.get("peers", {})
    versions = [f"{CODES[peer]} {found[peer]}" for peer in PEERS if peer in found]
    absent = [CODES[peer] for peer in PEERS if peer not in found]
    said = [f"Others' codes: {', '.join(versions)}; they have no windows."] if versions else []
    if absent:
        said.append(f"{', '.join(absent)}: not run, `pip install -e '.[bench]' && msmeta bench few_shot_step`.")
    return " ".join(said)


def step_ratio(result: Result, method: str, base: str) -> str:
    """Time of one row of few_shot_step.py as a multiple of another's."""
    return f"{result['metrics'][method]['seconds'] / result['metrics'][base]['seconds']:.2f}"


def seconds_per_iteration(config: Config, threads: int = 1) -> float | None:
    """Of a run of this config that is alone on the machine (benchmarks/seconds.py); None where it was not measured."""
    experiment, wanted = experiment_of(config)[0], config.work()
    defaults = {field.name: field.default for field in fields(config)}  # of fields that the measurement did not know
    for row in _rows():
        same = row["threads"] == threads and row["experiment"] == experiment
        if same and all((defaults | row["work"])[name] == value for name, value in wanted.items()):
            return row["seconds"]
    return None


def seconds_per_epoch(config: TransferConfig) -> float | None:
    """Likewise, of an epoch of meta-transfer."""
    seconds = seconds_per_iteration(config)
    images = config.train_images or len(data.find(config.dataset).splits["train"])
    return None if seconds is None else seconds * (images // config.batch)


def seconds_table(experiment: str) -> str:
    """Seconds of an iteration of the `cpu` preset's runs of an experiment, on one core and on all, in Markdown: a table
    a data set, a row a method."""
    module = _TOLD[experiment][0].module
    tables: dict[str, dict[str, dict[str, list[str]]]] = {}
    for row, config in _iterations():
        if row["experiment"] == experiment:
            methods = tables.setdefault(data.find(config.dataset).title, {})
            cells = methods.setdefault(module.label(config), {}).setdefault(module.setting(config), [])
            cells.append(f"{row['seconds']:.3f}")
    parts = []
    for title, methods in tables.items():
        columns = list(dict.fromkeys(column for own in methods.values() for column in own))
        rows = ([label, *(" / ".join(own.get(column, ["-"])) for column in columns)] for label, own in methods.items())
        parts.append(f"**{title}**\n\n{markdown(['Method', *columns], rows)}")
    return "\n\n".join(parts) or "Not run: `msmeta bench seconds`, on an idle machine."


def cores_table() -> str:
    """Seconds of a few-shot iteration with one worker and with one a core, by the kind of run, in Markdown."""
    rows = []
    for row, config in _iterations():
        alone = seconds_per_iteration(config)
        if row["experiment"] == "few-shot" and row["threads"] > 1 and alone:
            run = f"{data.find(config.dataset).title}, {few_shot.setting(config)}, {few_shot.label(config)}"
            gain = f"{alone / row['seconds']:.2f}"
            rows.append([run, f"{alone:.3f}", row["threads"], f"{row['seconds']:.3f}", gain])
    heads = ["Run", "one worker (s)", "workers", "these (s)", "times as fast"]
    return markdown(heads, rows) if rows else "Not run: `msmeta bench seconds`, on an idle machine."


def _iterations() -> Iterator[tuple[Row, Config]]:
    """The rows of benchmarks/seconds.py that are of the `cpu` preset's own runs, and a config of each."""
    for row in _rows():
        experiment, told = _TOLD[row["experiment"]]
        config = experiment.module.preset_config(preset="cpu", **row["work"])
        work = config.work()
        if experiment.preset(config, experiment.required).work() | {name: work[name] for name in told} == work:
            yield row, config


def _rows() -> list[Row]:
    result = find_benchmark("benchmarks/seconds")
    return result["metrics"] if result else []


def convolutions_table() -> str:
    """Committed results of benchmarks/convolutions.py, in Markdown."""
    results = filter(None, map(stored.find, sorted((runs.results_root() / "benchmarks").glob("convolutions-*.json"))))
    return table_of(
        "Device, precision | Formulation | query pass (ms) | recorded inner step (ms) | code",
        (
            f"{result['provenance']['device']}, {result['config']['precision']} | {row['formulation']} | "
            f"{1000 * row['first']:.2f} | {1000 * row['second']:.2f} | {commit_in_words(result['provenance'])}"
            f"{disturbance(result['provenance'])}"
            for result in results
            for row in result["metrics"]
        ),
    )


def rounding_table() -> str:
    """How far float32's rounding takes a meta-gradient and a training (benchmarks/rounding.py), in Markdown."""
    result = find_benchmark("benchmarks/rounding")
    if result is None:
        return "Not run: `msmeta bench rounding`."
    rows = []
    for row in result["metrics"]:
        narrow, wide = ({seed: [value] for seed, value in enumerate(own)} for own in row["accuracies"].values())
        apart = paired(narrow, wide)
        rows.append([
            method("multistep", row["window"]), f"{statistics.median(row['errors']):.1e}", f"{max(row['errors']):.1e}",
            plus_minus(apart.mean, apart.half, "+.2f"),
        ])  # fmt: skip
    iterations, seeds = result["config"]["iterations"], result["config"]["seeds"]
    heads = ["Method", "median error", "largest error", f"accuracy after {iterations} iterations, {seeds} seeds"]
    work = f"{data.find(result['config']['dataset']).title}, {result['config']['way']}-way 1-shot."
    return f"{work} {measured_with(result)}\n\n{markdown(heads, rows)}"


def graph_table() -> str:
    """A whole meta-iteration on a GPU (benchmarks/few_shot_graph.py), in Markdown, or that it was not run."""
    result = find_benchmark("benchmarks/few_shot_graph")
    if result is None:
        return "Not run: `python benchmarks/few_shot_graph.py`, on a machine with a GPU."
    rows = table_of(
        "Method | precision | time (ms) | times the floor | memory (MB) | cosine with float32 | relative difference",
        (
            f"{method(row['estimator'], row['window'])} | {row['precision']} | {1000 * row['seconds']:.2f} | "
            f"{row['seconds'] / row['floor_seconds']:.1f} | {row['bytes'] / 1e6:.0f} | {row['cosine']:.6f} | "
            f"{row['relative_difference']:.1e}"
            for row in result["metrics"]
        ),
    )
    return f"{measured_with(result)}\n\n{rows}\n\n{_aimed_at(result['metrics'])}".rstrip()


_AIMS = {1: 5, 8: 2}
"""Milliseconds of a meta-iteration in float32 on one H200, by window."""


def _aimed_at(rows: Iterable[Result]) -> str:
    """What was aimed at, and what it came to."""
    found = {row["window"]: 1000 * row["seconds"] for row in rows
             if (row["estimator"], row["precision"]) == ("multistep", "float32")}  # fmt: skip
    said = (
        f"{method('multistep', window)} {aim} ms at the most, measured {found[window]:.1f}"
        for window, aim in _AIMS.items()
        if window in found
    )
    return f"Aimed at on one H200 in float32: {'; '.join(said)}." if _AIMS.keys() & found.keys() else ""
