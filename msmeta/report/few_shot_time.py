"""What few-shot methods reach after equal iterations and in equal time, read off their learning curves.

Equal iterations are the first comparison, equal time is the second. Time is that of training on one core of an idle
machine: iterations times the seconds of one (`msmeta bench seconds`), whatever else the machine did in the training.
"""

from __future__ import annotations

import itertools
import math
import statistics
from typing import Any

import pandas as pd
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from msmeta.experiments.few_shot import method
from msmeta.experiments.few_shot.agreement import percents
from msmeta.report.frame import Values, where
from msmeta.report.picture import COLOUR, Picture, panels, styled
from msmeta.report.speed import seconds_per_iteration
from msmeta.report.style import drawn, markdown
from msmeta.report.tables import accuracy_text, cells, difference_text, listed, mean_text
from msmeta.report.tuning import Points
from msmeta.statistics import Difference, mean_ci, paired, plus_minus


def multi_step(window: int | tuple[int, ...]) -> Values:
    """The multi-step method; with window 1 it is MAML."""
    return {"estimator": "multistep", "window": window}


MAML = multi_step(1)
REFERENCE = multi_step(4)
"""The method whose time every other one gets."""
OF_REFERENCE = method(**REFERENCE)
SPACING = 1.5
"""Of the points of a learning curve: each comes after so many times the iterations of the one before."""


def points(run: Any) -> Points:
    """Of a row of a frame: its learning curve where the meta rate is constant, so that a shorter run would have had
    the same result; and its end where no θ was selected of several, or there is nothing else."""
    found = {}
    if run.config.meta_schedule == "constant":
        answers = run.curve.get("right_answers", [])  # which early results lack
        percent = [percents(right, run.answers_per_episode) for right in answers]
        found = dict(zip(run.curve["iteration"], percent, strict=False))
    return found if found and run.config.select_every else found | {run.iterations: run.accuracies}


def of_seeds(seeds: pd.DataFrame) -> dict[int, dict[int, list[float]]]:
    """By the iterations that all of these runs of one config have a point at: their accuracies by seed."""
    own = {run.seed: points(run) for run in seeds.itertuples()}
    common = set.intersection(*map(set, own.values())) if own else set()
    return {at: {seed: found[at] for seed, found in own.items()} for at in sorted(common)}


def less(ours: dict[int, list[float]], theirs: dict[int, list[float]]) -> Difference | None:
    """Ours less theirs by seed, on the episodes that both were tested on: a point of a curve has the first of them."""
    count = min(map(len, [*ours.values(), *theirs.values()]))
    return paired(*({seed: values[:count] for seed, values in side.items()} for side in (ours, theirs)))


def equal_iterations(ours: pd.DataFrame, theirs: pd.DataFrame) -> tuple[Difference | None, str]:
    """`claims.Test` of the last points after equally many iterations, which it says."""
    own, other = of_seeds(ours), of_seeds(theirs)
    if not own or not other:
        return None, ""
    if not (common := own.keys() & other.keys()):
        return None, "no point in common"
    return less(own[max(common)], other[max(common)]), f"after {max(common):,} iterations"


def equal_time(ours: pd.DataFrame, theirs: pd.DataFrame) -> tuple[Difference | None, str]:
    """`claims.Test` of two points nearest in time, of those near the end of the run that ends first; it says which.

    No accuracy is interpolated, so the times differ a little, by how much is said as well.
    """
    own, other = of_seeds(ours), of_seeds(theirs)
    if not own or not other:
        return None, ""
    seconds = [seconds_per_iteration(side["config"].iloc[0]) for side in (ours, theirs)]
    if None in seconds:
        return None, "seconds of an iteration were not measured"
    end = min(max(own) * seconds[0], max(other) * seconds[1])
    pairs = [
        (abs(math.log(a * seconds[0] / (b * seconds[1]))), -a, b)
        for a in own
        for b in other
        if min(a * seconds[0], b * seconds[1]) >= end / SPACING
    ]
    far, at, base = min(pairs)
    if far > math.log(SPACING):
        return None, "no points near in time"
    share = -at * seconds[0] / (base * seconds[1])
    return less(own[-at], other[base]), f"at {-at:,} and {base:,}, {100 * share:.0f} % of the time"


def comparison(found: pd.DataFrame) -> str:
    """Methods of one preset and data set against MAML, after equal iterations and in equal time, in Markdown.

    Differences are paired over the common test episodes, and over seeds where there are several.
    """
    rows = []
    for seeds in cells(found):
        run = seeds.iloc[0]
        maml = where(found, **MAML, setting=run["setting"]).drop(seeds.index, errors="ignore")
        tests = [test(seeds, maml) for test in (equal_iterations, equal_time)]
        texts = [f"{difference_text(less)}{said and f' ({said})'}" for less, said in tests]
        seconds = seconds_per_iteration(run["config"])
        rows.append([
            run["setting"], run["label"], listed(seeds["seed"]), listed(seeds["iterations"]), accuracy_text(seeds),
            "-" if seconds is None else f"{seconds:.3f}", *texts,
        ])  # fmt: skip
    heads = ["Setting", "Method", "seeds", "iterations", "at the end (%)", "seconds of an iteration"]
    return markdown([*heads, "less MAML's after equal iterations (points)", "in equal time (points)"], rows)


def in_equal_time(found: pd.DataFrame) -> str:
    """What methods of one preset and data set reach in the time that Multi-step (4) takes to its last point.

    The point of each learning curve that lies next before that time counts; nothing is interpolated.
    """
    rows = []
    for seeds in cells(found):
        run, own = seeds.iloc[0], of_seeds(seeds)
        reference = where(found, **REFERENCE, setting=run["setting"])
        theirs = of_seeds(reference)
        seconds = [seconds_per_iteration(side["config"].iloc[0]) for side in (seeds, reference) if len(side)]
        if not theirs or None in seconds:
            said = f"{OF_REFERENCE} was not run" if not theirs else "seconds of an iteration were not measured"
            rows.append([run["setting"], run["label"], listed(seeds["seed"]), said, *["-"] * 4])
            continue
        end = max(theirs) * seconds[1]
        at = max((point for point in own if point * seconds[0] <= end * (1 + 1e-9)), default=None)
        head = [run["setting"], run["label"], listed(seeds["seed"]), f"{seconds[0]:.3f}"]
        if at is None:
            rows.append([*head, "no point so early", *["-"] * 3])
            continue
        apart = None if seeds.index.equals(reference.index) else less(own[at], theirs[max(theirs)])
        share = f"{100 * at * seconds[0] / end:.0f}"
        rows.append([*head, f"{at:,}", share, accuracy_at(own[at]), difference_text(apart)])
    heads = ["Setting", "Method", "seeds", "seconds of an iteration", "iterations", "share of the time (%)"]
    return markdown([*heads, "accuracy (%)", f"less {OF_REFERENCE}'s (points)"], rows)


def accuracy_at(by_seed: dict[int, list[float]]) -> str:
    """Mean accuracy (%) with its interval over seeds or, with one, over its episodes."""
    values = [statistics.fmean(own) for own in by_seed.values()]
    return mean_text(values) if len(values) > 1 else plus_minus(*mean_ci(next(iter(by_seed.values()))))


@styled
def learning_curves(found: pd.DataFrame, title: str, idle: bool = False) -> Picture | str:
    """Test accuracy against meta-iterations and against training time, one line a method: means over seeds, bars their
    95 % intervals; of a single seed that over its test episodes.

    idle: time is that of one core of an idle machine, where it was measured for all of them; else it is the runs' own.
    In words where no run has a point before its end, which makes no curve.
    """
    if not any(curve["iteration"] for curve in found["curve"]):
        return f"{title}: no curve, for no run was looked at before its end. The table has their accuracies."
    figure, axes = panels(2, title=title, share=True, interactive=True)
    by_iteration, by_time = axes[0]
    others = itertools.cycle(
        {"color": COLOUR[own], "marker": "X"} for own in ("teal", "rust", "grey")
    )  # partitions, other windows
    rates = [seconds_per_iteration(seeds["config"].iloc[0]) if idle else None for seeds in cells(found)]
    for seeds, rate in zip(cells(found), rates, strict=True):
        if not (own := _drawn_points(seeds)):  # seeds that were limited by time may have no point in common
            continue
        style = drawn(seeds["label"].iloc[0])
        style = (style if style["color"] else next(others)) | {"elinewidth": 0.7}
        accuracy = [statistics.fmean(a for a, _ in each) for each in own.values()]
        bars = [_half_width(seeds, at, [a for a, _ in each]) for at, each in own.items()]
        seconds = [statistics.fmean(s for _, s in each) if None in rates else at * rate for at, each in own.items()]
        for axis, place in ((by_iteration, list(own)), (by_time, seconds)):
            axis.errorbar(place, accuracy, bars, label=seeds["label"].iloc[0], **style)
    time = "training time (s)" if None in rates else "training time on one idle core (s)"
    for axis, label in ((by_iteration, "meta-iterations"), (by_time, time)):
        axis.set(xscale="log", xlabel=label, ylabel="test accuracy (%)")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    return figure.label_lines()


def _half_width(seeds: pd.DataFrame, at: int, accuracies: list[float]) -> float:
    """Of the interval of a point; NaN where the accuracies of single episodes were not kept."""
    if len(seeds) == 1:
        run = seeds.iloc[0]
        answers = dict(zip(run["curve"]["iteration"], run["curve"].get("right_answers", []), strict=False))
        percent = percents(answers.get(at, []), run["answers_per_episode"])
        accuracies = run["accuracies"] if at == run["iterations"] else percent
    return (mean_ci(accuracies)[1] if accuracies else None) or math.nan


def _drawn_points(seeds: pd.DataFrame) -> dict[int, list[tuple[float, float]]]:
    """By the iterations that all of these runs have: accuracy (%) and training time (s) of each; the end with them."""
    own = []
    for run in seeds.itertuples():
        curve = zip(run.curve["accuracy"], run.curve["seconds"], strict=True)
        own.append(
            dict(zip(run.curve["iteration"], curve, strict=True)) | {run.iterations: (run.accuracy, run.train_seconds)}
        )
    return {at: [each[at] for each in own] for at in sorted(set.intersection(*map(set, own)))}
