"""Sentences about meta-transfer that follow the stored results."""

import pandas as pd
from stored_runs import of, result

from msmeta.report import transfer_words


def runs(windows, lambdas=(1.0, 0.5)):
    """Three seeds of each: the Baseline at 40 %, Multi-step at `windows` %; mean λ of each."""
    made = []
    for seed in range(3):
        for method, accuracy, weight in zip(("Baseline", "Multi-step"), (40.0, windows), lambdas, strict=True):
            run = result(method, accuracy, seed)
            run["metrics"]["pair_weights"] = [[weight]]
            made.append(run)
    return of(*made, result("Scratch", 30.0))


def test_who_is_ahead_follows_the_runs(tmp_path, monkeypatch):
    """By these runs' own clocks Multi-step takes twice as long, so that all of the Baseline's epochs count."""
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path))  # where no seconds of an iteration were measured
    behind = transfer_words.comparison_words(runs(38.5))
    started = "- Multi-step: after as many epochs -1.50 ±0.00 points against the Baseline on test images"
    assert started in behind and "in Multi-step's time -1.50 on validation images." in behind
    assert "- Scratch: after as many epochs -10.00" in behind
    assert "after as many epochs +1.50 ±0.00" in transfer_words.comparison_words(runs(41.5))
    assert transfer_words.comparison_words(of(result("Multi-step"))) == ""


def test_whether_weights_and_accuracy_fall_together():
    """Two rows tell no trend; of five one pair of neighbours in the wrong order leaves a rank correlation of 0.9."""
    two = transfer_words.movement_words(runs(38.5))
    said = "Baseline: λ 1.00, accuracy 40.00 %; Multi-step: λ 0.50, accuracy 38.50 %."
    assert two == f"From the highest mean λ to the lowest: {said}"
    others = [result(*method) for method in (("0-step", 39.0), ("1-step", 37.0), ("First-order", 36.0))]
    for entry, weight in zip(others, (1.2, 0.4, 0.3), strict=True):
        entry["metrics"]["pair_weights"] = [[weight]]
    five = transfer_words.movement_words(pd.concat([runs(38.5), of(*others)], ignore_index=True))
    assert five.startswith("From the highest mean λ to the lowest: 0-step: λ 1.20, accuracy 39.00 %; Baseline")
    assert five.endswith("The rank correlation of λ and accuracy is 0.90, over 5 rows.")
    assert transfer_words.movement_words(of(result())) == ""


def test_a_method_whose_weights_stay_at_their_start_is_named():
    """T = 0 is not: it has no θ to move."""
    still = [result("Multi-step", 38.5, seed) for seed in range(3)]
    for entry in still:
        entry["metrics"]["pair_weights"] = [[1.02, 0.97, 1.0]] * 5
    said = transfer_words.still_words(of(result("0-step"), result(), result("Scratch"), *still))
    assert "within 5 % of its start) with Multi-step: that is T = 0 in all but name" in said
    still[1]["metrics"]["pair_weights"] = [[1.02, 0.94, 1.0]] * 5
    assert transfer_words.still_words(of(*still)) == ""
