"""What the commands share: the fields of a config as options, and a progress bar."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from msmeta import data
from msmeta.errors import one_line
from msmeta.experiments.config import schema

Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...; auto takes a GPU if there is one.")]


def with_config(
    kind: type, module: ModuleType, without: Collection[str] = (), **own: str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command an option for each field of a config but those in `without`, beside its own options.

    Its first argument is what was given, as texts. module: the experiment's, for its presets. own: the command's
    defaults of fields.
    """
    by_rule = {name for _, values, _ in module.presets.RULES for name in values}
    fields = {name: _option(name, field, own.get(name), name in by_rule) for name, field in schema(kind).items()}
    fields = {name: field for name, field in fields.items() if name not in without}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def called(**given: Any) -> None:
            values = {name: given.pop(name) for name in fields}
            command({name: value for name, value in values.items() if value is not None}, **given)

        _, *rest = inspect.signature(command, eval_str=True).parameters.values()
        called.__signature__ = inspect.Signature([*fields.values(), *rest])
        called.__doc__, called.__annotations__ = command.__doc__, {}
        return called

    return decorate


def _option(name: str, field: dict[str, Any], own: str | None, by_rule: bool) -> inspect.Parameter:
    switch, flag = field["type"] == "boolean", name.replace("_", "-")
    allowed = ", ".join(field.get("enum", [])) or _bounds(field)
    usual = "the preset's" if by_rule else field.get("default")
    option = typer.Option(
        f"--{flag}/--no-{flag}" if switch else f"--{flag}",
        help=field["description"] + (f" ({allowed})" if allowed else ""),
        metavar=None if switch else {"integer": "INTEGER", "number": "FLOAT"}.get(field["type"], "TEXT"),
        show_default=True if own else False if usual is None else str(usual),
    )
    kind = Annotated[(bool if switch else str) | None, option]
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=own, annotation=kind)


def _bounds(field: dict[str, Any]) -> str:
    if "exclusiveMinimum" in field:
        return "positive"
    if "maximum" in field:
        return f"{field['minimum']:,} to {field['maximum']:,}"
    below = f", less than {field['exclusiveMaximum']}" if "exclusiveMaximum" in field else ""
    return f"at least {field['minimum']:,}{below}" if "minimum" in field else ""


@contextmanager
def preparing() -> Iterator[data.dataset.Progress]:
    """A bar for the preparation of a data set, and what moves it."""
    with bar("{task.description}") as shown:
        task = shown.add_task("")
        yield lambda what, done, total: shown.update(task, description=what, completed=done, total=total)


def known_as(values: dict[str, Any], purpose: str) -> dict[str, Any]:
    """The fields of a config that were given, a folder by the name that results have for it, prepared if need be."""
    if not data.is_path(values.get("dataset")):
        return values
    with preparing() as progress:
        return values | {"dataset": data.known_as(values["dataset"], purpose, progress=progress)}


def show_folder(name: str, least: int = data.LEAST) -> None:
    """A table of what is in a folder of a user's own. least: images of a class, fewer are said to be few.

    Raises DataError where it is not prepared.
    """
    data.stored_hash(name)
    table = Table(name, "", title_justify="left")
    for row in data.in_words(data.find(name), least):
        table.add_row(*(escape(one_line(text)) for text in row))
    Console().print(table)


def bar(text: str) -> Progress:
    """A progress bar on standard error, which vanishes at its end. text: beside it, by rich's format."""
    console = Console(stderr=True)
    parts = BarColumn(), TextColumn(text), TimeRemainingColumn()
    return Progress(*parts, console=console, transient=True, disable=not console.is_terminal)
