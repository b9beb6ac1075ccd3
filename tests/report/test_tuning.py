"""Tables of tuning from made results: what was turned, where the best lies, and from where on it is the best."""

import itertools

import stored_runs
from stored_runs import cell, line
from stored_runs import result as transfer_result

from msmeta.experiments import few_shot, sweep
from msmeta.report import few_shot_time, few_shot_tuning, transfer, tuning
from msmeta.report.frame import FEW_SHOT

EPISODES = range(4)
RATES = "inner rate: accuracy (%)"


def tuned(accuracy, method=("multistep", 4), way=20, curve=(125, 187), iterations=200, log=None, **changes):
    """A stored tuning run; the accuracy (%) of each episode after so many iterations is `accuracy(iteration)`, and 1
    point more or less."""
    values = {"evaluate_on": "validation", "train_seconds": None, "iterations": iterations} | changes
    config = few_shot.preset_config("cpu", "omniglot", way, 1, *method, **values)
    own = [[int(3 * (accuracy(at) + (-1) ** i)) for i in EPISODES] for at in (*curve, iterations)]
    metrics = {"iterations": iterations, "accuracy": accuracy(iterations), "right_answers": own[-1],
               "answers_per_episode": 300}  # fmt: skip
    points = {"iteration": list(curve), "seconds": [1.0] * len(curve),
              "accuracy": [accuracy(at) for at in curve], "right_answers": own[:-1]}  # fmt: skip
    more = {"log": log} if log else {}
    return stored_runs.few_shot(config, metrics, points, kind="few-shot-tuning", **more)


def crossing(slow, fast):
    """The low rate is behind at first, and ahead in the end."""
    return [tuned(lambda at: fast[at], lr=0.4), tuned(lambda at: slow[at], lr=0.2), tuned(lambda at: 50, lr=0.1)]


def test_the_table_has_what_was_turned_and_says_where_the_best_lies(store):
    store(*crossing({125: 60, 187: 70, 200: 80}, {125: 65, 187: 70, 200: 75}))
    table = few_shot_tuning.tuning_table().partition("\n\n")[2]
    own, other, best = cell(table, "Multi-step (4)", RATES).split("<br>")
    assert own.startswith("0.1: **50.00 ±")  # the preset's
    assert other.startswith("0.2: 80.00 ±") and best.startswith("0.4: 75.00 ±")
    assert cell(table, "Multi-step (4)", "iterations") == "200" and cell(table, "Multi-step (4)", "also turned") == "-"
    assert cell(table, "Multi-step (4)", "best, and where in its grid") == "inner rate 0.2: inside"
    store(tuned(lambda at: 90, lr=0.8))
    assert "inner rate 0.8: at the edge of inner rate |" in few_shot_tuning.tuning_table()


def test_the_choice_is_shown_at_each_point_and_whether_it_could_be_told_from_the_last(store):
    store(*crossing({125: 60, 187: 70, 200: 80}, {125: 65, 187: 70, 200: 75}))
    table = few_shot_tuning.tuning_stability().partition("\n\n")[2]
    best = cell(table, "Multi-step (4)", "best, by iterations").split("<br>")
    assert best == ["125: inner rate 0.4", "187: inner rate 0.4 ≈", "200: inner rate 0.2"]
    assert cell(table, "Multi-step (4)", "unchanged from") == "187"
    (figure,) = few_shot_tuning.tuning_figures()
    assert figure.axes[0].lines[-1].get_label() == "inner rate 0.2" and len(figure.axes[0].lines) == 3


def test_runs_of_different_lengths_are_compared_after_equally_many_iterations(store):
    """The long run of a bad rate ends higher than the short ones of better rates."""
    store(
        *crossing({125: 60, 187: 70, 200: 80}, {125: 65, 187: 70, 200: 75}),
        tuned(lambda at: at / 10, lr=0.04, curve=(125, 187, 281, 421), iterations=900),
    )
    table = few_shot_tuning.tuning_table().partition("\n\n")[2]
    assert cell(table, "Multi-step (4)", "iterations") == "187"
    assert cell(table, "Multi-step (4)", RATES).startswith("0.04: 18.")
    assert not cell(table, "Multi-step (4)", "best, and where in its grid").startswith("inner rate 0.04")
    store(tuned(lambda at: 99, lr=0.04, curve=(), iterations=150))  # the same, and no such point
    assert few_shot_tuning.tuning_table().partition("\n\n")[2] == table
    store(tuned(lambda at: 10, lr=0.04, seed=1))
    assert "| seed 1 | 187 | 0.04: 10." in few_shot_tuning.tuning_table()


def test_any_field_that_was_turned_has_its_place(store):
    """λ = 2, δ = 0 is best; 0 is no edge of δ, since nothing lies beyond it, and momentum is with or without."""
    values = itertools.product((0.05, 0.1, 0.2), (0.5, 2.0, 8.0), (0.0, 10.0), (0.0, 0.9))
    grid = [dict(zip(("lr", "proximal", "damping", "momentum"), own, strict=True)) for own in values]

    def accuracy(lr, proximal, damping, momentum):
        return 90 - 40 * abs(lr - 0.1) - 5 * abs(proximal - 2) - damping - momentum

    store(*(tuned(lambda at, own=own: accuracy(**own), ("implicit", 1), 5, **own) for own in grid))
    table = few_shot_tuning.tuning_table()
    assert len(table.splitlines()) == 2 + 2 + 3 * 2 * 2
    best = line(table, "inside")
    assert best[:3] == ["iMAML", "momentum 0, λ 2, δ 0", "200"]
    assert best[-1] == "inner rate 0.1, momentum 0, λ 2, δ 0: inside"


def test_a_longer_inner_loop_is_another_problem_for_windows_and_a_choice_of_imaml(store):
    store(*(tuned(lambda at: 50, method, steps=steps) for method in (("multistep", 4), ("implicit", 1))
          for steps in (16, 32)))  # fmt: skip
    table = few_shot_tuning.tuning_table()
    assert "**20-way 1-shot, T = 16**" in table and "**20-way 1-shot, T = 32**" in table
    assert "| iMAML | T 16 |" in table and "| Multi-step (4) | T" not in table


PROTOCOL = """
{preset: cpu, dataset: omniglot, way: 20, shot: 1, estimator: multistep, window: 4, evaluate_on: validation,
 train_seconds: null, lr: 0.2, runs: [{filters: [32, 64], tasks: [4, 8], iterations: 200, meta_lr: 0.003}]}
"""


def test_how_the_size_was_chosen_stands_apart_and_at_equal_time(store, tmp_path, monkeypatch):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "protocol.yaml").write_text(PROTOCOL)
    assert few_shot_tuning.sizes() == "Not run: `msmeta sweep results/sweeps/protocol.yaml`."
    configs = sweep.read_spec(tmp_path / "sweeps" / "protocol.yaml")
    store(*(
        tuned(lambda at, c=c: at / 4 + c.filters / 8 + c.tasks, filters=c.filters, tasks=c.tasks, lr=0.2, meta_lr=0.003)
        for c in configs[:3]
    ))  # fmt: skip
    seconds = {(c.filters, c.tasks): c.filters * c.tasks / 128 for c in configs}
    monkeypatch.setattr(few_shot_tuning, "seconds_per_iteration", lambda c: seconds[c.filters, c.tasks])
    table = few_shot_tuning.sizes()
    assert "Equal time: 3 minutes" in table and "1 of its 4 runs are not run" in table
    small, large = (line(table, f"| filters {size} |") for size in ("32, tasks 4", "32, tasks 8"))
    assert small[3] == "200 (100 % of the time)" and small[1][:5] == small[4][:5] == "58.00"
    assert large[2:5] == ["2.000", "no point so early", "-"]  # the first is at 250 s
    assert few_shot_tuning.tuning_table() == "No run yet."
    store(tuned(lambda at: 60, lr=0.2, meta_lr=0.01), tuned(lambda at: 50, lr=0.1, meta_lr=0.01))
    assert "filters" not in few_shot_tuning.tuning_table() and "inner rate 0.2" in few_shot_tuning.tuning_table()


IMAML = """
{preset: cpu, dataset: omniglot, way: 5, shot: 1, estimator: implicit, evaluate_on: validation, train_seconds: null,
 iterations: 200, meta_lr: 0.01, lr: 0.1, runs: [{proximal: [2.0, 20.0], cg_steps: [5, 20]}]}
"""


def test_why_imaml_is_behind_is_told_by_its_sweep_or_not_at_all(store, tmp_path):
    assert few_shot_tuning.behind_imaml() == "Not run: `msmeta sweep results/sweeps/imaml.yaml`."
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "imaml.yaml").write_text(IMAML)

    def run(proximal, cg_steps, accuracy, residual, indefinite):
        log = {"iteration": [*range(8)], "residual": [9.0] * 6 + [residual] * 2, "indefinite": [1.0] * 6
               + [indefinite] * 2}  # fmt: skip
        return tuned(lambda at: accuracy, ("implicit", 1), 5, log=log, proximal=proximal, cg_steps=cg_steps,
                     meta_lr=0.01, lr=0.1)  # fmt: skip

    store(run(2.0, 5, 60, 0.5, 0.4), run(2.0, 20, 55, 0.4, 0.5), run(20.0, 5, 80, 0.05, 0.001))
    store(tuned(lambda at: 90, ("multistep", 1), 5, meta_lr=0.01))
    text = few_shot_tuning.behind_imaml()
    assert "The best of 3 runs of iMAML in 5-way 1-shot has 80.00 ±" in text and "-10.00 points" in text
    assert "1 of its 4 runs are not run" in text
    assert line(text, "| λ 2 | 2 | 60.00 ±")[3:] == ["CG steps 5", "0.5", "40.0"]
    assert line(text, "| residual below 0.1 |")[1] == "1" and line(text, "| residual of at least 0.1 |")[1] == "2"
    assert line(text, "| tasks of negative curvature of at least 1 % |")[3] == "λ 2, CG steps 5"


def test_reptile_and_its_falling_meta_rate_count_at_the_end_alone(store):
    store(*(tuned(lambda at, lr=lr: 50 + 100 * lr, ("reptile", 1), 5, lr=lr) for lr in (0.01, 0.02)))
    (grid,) = tuning.grids(FEW_SHOT, lambda run: run.label, few_shot_time.points)
    assert [list(points) for points in grid.points] == [[200], [200]]
    assert "| inner rate 0.02 | 1 | 52.00 ±" in few_shot_tuning.behind_reptile()


def test_transfer_is_judged_by_the_best_epoch_so_far(store):
    def run(accuracy, lr):
        return {**transfer_result("Scratch", accuracy, evaluate_on="validation", lr=lr), "kind": "transfer-tuning"}

    store(run(30, 0.003), run(40, 0.01), run(35, 0.03))
    assert cell(transfer.tuning_table("sgd"), "Scratch", "best, and where in its grid") == "inner rate 0.01: inside"
    assert cell(transfer.tuning_stability("sgd"), "Scratch", "unchanged from") == "1"
