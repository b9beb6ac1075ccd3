"""Estimators side by side on a problem of the user's own: how near each comes to the exact one, and what it costs."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from msmeta import machine
from msmeta.bilevel import Bilevel, MetaGradient, Params
from msmeta.checks import require_function
from msmeta.counting import Counts, counted
from msmeta.errors import ConfigError, DivergedError, UserError, brief
from msmeta.modules import random_numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Estimator = Callable[[Bilevel, Params], MetaGradient]
Problem = Bilevel | Callable[[int], Bilevel]
"""A problem, or a function that draws the one of a number, 0, 1, ..."""

HEAD = "Estimator | Gradients | Products | Cosine | Norm ratio | Time (ms) | Peak (MB)"


@dataclass(frozen=True)
class Row:
    """What was measured of one estimator: a value for each case (a θ and its problem) that it had an answer to.

    gradients: evaluations of an inner gradient, each of which may be one by φ and θ. products: backward passes through
    such a gradient, Hessian-vector products. Both are counted as they happen. cosine, norm_ratio: of the meta-gradient
    with the reference's, and of its length with that one's. seconds: of a call after one that warms up. bytes: the most
    by which memory grew, on a GPU as torch allocates it; elsewhere of tensors alive at one time, between operations.
    Without `costs` there are none of these two. failure: the first one, in a line, where a case has no answer.
    """

    estimator: str
    gradients: tuple[int, ...] = ()
    products: tuple[int, ...] = ()
    cosine: tuple[float, ...] = ()
    norm_ratio: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()
    bytes: tuple[int, ...] = ()
    failure: str = ""

    def mean(self, column: str) -> tuple[float, float | None]:
        """Mean over the cases and the half-width of its 95 % interval (Student's t); None where there is one case.

        Raises ConfigError for a column that is none, and where there are no values.
        """
        values = getattr(self, column, None)
        if not isinstance(values, tuple):
            columns = ", ".join(field.name for field in fields(self) if field.name not in ("estimator", "failure"))
            raise ConfigError(f"column={column!r}: the columns are {columns}")
        if not values:
            raise ConfigError(f"{self.estimator} has no {column}: {self.failure or 'compare(costs=True) measures it'}")
        return mean_ci(values)

    def _line(self) -> str:
        columns = (self.gradients, self.products, self.cosine, self.norm_ratio, self.seconds, self.bytes)
        scales, digits = (1, 1, 1, 1, 1e3, 1e-6), (None, None, 3, None, None, None)
        return " | ".join([self.estimator, *map(interval, columns, scales, digits)])


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. rows: one an estimator, in the order given. reference: the exact one's name. cases: how
    many. As a table: `print`, `to_markdown`, or by itself at the end of a notebook's cell."""

    rows: tuple[Row, ...]
    reference: str
    cases: int

    def __getitem__(self, estimator: str) -> Row:
        """The row of this name; raises ConfigError where there is none."""
        for row in self.rows:
            if row.estimator == estimator:
                return row
        raise ConfigError(f"no row {brief(estimator)}: there are {', '.join(row.estimator for row in self.rows)}")

    def to_markdown(self) -> str:
        """The table, with a line on what its intervals are over and one for each estimator that failed."""
        over = f"{self.cases} cases; ± is the half-width of a 95 % interval" if self.cases > 1 else "one case"
        notes = [f"Cosine and norm ratio to {self.reference}. {over[0].upper() + over[1:]}."]
        for row in self.rows:
            if row.failure:
                notes.append(f"{row.estimator} failed in {self.cases - len(row.cosine)} of them: {row.failure}.")
        return table(HEAD, [row._line() for row in self.rows], notes)

    __str__ = _repr_markdown_ = to_markdown

    def records(self) -> list[dict[str, Any]]:
        """The rows as dicts of lists, which JSON and pandas take."""
        return [{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(row).items()} for row in self.rows]

    def plot(self) -> Figure:
        """Cosine against time and against memory, without `costs` against products, with 95 % intervals.

        Raises UserError where matplotlib is missing.
        """
        try:
            from matplotlib import pyplot, ticker
        except ImportError as error:
            raise UserError("plot() needs matplotlib: pip install matplotlib") from error
        shown = [row for row in self.rows if row.cosine]
        columns = [("seconds", "time (ms)", 1e3), ("bytes", "peak memory (MB)", 1e-6)]
        if not any(row.seconds for row in shown):
            columns = [("products", "products", 1)]
        width = 2 + 3.5 * len(columns)
        figure, axes = pyplot.subplots(1, len(columns), figsize=(width, 3.8), sharey=True, layout="constrained")
        pyplot.close(figure)  # a notebook shows it once, as the cell's value
        axes = [axes] if len(columns) == 1 else axes
        for axis, (column, label, scale) in zip(axes, columns, strict=True):
            for row, marker in zip(shown, itertools.cycle("os^vDPX*")):  # noqa: B905
                (x, half), (y, half_y) = row.mean(column), row.mean("cosine")
                bars = {"xerr": scale * (half or 0), "yerr": half_y or 0}
                axis.errorbar(scale * x, y, fmt=marker, label=row.estimator, **bars)
            axis.set_xlabel(label)
            means = [row.mean(column)[0] for row in shown]
            if max(means) > 10 * min(means) > 0:  # else the labels of a logarithmic axis would overlap
                axis.set_xscale("log")
                axis.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axes[0].set_ylabel(f"cosine with {self.reference}")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right")
        return figure


def compare(
    problem: Problem,
    thetas: Params | Iterable[Params],
    estimators: Mapping[str, Estimator] | Iterable[Estimator],
    reference: str | None = None,
    costs: bool = True,
) -> Comparison:
    """Every estimator on every case, with what it costs: a `Comparison`, to print.

    thetas: one θ or several. problem: a `Bilevel`; or a function that draws the one of a number, so that the case of
    thetas[i] is problem(i), and `[theta] * 16` compares on 16 draws. estimators: by name, or a list, which are then
    named by what they are; any `(problem, theta) -> MetaGradient` will do. reference: whose meta-gradient is the exact
    one; the first one's where None. costs: whether seconds and bytes are measured; without them other work on the
    machine does no harm.

    Each case calls each estimator twice: to count, and to time it; without `costs` once. All of them see the same
    random numbers; torch's generators are left as they were. Time it on an idle machine. An estimator that refuses the
    problem or diverges has its line in the table and no numbers. Raises ConfigError and DivergedError where the
    reference does so, and where its meta-gradient is zero.

    >>> from msmeta import SGD, FirstOrder, MultiStep
    >>> problem = Bilevel(lambda theta: theta, lambda phi, theta, t: phi["w"] ** 4 / 4, lambda phi, theta: phi["w"])
    >>> found = compare(problem, {"w": torch.tensor(0.5)}, [MultiStep(SGD(0.1), 4), FirstOrder(SGD(0.1), 4)])
    >>> [(row.estimator, row.gradients, row.products) for row in found.rows]
    [('MultiStep', (4,), (4,)), ('FirstOrder', (4,), (0,))]
    """
    named = _named(estimators)
    reference = next(iter(named)) if reference is None else reference
    if reference not in list(named):  # which takes what has no hash, too
        raise ConfigError(f"reference={brief(reference)} is no name of an estimator: they are {', '.join(named)}")
    rows, number = {name: Row(name) for name in named}, 0
    for number, (drawn, theta) in enumerate(cases(problem, thetas), 1):
        exact = None
        for name in sorted(named, key=lambda name: name != reference):
            try:
                found = _measure(named[name], drawn, theta, number, costs)
                grad = flat(found.pop("out"), theta)
                exact = grad if name == reference else exact
                alike = {"cosine": cosine(grad, exact), "norm_ratio": (grad.norm() / exact.norm()).item()}
            except UserError as error:
                if name == reference:
                    raise
                rows[name] = replace(rows[name], failure=rows[name].failure or str(error))
            else:
                values = {k: (*getattr(rows[name], k), value) for k, value in {**found, **alike}.items()}
                rows[name] = replace(rows[name], **values)
    return Comparison(tuple(rows.values()), reference, number)


def mean_ci(values: Sequence[float]) -> tuple[float, float | None]:
    """As `statistics.mean_ci`, which needs SciPy: imported where there is an interval."""
    from msmeta import statistics

    return statistics.mean_ci(values)


def interval(values: Sequence[float], scale: float = 1, digits: int | None = None) -> str:
    """Mean and half-width in a table's cell, the latter where values differ; `-` where there are none."""
    if not values:
        return "-"
    mean, half = mean_ci(values)
    if half is None or len(set(values)) == 1:
        return f"{scale * mean:.3g}"
    if digits is None:
        digits = max(0, 2 - math.floor(math.log10(abs(scale * mean)))) if mean else 0
    return f"{scale * mean:.{digits}f} ±{scale * half:.{digits}f}"


def table(head: str, rows: Iterable[str], notes: Iterable[str]) -> str:
    """In Markdown, of a head and rows as they stand there, with a sentence a paragraph below it."""
    lines = [head, " | ".join(["---"] * len(head.split(" | "))), *rows]
    return "\n".join([*(f"| {line} |" for line in lines), "", *(f"{note}\n" for note in notes)])


def cases(problem: Problem, thetas: Params | Iterable[Params]) -> Iterator[tuple[Bilevel, Params]]:
    """Each θ and its problem. Raises ConfigError where there is none."""
    if not isinstance(thetas, Iterable) or isinstance(thetas, Tensor):
        raise ConfigError(
            f"thetas is a {type(thetas).__name__}: it must be a theta, a dict of tensors, or a list of them"
        )
    drawn = callable(problem) and not isinstance(problem, Bilevel)
    if drawn:
        require_function(problem, "problem", "number")
    thetas = [thetas] if isinstance(thetas, Mapping) else list(thetas)
    if not thetas:
        raise ConfigError("thetas is empty: there is nothing to compare at")
    for i, theta in enumerate(thetas):
        yield problem(i) if drawn else problem, theta


def flat(out: MetaGradient, theta: Params) -> Tensor:
    """A meta-gradient in one vector, in float64. Raises ConfigError where it is none of θ, and DivergedError."""
    if not isinstance(out, MetaGradient):
        raise ConfigError(f"an estimator returned a {type(out).__name__}: it must return a MetaGradient")
    if out.grad.keys() != theta.keys():
        raise ConfigError(f"an estimator returned a meta-gradient of {list(out.grad)}, where theta has {list(theta)}")
    parts = [torch.view_as_real(part) if part.is_complex() else part for part in (out.grad[k] for k in theta)]
    found = torch.cat([part.detach().flatten().cpu().double() for part in parts])
    if not found.isfinite().all():
        raise DivergedError("an estimator returned a meta-gradient that is not finite")
    return found


def cosine(a: Tensor, b: Tensor) -> float:
    """Of two flat meta-gradients. Raises ConfigError where one of them is zero."""
    if not (length := a.norm() * b.norm()):
        raise ConfigError("the meta-gradient is zero there, so it has no direction to compare")
    return (torch.dot(a, b) / length).item()


def device_of(theta: Params) -> torch.device:
    first = next(iter(theta.values()), None) if isinstance(theta, Mapping) else None
    return first.device if isinstance(first, Tensor) else torch.device("cpu")


def _named(estimators: Mapping[str, Estimator] | Iterable[Estimator]) -> dict[str, Estimator]:
    if isinstance(estimators, Mapping):
        named = dict(estimators)
    elif not isinstance(estimators, Iterable):
        raise ConfigError(f"estimators is a {type(estimators).__name__}: it must be a list of estimators, or a dict")
    else:
        given = list(estimators)
        short = [_name(estimator) for estimator in given]
        names = [repr(each) if short.count(name) > 1 else name for each, name in zip(given, short, strict=True)]
        named = dict(zip(names, given, strict=True))
        if len(named) < len(given):
            raise ConfigError("two estimators are the same: name them, in a dict")
    if not named:
        raise ConfigError("estimators is empty: there is nothing to compare")
    for name, estimator in named.items():
        if not callable(estimator) or isinstance(estimator, type):
            what = f"estimator {name} is a {type(estimator).__name__}"
            raise ConfigError(f"{what}: it must be called as (problem, theta), as MultiStep(SGD(0.1), 8) is")
        require_function(estimator, f"estimator {name}", "problem", "theta")
    return named


def _name(estimator: Estimator) -> str:
    """Its class, with what was set of it but the dynamics and the steps, which all share as a rule."""
    if isinstance(estimator, type) or not is_dataclass(estimator):
        return getattr(estimator, "__name__", type(estimator).__name__)
    own = [field for field in fields(estimator) if field.repr and field.name not in ("dynamics", "steps")]
    values = [(field.name, getattr(estimator, field.name), field.default) for field in own]
    inside = ", ".join(f"{name}={value!r}" for name, value, default in values if value != default)
    return f"{type(estimator).__name__}({inside})" if inside else type(estimator).__name__


def _measure(estimator: Estimator, problem: Bilevel, theta: Params, seed: int, costs: bool) -> dict[str, Any]:
    """What a call returns, as `out`, and what it costs."""
    counts, device = Counts(), device_of(theta)
    watched = counted(problem, counts)
    if not costs:
        with random_numbers(seed, device):
            return {"out": estimator(watched, theta), "gradients": counts.gradients, "products": counts.products}
    with random_numbers(seed, device):
        used = machine.bytes_used(lambda: estimator(watched, theta), device)
    with random_numbers(seed, device):
        start = time.perf_counter()
        out = estimator(problem, theta)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
    return {"out": out, "gradients": counts.gradients, "products": counts.products, "seconds": seconds, "bytes": used}
