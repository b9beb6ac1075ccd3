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
    assert "- Multi-step: after as many epochs 1.50 points behind the Baseline on test images" in behind
    assert "in Multi-step's time 1.50 points behind it on validation images." in behind
    assert "- Scratch: after as many epochs 10.00 points behind the Baseline" in behind
    assert "after as many epochs 1.50 points ahead of the Baseline" in transfer_words.comparison_words(runs(41.5))
    assert transfer_words.comparison_words(of(result("Multi-step"))) == ""


def test_whether_weights_and_accuracy_fall_together():
    """Two rows tell no trend; of three one pair in the wrong order leaves half a rank correlation."""
    two = transfer_words.movement_words(runs(38.5))
    assert two == (
        "From the higher mean λ to the lower: Baseline: λ 1.00, accuracy 40.00 %; Multi-step: λ 0.50, accuracy 38.50 %."
    )
    fixed = result("0-step", 39.0)
    fixed["metrics"]["pair_weights"] = [[1.2]]
    three = transfer_words.movement_words(pd.concat([runs(38.5), of(fixed)], ignore_index=True))
    assert three.startswith("From the highest mean λ to the lowest: 0-step: λ 1.20, accuracy 39.00 %; Baseline")
    assert three.endswith("The rank correlation of λ and accuracy is 0.50, over 3 rows.")
    assert transfer_words.movement_words(of(result())) == ""


def test_a_method_whose_weights_stay_at_their_start_is_named():
    """T = 0 is not: it has no θ to move."""
    still = [result("Multi-step", 38.5, seed) for seed in range(3)]
    for entry in still:
        entry["metrics"]["pair_weights"] = [[1.02, 0.97, 1.0]] * 5
    said = transfer_words.still_words(of(result("0-step"), result(), result("Scratch"), *still))
    assert (
        said.startswith("At the rate that was best for it, θ of Multi-step has hardly moved") and said.count("θ") == 1
    )
    still[1]["metrics"]["pair_weights"] = [[1.02, 0.94, 1.0]] * 5
    assert transfer_words.still_words(of(*still)) == ""
