"""The parameters of a notebook: only known names, and values of the types that its cell of parameters writes down."""

from __future__ import annotations

import ast
import inspect
from typing import Any, get_origin

import yaml
from pydantic import TypeAdapter, ValidationError

from msmeta.errors import ConfigError

_INJECTED = "# Parameters\n"
"""How papermill's own cell begins."""


def run_by_papermill(notebook: dict[str, Any]) -> bool:
    """Whether papermill set parameters; else somebody sits before the notebook, whose `globals()` these are."""
    return any(source.startswith(_INJECTED) for source in notebook["In"])


def check_parameters(notebook: dict[str, Any]) -> None:
    """Refuses parameters that the notebook does not have, and turns the others into what their annotations say.

    Papermill only warns of an unknown name, and hands over a list as text where it was given with `-p`.
    notebook: its `globals()`. Papermill's cell follows the cell of parameters, whose names are the known ones.
    Raises ConfigError.
    """
    if not run_by_papermill(notebook):
        return
    history = notebook["In"]
    at = next(i for i, source in enumerate(history) if source.startswith(_INJECTED))
    known = {line.target.id: line for line in ast.parse(history[at - 1]).body if isinstance(line, ast.AnnAssign)}
    given = [line.targets[0].id for line in ast.parse(history[at]).body]
    if unknown := [name for name in given if name not in known]:
        raise ConfigError(f"unknown parameter {', '.join(unknown)}: this notebook has {', '.join(known)}")
    for name in given:
        default, kind = ast.literal_eval(known[name].value), eval(ast.unparse(known[name].annotation), {})
        none = default is None and notebook[name] in (None, "None")
        notebook[name] = None if none else converted(name, notebook[name], kind, default)


def converted(name: str, value: Any, kind: Any, example: Any = None, words: str = "") -> Any:
    """`value` as a `kind`, such as int or list[int]: text is read, and a single value is a list of one.

    Raises ConfigError, which names the parameter and its type, this in words where there are any.
    """
    given = value
    try:
        if list in (kind, get_origin(kind)):
            if isinstance(value, str):
                value = yaml.safe_load(value if value.lstrip().startswith("[") else f"[{value}]")
            elif not isinstance(value, (list, tuple)):
                value = [value]
        return TypeAdapter(kind).validate_python(value)
    except (ValidationError, yaml.YAMLError):
        such = "" if example is None else f", such as {example!r}"
        wanted = words or f"of type {inspect.formatannotation(kind)}"
        raise ConfigError(f"{name}={given!r}: it must be {wanted}{such}") from None
