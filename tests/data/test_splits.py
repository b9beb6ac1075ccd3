"""Stratified and balanced parts."""

import numpy as np
import pytest

from msmeta.data.splits import balanced, divide, stratified

LABELS = np.repeat([0, 1, 2], [50, 30, 20])


@pytest.mark.parametrize(
    ("count", "expected"),
    [(10, [5, 3, 2]), (0, [0, 0, 0]), (100, [50, 30, 20]), (11, [6, 3, 2]), (12, [6, 4, 2]), (13, [6, 4, 3])],
)
def test_proportions_by_largest_remainder(count, expected):
    places = stratified(LABELS, count)
    assert np.bincount(LABELS[places], minlength=3).tolist() == expected
    assert sorted(set(places)) == places.tolist()


@pytest.mark.parametrize(
    ("count", "expected"),
    [(3, [1, 1, 1]), (30, [10, 10, 10]), (61, [21, 20, 20]), (80, [30, 30, 20]), (95, [45, 30, 20])],
)
def test_the_same_number_of_each_class_as_far_as_they_reach(count, expected):
    assert np.bincount(LABELS[balanced(LABELS, count)]).tolist() == expected


def test_a_smaller_part_is_in_a_larger_one_and_it_is_random():
    parts = [set(balanced(LABELS, count)) for count in (3, 10, 30, 60)]
    assert all(small < large for small, large in zip(parts, parts[1:], strict=False))
    assert balanced(LABELS, 30).tolist() != [*range(10), *range(50, 60), *range(80, 90)]


def test_the_order_of_the_splits():
    testing = np.arange(100) % 5 == 0
    order = divide(LABELS, testing, 20)
    assert sorted(order) == list(range(100))
    train, validation, test = np.split(order, [60, 80])
    assert np.array_equal(test, np.flatnonzero(testing)) and not testing[train].any()
    assert np.bincount(LABELS[validation]).tolist() == [10, 6, 4]
    assert all(np.array_equal(part, np.sort(part)) for part in (train, validation))


def test_unsorted_labels_are_divided_as_well():
    labels = np.random.default_rng(0).permutation(LABELS)
    assert np.bincount(labels[stratified(labels, 10)]).tolist() == [5, 3, 2]
