"""What is read off learning curves: after equal iterations, and in equal time of an idle core."""

import pytest
import stored_runs
from stored_runs import line

from msmeta.experiments import few_shot
from msmeta.report import few_shot_time as report
from msmeta.report.frame import FEW_SHOT, frame
from msmeta.report.style import COLOURS

SECONDS = {"MAML": 4.0, "Multi-step (4)": 1.0, "FO-MAML": 0.5, "Reptile": 1.0}
CURVE = (100, 150, 225)


@pytest.fixture(autouse=True)
def seconds(monkeypatch):
    """Of an iteration, by the method."""
    monkeypatch.setattr(report, "seconds_per_iteration", lambda config: SECONDS.get(few_shot.label(config)))


def result(method, right, iterations=300, seed=0, curve=CURVE, dataset="omniglot", **changes):
    """A stored run. right: answers of 300 after so many iterations, the same ones on each of 2 episodes of the curve
    and 3 of the end, of which the third has all."""
    config = few_shot.preset_config("cpu", dataset, 5, 1, *method, seed=seed, **changes)
    metrics = {"iterations": iterations, "accuracy": right(iterations) / 3,
               "right_answers": [right(iterations), right(iterations), 300], "answers_per_episode": 300}  # fmt: skip
    points = {"iteration": list(curve), "seconds": [10.0 * at for at in curve],
              "accuracy": [right(at) / 3 for at in curve],
              "right_answers": [[right(at)] * 2 for at in curve]}  # fmt: skip
    return stored_runs.few_shot(config, metrics, points, 10.0 * iterations)


MAML, WINDOWS, FIRST_ORDER = ("multistep", 1), ("multistep", 4), ("first-order", 1)


def of(*results):
    return frame(FEW_SHOT, results)


def test_equal_iterations_are_the_last_that_both_have_on_the_episodes_that_both_were_tested_on():
    """The end of one is a point of the other's curve: its first two episodes count."""
    maml = of(result(MAML, lambda at: 240, 225, curve=CURVE[:2]))
    less, said = report.equal_iterations(of(result(WINDOWS, lambda at: 246)), maml)
    assert (less.mean, less.half, less.count, said) == (2.0, 0.0, 2, "after 225 iterations")
    less, said = report.equal_iterations(of(result(WINDOWS, lambda at: 246)), of(result(MAML, lambda at: 240)))
    assert (less.count, said) == (3, "after 300 iterations")
    assert report.equal_iterations(of(), maml) == (None, "")


def test_equal_time_takes_the_points_nearest_in_time_and_says_how_near():
    """Multi-step ends after 300 s, and MAML's first point is at 400 s; or after 900 s, where MAML has a point."""
    windows, maml = of(result(WINDOWS, lambda at: at)), of(result(MAML, lambda at: at // 2))
    less, said = report.equal_time(windows, maml)
    assert said == "at 300 and 100, 75 % of the time" and less.mean == pytest.approx((300 - 50) / 3)
    long = of(result(WINDOWS, lambda at: at // 4, 900, curve=(100, 150, 225, 337, 506, 759)))
    less, said = report.equal_time(long, maml)
    assert said == "at 900 and 225, 100 % of the time" and less.mean == pytest.approx((225 - 112) / 3)
    assert report.equal_time(long, of())[0] is None
    late = of(result(MAML, lambda at: at, curve=()))
    assert report.equal_time(windows, late) == (None, "no points near in time")


def test_what_was_not_measured_in_seconds_is_not_compared_in_time(monkeypatch):
    monkeypatch.delitem(SECONDS, "MAML")
    runs = of(result(WINDOWS, lambda at: at), result(MAML, lambda at: at))
    assert report.equal_time(*(runs.iloc[[i]] for i in (0, 1)))[1] == "seconds of an iteration were not measured"
    assert line(report.in_equal_time(runs), "| MAML |")[3] == "seconds of an iteration were not measured"


def test_each_method_has_the_time_of_windows_of_four_and_nothing_is_interpolated():
    """300 s: FO-MAML's end is at half of it, MAML's first point is later, and of seeds means count."""
    seeds = [result(WINDOWS, lambda at, seed=seed: at // 2 + 3 * seed, seed=seed) for seed in range(3)]
    others = [result(FIRST_ORDER, lambda at, seed=seed: at // 2 - 3, seed=seed) for seed in range(3)]
    slow = result(MAML, lambda at: at)
    table = report.in_equal_time(of(*seeds, *others, slow))
    assert line(table, "| MAML |")[3:] == ["4.000", "no point so early", "-", "-", "-"]
    windows = line(table, "| Multi-step (4) |")
    assert windows[3:6] == ["1.000", "300", "100"] and windows[-1] == "-" and windows[2] == "0, 1, 2"
    first_order = line(table, "| FO-MAML |")
    assert first_order[3:6] == ["0.500", "300", "50"] and first_order[-1].startswith("-1.33 ±")  # 2/3 · (-2) points
    assert line(report.in_equal_time(of(slow)), "| MAML |")[3] == "Multi-step (4) was not run"


def test_a_point_within_a_falling_meta_rate_or_of_another_selection_is_no_result():
    reptile, selected = of(result(("reptile", 1), lambda at: 1)), of(result(WINDOWS, lambda at: 1, dataset="cifar-fs"))
    assert list(report.of_seeds(reptile)) == [300] and list(report.of_seeds(selected)) == [*CURVE]


def test_comparison_is_with_maml_in_both_ways():
    table = report.comparison(of(result(WINDOWS, lambda at: 270), result(MAML, lambda at: 240)))
    windows, maml = line(table, "| Multi-step (4) |"), line(table, "| MAML |")
    assert windows[3] == "300" and windows[5] == "1.000" and maml[6:] == ["-", "-"]
    assert windows[6].startswith("+6.67 ±") and windows[6].endswith("(after 300 iterations)")
    assert windows[7] == "+10.00 ±0.00 (at 300 and 100, 75 % of the time)"


def test_comparison_of_several_seeds_is_over_the_seeds():
    """Seeds that are 3, 6 and 9 of 300 answers better, on the first two of three episodes."""
    made = [result(MAML, lambda at: 240, seed=seed) for seed in range(3)]
    made += [result(WINDOWS, lambda at, seed=seed: 243 + 3 * seed, seed=seed) for seed in range(3)]
    row = line(report.comparison(of(*made)), "| Multi-step (4) |")
    assert row[2] == "0, 1, 2" and row[6] == f"+1.33 ±{4.3027 * 2 / 3 / 3**0.5:.2f}, p = 0.074 (after 300 iterations)"


def test_learning_curves_draw_means_over_seeds_to_the_end_in_the_methods_colour():
    made = [result(WINDOWS, lambda at, seed=seed: at // 2 + 30 * seed, seed=seed) for seed in range(2)]
    found = of(result(MAML, lambda at: at // 2), *made)
    by_iteration, by_time = report.learning_curves(found, "title").axes
    exact, windows = (container.lines[0] for container in by_iteration.containers)
    assert [exact.get_color(), windows.get_color()] == [COLOURS["MAML"], COLOURS["Multi-step (4)"]]
    assert list(exact.get_xdata()) == [*CURVE, 300]
    assert list(windows.get_ydata()) == pytest.approx([(at // 2 + 15) / 3 for at in (*CURVE, 300)])
    assert [text.get_text() for text in by_time.texts] == ["MAML", "Multi-step (4)"]
    assert list(by_time.containers[0].lines[0].get_xdata()) == [1000, 1500, 2250, 3000]
    assert by_time.get_xlabel() == "training time (s)" and by_iteration.get_ylabel() == "test accuracy (%)"
    _, idle = report.learning_curves(found, "title", idle=True).axes
    assert list(idle.containers[0].lines[0].get_xdata()) == [400, 600, 900, 1200]
    assert idle.get_xlabel() == "training time on one idle core (s)"


def test_windows_without_a_colour_of_their_own_differ_all_the_same():
    made = [result(("multistep", window), lambda at: at // 2, steps=16) for window in ((4, 4, 8), (8, 4, 4), 16)]
    containers = report.learning_curves(of(*made), "title").axes[0].containers
    assert len({container.lines[0].get_color() for container in containers}) == 3


def test_a_run_without_a_curve_is_told_in_words():
    assert report.learning_curves(of(result(MAML, lambda at: 1, curve=())), "Live").startswith("Live: no curve")
