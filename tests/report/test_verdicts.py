"""Verdicts on the paper's claims, and the pages' answers, from made results."""

import json

import pytest
from stored_runs import committed, result

from msmeta.report import answers, transfer, verdicts
from msmeta.statistics import Verdict


def verdict_of(words):
    (line,) = [line for line in verdicts.lines() if line.words == words]
    return line


def test_without_results_every_claim_is_not_run(store):
    store()
    assert {line.verdict for line in verdicts.lines()} == {Verdict.NOT_RUN}
    assert all("not run" in row[-1] for _, rows in verdicts.table().groups for row in rows)
    sentences = [answers.table(number) for number in range(1, 6)] + [answers.figure(number) for number in range(1, 6)]
    assert all(sentence.startswith("**Answer.** ") for sentence in sentences)
    assert "Nothing was run for the claim" in sentences[1] and "19 not run" in sentences[3]
    assert answers.summary() == "**Answer.** Of 13 claims that measurements can test: 13 not run."
    assert all("Not run: `msmeta bench " in of() for of in (answers.estimators, answers.speed, answers.scaling))


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
    result = {"config": {}, "metrics": metrics, "provenance": {}}
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "few_shot_step.json").write_text(json.dumps(result))
    assert "takes 2.00 s here, 0.50 of the plain loop's time" in answers.speed()
    assert "windows of 8 take 0.25, and first-order MAML 0.40" in answers.speed()
    assert verdicts.few_shot_time().measured == "50 ±0 %" and verdicts.few_shot_time().verdict is Verdict.UNDECIDED


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
    assert "did not hold, read as -1 to 1 points: measured -20.00 ±0.00" in answers.table(3)
    assert "T = 0" not in answers.figure(4)
    store(*({"kind": "transfer", **result("0-step", 21.5 + seed, seed, optimizer="adam")} for seed in range(3)))
    assert "no θ, has -18.50 ±0.00 points over the Baseline (CIFAR-100; 3 seeds)" in answers.figure(4)


@pytest.mark.parametrize(
    ("base", "ours", "mean", "count"), [([2.0, 4.0], [1.0, 1.0], 62.5, 2), ([10.0], [7.0], pytest.approx(30.0), 1)]
)
def test_a_share_is_saved_round_by_round(base, ours, mean, count):
    found = verdicts.saved(base, ours)
    assert found.mean == mean and found.count == count and (found.half is None) == (count == 1)
