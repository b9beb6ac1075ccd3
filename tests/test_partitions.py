"""The best partition, against all of them one by one."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import F64, maml, start

from msmeta import SGD, Bilevel, ConfigError, DivergedError, LazyHessian, MultiStep, best_partition
from msmeta.bilevel import task_dot
from msmeta.partitions import _climb

HEAVY = SGD(0.1, 0.9)


def test_all_partitions_are_ranked_by_their_mean_cosine():
    problem, _ = maml()
    thetas = [start(seed) for seed in (1, 2)]

    def draw(i):
        return replace(problem, outer=lambda phi, theta: problem.outer(phi, theta) + i * phi["w1"].square().sum())

    def cosines(windows):
        for i, theta in enumerate(thetas):
            ours, exact = (MultiStep(HEAVY, 6, w)(draw(i), theta).grad for w in (windows, 1))
            both, a, b = (task_dot(x, y, False) for x, y in ((ours, exact), (ours, ours), (exact, exact)))
            yield (both / (a * b).sqrt()).item()

    found = best_partition(draw, thetas, HEAVY, 6, windows=3)
    every = [windows for windows in itertools.product(range(1, 7), repeat=3) if sum(windows) == 6]
    expected = {windows: list(cosines(windows)) for windows in every}
    assert (found.tried, found.total, found.even) == (10, 10, (2, 2, 2)) and len(found.ranked) == 10
    assert {entry.windows: list(entry.cosine) for entry in found.ranked} == {
        windows: pytest.approx(values, rel=1e-10) for windows, values in expected.items()
    }
    assert [entry.windows for entry in found.ranked] == sorted(every, key=lambda w: -sum(expected[w]))
    assert found.best == found.ranked[0].windows
    text = str(found)
    assert f"| 1 | {found.best}" in text and "(2, 2, 2) (even) |" in text
    assert "Partitions tried: all 10. Cases: 2." in text
    shown = {entry.windows for entry in found.ranked[:5]} | {found.even}
    assert text.count("\n| ") == 1 + len(shown) and str(found.ranked[7].windows) not in text.replace(
        str(found.even), ""
    )


def test_the_even_one_differs_by_one_at_the_most():
    problem, theta = maml()
    assert best_partition(problem, theta, HEAVY, 5, windows=3).even == (2, 2, 1)
    assert best_partition(problem, theta, HEAVY, 4, windows=1).best == (4,)
    assert best_partition(problem, theta, HEAVY, 4, windows=4).best == (1, 1, 1, 1)


def test_where_there_are_many_a_greedy_search_ends_no_worse_than_even_and_says_so():
    problem, theta = maml()
    found = best_partition(problem, theta, HEAVY, 10, windows=4, most=20)
    every = best_partition(problem, theta, HEAVY, 10, windows=4)
    assert found.total == every.tried == 84 and found.tried < 84
    tried = {entry.windows: entry.cosine[0] for entry in found.ranked}
    known = {entry.windows: entry.cosine[0] for entry in every.ranked}
    assert all(known[windows] == value for windows, value in tried.items()) and tried[found.best] >= tried[found.even]
    assert f"{found.tried} of 84, by a greedy search from the even one" in str(found)


@pytest.mark.parametrize("goal", [(30, 1, 1), (1, 30, 1), (4, 8, 20), (11, 11, 10)], ids=str)
def test_the_search_finds_the_top_of_a_hill(goal):
    seen = {}

    def score(windows):
        seen[windows] = -sum(abs(a - b) for a, b in zip(itertools.accumulate(windows), itertools.accumulate(goal)))  # noqa: B905
        return seen[windows]

    _climb((11, 11, 10), score)
    assert max(seen, key=seen.get) == goal and all(sum(w) == 32 and min(w) >= 1 for w in seen) and len(seen) < 60


def test_partitions_that_diverge_are_not_ranked():
    """A long window steps over 0, where the logarithm ends: with two of them only (3, 5) and (4, 4) do not."""
    barrier = lambda phi, *_: (phi["w"] - 1.1 * phi["w"].log()).sum()  # noqa: E731
    problem = Bilevel(lambda theta: theta, barrier, lambda phi, theta: phi["w"].log().sum())
    theta = {"w": torch.tensor([3.1], dtype=F64)}
    found = best_partition(problem, theta, SGD(1.0), 8, windows=2)
    assert {entry.windows for entry in found.ranked} == {(3, 5), (4, 4)} and found.tried == 7
    with pytest.raises(DivergedError, match="all 1 partitions that were tried fail.*: outer loss is nan"):
        best_partition(problem, theta, SGD(1.0), 8, windows=1)
    uneven = best_partition(problem, theta, SGD(1.0), 10, windows=2)
    assert uneven.even == (5, 5) and "The even one, (5, 5), fails." in str(uneven)


def test_a_partition_without_a_meta_gradient_does_not_end_the_search():
    """θ acts in the second step's loss alone, whose gradient the window of the first two steps does not take."""

    def inner(phi, theta, t):
        return (phi["x"] * (theta["w"] if t == 1 else 1.0)).square().sum()

    problem = Bilevel(lambda theta: {"x": torch.ones(2)}, inner, lambda phi, theta: phi["x"].sum())
    found = best_partition(problem, {"w": torch.ones(2)}, SGD(0.1), 3, windows=2)
    assert found.best == (1, 2) and found.tried == 2 and len(found.ranked) == 1
    with pytest.raises(ConfigError, match="all 1 partitions that were tried fail.* does not depend on theta"):
        best_partition(problem, {"w": torch.ones(2)}, SGD(0.1), 3, windows=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"windows": 5}, "windows=5: there are only steps=4"),
        ({"windows": 0}, "windows=0: it must be a whole number"),
        ({"windows": 2, "most": 0}, "most=0"),
        ({"windows": 2, "steps": 0}, "steps=0"),
        ({"windows": 2, "dynamics": SGD}, "dynamics is SGD"),
        ({"windows": 2, "thetas": []}, "thetas is empty"),
        ({"windows": 2, "thetas": {}}, "theta has nothing to learn"),
    ],
)
def test_mistakes_end_in_one_clear_line(options, message):
    problem, theta = maml()
    with pytest.raises(ConfigError, match=message) as caught:
        best_partition(**{"problem": problem, "thetas": theta, "dynamics": HEAVY, "steps": 4, **options})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("estimator", [MultiStep, LazyHessian])
@pytest.mark.parametrize("window", [[2, 2], np.array([2, 2]), torch.tensor([2, 2])], ids=["list", "array", "tensor"])
def test_estimators_of_equal_windows_are_equal(estimator, window):
    one, other = estimator(SGD(0.1), 4, window), estimator(SGD(0.1), 4, (2, 2))
    assert one == other and hash(one) == hash(other)
