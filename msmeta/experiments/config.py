"""What the configs of both experiments share. A field is written once: its type, bounds, choices and meaning.

Checks, one-line errors, the options and help of the command line and the keys of a sweep come from there.
"""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform, get_type_hints

import numpy as np
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, WithJsonSchema
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from msmeta import runs
from msmeta.data import is_folder, known_as, like, names
from msmeta.dynamics import SGD
from msmeta.errors import ConfigError, brief
from msmeta.models.layers import PRECISIONS
from msmeta.optimisers import Adam

T = TypeVar("T")
OWN_FOLDER = "folder:PATH"
PRESETS = ("smoke", "quick", "cpu", "paper")
OPTIMIZERS: dict[str, Callable[[float, float, float], SGD | Adam]] = {
    "sgd": SGD,
    "adam": lambda lr, momentum, weight_decay: Adam(lr, (momentum, 0.999), weight_decay=weight_decay),
}
"""The inner optimiser of (lr, momentum, weight decay)."""


LARGEST = 1e30
"""What float32 can hold with room for products: torch raises no error of its own for numbers below."""


def number(value: Any) -> Any:
    """A number as YAML, NumPy or a command line gives it: to YAML `1e-3` is a text, and `true` is no number."""
    if isinstance(value, (bool, np.bool_)):
        raise ValueError
    if isinstance(value, numbers.Integral):
        return int(value)
    found = float(value) if isinstance(value, (str, numbers.Real)) else value
    if isinstance(found, float) and LARGEST < abs(found) < math.inf:
        raise PydanticCustomError("less_than_equal", "too large", {"le": LARGEST})
    return found


def whole(value: Any) -> int:
    """A whole number likewise; `2.0` is none."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (numbers.Integral, str)):
        raise ValueError
    return int(value)


Count = Annotated[int, Field(ge=1, le=1_000_000), BeforeValidator(whole)]
Long = Annotated[int, Field(ge=1, le=1_000_000_000), BeforeValidator(whole)]
"""A number of iterations, which may be many."""
Positive = Annotated[float, Field(gt=0), BeforeValidator(number)]
NotNegative = Annotated[float, Field(ge=0), BeforeValidator(number)]
Fraction = Annotated[float, Field(ge=0, lt=1), BeforeValidator(number)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1), BeforeValidator(whole)]
_COUNT = TypeAdapter(Count)


def _window(value: Any) -> int | tuple[int, ...]:
    """`4`, `(1, 1, 2, 4)` and the texts `4`, `1,1,2,4` and `[1, 1, 2, 4]`."""
    parts = value.strip("[]() ").split(",") if isinstance(value, str) else value
    try:
        if not isinstance(parts, (Sequence, np.ndarray)):
            return _COUNT.validate_python(parts)
        lengths = tuple(_COUNT.validate_python(part) for part in parts)
    except (ValidationError, TypeError):
        raise ConfigError(
            f"window={brief(value)}: give a number of steps such as 4, or a partition such as 1,1,2,4"
        ) from None
    return lengths[0] if isinstance(value, str) and len(lengths) == 1 else lengths


Window = Annotated[int | tuple[int, ...], BeforeValidator(_window)]


def dataset_for(purpose: str) -> Any:
    """The type of a field: a registered data set, or a user's own folder, whose path becomes what results call it."""
    return Annotated[
        Literal[names(purpose)] | Annotated[str, Field(pattern="^folder:")],
        BeforeValidator(lambda name: known_as(name, purpose)),
        WithJsonSchema({"type": "string", "enum": [*names(purpose), OWN_FOLDER]}),
    ]


@dataclass_transform(kw_only_default=True, frozen_default=True)
def checked(kind: type[T]) -> type[T]:
    """pydantic's frozen dataclass, whose mistakes are a ConfigError of one line."""
    kind = dataclass(kind, frozen=True, kw_only=True, config=ConfigDict(allow_inf_nan=False, extra="forbid"))
    initialise = kind.__init__

    def __init__(self: T, **values: Any) -> None:
        try:
            initialise(self, **values)
        except ValidationError as error:
            raise ConfigError(_line(kind, None, error)) from None

    kind.__init__ = __init__
    return kind


@checked
class Config:
    """What both experiments have: everything that defines the outcome of a run, and nothing else."""

    preset: Annotated[Literal[PRESETS], Field(description="Where the values that are not given come from.")]
    dataset: str
    estimator: str
    steps: Annotated[int, Field(ge=0, le=10_000, description="Inner steps T."), BeforeValidator(whole)]
    window: Annotated[
        Window, Field(description="Steps N that share one gradient: 4, or a partition of them such as 1,1,2,4.")
    ] = 1
    optimizer: Annotated[
        Literal[tuple(OPTIMIZERS)], Field(description="Inner optimiser; Adam's first decay rate is `momentum`.")
    ] = "sgd"
    lr: Annotated[Positive, Field(description="Inner learning rate.")]
    momentum: Annotated[Fraction, Field(description="Inner momentum.")] = 0.9
    weight_decay: Annotated[NotNegative, Field(description="Inner weight decay.")] = 1e-4
    meta_lr: Annotated[Positive, Field(description="Learning rate of the meta-parameters.")] = 1e-3
    evaluate_on: Annotated[
        Literal["test", "validation"], Field(description="`validation` is for choosing settings.")
    ] = "test"
    precision: Annotated[Literal[PRECISIONS], Field(description="Of the convolutions.")] = "float32"
    log_every: Annotated[Long, Field(description="Iterations averaged into one point of the training log.")] = 25
    seed: Annotated[Seed, Field(description="Of the initial parameters and of the batches.")] = 0

    OWN = {"window": ("multistep",)}
    """Fields that only some estimators have a use for, and these estimators; for others they stay at 1."""
    UNTIMED = frozenset({"preset", "lr", "meta_lr", "evaluate_on", "log_every", "seed"})
    """Fields that the time of an iteration does not depend on."""

    def work(self) -> dict[str, Any]:
        """The others, as JSON would give them back: configs of equal work take equally long for an iteration."""
        return {name: value for name, value in runs.plain(self).items() if name not in self.UNTIMED}

    @property
    def window_text(self) -> str:
        """The window as a name has it: 4, or 1x1x2x4."""
        return "x".join(map(str, self.window)) if isinstance(self.window, tuple) else str(self.window)

    def __post_init__(self) -> None:
        for name, estimators in self.OWN.items():
            if self.estimator not in estimators and (value := getattr(self, name)) != 1:
                raise ConfigError(f"{name}={value} has no meaning for {self.estimator}: leave it at 1")


Rule = tuple[dict[str, Any], dict[str, Any], str]
"""(match, values, reason). match: fields and the value, or the tuple or range of values, that each has to have."""


def resolve(kind: type[T], rules: Sequence[Rule], given: dict[str, Any]) -> T:
    """The config with these values; what is not given comes from the rules that match what is, of which later win.

    For a user's own folder, of which the fact `folder` is true, those of a data set of such images match.

    Raises ConfigError in one line for an unknown field, a value of the wrong kind, or an impossible combination.
    """
    given = {name: field_value(kind, name, value) for name, value in given.items()}
    facts = {field.name: field.default for field in fields(kind)} | given
    facts |= {"dataset": like(facts["dataset"]), "folder": is_folder(facts["dataset"])}
    values: dict[str, Any] = {}
    for match, own, _ in rules:
        if all(
            facts[name] in (wanted if isinstance(wanted, (tuple, range)) else (wanted,))
            for name, wanted in match.items()
        ):
            values |= own
    return kind(**values | given)


def field_values(kind: type, given: dict[str, Any]) -> dict[str, Any]:
    """Values for fields, of the fields' types; None is left out. Raises ConfigError."""
    return {name: field_value(kind, name, value) for name, value in given.items() if value is not None}


def field_value(kind: type, name: str, value: Any) -> Any:
    """A value for one field, of the field's type. Raises ConfigError in one line that names the field."""
    if name not in (types := _types(kind)):
        raise ConfigError(f"there is no field {brief(name)}: {_choose(name, sorted(types))}")
    try:
        return types[name].validate_python(value)
    except ValidationError as error:
        raise ConfigError(_line(kind, name, error)) from None


@cache
def _types(kind: type) -> dict[str, TypeAdapter[Any]]:
    own = ConfigDict(allow_inf_nan=False)
    return {name: TypeAdapter(t, config=own) for name, t in get_type_hints(kind, include_extras=True).items()}


@cache
def schema(kind: type) -> dict[str, dict[str, Any]]:
    """Of each field, as JSON schema has it: `type`, `enum`, `minimum` ..., `description`, and its `default`."""
    found = TypeAdapter(kind).json_schema()["properties"]
    return {name: {**own, **own.get("anyOf", [{}])[0]} for name, own in found.items()}


_ALLOWED = {
    "greater_than_equal": "at least {ge:,.10g}",
    "greater_than": "positive",  # no other open bound from below is in use
    "less_than_equal": "at most {le:,.10g}",
    "less_than": "less than {lt:,.10g}",
    "finite_number": "finite",
}
_KINDS = {"integer": "a whole number", "number": "a number", "boolean": "true or false"}


def _line(kind: type, name: str | None, error: ValidationError) -> str:
    """The first mistake: field, value, and what is allowed."""
    found = error.errors(include_url=False)[0]
    name, value = name or str(found["loc"][0]), found.get("input")
    if found["type"] == "missing":
        return f"{name} is missing"
    if found["type"] == "unexpected_keyword_argument":
        return f"there is no field {brief(name)}: {_choose(name, sorted(_types(kind)))}"
    if choices := schema(kind)[name].get("enum"):
        return f"{name} {brief(value)} is unknown: {_choose(value, choices)}"
    allowed = _ALLOWED.get(found["type"], _KINDS[schema(kind)[name]["type"]]).format(**found.get("ctx", {}))
    return f"{name}={brief(value)}: it must be {allowed}"


def _choose(value: Any, choices: Iterable[str]) -> str:
    text = f"choose from {', '.join(choices)}"
    near = difflib.get_close_matches(value, choices, 1) if isinstance(value, str) else []
    return f"{text} (did you mean {near[0]}?)" if near else text
