"""Estimators side by side: what is counted, what it is held against, and what the table says."""

import itertools
import json
import subprocess
import sys

import pytest
import torch
from matplotlib.text import Text
from problems import F64, maml, meta_network, relative_error, start

from msmeta import (
    SGD,
    Adam,
    Bilevel,
    Binomial,
    ConfigError,
    DivergedError,
    EvolutionStrategies,
    FiniteDifference,
    FirstOrder,
    GaussianSmoothing,
    Implicit,
    LazyHessian,
    MetaGradient,
    MultiStep,
    Perturbed,
    Reptile,
    State,
    Truncated,
    UserError,
    compare,
)
from msmeta.bilevel import task_dot
from msmeta.comparison import Comparison, Row
from msmeta.counting import Counts, counted
from msmeta.statistics import mean_ci

PLAIN = SGD(0.1)
W = torch.ones(2)
COSTS = [
    (MultiStep(PLAIN, 8), 8, 8),
    (MultiStep(PLAIN, 8, 2), 4, 4),
    (MultiStep(PLAIN, 8, (1, 1, 2, 4), "adjoint"), 7, 4),
    (MultiStep(Adam(0.02, eps=1e-2), 20, 1, "adjoint"), 20 + 16 + 19, 20),  # 16 of them to recompute states
    (Truncated(PLAIN, 8, 3), 8, 3),
    (Binomial(PLAIN, 8, 2), 15, 14),
    (LazyHessian(PLAIN, 8, 2), 8, 4),
    (Perturbed(PLAIN, 8), 24, 0),
    (FirstOrder(PLAIN, 8), 8, 0),
    (Reptile(PLAIN, 8), 8, 0),
    (Implicit(PLAIN, 8, cg_steps=3), 9, 3),
    (FiniteDifference(PLAIN, 8, 1e-5), 25, 0),
    (FiniteDifference(Adam(0.02, eps=1e-2), 8, 1e-5), 32, 0),
    (GaussianSmoothing(PLAIN, 8, 2), 41, 0),
    (EvolutionStrategies(PLAIN, 8, 2), 40, 0),
]


def test_gradients_and_products_are_those_that_each_estimator_states():
    problem, theta = maml()
    found = compare(problem, theta, {str(i): estimator for i, (estimator, _, _) in enumerate(COSTS)})
    assert [(row.gradients, row.products) for row in found.rows] == [((g,), (p,)) for _, g, p in COSTS]


def test_counting_changes_no_meta_gradient():
    """Two heads, one of which each step leaves alone, and a part that is frozen; tasks in a batch."""
    generator = torch.Generator().manual_seed(0)
    names = ("w", "first", "second", "idle")
    theta = {name: 0.5 + torch.rand(2, dtype=F64, generator=generator) for name in names}
    theta["still"] = torch.nn.Parameter(torch.ones(2, dtype=F64), requires_grad=False)

    def inner(phi, theta, t):
        return (phi["w"] * phi["still"] * phi[("first", "second")[t % 2]] - 2 - t).square().sum()

    def outer(phi, theta):
        return sum(value.square().sum() for value in phi.values())

    for tasks in (None, 3):
        lead = () if tasks is None else (tasks,)
        problem = Bilevel(lambda th, lead=lead: {k: v.expand(*lead, 2) for k, v in th.items()}, inner, outer, tasks)
        for dynamics in (SGD(0.01, 0.9, 0.1), Adam(0.02, eps=1e-2, weight_decay=0.1)):
            for backward in ("autograd", "adjoint"):
                estimator = MultiStep(dynamics, 4, (1, 2, 1), backward)
                plain, watched = estimator(problem, theta), estimator(counted(problem, Counts()), theta)
                assert relative_error(watched.grad, plain.grad) < 1e-14  # another order of a sum
                assert all(torch.equal(plain.phi[name], watched.phi[name]) for name in theta)


def test_an_inner_loss_without_second_derivatives_has_no_products():
    linear = Bilevel(lambda th: th, lambda phi, th, t: phi["w"].sum(), lambda phi, th: phi["w"].square().sum())
    row = compare(linear, {"w": torch.ones(2)}, [MultiStep(PLAIN, 4)])["MultiStep"]
    assert (row.gradients, row.products) == ((4,), (0,))


def test_without_costs_each_estimator_is_called_once_and_the_plot_is_over_products():
    problem, theta = maml()
    calls = []

    def estimator(problem, theta):
        calls.append(theta)
        return FirstOrder(PLAIN, 4)(problem, theta)

    found = compare(problem, [theta] * 2, {"exact": MultiStep(PLAIN, 4), "own": estimator}, costs=False)
    whole = compare(problem, [theta] * 2, {"exact": MultiStep(PLAIN, 4), "own": FirstOrder(PLAIN, 4)})
    assert len(calls) == 2 and found["own"].seconds == found["own"].bytes == ()
    assert found["own"].cosine == whole["own"].cosine and found["exact"].products == whole["exact"].products
    assert found["own"]._line().endswith("| - | -")
    (axis,) = found.plot().axes
    assert [container.lines[0].get_xdata()[0] for container in axis.containers] == [4, 0]


def test_each_theta_has_the_problem_of_its_number():
    problem, theta = maml()
    thetas = [start(seed) for seed in (1, 2, 3)]

    def draw(i):
        return Bilevel(
            problem.init, problem.inner, lambda phi, th: (i + 1) * problem.outer(phi, th) + i * phi["b1"].sum()
        )

    windows, first = MultiStep(PLAIN, 4, 2), FirstOrder(PLAIN, 4)
    found = compare(draw, thetas, {"first": first, "two": windows, "exact": MultiStep(PLAIN, 4)}, reference="exact")
    assert [row.estimator for row in found.rows] == ["first", "two", "exact"] and found.cases == 3
    for name, estimator in (("first", first), ("two", windows)):
        for i, theta in enumerate(thetas):
            ours, exact = estimator(draw(i), theta).grad, MultiStep(PLAIN, 4)(draw(i), theta).grad
            both, a, b = (task_dot(x, y, False) for x, y in ((ours, exact), (ours, ours), (exact, exact)))
            assert found[name].cosine[i] == pytest.approx((both / (a * b).sqrt()).item(), rel=1e-12)
            assert found[name].norm_ratio[i] == pytest.approx((a / b).sqrt().item(), rel=1e-12)
        assert found[name].mean("cosine") == mean_ci(found[name].cosine) and len(set(found[name].cosine)) == 3
    assert found["exact"].cosine == pytest.approx((1, 1, 1), rel=1e-12)


def test_all_see_the_same_random_numbers_and_the_callers_own_stay():
    def inner(phi, theta, t):
        return (torch.rand(4, dtype=F64) * phi["w"] - 1).square().sum()

    problem = Bilevel(lambda theta: theta, inner, lambda phi, theta: phi["w"].square().sum())
    theta, before = {"w": torch.linspace(1, 2, 4, dtype=F64)}, torch.get_rng_state()
    found = compare(
        problem, [theta] * 2, {"a": MultiStep(PLAIN, 3), "b": MultiStep(PLAIN, 3), "c": FirstOrder(PLAIN, 3)}
    )
    assert found["b"].cosine == pytest.approx((1, 1), rel=1e-12) and found["c"].cosine[0] != found["c"].cosine[1]
    assert torch.equal(torch.get_rng_state(), before)


def test_memory_is_that_of_the_tensors_that_an_estimator_holds():
    """100 kB of parameters and a few numbers of data: a state counts, whether a graph or the estimator holds it."""
    theta = {"w": torch.randn(100, 125, dtype=F64)}
    size, x = theta["w"].nbytes, torch.randn(2, 100, dtype=F64)
    problem = Bilevel(
        lambda theta: theta,
        lambda phi, theta, t: torch.tanh(x @ phi["w"]).square().mean(),
        lambda phi, theta: (x @ phi["w"]).square().mean(),
    )

    def grows(estimator):
        """States by which memory grows with 4 more steps."""
        few, many = (compare(problem, theta, [estimator(steps)]).rows[0].bytes[0] for steps in (4, 8))
        return (many - few) / size

    assert grows(lambda steps: FirstOrder(PLAIN, steps)) == pytest.approx(0, abs=0.1)
    assert grows(lambda steps: MultiStep(SGD(0.1, 0.9), steps, 1, "adjoint")) == pytest.approx(4, abs=0.1)
    assert grows(lambda steps: MultiStep(SGD(0.1, 0.9), steps, steps)) == pytest.approx(0, abs=0.1)


def test_who_refuses_or_diverges_has_a_line_and_no_numbers():
    problem, theta = meta_network()
    found = compare(problem, [theta, theta], [MultiStep(PLAIN, 4), FirstOrder(PLAIN, 4)])
    assert found["FirstOrder"].cosine == () and "a meta-network" in found["FirstOrder"].failure
    text = found.to_markdown()
    assert "| FirstOrder | - | - | - | - | - | - |" in text
    assert "FirstOrder failed in 2 of them: FirstOrder has no gradient for theta['decay']" in text
    nothing = {"zero": lambda problem, theta: FirstOrder(PLAIN, 1)(_bowl(0.0), theta)}
    here = {"w": W}
    nothing["not a number"] = lambda problem, theta: MetaGradient(W, {"w": W * float("nan")}, State({}))
    found = compare(_bowl(1.0), here, {"exact": MultiStep(PLAIN, 1), **nothing})
    assert found["zero"].cosine == () and "the meta-gradient is zero there" in found["zero"].failure
    assert found["not a number"].cosine == () and "is not finite" in found["not a number"].failure


def _bowl(scale):
    return Bilevel(lambda th: th, lambda phi, th, t: phi["w"].square().sum(), lambda phi, th: scale * phi["w"].sum())


THETA = {"w": W}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: compare(THETA, _bowl(1), [MultiStep(PLAIN, 2)]),
            ConfigError,
            "thetas is a Bilevel: it must be a theta",
        ),
        (lambda: compare(_bowl(1), W, [MultiStep(PLAIN, 2)]), ConfigError, "thetas is a Tensor"),
        (
            lambda: compare(_bowl(1), THETA, [MultiStep(PLAIN, 2)], MultiStep(SGD({"w": 0.1}), 2)),
            ConfigError,
            "reference=MultiStep.* is no name",
        ),
        (lambda: compare(_bowl(1), [], [MultiStep(PLAIN, 2)]), ConfigError, "thetas is empty"),
        (lambda: compare(_bowl(1), THETA, []), ConfigError, "estimators is empty"),
        (lambda: compare(_bowl(1), THETA, MultiStep(SGD(0.1), 2)), ConfigError, "estimators is a MultiStep"),
        (lambda: compare(_bowl(1), THETA, [MultiStep]), ConfigError, "estimator MultiStep is a type"),
        (lambda: compare(_bowl(1), THETA, {"a": PLAIN}), ConfigError, "estimator a is a SGD: it must be called"),
        (lambda: compare(_bowl(1), THETA, [MultiStep(PLAIN, 2)] * 2), ConfigError, "two estimators are the same"),
        (lambda: compare(_bowl(1), THETA, [MultiStep(PLAIN, 2)], "exact"), ConfigError, "reference='exact' is no name"),
        (lambda: compare(None, THETA, [MultiStep(PLAIN, 2)]), ConfigError, "the problem is a NoneType"),
        (lambda: compare(lambda i: None, THETA, [MultiStep(PLAIN, 2)]), ConfigError, "the problem is a NoneType"),
        (lambda: compare(_bowl(1), [THETA["w"]], [MultiStep(PLAIN, 2)]), ConfigError, "theta is a Tensor"),
        (lambda: compare(_bowl(0), THETA, [MultiStep(PLAIN, 2)]), ConfigError, "the meta-gradient is zero there"),
        (lambda: compare(_bowl(1), THETA, {"mine": lambda p, th: th}), ConfigError, "returned a dict"),
        (lambda: compare(_bowl(1), THETA, {"mine": _bowl}), ConfigError, r"mine must take \(problem, theta\)"),
        (lambda: compare(lambda: 0, [THETA], [MultiStep(PLAIN, 2)]), ConfigError, r"problem must take \(number\)"),
        (lambda: compare(_bowl(1e39), THETA, [MultiStep(PLAIN, 2)]), DivergedError, "outer loss is inf"),
    ],
)
def test_mistakes_end_in_one_clear_line(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_row_that_is_none_or_has_no_numbers_says_so():
    diverging = FirstOrder(SGD(1e30), 90)
    found = compare(_bowl(1), THETA, {"exact": MultiStep(PLAIN, 2), "far": diverging}, costs=False)
    assert found["exact"].mean("cosine") == (pytest.approx(1), None)
    for call, message in [
        (lambda: found["near"], "no row 'near': there are exact, far"),
        (lambda: found[{}], "no row {}"),
        (lambda: found["far"].mean("cosine"), "far has no cosine: inner loss is inf at step 1"),
        (lambda: found["exact"].mean("seconds"), r"exact has no seconds: compare\(costs=True\) measures it"),
        (lambda: found["exact"].mean("failure"), "the columns are gradients, products, cosine"),
    ]:
        with pytest.raises(ConfigError, match=message):
            call()


def test_the_table_names_what_differs_and_has_intervals_where_numbers_vary():
    problem, _ = maml()
    given = [MultiStep(PLAIN, 4), MultiStep(PLAIN, 4, 2), MultiStep(SGD(0.2), 4, 2), GaussianSmoothing(PLAIN, 4, 2)]
    found = compare(problem, [start(1), start(2)], given)
    names = [row.estimator for row in found.rows]
    assert names[0] == "MultiStep" and names[3] == "GaussianSmoothing(samples=2)"
    assert names[1:3] == [repr(given[1]), repr(given[2])]  # they differ in the dynamics alone
    head, rule, exact, *lines = str(found).splitlines()[:6]
    assert head == "| Estimator | Gradients | Products | Cosine | Norm ratio | Time (ms) | Peak (MB) |"
    assert exact.startswith("| MultiStep | 4 | 4 | 1.000 ±0.000 | 1 | ") or exact.startswith(
        "| MultiStep | 4 | 4 | 1 | 1 |"
    )
    cells = lines[0].strip("| ").split(" | ")
    mean, half = found.rows[1].mean("cosine")
    assert cells[1:4] == ["2", "2", f"{mean:.3f} ±{half:.3f}"] and len(cells) == 7
    assert "Cosine and norm ratio to MultiStep. 2 cases; ± is" in str(found)
    assert "±" not in str(compare(problem, start(), given[:1])) and found._repr_markdown_() == str(found)
    again = json.loads(json.dumps(found.records()))
    assert again[1]["cosine"] == list(found.rows[1].cosine) and again[1]["estimator"] == names[1]


def test_the_plot_has_a_point_for_each_estimator_with_numbers(monkeypatch):
    problem, theta = maml()
    found = compare(problem, [start(1), start(2)], [MultiStep(PLAIN, 4), MultiStep(PLAIN, 4, 2), FirstOrder(PLAIN, 4)])
    time, memory = found.plot().axes
    assert [len(axis.containers) for axis in (time, memory)] == [3, 3]
    y = [container.lines[0].get_ydata()[0] for container in memory.containers]
    assert y == pytest.approx([row.mean("cosine")[0] for row in found.rows])
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    monkeypatch.delattr("matplotlib.pyplot")
    with pytest.raises(UserError, match="plot.. needs matplotlib"):
        found.plot()


@pytest.mark.parametrize("most", [0.012, 0.019, 0.09, 0.11, 9.0])
def test_labels_of_ticks_are_apart(most):
    rows = [Row(str(s), (8,), (8,), (1.0,), (1.0,), (s,), (int(1e8 * s),)) for s in (0.01, most)]
    figure = Comparison(tuple(rows), "0.01", 1).plot()
    figure.draw_without_rendering()
    for axis in figure.axes:
        labels = [label for label in axis.get_xticklabels() + axis.get_xticklabels(minor=True) if label.get_text()]
        boxes = sorted((box for box in map(Text.get_window_extent, labels)), key=lambda box: box.x0)
        inside = [box for box in boxes if axis.bbox.x0 <= (box.x0 + box.x1) / 2 <= axis.bbox.x1]
        assert len(inside) > 1 and all(a.x1 < b.x0 for a, b in itertools.pairwise(inside))


def test_the_package_is_imported_without_what_tables_and_figures_need():
    code = "import sys, msmeta; print([name for name in ('scipy', 'pandas', 'matplotlib') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
