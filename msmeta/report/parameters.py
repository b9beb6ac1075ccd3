"""The parameters of a notebook: only known names, and values that the fields of the experiment's config may have."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Collection, Sequence
from typing import Any, get_origin

from pydantic import TypeAdapter

from msmeta import machine
from msmeta.errors import ConfigError, UserError, brief
from msmeta.experiments import plain_yaml
from msmeta.experiments.config import field_value, schema
from msmeta.experiments.registry import EXPERIMENTS

_INJECTED = "# Parameters\n"
"""How papermill's own cell begins."""
FIELDS = {"ways": "way", "shots": "shot", "seeds": "seed", "windows": "window", "optimizers": "optimizer"}
FIELDS |= {"others": "estimator"}
"""Fields of a config whose values are listed by parameters of other names."""
EACH = {"settings": ("way", "shot")}
"""Parameters that list values of several fields at a time."""


def run_by_papermill(notebook: dict[str, Any]) -> bool:
    """Whether papermill set parameters; else somebody sits before the notebook, whose `globals()` these are."""
    return any(source.startswith(_INJECTED) for source in notebook["In"])


def check_parameters(notebook: dict[str, Any], experiment: str = "few-shot", **choices: Collection[str]) -> None:
    """Refuses parameters that the notebook lacks or whose values are impossible, and gives the others their types.

    Papermill only warns of an unknown name, and hands over a list as text where it was given with `-p`.
    notebook: its `globals()`. Papermill's cell follows the cell of parameters, whose names are the known ones.
    experiment: by whose config's fields values are checked. choices: values of parameters that are no fields.
    Raises ConfigError in one line that names every wrong one.
    """
    if not run_by_papermill(notebook):
        return
    history = notebook["In"]
    at = next(i for i, source in enumerate(history) if source.startswith(_INJECTED))
    known = {line.target.id: line for line in ast.parse(history[at - 1]).body if isinstance(line, ast.AnnAssign)}
    given = [line.targets[0].id for line in ast.parse(history[at]).body]
    wrong = []
    if unknown := [name for name in given if name not in known]:
        wrong.append(f"unknown parameter {', '.join(unknown)}: this notebook has {', '.join(known)}")
    for name in (name for name in given if name in known):
        default, kind = ast.literal_eval(known[name].value), eval(ast.unparse(known[name].annotation), {})
        if default is None and notebook[name] in (None, "None"):
            notebook[name] = None
            continue
        try:
            value = converted(name, notebook[name], kind, default)
            notebook[name] = _checked(name, value, EXPERIMENTS[experiment][0], choices.get(name))
        except UserError as error:  # a folder of images, which is looked through, does not know its parameter's name
            wrong.append(str(error) if isinstance(error, ConfigError) else f"{name}: {error}")
    if wrong:
        raise ConfigError("; ".join(wrong))


def _checked(name: str, value: Any, config: type, choices: Collection[str] | None) -> Any:
    """The value, each of a list as the field of the config has it."""
    if name == "device":
        machine.choose_device(value)
    each = value if isinstance(value, list) else [value]
    if choices is not None and (unknown := [own for own in each if own not in choices]):
        raise ConfigError(f"{name}: {brief(unknown[0])} is unknown: choose from {'; '.join(choices)}")
    if name in EACH:
        return [_several(name, values, config) for values in each]
    field = FIELDS.get(name, name)
    if choices is None and field in schema(config):
        each = [_field(name, field, own, config) for own in each]
    return each if isinstance(value, list) else each[0]


def _several(name: str, values: Sequence[Any], config: type) -> list[Any]:
    fields = EACH[name]
    if len(values) != len(fields):
        raise ConfigError(f"{name}: {brief(values)} must hold {', '.join(fields)}")
    return [_field(name, field, value, config) for field, value in zip(fields, values, strict=True)]


def _field(name: str, field: str, value: Any, config: type) -> Any:
    try:
        return field_value(config, field, value)
    except ConfigError as error:
        raise ConfigError(str(error) if name == field else f"{name}: {error}") from None


def converted(name: str, value: Any, kind: Any, example: Any = None, words: str = "") -> Any:
    """`value` as a `kind`, such as int or list[int]: text is read, and a single value is a list of one.

    Raises ConfigError, which names the parameter and its type, this in words where there are any.
    """
    given = value
    try:
        if list in (kind, get_origin(kind)):
            if isinstance(value, str):
                value = plain_yaml.parse(value if value.lstrip().startswith("[") else f"[{value}]")
            elif not isinstance(value, (list, tuple)):
                value = [value]
        if kind is not bool and _has_truth(value):
            raise ValueError  # else it would count as 1 or 0
        return TypeAdapter(kind).validate_python(value)
    except (ValueError, RecursionError):
        such = "" if example is None else f", such as {example!r}"
        wanted = words or f"of type {inspect.formatannotation(kind)}"
        raise ConfigError(f"{name}={brief(given)}: it must be {wanted}{such}") from None


def _has_truth(value: Any) -> bool:
    return any(map(_has_truth, value)) if isinstance(value, (list, tuple)) else isinstance(value, bool)
