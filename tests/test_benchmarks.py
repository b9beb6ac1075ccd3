"""Benchmarks run to their end on small work, and what they time beside msmeta computes the same."""

import io
import itertools
import json
import os
import random
import re
import subprocess
import sys
import tarfile
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from problems import F64, relative_error

from msmeta import SGD, State, UserError, idle, machine, report, runs
from msmeta.errors import script
from msmeta.experiments import few_shot, registry, sweep
from msmeta.experiments.few_shot import preset_config
from msmeta.experiments.few_shot.experiment import FewShot
from msmeta.experiments.transfer import TransferProblem, transfer_iteration
from msmeta.models.l2t import L2T
from msmeta.models.vgg9 import VGG9
from msmeta.report import campaign

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import books  # noqa: E402
import few_shot_costs  # noqa: E402
import few_shot_graph  # noqa: E402
import few_shot_step  # noqa: E402
import gpu  # noqa: E402
import meta_gradients  # noqa: E402
import products  # noqa: E402
import products_seconds  # noqa: E402
import rounding  # noqa: E402
import scaling  # noqa: E402
import seconds  # noqa: E402
import steps_memory  # noqa: E402
import transfer_step  # noqa: E402


class Idle:
    """A watch on a machine with nothing else to do."""

    cores, load, sees = 0.0, 0.0, True

    def look(self):
        return self.cores

    end = look


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The result that a benchmark writes with these options."""
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path))
    monkeypatch.setattr(runs, "LOOK_SECONDS", 0)

    def result(benchmark, *options):
        monkeypatch.setattr(sys, "argv", [benchmark.__name__, *map(str, options)])
        monkeypatch.setattr(idle, "Watch", Idle)
        benchmark.main()
        (path,) = tmp_path.glob("*/*.json")
        return json.loads(path.read_text())

    return result


def test_each_method_is_timed_in_each_precision_and_held_against_float32(run, monkeypatch):
    monkeypatch.setattr(few_shot_graph.GraphedStepper, "block", 3)
    # A large product in bfloat16 takes minutes on a processor that has no such numbers.
    monkeypatch.setattr(machine, "speed", lambda *_: {"flops_per_second": 1e10, "bytes_per_second": 1e10})
    options = ["--device", "cpu", "--way", "2", "--steps", "2", "--tasks", "1", "--filters", "4", "--blocks", "1"]
    result = run(few_shot_graph, *options)
    rows = {(row["estimator"], row["window"], row["precision"]): row for row in result["metrics"]}
    assert len(rows) == 5 * 3
    for (_, _, precision), row in rows.items():
        assert row["seconds"] > 0 and row["floor_seconds"] > 0
        if precision == "bf16":  # 8 bits of mantissa; how far that leads apart depends on the inner rate
            assert row["relative_difference"] > 1e-4
        else:  # a CPU has no TF32
            assert row["cosine"] == pytest.approx(1, abs=1e-5) and row["relative_difference"] < 1e-4


@pytest.fixture
def gpu_script(tmp_path, monkeypatch):
    """What each step of a rehearsal came to, by its name, and the files that it packed."""
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text("{preset: smoke, dataset: glyphs, runs: [{way: 5, shot: 1, estimator: first-order}]}")
    monkeypatch.setattr(gpu, "SPEED", {"convolutions": gpu.SPEED["convolutions"]})
    monkeypatch.setattr(gpu, "METHODS", gpu.METHODS[1:2])

    def result(*options):
        out = tmp_path / "out"
        command = ["gpu", "--out", str(out), "--device", "cpu", "--small", "--sweep", str(sweep), *options]
        monkeypatch.setattr(sys, "argv", command)
        try:
            gpu.main()
        finally:
            result.steps = {step["step"]: step for step in json.loads((out / "gpu.json").read_text())["steps"]}
            with tarfile.open(
                fileobj=io.BytesIO(b"".join(map(Path.read_bytes, sorted(out.glob("*.tar.gz*")))))
            ) as archive:
                result.files = archive.getnames()

    result.sweep = sweep
    return result


def test_the_gpu_script_checks_times_trains_packs_and_goes_on_from_that(gpu_script, tmp_path, monkeypatch):
    gpu_script()
    assert [step["outcome"] for step in gpu_script.steps.values()] == ["well"] * 8
    names = list(gpu_script.steps)
    assert [name.split()[0] for name in names] == ["check"] * 4 + ["repeat"] * 2 + ["speed", "train"]
    assert gpu_script.steps[names[0]]["found"]["relative_difference"] < 1e-8
    assert {Path(name).suffix for name in gpu_script.files} >= {".json"}
    assert "results/benchmarks/convolutions-float32.json" in gpu_script.files
    done = [name for name in gpu_script.files if "few-shot" in name]
    monkeypatch.setattr(gpu, "repeat", lambda *_: None)
    (tmp_path / "out" / "results.tar.gz").rename(tmp_path / "earlier.tar.gz")
    gpu_script("--resume", str(tmp_path / "earlier.tar.gz"))
    assert [name for name in gpu_script.files if "few-shot" in name] == done
    assert all(name.startswith("check") for name in gpu_script.steps)  # what was measured or trained is not repeated
    (tmp_path / "earlier.tar.gz").write_bytes(b"no archive")
    with pytest.raises(UserError, match="has no archive of results"):
        gpu_script("--resume", str(tmp_path / "earlier.tar.gz"))


def test_the_gpu_script_does_nothing_more_where_a_number_is_wrong(gpu_script, monkeypatch):
    monkeypatch.setattr(gpu, "TOLERANCES", {torch.float32: 1e-12})
    with pytest.raises(UserError, match="not right on cpu"):
        gpu_script()
    assert {step["outcome"] for step in gpu_script.steps.values()} == {"failed"}
    assert all("1e-12 is allowed" in step["says"] for step in gpu_script.steps.values())


@pytest.mark.parametrize(("once", "said"), [(1, "again"), (2, "stopped")])
def test_the_gpu_script_says_where_a_training_is_not_the_same_again(once, said, monkeypatch):
    """The second training, or the third, which is stopped, begins with another θ."""
    trainings, begin = [], FewShot.begin

    def changed(self, iteration, state):
        begin(self, iteration, state)
        trainings.append(iteration)
        if len(trainings) == once + 1:
            with torch.no_grad():
                next(iter(self.theta.values())).add_(1e-6)

    monkeypatch.setattr(FewShot, "begin", changed)
    config = few_shot.preset_config("smoke", "glyphs", 5, 1, "first-order", iterations=6)
    with pytest.raises(UserError, match=f"^other parameters: {said}$"):
        gpu.repeated(config, torch.device("cpu"), (2, 4))
    assert trainings == [0, 0, 0, 2, 4]


def test_what_the_gpu_script_has_no_room_for_is_the_least_that_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "VOLUME", 10_000)  # seven of them
    sizes = {"checkpoints/a.pt": 30_000, "checkpoints/b.pt": 20_000, "checkpoints/b.before": 20_000,
             "few-shot/c.json": 1000, "few-shot/c.pt": 10_000}  # fmt: skip
    for name, size in sizes.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(random.randbytes(size))
    assert gpu.pack(tmp_path)[1] == ["checkpoints/b.before", "few-shot/c.pt"]
    (tmp_path / "checkpoints/a.pt").write_bytes(random.randbytes(60_000))
    packed, left_out = gpu.pack(tmp_path)
    assert left_out == ["checkpoints/a.pt", "checkpoints/b.before", "few-shot/c.pt"] and len(packed) < 30_000


def test_a_run_that_cannot_be_gone_on_with_is_an_error(gpu_script, monkeypatch):
    monkeypatch.setattr(gpu, "check", lambda *_: None)
    pack = gpu.pack
    monkeypatch.setattr(gpu, "pack", lambda results: (pack(results)[0], ["checkpoints/a.before", "checkpoints/a.pt"]))
    with pytest.raises(UserError, match="^no room in 7 volumes for checkpoints/a.pt: the next call begins"):
        gpu_script("--minutes", "0")


def test_what_the_gpu_script_has_no_time_for_is_said(gpu_script, monkeypatch):
    monkeypatch.setattr(gpu, "check", lambda *_: None)
    gpu_script("--minutes", "0")
    assert [step["outcome"] for step in gpu_script.steps.values()] == ["out of time"] * 4


CAMPAIGN = """
{preset: smoke, dataset: glyphs, way: 5, shot: 1, iterations: 6, tasks: 1, curve_episodes: 1, test_episodes: 4,
 parts: [
 {name: first, seed: [0, 1], runs: [{estimator: multistep, window: [1, 8]}]},
 {name: second, seed: 0, runs: [{estimator: [first-order, reptile]}]}]}
"""


def test_a_campaign_is_finished_in_several_calls_by_what_its_runs_are_worth(gpu_script, tmp_path, monkeypatch, clock):
    """Each look at the clock takes a second, so that a call ends within a run; the next one goes on there."""
    for skipped in ("check", "repeat", "speed"):
        monkeypatch.setattr(gpu, skipped, lambda *_: None)
    monkeypatch.setattr(campaign, "hours", lambda config: 1.0 / config.window)
    monkeypatch.setattr(gpu, "VOLUME", 20_000)
    gpu_script.sweep.write_text(CAMPAIGN)
    begun, calls, resume = [], 0, []
    while not begun or gpu_script.steps and list(gpu_script.steps.values())[-1]["outcome"] == "out of time":
        monkeypatch.setattr(gpu, "time", SimpleNamespace(monotonic=itertools.count().__next__))
        gpu_script("--minutes", "0.3", *resume)
        begun += [(step["part"], name) for name, step in gpu_script.steps.items()]
        calls, resume = calls + 1, ["--resume", str(tmp_path / "out")]
    assert calls > 2 and len(list((tmp_path / "out").glob("results.tar.gz.*"))) > 1
    order = list(dict.fromkeys(begun))
    kinds = [(part, re.search("-(multistep-.|first-order|reptile).*-s(.)-", name).groups()) for part, name in order]
    assert kinds == [
        ("first", ("multistep-8", "0")), ("first", ("multistep-1", "0")), ("first", ("multistep-8", "1")),
        ("first", ("multistep-1", "1")), ("second", ("first-order", "0")), ("second", ("reptile", "0")),
    ]  # fmt: skip
    assert len(begun) > len(order)  # some were gone on with
    names = [name for name in gpu_script.files if name.endswith(".json")]
    assert len(names) == 6 and not [name for name in gpu_script.files if "checkpoints" in name]
    gpu.unpack(tmp_path / "out", tmp_path / "unpacked")
    for config in sweep.read_spec(gpu_script.sweep):
        found = registry.place(config, tmp_path / "unpacked" / "results").result()
        again = few_shot.train(config, "cpu", results_root=tmp_path / "whole")
        assert found["metrics"]["right_answers"] == again["metrics"]["right_answers"]


def test_what_the_archive_has_no_room_for_is_left_out_parameters_first(tmp_path, monkeypatch):
    noise = np.random.default_rng(0)
    for name, size in (("few-shot/a.json", 10), ("few-shot/a.pt", 4000), ("checkpoints/b.pt", 4000)):
        path = tmp_path / "results" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(noise.bytes(size))
    packed, left_out = gpu.pack(tmp_path / "results")
    assert not left_out
    monkeypatch.setattr(gpu, "VOLUME", len(packed) // gpu.VOLUMES - 200)
    assert gpu.pack(tmp_path / "results")[1] == ["few-shot/a.pt"]
    monkeypatch.setattr(gpu, "VOLUME", 400 // gpu.VOLUMES)
    assert gpu.pack(tmp_path / "results")[1] == ["checkpoints/b.pt", "few-shot/a.pt"]


def test_each_method_of_meta_transfer_is_timed_by_the_script(tmp_path):
    options = ["--device", "cpu", "--settings", "32x32", "--batch", "2", "--width", "0.0625"]
    command = [sys.executable, BENCHMARKS / "transfer_step.py", *options, "--rounds", "1", "--repeats", "1", "--anyway"]
    environment = {**os.environ, "MSMETA_RESULTS": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "benchmarks" / "transfer_step.json").read_text())
    names = ("optimizer", "estimator", "replayed", "steps", "window", "precision")
    rows = {tuple(row[name] for name in names) for row in result["metrics"]}
    assert {row[1:5] for row in rows if row[0] == "sgd"} == {
        ("scratch", False, 2, 1), ("multistep", False, 2, 1), ("multistep", False, 2, 2), ("first-order", False, 2, 1),
        ("multistep", True, 2, 1),
    }  # fmt: skip
    assert len(result["metrics"]) == len(rows) == 14
    for row in result["metrics"]:
        assert row["bytes"] > 0 and row["floor_seconds"] > 0 and row["batch"] == 2
        assert [row["seconds"]] == row["seconds_all"]


def test_a_plain_loop_is_timed_beside_msmeta(run, monkeypatch, capsys):
    monkeypatch.setattr(few_shot_step, "version", missing)
    result = run(few_shot_step, "--filters", "4", "--tasks", "2", "--rounds", "1")
    names = [f"{kind} {name}" for name in (1, 2, 4, 8, "first-order") for kind in ("plain", "msmeta")]
    assert list(result["metrics"]) == names and result["machine"]["flops_per_second"] > 0 and result["peers"] == {}
    for row in result["metrics"].values():
        assert row["seconds"] > 0 and row["floor_seconds"] > 0 and row["bytes"] > 0
    assert "higher is not installed, and not timed: pip install -e '.[bench]'" in capsys.readouterr().out


def missing(package):
    raise PackageNotFoundError


def test_the_codes_that_are_timed_agree_on_the_meta_gradient_in_float64(monkeypatch):
    own = [name for name, (code, _) in few_shot_step.METHODS.items() if code not in few_shot_step.PEERS]
    few_shot_step.check_agreement(own)
    monkeypatch.setattr(few_shot_step, "SGD", lambda lr: SGD(lr + 1e-9))
    with pytest.raises(UserError, match=r"of msmeta 1 is \d.\de-\d\d away from the plain loop's: nothing is timed"):
        few_shot_step.check_agreement(own)


@pytest.mark.parametrize("peer", few_shot_step.PEERS)
def test_others_codes_agree_on_the_meta_gradient_in_float64(peer):
    pytest.importorskip(peer)
    few_shot_step.check_agreement(["plain 1", f"{peer} 1"])


def test_an_iteration_of_each_kind_of_run_is_timed_once(run, tmp_path):
    (tmp_path / "sweeps").mkdir()
    few_shot, transfer = tmp_path / "sweeps/few_shot.yaml", tmp_path / "sweeps/transfer.yaml"
    few_shot.write_text(
        "{preset: smoke, dataset: miniimagenet, way: 2, shot: 1, query: 2, filters: 2, "
        "runs: [{estimator: multistep, window: [1, 8], seed: [0, 1], lr: [0.1, 0.2]}, {estimator: reptile, lr: 0.3}]}"
    )
    transfer.write_text("{experiment: transfer, preset: smoke, dataset: cifar-100, batch: 2, estimator: scratch, "
                        "width: 0.02, runs: [{optimizer: [sgd, adam], epochs: [1, 2]}]}")  # fmt: skip
    whole = run(seconds, "--rounds", "2")
    assert run(seconds, transfer, "--rounds", "1") == whole  # which a part does not take the place of
    rows = whole["metrics"]
    assert [row["work"].get("window") for row in rows if row["threads"] == 1] == [1, 8, 1, 1, 1]
    assert {row["threads"] for row in rows} == {1, torch.get_num_threads()}
    for row in rows:
        assert len(row["seconds_all"]) == 2 and min(row["seconds_all"]) > 0
        assert row["seconds"] == pytest.approx(sum(row["seconds_all"]) / 2)
    again = preset_config(
        "smoke", "miniimagenet", way=2, shot=1, query=2, filters=2, estimator="multistep", window=8, lr=9.0, seed=3
    )
    (row,) = (row for row in rows if row["work"].get("window") == 8 and row["threads"] == 1)
    assert report.speed.seconds_per_iteration(again) == row["seconds"]


def test_memory_is_measured_for_each_number_of_steps_and_both_backward_passes(run, monkeypatch):
    monkeypatch.setattr(steps_memory, "STEPS", (1, 4))
    rows = run(steps_memory, "--filters", "2", "--tasks", "1")["metrics"]
    wanted = [(steps, window, b) for window in (1, 4) for b in ("autograd", "adjoint") for steps in (1, 4)]
    assert [(row["steps"], row["window"], row["backward"]) for row in rows] == [w for w in wanted if w[0] % w[1] == 0]
    assert all(row["seconds"] > 0 and row["bytes"] > 0 for row in rows)


def test_estimators_are_compared_with_the_exact_meta_gradient(run, monkeypatch):
    monkeypatch.setitem(meta_gradients.STAGES, "quadratic", [(1, (0,))])
    result = run(meta_gradients, "quadratic", "--batches", "3")
    rows = {(row["estimator"], str(row["window"]), row["momentum"]): row for row in result["metrics"]}
    exact = rows["multistep", "[1, 1, 1, 1, 1, 1, 1, 1]", 0.0]
    assert exact["cosine"] == pytest.approx(1) and exact["norm_ratio_sd"] < 1e-12 and exact["batches"] == 3
    assert rows["adjoint", "None", 0.9]["cosine"] == pytest.approx(1)
    windows, random = rows["multistep", "[2, 2, 2, 2]", 0.0], rows["evolution-strategies", "None", 0.0]
    assert -1 < random["cosine"] < windows["cosine"] < 1


def test_the_same_estimators_are_timed(run):
    rows = run(products_seconds, "quadratic", "--steps", "8", "--draws", "2")["metrics"]
    named = [(row["steps"], row["estimator"], row.get("window")) for row in rows]
    assert (8, "multistep", [1] * 8) in named and (8, "truncated", None) in named and (8, "multistep", [4, 4]) in named
    assert all(len(row["seconds"]) == 2 and min(row["seconds"]) > 0 and min(row["bytes"]) > 0 for row in rows)


def test_estimators_are_compared_at_the_products_that_they_take(run, monkeypatch, tmp_path):
    """In two calls, the first of which is cut off in the second panel."""
    monkeypatch.setitem(products.TRAINED, "quadratic", (0,))
    monkeypatch.setitem(products.DYNAMICS, "quadratic", (SGD(0.1), SGD(0.1, 0.5)))
    panel, measured = products.panel, []

    def interrupted(at, dynamics, steps):
        measured.append(dynamics.momentum)
        if len(measured) == 2:
            raise KeyboardInterrupt
        return panel(at, dynamics, steps)

    monkeypatch.setattr(products, "panel", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(products, "quadratic", "--seeds", 1)
    result = run(products, "quadratic", "--seeds", 1)
    assert measured == [0.0, 0.5, 0.5] and not list((tmp_path / "checkpoints").iterdir())
    assert "others" not in result["provenance"]  # nothing is timed
    result["metrics"] = [row for row in result["metrics"] if row["momentum"] == 0]

    def of(estimator, **own):
        wanted = {"estimator": estimator, **own}
        (row,) = (row for row in result["metrics"] if wanted.items() <= row.items())
        return row

    exact = of("multistep", window=[1] * 8)
    assert exact["cosine"] == pytest.approx([1]) and (exact["gradients"], exact["products"]) == (8, 8)
    near = [of("truncated", depth=depth) for depth in (1, 2, 4)]
    assert [row["products"] for row in near] == [1, 2, 4]
    assert near[0]["cosine"] < near[1]["cosine"] < near[2]["cosine"] < [1]
    assert [of("binomial", depth=depth)["products"] for depth in (1, 2, 4)] == [8, 14, 20]
    assert of("lazy-hessian", window=[4, 4])["products"] == 2 and of("first-order")["products"] == 0
    assert of("implicit", cg_steps=2)["products"] == 2


def test_float32_is_held_against_float64_on_the_same_tasks(run, monkeypatch):
    monkeypatch.setattr(rounding, "EPISODES", 20)
    options = ["--dataset", "glyphs", "--way", 5, "--windows", 8, "--iterations", 3, "--seeds", 2, "--batches", 2]
    (row,) = run(rounding, *options)["metrics"]
    assert row["window"] == 8 and all(1e-9 < error < 1e-3 for error in row["errors"])
    (first, second), wide = row["accuracies"]["float32"], row["accuracies"]["float64"]
    assert first != second and [first, second] == pytest.approx(wide, abs=1)
    assert "| Multi-step (8) |" in report.speed.rounding_table() and "5-way 1-shot" in report.speed.rounding_table()


def test_a_mistake_ends_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(idle, "Watch", Idle)
    monkeypatch.setattr(sys, "argv", ["few_shot_costs.py", "--tasks", "0"])
    with pytest.raises(SystemExit, match="2"):
        script(few_shot_costs.main)
    assert capsys.readouterr() == ("", "few_shot_costs.py: tasks=0: it must be at least 1\n")


@pytest.mark.parametrize(
    "kinds", [(VGG9, L2T), (transfer_step.PlainVGG9, transfer_step.PlainL2T)], ids=["own", "plain"]
)
def test_the_replayed_reverse_is_the_same_meta_gradient(kinds):
    torch.manual_seed(0)
    network, dynamics = VGG9(way=3, width=1 / 64), SGD(0.05, 0.9, 1e-2)
    l2t = L2T((2, 3), network.channels)
    other = transfer_step.PlainVGG9(3, 1 / 64), transfer_step.PlainL2T((2, 3), network.channels)
    features = [torch.randn(4, channels, 32, 32, dtype=F64) for channels in (2, 3)]
    source, x = l2t.source_batch(features, network.sizes(32)), torch.randn(4, 3, 32, 32, dtype=F64)
    problem = TransferProblem(network, l2t, x, torch.tensor([0, 1, 2, 0]), source)
    params, statistics = network.init(1)
    phi = {name: value.double() for name, value in (params | l2t.init_matching(2)).items()}
    theta = {name: value.double() for name, value in l2t.init_meta().items()}
    own = transfer_iteration(problem, State(phi), theta, dynamics, 2, 1)
    statistics = {name: value.double() for name, value in statistics.items()}
    again = TransferProblem(*other, x, problem.y, source)
    replayed = transfer_step.replayed_reverse(lambda: again, State(phi), theta, dynamics, 2, statistics)
    assert relative_error(replayed, own.meta.grad) < 1e-9  # the same sums in another order


def test_one_factor_after_another_is_turned_and_rates_are_fitted_to_a_third_of_the_points(run, monkeypatch):
    monkeypatch.setattr(scaling, "STEPS", (1, 4))
    monkeypatch.setattr(scaling, "FACTORS", {"task_chunk": (1,)})
    monkeypatch.setattr(scaling, "SIDES", (21,))
    # In this process, which has the memory that it takes.
    rows = lambda measure, cells, rounds: [{**measure(cell), "bytes": 1e6 * cell.steps} for cell in cells]  # noqa: E731
    monkeypatch.setattr(machine, "in_turns", rows)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # which would stay
    result = run(scaling, "--filters", "2", "--tasks", "1", "--rounds", "1")
    rows, exact, names = result["metrics"], ("multistep", 1, "autograd"), ("estimator", "window", "backward")
    turned = {(*pair, *(row[name] for name in names)) for row in rows for pair in row["turned"]}
    assert {("steps", 4, *exact), ("window", 4, "multistep", 4, "adjoint"), ("photographs", 21, *exact)} <= turned
    assert all(row["seconds"] > 0 and row["tally"]["flops"] > 0 for row in rows)
    assert [row["fitted"] for row in rows if row["steps"] == 1] == [True, False, False]
    assert sum(row["fitted"] for row in rows) > 0 and not any(row["fitted"] for row in rows if row["steps"] == 4)
    assert min(rate for name, rate in result["rates"].items() if name != "off") >= 0


STUB = """import os, pathlib, sys
root = pathlib.Path(__file__).resolve().parent.parent
assert (root / "CITATION.cff").exists() and (root / "pyproject.toml").exists()
assert sys.argv[1:] == ["--preset", "smoke"] and not (root / "results" / "live").exists()
live = pathlib.Path(os.environ["MSMETA_RESULTS"], "live")
for path, size in ((root / "book" / "_build" / "html", 983), (live, 30)):
    path.mkdir(parents=True)
    (path / "x").write_bytes(bytes(size))
(root / "book" / "_build" / "html" / "seconds.json").write_text('{"table_1": 2.50}')
"""


def test_a_book_is_built_in_a_copy_without_earlier_live_runs(run, tmp_path, monkeypatch):
    checkout = tmp_path / "checkout"
    for name in ("book", "notebooks", "results/live"):
        (checkout / name).mkdir(parents=True)
    (checkout / "book" / "build.py").write_text(STUB)
    for name in ("CITATION.cff", "pyproject.toml"):
        (checkout / name).touch()
    monkeypatch.setattr(machine, "repository", lambda: checkout)
    result = run(books, "--preset", "smoke")
    assert result["metrics"]["seconds"] > 0 and result["metrics"]["pages"] == {"table_1": 2.5}
    assert (result["metrics"]["page_bytes"], result["metrics"]["result_bytes"]) == (1000, 30)
    assert not (checkout / "book" / "_build").exists()
    (checkout / "book" / "build.py").write_text("import sys; sys.exit('build: no such page')")
    with pytest.raises(UserError, match="build: no such page"):
        run(books, "--preset", "smoke")
