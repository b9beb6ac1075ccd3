"""Verdicts on the paper's claims, and the pages' answers, from made results."""

import json

import pytest
from stored_runs import committed, result

from msmeta.report import answers, transfer, verdicts
from msmeta.report.claims import Claim, Finding, Summary
from msmeta.statistics import Bounds, Verdict, paired


def verdict_of(words):
    (line,) = [line for line in verdicts.lines() if line.words == words]
    return line


def test_without_results_every_claim_is_not_run(store):
    store()
    assert {line.verdict for line in verdicts.lines()} == {Verdict.NOT_RUN}
    assert all("not run" in row[-1] for _, rows in verdicts.table().groups for row in rows)
    sentences = [answers.table(number) for number in range(1, 6)] + [answers.figure(number) for number in range(1, 6)]
    assert all(sentence.startswith("**Answer.** ") for sentence in sentences)
    assert "Nothing was run for the claim" in sentences[1] and "23 not run" in sentences[3]
    assert answers.summary() == "**Answer.** Of 14 claims that measurements can test: 14 not run."
    assert all("Not run: `msmeta bench " in of() for of in (answers.estimators, answers.speed, answers.scaling))
    assert "Not run: `python benchmarks/products.py quadratic --steps 8`" in answers.products()
    assert answers.products_time() == "**Answer.** Not run: `msmeta bench products_seconds sine`."
    assert answers.turn() == "**Answer.** Not run: Omniglot, 20-way 1-shot, exact MAML."


def test_the_answer_on_speed_is_made_of_the_benchmarks_numbers(store, tmp_path):
    store()
    seconds = {
        "plain 1": 4.0,
        "msmeta 1": 2.0,
        "msmeta 2": 1.5,
        "msmeta 4": 1.0,
        "msmeta 8": 0.5,
        "msmeta first-order": 0.8,
    }
    metrics = {name: {"seconds": value, "seconds_all": [value, value]} for name, value in seconds.items()}
    result = {"config": {}, "metrics": metrics, "provenance": {"device": "a processor, 2 cores"}}
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "few_shot_step.json").write_text(json.dumps(result))
    assert "takes 2.00 s here, 0.50 of the plain loop's time" in answers.speed()
    assert "windows of 8 take 0.25, and first-order MAML 0.40" in answers.speed()
    assert verdicts.few_shot_time().measured == "50 ±0 %" and verdicts.few_shot_time().verdict is Verdict.UNDECIDED


@pytest.mark.parametrize("rounds", [1, 3])
def test_memory_and_time_of_windows_are_judged_over_rounds(store, tmp_path, rounds):
    """Windows take 40, 41, 42 % of the memory and of the time; of a single round, as early results have, no verdict."""
    store()
    rows = []
    for window, values in ((1, [100.0] * 3), (4, [40.0, 41.0, 42.0])):
        row = {"estimator": "multistep", "window": window, "way": 5, "shot": 1, "steps": 8}
        every = {"seconds_all": values, "bytes_all": values} if rounds > 1 else {}
        rows.append({**row, "seconds": values[1], "bytes": values[1], **every})
    (tmp_path / "benchmarks").mkdir()
    result = {"config": {}, "metrics": rows, "provenance": {"device": "a processor, 2 cores"}}
    (tmp_path / "benchmarks" / "few_shot_costs.json").write_text(json.dumps(result))
    for line in (verdicts.few_shot_memory(), verdicts.few_shot_seconds()):
        assert line.over.startswith("Multi-step (4) against MAML, 5-way 1-shot, a processor, 2 cores; ")
        assert line.brief.startswith("less ") and f" on a processor, {rounds} round" in line.brief
        assert line.verdict is (Verdict.HELD if rounds > 1 else Verdict.UNDECIDED)
        assert line.measured == ("59 ±2 %" if rounds > 1 else "59 %")


def test_a_claim_that_holds_with_one_optimiser_alone_says_so(store):
    """The change of the gradient falls with SGD by 78 % and less, with Adam here by 99 %."""
    adam = committed(optimizer="adam")
    for entry in adam:
        entry["log"]["gradient_change"] = [None if v is None else 0.5 * 0.01 ** (i / 9) for i, v in
                                           enumerate(entry["log"]["gradient_change"])]  # fmt: skip
    store(*({"kind": "transfer", **entry} for entry in [*committed(), *adam]))
    line = verdicts.change()
    assert (line.verdict, line.said) == (Verdict.FAILED, "1 held, 1 did not hold")
    assert line.measured.startswith("7") and line.brief == "less change, 3 seeds"
    said = answers.figure(1)
    assert "did not hold" in said and "zero quickly” held, read as > 90 %: measured 99" in said
    assert "less change, 3 seeds" in str(verdicts.table(details=False))


def test_a_claim_on_several_comparisons_holds_where_all_do(store):
    """Multi-step less Baseline: -0.1, 0, -0.2 with SGD; with Adam, not run, then as with SGD, then far behind."""
    runs = [{"kind": "transfer", **entry} for entry in committed()]
    store(*runs)
    assert verdict_of(transfer.COMPETITIVE).verdict is Verdict.UNDECIDED
    assert verdict_of(transfer.COMPETITIVE).said == "1 held, 1 not run"
    store(*({"kind": "transfer", **entry} for entry in committed(optimizer="adam")))
    line = verdict_of(transfer.COMPETITIVE)
    assert (line.verdict, line.measured, line.said) == (Verdict.HELD, "-0.10 ±0.25", "")
    assert line.over.endswith("farthest of 2; 3 seeds")
    for seed in range(3):
        store({"kind": "transfer", **result("Multi-step", 20.0 + seed, seed, optimizer="adam")})
    line = verdict_of(transfer.COMPETITIVE)
    assert line.verdict is Verdict.FAILED and line.measured.startswith("-20.00") and line.reported == "+0.77"
    assert "did not hold, read as > -1 points: measured -20.00 ±0.00" in answers.table(3)
    assert "T = 0" not in answers.figure(4)
    store(*({"kind": "transfer", **result("0-step", 21.5 + seed, seed, optimizer="adam")} for seed in range(3)))
    assert "no θ, less the Baseline: -18.50 ±0.00 points (CIFAR-100; 3 seeds)" in answers.figure(4)


def finding(mean, spread=0.01, most=False, reported=None):
    """Of a claim on more than -1 point, from three seeds whose difference has this mean and deviation."""
    less = paired({seed: [mean + (seed - 1) * spread] for seed in range(3)}, {seed: [0.0] for seed in range(3)})
    claim = Claim("near", {}, {}, {}, Bounds(-1), most=most)
    return Finding(claim, 2, less, less.p(claim.bounds), "", 3, "ours less theirs", "here", reported)


def test_the_number_shown_is_one_that_earned_the_verdict():
    """The farthest of all is undecided, since its seeds are far apart."""
    undecided, near, failed = finding(-3.0, spread=5.0), finding(-0.5), finding(-2.0)
    assert [each.verdict for each in (undecided, near, failed)] == [Verdict.UNDECIDED, Verdict.HELD, Verdict.FAILED]
    summary = Summary([undecided, near, failed])
    assert (summary.verdict, summary.worst) == (Verdict.FAILED, failed)
    assert verdicts.of_findings(summary.findings).over == "ours less theirs, here; 3 seeds"
    assert Summary([undecided, near]).worst is undecided
    reported = [verdicts.of_findings([finding(-0.5, reported=own)]).reported for own in (-0.5, -1.5)]
    assert reported == ["-0.50", "-1.50, outside"]


@pytest.mark.parametrize(
    ("held", "failed", "undecided", "verdict"),
    [(3, 2, 0, Verdict.HELD), (2, 2, 0, Verdict.FAILED), (2, 1, 1, Verdict.UNDECIDED), (0, 0, 2, Verdict.UNDECIDED)],
)
def test_a_claim_on_most_cases_is_decided_by_more_than_half(held, failed, undecided, verdict):
    kinds = [finding(0.0, most=True)] * held + [finding(-2.0, most=True)] * failed
    assert Summary(kinds + [finding(-1.0, 5.0, most=True)] * undecided).verdict is verdict


def test_the_papers_own_difference_may_miss_the_bounds():
    """As it is printed, with two decimals: on the bound is within."""
    assert [finding(0.0, reported=own).missed for own in (None, 0.1, -1.0 - 1e-9, -1.01)] == [False] * 3 + [True]


@pytest.mark.parametrize(
    ("base", "ours", "mean", "count"), [([2.0, 4.0], [1.0, 1.0], 62.5, 2), ([10.0], [7.0], pytest.approx(30.0), 1)]
)
def test_a_share_is_saved_round_by_round(base, ours, mean, count):
    found = verdicts.saved(base, ours)
    assert found.mean == mean and found.count == count and (found.half is None) == (count == 1)
