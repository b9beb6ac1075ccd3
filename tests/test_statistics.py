"""Intervals and tests, against tables of Student's t and SciPy's own test."""

import numpy as np
import pytest
from scipy import stats

from msmeta.statistics import Bounds, detectable, holm, mean_ci, paired, plus_minus


def test_an_interval_has_the_quantile_of_students_t():
    """97.5 % quantiles from tables: 12.706, 4.303 and 2.776 with 1, 2 and 4 degrees of freedom."""
    assert mean_ci([1.0, 3.0]) == (2.0, pytest.approx(12.706, rel=1e-4))  # standard error 1
    assert mean_ci([1.0, 2.0, 3.0])[1] == pytest.approx(4.303 / 3**0.5, rel=1e-4)
    assert mean_ci([1.0, 2.0, 3.0, 4.0, 5.0])[1] == pytest.approx(2.776 * (2.5 / 5) ** 0.5, rel=1e-3)
    assert mean_ci([5.0]) == (5.0, None) and mean_ci([5.0, 5.0]) == (5.0, 0.0)
    assert plus_minus(*mean_ci([5.0])) == "5.00 (no interval)" and plus_minus(2.0, 0.55, "+.1f") == "+2.0 ±0.6"


def test_one_seed_has_an_interval_over_its_episodes_and_no_test():
    found = paired({0: [70.0, 72.0, 74.0], 1: [0.0, 0.0, 0.0]}, {0: [69.0, 69.0, 72.0], 2: [1.0, 1.0, 1.0]})
    assert (found.mean, found.half) == (2.0, pytest.approx(4.303 / 3**0.5, rel=1e-4))  # differences 1, 3, 2
    assert (found.count, found.deviation, found.p(Bounds(-1))) == (3, None, None)
    single = paired({0: [70.0]}, {0: [69.0]})
    assert (single.mean, single.half, single.p(Bounds(0))) == (1.0, None, None)
    assert paired({0: [70.0]}, {1: [69.0]}) is None


def of_means(*means):
    """The paired difference of seeds that have these means, each of 600 episodes that agree."""
    return paired({seed: [mean] * 600 for seed, mean in enumerate(means)}, {seed: [0.0] * 600 for seed in range(9)})


def judged(found, bounds):
    return found.verdict(bounds, found.p(bounds))


def test_several_seeds_are_tested_with_the_degrees_of_freedom_of_the_seeds():
    """Many episodes that agree do not narrow what is over seeds."""
    found = of_means(1.0, 2.0, 3.0)
    assert (found.mean, found.half) == (2.0, pytest.approx(4.303 / 3**0.5, rel=1e-4))
    assert (found.count, found.deviation) == (3, 1.0)
    assert found.p(Bounds(-1)) == pytest.approx(stats.ttest_1samp([1.0, 2.0, 3.0], -1).pvalue)
    assert [judged(found, Bounds(low)) for low in (-1, 1, 9)] == ["held", "undecided", "did not hold"]
    assert found.verdict(Bounds(-1), p=0.05) == "undecided"  # as a correction may have it


def test_an_equality_takes_two_one_sided_tests():
    means = [0.1, 0.2, 0.15, 0.05]
    found, margin = of_means(*means), Bounds(-0.4, 0.4)
    both = [
        stats.ttest_1samp(means, -0.4, alternative="greater").pvalue,
        stats.ttest_1samp(means, 0.4, alternative="less").pvalue,
    ]
    assert found.p(margin) == pytest.approx(max(both)) and judged(found, margin) == "held"
    assert judged(of_means(0.1, 0.9, -0.6), margin) == "undecided"  # no difference was shown, nor its absence
    for sign in (1, -1):
        beyond = of_means(*(sign * mean for mean in (1.0, 1.1, 1.2)))
        assert beyond.p(margin) == pytest.approx(stats.ttest_1samp([1.0, 1.1, 1.2], 0.4).pvalue)
        assert judged(beyond, margin) == "did not hold"
    assert [str(bounds) for bounds in (margin, Bounds(5))] == ["-0.4 to 0.4", "> 5"]


def test_seeds_without_spread_are_beyond_doubt():
    same = of_means(1.0, 1.0)
    assert (same.p(Bounds(0)), judged(same, Bounds(0))) == (0.0, "held")
    assert (same.p(Bounds(1)), judged(same, Bounds(1))) == (1.0, "undecided")


def test_p_values_are_corrected_for_their_number_by_holm():
    """The smallest times their number, the next times one less; never less than one before it, nor more than 1."""
    assert holm([0.03, None, 0.01, 0.02]) == pytest.approx([0.04, None, 0.03, 0.04], abs=1e-12, nan_ok=True)
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([None]) == [None] and holm([0.04]) == [0.04]


@pytest.mark.parametrize("seeds", [3, 5])
def test_what_seeds_can_show_is_shown_four_times_in_five(seeds):
    """Against SciPy's own t test of many made differences."""
    distance = detectable(2.0, seeds)
    drawn = np.random.default_rng(0).normal(distance, 2.0, (20_000, seeds))
    shown = (stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05).mean()
    assert shown == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("seeds", [3, 5])
def test_seeds_show_an_equality_up_to_the_margin_at_least_four_times_in_five(seeds):
    margin = detectable(2.0, seeds, equality=True)
    drawn = np.random.default_rng(0).normal(0.0, 2.0, (20_000, seeds))
    above, below = (
        stats.ttest_1samp(drawn, end, axis=1, alternative=way) for end, way in ((-margin, "greater"), (margin, "less"))
    )
    assert 0.79 < ((above.pvalue < 0.05) & (below.pvalue < 0.05)).mean() < 0.84


def test_episodes_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match="zip"):
        paired({0: [1.0, 2.0]}, {0: [1.0]})
