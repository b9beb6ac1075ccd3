"""What a result file holds: a schema of each kind, held against it when it is written and when it is read.

Whether its numbers belong to its config is asked by `experiments.finished`.
"""

from __future__ import annotations

import json
import math
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from msmeta import paths
from msmeta.checkout import DIRTY
from msmeta.errors import UserError, brief

MOST_BYTES = 2**26
"""Of a file: a paper's run has a hundredth of it."""
MOST_TEXT = 500
"""Characters of a text or a name."""
MARKUP = frozenset("<>[]{}|`\\")
"""What HTML, Markdown and tables are made of."""


def _text(value: str) -> str:
    """No markup and nothing that a terminal obeys: texts reach pages and terminals as they are."""
    if len(value) > MOST_TEXT or not value.isprintable() or MARKUP & set(value):
        raise ValueError("it must be a short line of plain text")
    return value


Text = Annotated[str, AfterValidator(_text)]


def _moment(value: str) -> str:
    """Of UTC, to the second."""
    datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ")
    return value


Commit = Annotated[str, Field(pattern=rf"^[0-9a-f]{{1,40}}({DIRTY})?$")]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}$")]
Count = Annotated[int, Field(ge=0, le=2**53)]
Seconds = Annotated[float, Field(ge=0)]
Percent = Annotated[float, Field(ge=0, le=100)]
Plain = Text | bool | int | float | None
Value = Plain | list[Plain | list[Plain]]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class _Columns(_Part):
    """Lists of one length, of numbers or of none; those that are not named here are an experiment's own."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[Text, list[float | None]]
    seconds: list[Seconds] = []

    @model_validator(mode="after")
    def _of_one_length(self) -> _Columns:
        columns = {name: getattr(self, name) for name in self.model_fields_set}
        if len(set(map(len, columns.values()))) > 1:
            raise ValueError("its columns are of unequal lengths")
        for name in ("iteration", "epoch"):
            if any(b <= a for a, b in pairwise(columns.get(name, []))):
                raise ValueError(f"{name} does not rise")
        return self


class Log(_Columns):
    """Means over iterations; None where an iteration gives no such number."""

    iteration: list[Count] = []


class FewShotCurve(_Columns):
    """Accuracy at some iterations, and the right answers in each episode."""

    iteration: list[Count] = []
    accuracy: list[Percent] = []
    right_answers: list[list[Count]] = []


class TransferCurve(_Columns):
    """Accuracy on the validation images after each epoch."""

    epoch: list[Count] = []
    accuracy: list[Percent] = []


class TransferTest(_Part):
    """A test of a meta-transfer run."""

    accuracy: Percent


class FewShotTest(TransferTest):
    """A test of a few-shot run. right_answers: in each episode."""

    right_answers: Annotated[list[Count], Field(min_length=1)]
    answers_per_episode: Annotated[Count, Field(ge=1)]


class FewShotMetrics(FewShotTest):
    """Of the run itself."""

    iterations: Count
    meta_iterations_per_second: Seconds | None = None
    selected_iteration: Count | None = None
    validation_accuracy: Percent | None = None
    windowed_accuracy: Percent | None = None
    windowed_accuracy_sd: Seconds | None = None


class TransferMetrics(TransferTest):
    """Likewise. images: how many each part has."""

    iterations: Count
    last_accuracy: Percent
    validation_accuracy: Percent
    selected_epoch: Count
    images: dict[Literal["train", "validation", "test"], Count]
    seconds_per_iteration: Seconds | None = None
    seconds_per_epoch: Seconds | None = None
    meta_movement: dict[Literal["what", "where"], Seconds] | None = None
    pair_weights: list[list[float]] | None = None


class Source(_Part):
    """A network that was begun with, or tested."""

    name: Text
    hash: Hash | None


class Data(_Part):
    """The images. What is besides is said of a folder of a user's own, and shown nowhere."""

    model_config = ConfigDict(extra="allow")
    name: Text
    title: Text
    hash: Hash


class Provenance(_Part):
    """Where and when a number was measured."""

    commit: Commit | None
    device: Text
    threads: Annotated[Count, Field(ge=1, le=10_000)]
    torch: Text
    python: Text | None = None
    platform: Text | None = None
    finished: Annotated[str, AfterValidator(_moment)] | None = None


class Training(Provenance):
    """Likewise of a training."""

    train_seconds: Seconds
    wall_seconds: Seconds | None = None
    processes: Annotated[Count, Field(ge=1, le=10_000)] | None = None
    workers: Annotated[Count, Field(le=1_000_000)] | None = None
    workers_memory_bytes: Count | None = None
    task_chunk: Count | None = None
    peak_memory_bytes: Count | None = None
    resumed: bool | None = None
    earlier_commits: list[Commit | None] | None = None


class Parameters(_Part):
    """The file beside the result."""

    hash: Hash


class _Run(_Part):
    config: dict[Text, Value]
    log: Log
    data: Data
    source: Source | None = None
    parameters: Parameters | None = None
    provenance: Training


class FewShot(_Run):
    """A few-shot run."""

    kind: Literal["few-shot", "few-shot-tuning"]
    metrics: FewShotMetrics
    curve: FewShotCurve
    selection: FewShotCurve | None = None


class Transfer(_Run):
    """A meta-transfer run."""

    kind: Literal["transfer", "transfer-tuning"]
    metrics: TransferMetrics
    curve: TransferCurve


class Evaluation(_Part):
    """Another test of a run, `source`."""

    kind: Literal["evaluations"]
    config: dict[Text, Value]
    metrics: FewShotTest | TransferTest
    data: Data
    source: Source
    provenance: Provenance


class Trials(_Part):
    """A row of the counts of tests/reliability."""

    kind: Text
    tried: Annotated[Count, Field(ge=1)]
    held: Count

    @model_validator(mode="after")
    def _no_more_than_tried(self) -> Trials:
        if self.held > self.tried:
            raise ValueError("more held than were tried")
        return self


class Measured(_Part):
    """Where and when a benchmark ran, which may not know all of it, and what others did meanwhile."""

    model_config = ConfigDict(extra="allow")
    commit: Text | None = None
    device: Text = ""
    threads: Annotated[Count, Field(ge=1, le=10_000)] | None = None
    torch: Text = ""
    python: Text | None = None
    platform: Text | None = None
    finished: Annotated[str, AfterValidator(_moment)] | None = None
    others: Seconds | None = None
    load: Seconds | None = None


class Measurement(BaseModel):
    """What a benchmark measured: rows of its own, whose texts are plain all the same."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
    config: dict[str, Any]
    metrics: dict[str, Any] | list[Any]
    provenance: Measured

    @model_validator(mode="after")
    def _plain(self) -> Measurement:
        _walk(self.model_dump())
        for row in self.metrics if isinstance(self.metrics, list) else self.metrics.values():
            if isinstance(row, dict) and "tried" in row:
                Trials.model_validate(row)
        return self


KINDS: dict[str, type[BaseModel]] = {
    "few-shot": FewShot, "few-shot-tuning": FewShot, "transfer": Transfer, "transfer-tuning": Transfer,
    "evaluations": Evaluation,
}  # fmt: skip
"""By what a result calls itself; a measurement has no name."""


def check(result: Any) -> None:
    """Raises ValueError, in one line, where a result does not fit the schema of its kind."""
    kind = result.get("kind") if isinstance(result, dict) else None
    try:
        KINDS.get(kind if isinstance(kind, str) else "", Measurement).model_validate(result)
    except ValidationError as error:
        raise ValueError(_line(error)) from None


def read(path: Path) -> dict[str, Any]:
    """The result of a file. Raises UserError, which names the file, where it cannot be read or does not fit."""
    text = paths.read_text(path, MOST_BYTES)
    try:
        result = json.loads(text, parse_constant=_no_number, parse_float=_number)
        check(result)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"result {path} is damaged: {why}: delete it, or repeat the run with --force") from None
    return result


def _line(error: ValidationError) -> str:
    """The first mistake."""
    found = error.errors(include_url=False)[0]
    where, what, given = (
        ".".join(map(str, found["loc"]))[:100],
        found["msg"].removeprefix("Value error, "),
        found["input"],
    )
    shown = "" if isinstance(given, (dict, list)) else f" ({brief(given)})"
    return f"{where or 'it'}{shown}: {what}"


def _walk(value: Any) -> None:
    """Raises ValueError where a text is not plain, however deep it stands."""
    if isinstance(value, dict):
        for name, own in value.items():
            _text(name)
            _walk(own)
    elif isinstance(value, list):
        for own in value:
            _walk(own)
    elif isinstance(value, str):
        _text(value)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _number(text: str) -> float:
    if math.isinf(found := float(text)):
        raise ValueError(f"{brief(text)} is no number that a computer has")
    return found
