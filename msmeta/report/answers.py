"""The answer of each page to its question, in a sentence made from the committed results."""

from __future__ import annotations

from collections.abc import Sequence

from msmeta import data
from msmeta.report import claims, few_shot, transfer, transfer_time, verdicts
from msmeta.report import products as by_products
from msmeta.report import scaling as growth
from msmeta.report import turn as turned
from msmeta.report.claims import Claim, Finding, Summary
from msmeta.report.data_sets import counts
from msmeta.report.frame import TRANSFER
from msmeta.report.html import interval
from msmeta.report.style import find_benchmark
from msmeta.report.tables import at_the_end
from msmeta.report.verdicts import Line
from msmeta.statistics import Bounds, Verdict

_WORDS = {
    Verdict.HELD: "The claim “{}” held",
    Verdict.FAILED: "The claim “{}” did not hold",
    Verdict.UNDECIDED: "What was run leaves the claim “{}” undecided",
    Verdict.NOT_RUN: "Nothing was run for the claim “{}”",
}


def table(number: int) -> str:
    """Of Table 1 to 5, in Markdown."""
    if number == 1:
        return answer(_line_in_words(verdicts.transfer_saving()))
    if number in transfer.OPTIMIZERS:
        return answer(_competitive(number))
    return answer(_of_findings(verdicts.few_shot_findings(number)))


def figure(number: int) -> str:
    """Of Figure 1 to 5, in Markdown."""
    if number in (3, 4):
        return answer(_saved_with_adam() + (f" {_competitive(3)}{_without_steps()}" if number == 4 else ""))
    if number == 5:
        return answer(_saved_memory())
    lines = verdicts.changes() if number == 1 else [verdicts.few_shot_seconds()]
    return answer(" ".join(map(_line_in_words, lines)))


def summary() -> str:
    """Of the summary and of the front page: how many of the claims have which verdict."""
    found = [line.verdict for line in verdicts.lines()]
    return answer(f"Of {len(found)} claims that measurements can test: {claims.counted(found)}.")


def answer(sentence: str) -> str:
    """As every page shows it."""
    return f"**Answer.** {sentence}"


def _line_in_words(line: Line) -> str:
    said = _WORDS[line.verdict].format(line.words)
    if line.verdict is Verdict.NOT_RUN:
        return f"{said}."
    reported = f", where the paper has {line.reported}" if line.reported else ""
    return f"{said}, read as {line.bounds}: measured {line.measured} ({line.over}){reported}."


def _competitive(number: int) -> str:
    found = transfer.findings(number, transfer.committed(optimizer=transfer.OPTIMIZERS[number]))
    own = [each for each in found if each.claim.words == transfer.COMPETITIVE]
    return _line_in_words(verdicts.of_findings(own))


def _without_steps() -> str:
    """T = 0, which learns no θ, against the Baseline, with Adam; empty where the two were not run."""
    place = {"dataset": "cifar-100", "optimizer": "adam"}
    claim = Claim("not in the paper", transfer.METHODS["0-step"], transfer.BASELINE, place, Bounds(0), printed=False)
    title = data.find("cifar-100").title
    (found,) = claims.find(TRANSFER, 3, transfer.committed(**place), [claim], lambda config: title, at_the_end)
    if found.difference is None:
        return ""
    number = interval(found.difference.mean, found.difference.half, "+.2f")
    return f" T = 0, which learns no θ, less the Baseline: {number} points ({title}; {found.over})."


def _saved_with_adam() -> str:
    shares = [verdicts.transfer_saving(side, "adam") for side in transfer_time.SIZES]
    measured = ", ".join(
        f"{share.measured} (on {side}x{side} images)" for side, share in zip(transfer_time.SIZES, shares, strict=True)
    )
    return f"With Adam a window of two saves {measured} of an iteration's time."


def _saved_memory() -> str:
    first, *others = (verdicts.few_shot_memory(*setting) for setting in few_shot.SETTINGS[4])
    said = "; ".join(f"{line.measured} ({line.over})" for line in others if line.verdict is not Verdict.NOT_RUN)
    return _line_in_words(first) + (f" In its other settings: {said}." if said else "")


def _of_findings(found: Sequence[Finding]) -> str:
    """How many of a table's claims held, and what is farthest from its claim."""
    line, worst = verdicts.of_findings(found), Summary(found).worst
    said = f"Of {len(found)} comparisons that the paper's claims on this table are made of: {Summary(found).counts}."
    if line.verdict is Verdict.NOT_RUN:
        return said
    reported = f", where the paper has {line.reported}" if line.reported else ""
    far = f"{worst.name}, {worst.place}, read as {line.bounds}: {line.measured} ({worst.over}){reported}"
    return f"{said} Farthest from what is claimed is {far}."


def data_sets() -> str:
    """Of Table 6: for how many of the data sets here the counts are the paper's."""
    counted = {name: counts(name) for name in data.TABLE_6}
    here = {name: own for name, own in counted.items() if own}
    same = sum(own == data.TABLE_6[name] for name, own in here.items())
    return answer(
        f"Of the {len(counted)} data sets {len(here)} are prepared on the machine that built this page, and {same} of "
        "these have the paper's counts."
    )


def estimators() -> str:
    """Of the page on related estimators: cosines with the exact meta-gradient, in one of the places measured."""
    result = find_benchmark("meta-gradients/omniglot")
    if result is None:
        return answer("Not run: `msmeta bench meta_gradients`.")
    last = max(row["iterations"] for row in result["metrics"])
    place = {"iterations": last, "momentum": 0.9, "trained_window": 1}
    found = [row for row in result["metrics"] if place.items() <= row.items()]
    windows = {row["window"][0]: row["cosine"] for row in found if row["window"] and len(set(row["window"])) == 1}
    others = {row["estimator"]: row["cosine"] for row in found if row["estimator"] == "first-order"}
    said = [f"windows of {n} have {windows[n]:.2f}" for n in (2, 4, 8) if n in windows]
    said += [f"{name} has {cosine:.2f}" for name, cosine in others.items()]
    return answer(
        f"On Omniglot with momentum, after {last} meta-iterations of exact training, by the cosine with the exact "
        f"meta-gradient: {', '.join(said)}. It depends on the rate, the momentum and the stage of training."
    )


def products() -> str:
    """Of the page on equal products: how often windows are nearer than truncation, by their mean cosines."""
    found, missing = by_products.measured()
    if not found:
        return answer(missing)
    said = []
    for momentum, words in ((0.9, "with momentum"), (0.0, "without")):
        at = [rows for place, _, rows in by_products.equal_products(found) if place[-1] == momentum]
        said.append(f"in {by_products.ahead(at)} of {len(at)} places {words}")
    return answer(f"At equal products, windows have the higher mean cosine than truncation {', and '.join(said)}.")


def products_time() -> str:
    """Of the page on time: what eight products of T = 64 steps take with each estimator that has such a dial."""
    taken = by_products.times(by_products.timed()[0]).get(("sine", 64))
    if taken is None:
        return answer("Not run: `msmeta bench products_seconds sine`.")
    settings = {
        "windows of 8": {"estimator": "multistep", "window": [8] * 8},
        "truncation to 8 steps": {"estimator": "truncated", "depth": 8},
        "lazy Hessians": {"estimator": "lazy-hessian", "window": [8] * 8},
        "first-order, without any,": {"estimator": "first-order"},
    }
    said = ", ".join(f"{name} {taken[by_products.settings(row)]:.2f}" for name, row in settings.items())
    return answer(
        f"A window takes one gradient, where the others take one a step. Of the time of exact back-propagation through "
        f"T = 64 steps on sine curves, with 8 products: {said}. The figures have what each comes near for it."
    )


def speed() -> str:
    """Of the page on speed: this package beside the plain loop, and its windows beside its exact MAML."""
    result = find_benchmark("benchmarks/few_shot_step")
    if result is None:
        return answer("Not run: `msmeta bench few_shot_step`.")
    seconds = {name: row["seconds"] for name, row in result["metrics"].items()}
    exact = seconds["msmeta 1"]
    shares = ", ".join(f"windows of {n} take {seconds[f'msmeta {n}'] / exact:.2f}" for n in (2, 4, 8))
    return answer(
        f"Exact MAML takes {exact:.2f} s here, {exact / seconds['plain 1']:.2f} of the plain loop's time. Of that "
        f"exact time {shares}, and first-order MAML {seconds['msmeta first-order'] / exact:.2f}."
    )


def turn() -> str:
    """Of the page on which N is turned: what windows of T = 8 steps cost and save where the most seeds were run."""
    setting = f"{data.find('omniglot').title}, 20-way 1-shot"
    points = {
        tuple(point["windows"]): point
        for point in turned.points()
        if (point["setting"], point["method"], point["steps"]) == (setting, turned.MULTI_STEP, 8) and point["accuracy"]
    }
    exact = points.get((1,) * 8)
    if exact is None:
        return answer(f"Not run: {setting}, exact MAML.")
    said = []
    for n in (2, 4, 8):
        if own := points.get((n,) * (8 // n)):
            timed = own["seconds"] and exact["seconds"]
            time = f" in {own['seconds'] / exact['seconds']:.2f} of its time" if timed else ""
            said.append(f"windows of {n} have {own['accuracy']:.1f} %{time}")
    return answer(f"{setting}, T = 8, where exact MAML has {exact['accuracy']:.1f} %: {', '.join(said) or 'no other'}.")


def scaling() -> str:
    """Of the page on scaling: how time and memory grow with the steps."""
    result = growth.stored()
    if result is None:
        return answer("Not run: `msmeta bench scaling`.")
    powers = []
    for line in (line for line in growth.lines(result, "steps") if len(line.values) > 1):
        slopes = [growth.slope(line.values, line.measured[name]) for name in growth.TARGETS]
        grown = [
            f"{word} as T^{power:.1f}"
            for word, (power, half) in zip(("time", "memory"), slopes, strict=True)
            if abs(power) > (half or 0.0) and round(power, 1)  # 0 lies outside of its interval
        ]
        powers.append(f"{line.label}: {' and '.join(grown) or 'neither'}")
    return answer(f"What grows with the number T of steps, fitted over all measured T: {'; '.join(powers)}.")
