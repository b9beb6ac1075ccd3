"""Intervals and tests, against tables of Student's t and SciPy's own test."""

import pytest
from scipy import stats

from msmeta.report.statistics import mean_ci, paired, plus_minus


def test_an_interval_has_the_quantile_of_students_t():
    """97.5 % quantiles from tables: 12.706, 4.303 and 2.776 with 1, 2 and 4 degrees of freedom."""
    assert mean_ci([1.0, 3.0]) == (2.0, pytest.approx(12.706, rel=1e-4))  # standard error 1
    assert mean_ci([1.0, 2.0, 3.0])[1] == pytest.approx(4.303 / 3**0.5, rel=1e-4)
    assert mean_ci([1.0, 2.0, 3.0, 4.0, 5.0])[1] == pytest.approx(2.776 * (2.5 / 5) ** 0.5, rel=1e-3)
    assert mean_ci([5.0]) == (5.0, None) and mean_ci([5.0, 5.0]) == (5.0, 0.0)
    assert plus_minus(*mean_ci([5.0])) == "5.00 (no interval)" and plus_minus(2.0, 0.55, "+.1f") == "+2.0 ±0.6"


def test_one_seed_has_an_interval_over_its_episodes_and_no_verdict():
    found = paired({0: [70.0, 72.0, 74.0], 1: [0.0, 0.0, 0.0]}, {0: [69.0, 69.0, 72.0], 2: [1.0, 1.0, 1.0]}, bound=-1)
    assert (found.mean, found.half) == (2.0, pytest.approx(4.303 / 3**0.5, rel=1e-4))  # differences 1, 3, 2
    assert (found.count, found.p, found.verdict) == (3, None, None)
    single = paired({0: [70.0]}, {0: [69.0]})
    assert (single.mean, single.half, single.verdict) == (1.0, None, None)
    assert paired({0: [70.0]}, {1: [69.0]}) is None


def test_several_seeds_are_tested_with_the_degrees_of_freedom_of_the_seeds():
    """Seeds' means 1, 2, 3: many episodes that agree do not narrow what is over seeds."""
    ours = {seed: [float(seed + 1)] * 600 for seed in range(3)}
    found = paired(ours, {seed: [0.0] * 600 for seed in range(3)}, bound=-1)
    assert (found.mean, found.half) == (2.0, pytest.approx(4.303 / 3**0.5, rel=1e-4))
    assert found.count == 3
    assert found.p == pytest.approx(stats.ttest_1samp([1.0, 2.0, 3.0], -1).pvalue) and found.verdict == "holds"
    assert paired(ours, {seed: [0.0] * 600 for seed in range(3)}, bound=1).verdict == "undecided"
    assert paired(ours, {seed: [9.0] * 600 for seed in range(3)}).verdict == "does not hold"


def test_seeds_without_spread_are_beyond_doubt():
    same = {0: [1.0], 1: [1.0]}
    zero = {0: [0.0], 1: [0.0]}
    assert (paired(same, zero).p, paired(same, zero).verdict) == (0.0, "holds")
    assert (paired(same, zero, bound=1.0).p, paired(same, zero, bound=1.0).verdict) == (1.0, "undecided")


def test_episodes_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match="zip"):
        paired({0: [1.0, 2.0]}, {0: [1.0]})
