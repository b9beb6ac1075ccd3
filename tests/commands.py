"""The commands of the trials, small ones of every estimator, and what they leave when nothing happens to them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from msmeta import runs
from msmeta.experiments.few_shot.config import ESTIMATORS

FEW_SHOT = (
    "train few-shot --preset smoke --dataset glyphs --way 5 --shot 1 --steps 2 --filters 4 --tasks 2 --query 3 "
    "--iterations 5 --log-every 2 --curve-every 2 --select-every 2 --curve-episodes 2 --test-episodes 4 "
    "--workers 1 --device cpu --estimator"
)
TRANSFER = (
    "train transfer --preset smoke --dataset glyphs-rgb --train-images 20 --batch 10 --epochs 2 --log-every 2 "
    "--device cpu --estimator"
)
OWN = {"multistep": "--window 2", "truncated": "--depth 1", "binomial": "--depth 1", "lazy-hessian": "--window 2"}
COMMANDS = {name: f"{FEW_SHOT} {name} {OWN.get(name, '')}".split() for name in ESTIMATORS} | {
    f"transfer, {words}": f"{TRANSFER} {words}".split()
    for words in (
        "scratch",
        "multistep --window 1 --optimizer sgd",
        "multistep --window 2 --optimizer adam",
        "first-order --optimizer sgd",
    )
}
TIMED = ("seconds", "per_second", "seconds_per_epoch", "seconds_per_iteration")


def stored(folder: Path) -> list:
    """What a command stored in a folder, but for times: each result, and the hash of its parameters."""
    found = []
    for path in sorted(folder.glob("results/live/**/*.json")):
        result = json.loads(path.read_text())
        parts = {
            part: {name: value for name, value in result.get(part, {}).items() if not name.endswith(TIMED)}
            for part in ("metrics", "log", "curve", "selection", "config", "data")
        }
        theta = torch.load(path.with_suffix(".pt"), weights_only=True)
        found.append((path.name, parts, runs.hash_of_tensors(theta)))
    return found


def left(folder: Path) -> list[str]:
    """What a finished command should not leave in its folder of results."""
    results = folder / "results"
    return [str(path.relative_to(results)) for path in results.rglob("*") if not path.is_dir() and (
        path.name.startswith(".") or path.is_relative_to(results / "checkpoints")
    )]  # fmt: skip


def said(folder: Path) -> list[str]:
    """The lines of standard error."""
    return (folder / "err").read_text().splitlines()


def emptied(folder: Path) -> Path:
    """An empty folder for the next trial."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "results").mkdir()
    return folder
