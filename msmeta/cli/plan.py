"""`msmeta plan`: which window and which backward pass fit a memory, whose options are the fields of the config."""

from __future__ import annotations

import re
from functools import cache
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from msmeta.cli import options
from msmeta.errors import ConfigError
from msmeta.experiments.config import resolve, schema
from msmeta.experiments.few_shot.plan import Plan, in_words, plan
from msmeta.experiments.registry import EXPERIMENTS

PLANNED = (
    "preset", "dataset", "way", "shot", "query", "steps", "optimizer", "momentum", "precision", "filters", "image_size",
    "tasks", "task_chunk",
)  # fmt: skip
"""The fields that time and memory depend on, but for the window and the estimator, which are what is planned."""
UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


@cache
def add_to(app: typer.Typer) -> None:
    """Adds the command, once."""
    kind, module = EXPERIMENTS["few-shot"]
    without = schema(kind).keys() - set(PLANNED)
    usual = {"preset": "paper", "dataset": "omniglot", "way": "5", "shot": "1"}
    app.command("plan")(options.with_config(kind, module, without=without, **usual)(_plan))


def _plan(
    values: dict[str, Any],
    *,
    memory: Annotated[str, typer.Option(help="What there is: 24GB, 512MB or 1.5GiB.")],
    device: Annotated[str, typer.Option(help="cpu or cuda, which need not be here.")] = "cpu",
) -> None:
    """Say which window N and which backward pass of few-shot meta-training fit a memory, and what they take."""
    kind, module = EXPERIMENTS["few-shot"]
    budget = parse_bytes(memory)
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"--device {device}: give cpu or cuda")
    found = plan(resolve(kind, module.presets.RULES, {"estimator": "multistep", **values}), budget, device)
    chosen = found.require_fit()
    Console(force_jupyter=False).print(table(found))  # as text, also where a notebook calls the command
    print("\n".join(notes(found, budget)))
    print(
        f"chosen: N = {chosen.window}, {chosen.backward}: the smallest N that fits, and the faster backward pass of it"
    )


def table(found: Plan) -> Table:
    """A row an option."""
    rows = Table("N", "backward", "gradients", "products", "memory", "s an iteration", "fits")
    for option in found.options:
        seconds = "not measured" if option.seconds is None else f"{option.seconds:.3g}"
        rows.add_row(
            f"{option.window:,}", option.backward, f"{option.gradients:,}", f"{option.products:,}",
            in_words(option.bytes), seconds, "yes" if option.fits else "no",
        )  # fmt: skip
    return rows


def notes(found: Plan, budget: float) -> list[str]:
    """What the table's numbers are."""
    lines = [
        f"{found.chunk} tasks at a time; gradients and Hessian-vector products are of each task; "
        f"fits: predicted memory, and as much more as the prediction may be off, in {in_words(budget)}"
    ]
    if found.measured_on is None:
        return [*lines, "memory: of tensors alone, counted; what libraries add, and time, are not measured here"]
    return [*lines, f"memory of a process, and seconds on one core, as measured on {found.measured_on}"]


def parse_bytes(text: str) -> float:
    """`24GB`, `512MB`, `1.5GiB` -> bytes. Raises ConfigError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmgt]i?)?b", text.strip().lower())
    if not found or not float(found[1]):
        raise ConfigError(f"--memory {text}: give a size such as 24GB, 512MB or 1.5GiB")
    return float(found[1]) * UNITS[found[2] or ""]
