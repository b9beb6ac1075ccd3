"""The stored results as a whole: each read as its folder has it, those that do not fit named and left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msmeta import checkout, runs
from msmeta.errors import UserError
from msmeta.experiments import evaluations, finished

UNFINISHED = ("checkpoints", "sweeps")
"""Folders that hold no results."""


def read(path: Path) -> dict[str, Any]:
    """The result of a file of the store: of the kind of its folder, and in agreement with itself.

    Raises UserError in one line that names the file.
    """
    kind = path.parent.name
    if kind == evaluations.KIND:
        return evaluations.read(path)
    if kind not in finished.KINDS:
        return runs.read_result(path)
    result = finished.read(path).result
    if result["kind"] != kind:
        raise UserError(f"{path} lies among the results of {kind}, and is of {result['kind']}")
    return result


def results(
    kind: str, root: Path | None = None, live: bool = False, leave_out: finished.LeaveOut = finished.refuse
) -> list[dict[str, Any]]:
    """All results of a kind, in order of their file names, which they say as `file`; with `live` those of the smoke and
    quick presets."""
    folder = (root or runs.results_root()) / ("live" if live else "") / kind

    def named(path: Path) -> dict[str, Any]:
        return read(path) | {"file": f"{kind}/{path.name}"}

    return list(finished.fitting(sorted(folder.glob("*.json")), leave_out, named))


def paths(root: Path) -> list[Path]:
    """Of all committed results."""
    inside = sorted(root.iterdir()) if root.is_dir() else []
    folders = [folder for folder in inside if folder.is_dir() and folder.name not in UNFINISHED]
    return [path for folder in folders if folder.name != "live" for path in sorted(folder.glob("*.json"))]


def problems(root: Path) -> Iterator[tuple[Path, str]]:
    """What is wrong with each committed result, in words."""
    by_data: dict[tuple[Any, ...], dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    thetas, tested = {}, {}
    for path in paths(root):
        try:
            result = read(path)
        except UserError as error:
            yield path, str(error)
            continue
        where = result["provenance"]
        commits = [where.get("commit"), *(where.get("earlier_commits") or ())]
        if not all(commits):
            yield path, "it names no commit that it was measured at: measure it again in a clone"
        elif any(checkout.DIRTY in commit for commit in commits):
            yield path, "it was measured with changes that no commit holds: measure it again"
        if "data" in result:
            which = result["data"]["name"], result["config"].get("split")
            by_data[which][result["data"]["hash"]].append(path)
        if result.get("kind") == evaluations.KIND:
            tested[path] = result["source"]
        if path.with_suffix(".pt").exists():
            try:
                runs.read_parameters(path.with_suffix(".pt"), result)
            except UserError as error:
                yield path, str(error)
                continue
        thetas[path.stem] = runs.hash_of(result, "parameters")
    for path, source in tested.items():
        if thetas.get(source["name"], source["hash"]) != source["hash"]:
            yield path, f"it is a test of other parameters than those of result {source['name']}: delete it"
    for (name, _), by_hash in by_data.items():
        usual = max(by_hash, key=lambda each: len(by_hash[each]))
        for found in by_hash.keys() - {usual}:
            for path in by_hash[found]:
                yield path, f"its {name} has the hash {found[:12]}, that of other results {usual[:12]}"
