"""Under a table or a figure: where its numbers come from, its rows as CSV, the stored files, and what makes them."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from msmeta import runs
from msmeta.experiments import registry, sweep
from msmeta.report.frame import commit_in_words, device_in_words, on_cpu
from msmeta.report.style import Result, disturbance
from msmeta.report.tables import listed

STORED = "results"
"""Where the book has the stored results, as the repository has."""
_LISTS = ["right_answers", "accuracies", "log", "curve", "config", "cell"]
"""Columns of a frame that are no value of a table."""


class Line:
    """One line, which a notebook and a page of the book show: parts in plain words, downloads, and what makes it.

    rows: what the CSV has. files: paths of the stored JSON files below `results/`. command: what makes them. page: on
    which it stands.
    """

    def __init__(self, parts: Iterable[str], rows: pd.DataFrame, files: Iterable[str], command: str, page: str) -> None:
        self.said, self.rows, self.files = "; ".join(filter(None, parts)), rows, list(files)
        self.command, self.page = command, page

    def _repr_html_(self) -> str:
        csv = base64.b64encode(self.rows.to_csv(index=False).encode()).decode()
        links = [f'<a href="{STORED}/{escape(file)}">{escape(file.rpartition("/")[2])}</a>' for file in self.files]
        stored = links[0] if len(links) == 1 else (
            f'<details><summary>JSON of {len(links)} runs</summary>{" ".join(links)}</details>' if links else ""
        )  # fmt: skip
        download = f'<a download="{escape(self.page)}.csv" href="data:text/csv;base64,{csv}">CSV</a>'
        said, both = escape(self.said), ", ".join(filter(None, [download, stored]))
        notebook = f'<a href="_sources/{escape(self.page)}.ipynb">{escape(self.page)}.ipynb</a>'
        made = f"Made by: <code>{escape(self.command)}</code>, shown by {notebook}"
        return f'<div class="provenance">{said}. Download: {both}. {made}</div>'

    def __repr__(self) -> str:
        return f"{self.said}. Made by: {self.command}"


def of_runs(found: pd.DataFrame, page: str) -> Line | str:
    """Of the runs that a table or a figure is made from, on this page; nothing where there are none."""
    if found.empty:
        return ""
    records = found.to_dict("records")
    data = listed(f"{run['title']} (SHA-256 {run['data_hash'][:12]})" for run in records)
    seeds, presets = listed(sorted(set(found["seed"]))), listed(found["preset"])
    seeds = f"{'seed' if found['seed'].nunique() == 1 else 'seeds'} {seeds}"
    splits = listed(config.split for config in found["config"] if hasattr(config, "split"))
    parts = [data, f"split {splits}" if splits else "", f"preset {presets}", seeds, _where(records)]
    files = [file for file in found["file"] if isinstance(file, str)]
    return Line(parts, found.drop(columns=_LISTS, errors="ignore"), files, command_of(found), page)


def of_benchmark(result: Result | None, name: str, page: str) -> Line | str:
    """Of what `msmeta bench NAME` measured; nothing where it did not."""
    device = "" if result is None or on_cpu(result["provenance"]) else " --device cuda"
    return of_measurements({f"benchmarks/{name}": result}, f"msmeta bench {name}{device}", page, "Random images")


def of_measurements(results: Mapping[str, Result | None], command: str, page: str, of: str = "") -> Line | str:
    """Of stored measurements by their names, such as `meta-gradients/omniglot`; nothing where there are none. of: what
    was measured on, where the results do not say."""
    results = {name: result for name, result in results.items() if result}
    if not results:
        return ""
    own = list(results.values())
    config = own[0]["config"]
    size = [f"{config[name]} {name}" for name in ("filters", "tasks") if config.get(name)]
    where = [result["provenance"] for result in own]
    parts = [of, ", ".join(size), _where(where)]
    rows = [{"measurement": name, **row} for name, result in results.items() for row in _rows(result["metrics"])]
    files = [f"{name}{_end(result)}.json" for name, result in results.items()]
    return Line(parts, pd.json_normalize(rows), files, command, page)


def command_of(found: pd.DataFrame) -> str:
    """What makes these runs: the sweeps that ask for them, else the command of the first."""
    cells = set(found["cell"])
    sweeps = [name for name, asked in _sweeps(runs.results_root() / "sweeps").items() if asked & cells]
    if sweeps:
        return "; ".join(f"msmeta sweep results/sweeps/{name}.yaml" for name in sweeps)
    config = found["config"].iloc[0]
    kind, _ = registry.experiment_of(config)
    options = {name: getattr(config, name) for name in ("dataset", "estimator", "preset", "seed")}
    return " ".join([f"msmeta train {kind}", *(f"--{name} {value}" for name, value in options.items()), "..."])


@cache
def _sweeps(folder: Path) -> dict[str, set[Any]]:
    """The runs that each sweep file asks for, without their seeds."""
    paths = sorted(folder.glob("*.yaml"))
    return {path.stem: {replace(config, seed=0) for config in sweep.read_spec(path)} for path in paths}


def _rows(metrics: Any) -> list[dict[str, Any]]:
    """The rows of a benchmark, whose metrics are a list or are by name."""
    return metrics if isinstance(metrics, list) else [{"name": name, **row} for name, row in metrics.items()]


def _end(result: Result) -> str:
    """Of the name of a file: a GPU's measurement is told apart (`style.find_benchmark`)."""
    return "" if on_cpu(result["provenance"]) else runs.ON_GPU


def _where(records: list[dict[str, Any]]) -> str:
    """Device, version, commits and days in words."""
    device, commit = listed(map(device_in_words, records)), commit_in_words(*records)
    torch = listed(run["torch"] for run in records)
    days = sorted({run["finished"][:10] for run in records if isinstance(run.get("finished"), str)})
    when = days[0] + (f" to {days[-1]}" if len(days) > 1 else "") if days else ""
    return "; ".join(filter(None, [device, f"torch {torch}", f"commit {commit}", when])) + disturbance(*records)
