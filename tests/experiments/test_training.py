"""The one training loop: whatever interrupts it, and wherever, a resumed run equals the whole one to the last bit."""

import errno
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial

import pytest
import torch

from msmeta import ConfigError, DivergedError, UserError, checkout, checkpoints, runs, workers
from msmeta.checkpoints import require_like
from msmeta.errors import WriteError
from msmeta.experiments import distributed, few_shot, training, transfer
from msmeta.experiments.distributed import World
from msmeta.experiments.few_shot.experiment import FewShot
from msmeta.experiments.transfer.experiment import Transfer
from msmeta.workers import Team

SMALL = {
    "few_shot": few_shot.preset_config(
        "smoke", "glyphs", 5, 1, "multistep", 2, steps=2, filters=4, tasks=2, query=3, iterations=5, log_every=2,
        curve_every=2, select_every=2, curve_episodes=2, test_episodes=4,
    ),
    "transfer": transfer.preset_config(
        "smoke", "glyphs-rgb", "multistep", "adam", window=2, train_images=20, batch=10, epochs=2, log_every=2
    ),
}  # fmt: skip
TRAIN = {"few_shot": few_shot.train, "transfer": transfer.train}
EXPERIMENTS = {"few_shot": FewShot, "transfer": Transfer}


def places(module, step, looks):
    """Of each place a function, which of its calls is interrupted, and whether before or after what it does."""
    evaluate = f"{module}.experiment.evaluate"
    return {
        "inside a step": (step, 3, "before"),
        "between step and counter": ("torch.optim.Adam.step", 3, "after"),
        "in the learning curve": (evaluate, looks[0], "before"),
        "in the selection": (evaluate, looks[1], "after"),
        "in the write": ("torch.save", 3, "before"),
        "in the final evaluation": (evaluate, looks[2], "before"),
    }


TRANSFER = "msmeta.experiments.transfer"
PLACES = {
    "few_shot": places("msmeta.experiments.few_shot", "torch.optim.Adam.step", (3, 4, 6)),
    "transfer": places(TRANSFER, f"{TRANSFER}.experiment.transfer_iteration", (1, 2, 3)),
}
CASES = [(kind, place) for kind, places in PLACES.items() for place in places]


@pytest.fixture
def last_state(monkeypatch):
    """The state that was saved last."""
    found, save = {}, runs.Run.save_checkpoint

    def saving(place, state):
        save(place, state)
        found.update(runs.Run.load_checkpoint(place))

    monkeypatch.setattr(runs.Run, "save_checkpoint", saving)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What uninterrupted runs give: result, and state at the end of the training."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        state = last_state.__wrapped__(patch)
        for kind, config in SMALL.items():
            result = TRAIN[kind](config, "cpu", results_root=tmp_path_factory.mktemp(kind))
            found[kind] = result, dict(state)
    return found


def interrupt(monkeypatch, place, act):
    """Calls `act` at a place, once."""
    path, at, when = place
    owner, _, name = path.rpartition(".")
    function = getattr(importlib.import_module(owner) if owner.islower() else torch.optim.Adam, name)
    calls = []

    def wrapped(*arguments, **options):
        calls.append(name)
        if when == "before" and len(calls) == at:
            act()
        found = function(*arguments, **options)
        if when == "after" and len(calls) == at:
            act()
        return found

    monkeypatch.setattr(path, wrapped)


def raise_interrupt():
    raise KeyboardInterrupt


def flat(value):
    """Tensors and plain values in a nested state, in order."""
    if isinstance(value, dict):
        value = [part for key in sorted(value, key=str) for part in (key, value[key]) if key != "seconds"]
    if isinstance(value, (list, tuple)):
        return [leaf for part in value for leaf in flat(part)]
    return [value]


def assert_same_run(result, state, whole):
    for part in ("config", "data", "source"):
        assert result[part] == whole[0][part]
    timed = ("seconds", "per_second", "seconds_per_epoch", "seconds_per_iteration")
    for part in ("metrics", "log", "curve", "selection"):
        ours, theirs = ({k: v for k, v in r.get(part, {}).items() if not k.endswith(timed)} for r in (result, whole[0]))
        assert ours == theirs
    ours, theirs = flat(state), flat(whole[1])
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine, other) if isinstance(mine, torch.Tensor) else mine == other


@pytest.mark.parametrize(
    ("kind", "place", "seconds"),
    [(*case, 0) for case in CASES] + [(kind, "between step and counter", 60) for kind in PLACES],
)
def test_an_exception_anywhere_loses_no_look_and_repeats_no_step(
    kind, place, seconds, tmp_path, monkeypatch, last_state, whole
):
    """KeyboardInterrupt out of whatever runs at the time, with a checkpoint at each boundary, or none yet."""
    with monkeypatch.context() as patch:
        patch.setattr(training, "CHECKPOINT_SECONDS", seconds)
        interrupt(patch, PLACES[kind][place], raise_interrupt)
        with pytest.raises(KeyboardInterrupt):
            TRAIN[kind](SMALL[kind], "cpu", results_root=tmp_path)
    resumed = TRAIN[kind](SMALL[kind], "cpu", resume=True, results_root=tmp_path)
    assert_same_run(resumed, last_state, whole[kind])
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("kind", "place", "number"),
    [(*case, signal.SIGINT) for case in CASES] + [(kind, "inside a step", signal.SIGTERM) for kind in PLACES],
)
def test_a_signal_ends_at_the_next_boundary(kind, place, number, tmp_path, monkeypatch, last_state, whole):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the command line has it
    try:
        with monkeypatch.context() as patch:
            interrupt(patch, PLACES[kind][place], lambda: signal.raise_signal(number))
            with pytest.raises(KeyboardInterrupt):
                TRAIN[kind](SMALL[kind], "cpu", results_root=tmp_path)
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        (checkpoint,) = (tmp_path / "checkpoints").glob("*.pt")
        stopped = checkpoints.read(checkpoint)["iteration"]
        assert stopped == last_state["iteration"] and stopped > 0
        resumed = TRAIN[kind](SMALL[kind], "cpu", resume=True, results_root=tmp_path)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert resumed["provenance"]["resumed"]
    assert_same_run(resumed, last_state, whole[kind])


@pytest.mark.parametrize("kind", TRAIN)
def test_a_time_budget_ends_with_a_checkpoint_and_no_result(kind, tmp_path, clock, last_state, whole):
    assert TRAIN[kind](SMALL[kind], "cpu", time_budget=6.0, results_root=tmp_path) is None
    assert 0 < last_state["iteration"] < 4 and not list(tmp_path.rglob("*.json"))
    resumed = TRAIN[kind](SMALL[kind], "cpu", resume=True, results_root=tmp_path)
    assert_same_run(resumed, last_state, whole[kind])


OTHERS = [
    *(("transfer", {"optimizer": own, "steps": steps}) for own in ("sgd", "adam") for steps in (0, 1)),
    *(("transfer", {"optimizer": own, "estimator": "scratch"}) for own in ("sgd", "adam")),
    *(("transfer", {"estimator": "first-order", "steps": steps}) for steps in (0, 2)),
    ("transfer", {"optimizer": "sgd", "momentum": 0.0}),
    ("transfer", {"steps": 0, "rollback": False}),
    *(("few_shot", {"estimator": name}) for name in few_shot.ESTIMATORS),
    ("few_shot", {"meta_optimizer": "sgd"}),
]


@pytest.mark.parametrize(("kind", "changes"), OTHERS, ids=str)
def test_what_an_iteration_leaves_is_what_a_checkpoint_must_hold(kind, changes):
    """Of every kind of run: θ need not move, and an optimizer need not have tensors."""
    own = EXPERIMENTS[kind](replace(SMALL[kind], window=1, **changes), torch.device("cpu"), World())
    own.begin(0, None)
    own.block(training.Training({}, {}, {}))
    require_like(own.state(), own.expected()[0], "state")


@pytest.mark.parametrize("kind", TRAIN)
def test_an_unfinished_run_is_not_begun_again_by_chance(kind, tmp_path):
    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TRAIN[kind](SMALL[kind], "cpu", on_step=stop, results_root=tmp_path)
    with pytest.raises(ConfigError, match="stopped at iteration 1: continue it with --resume.*--force"):
        TRAIN[kind](SMALL[kind], "cpu", results_root=tmp_path)


def stopped_after(count, train, **options):
    """The iterations that a training did until it was interrupted."""
    done = []

    def stop(progress):
        done.append(progress.iteration)
        if progress.iteration == count:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(on_step=stop, **options)
    return done


def test_a_repeat_that_was_cut_short_goes_on_and_the_older_result_stays_until_then(tmp_path, last_state, whole):
    train = partial(few_shot.train, SMALL["few_shot"], "cpu", results_root=tmp_path)
    first = train()
    assert stopped_after(2, train, force=True) == [1, 2]
    assert train(on_step=pytest.fail) == first  # and the checkpoint is still there
    assert stopped_after(3, train, resume=True) == [3]
    assert stopped_after(4, train, resume=True, force=True) == [4]
    result = train(resume=True)
    assert result["provenance"]["resumed"] and result != first
    assert_same_run(result, last_state, whole["few_shot"])
    assert train(resume=True, on_step=pytest.fail) == result and not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize("again", [{"force": True}, {}], ids=str)
def test_a_repeat_s_result_that_waits_is_stored_and_not_trained_again(again, tmp_path, monkeypatch):
    train = partial(few_shot.train, SMALL["few_shot"], "cpu", results_root=tmp_path)
    first = train()
    with monkeypatch.context() as patch:
        patch.setattr(runs.Run, "save_result", lambda *_: (_ for _ in ()).throw(WriteError("cannot write it")))
        with pytest.raises(WriteError, match="the result waits in .*: make room, and the same command stores it"):
            train(force=True)
    second = train(**again, on_step=pytest.fail)
    assert second["provenance"]["wall_seconds"] != first["provenance"]["wall_seconds"]
    assert train() == second and not list((tmp_path / "checkpoints").iterdir())


def test_a_result_that_another_process_has_stored_meanwhile_is_not_trained_again(tmp_path, monkeypatch):
    train = partial(few_shot.train, SMALL["few_shot"], "cpu", results_root=tmp_path)

    def join(device):
        monkeypatch.undo()
        train()
        return World(), device

    monkeypatch.setattr(distributed, "join", join)
    assert train(on_step=pytest.fail)["metrics"]["iterations"] == 5


def test_a_result_names_the_commits_that_it_was_trained_with(tmp_path, monkeypatch):
    """As they were when each part began, whatever happens to the checkout meanwhile."""
    train, count = partial(few_shot.train, SMALL["few_shot"], "cpu", results_root=tmp_path), 0
    for commit in ("a" * 40, "a" * 40, "b" * 40):
        monkeypatch.setattr(checkout, "commit", lambda commit=commit: commit)
        count += len(stopped_after(count + 1, train, resume=True))
    monkeypatch.setattr(checkout, "commit", lambda: "c" * 40)
    where = train(resume=True)["provenance"]
    assert (where["earlier_commits"], where["commit"]) == (["a" * 40, "b" * 40], "c" * 40)
    assert "earlier_commits" not in train(force=True)["provenance"]


def test_a_second_signal_ends_at_once_and_keeps_the_last_checkpoint(tmp_path, monkeypatch, last_state, whole):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0)

    def twice():
        signal.raise_signal(signal.SIGINT)
        assert last_state["iteration"] == 2
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("it went on")

    with monkeypatch.context() as patch:
        interrupt(patch, PLACES["few_shot"]["inside a step"], twice)
        with pytest.raises(KeyboardInterrupt):
            few_shot.train(SMALL["few_shot"], "cpu", results_root=tmp_path)
    assert last_state["iteration"] == 2
    resumed = few_shot.train(SMALL["few_shot"], "cpu", resume=True, results_root=tmp_path)
    assert_same_run(resumed, last_state, whole["few_shot"])


def test_signals_of_others_are_theirs(tmp_path, monkeypatch):
    """One that is ignored, as by a background job, one that another program handles, and a thread's."""
    seen = []
    before = [signal.signal(signal.SIGINT, signal.SIG_IGN), signal.signal(signal.SIGTERM, lambda *_: seen.append(1))]

    def both():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)

    try:
        interrupt(monkeypatch, PLACES["few_shot"]["inside a step"], both)
        assert few_shot.train(SMALL["few_shot"], "cpu", results_root=tmp_path) and seen == [1]
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)
    done = []
    options = {"force": True, "results_root": tmp_path}
    thread = threading.Thread(target=lambda: done.append(few_shot.train(SMALL["few_shot"], "cpu", **options)))
    thread.start()
    thread.join()
    assert done[0]["metrics"]["iterations"] == 5


@pytest.fixture
def shared(monkeypatch):
    """Trains with two workers that are there from the first iteration on; none is left to the next test."""
    monkeypatch.setattr("msmeta.experiments.few_shot.experiment.team_of", lambda work, size: wait(Team(work, size)))
    yield partial(few_shot.train, SMALL["few_shot"], "cpu", workers=2)
    workers.end()


def wait(team):
    team.wait()
    return team


def test_workers_change_nothing(tmp_path, shared, last_state, whole):
    result = shared(results_root=tmp_path)
    alone, shared = (each["provenance"] for each in (whole["few_shot"][0], result))
    assert (alone["workers"], alone["workers_memory_bytes"]) == (1, 0)
    assert shared["workers"] == 2 and shared["workers_memory_bytes"] > 10**7
    assert_same_run(result, last_state, whole["few_shot"])


def test_a_dead_worker_is_one_line_and_the_run_goes_on(tmp_path, monkeypatch, shared, last_state, whole):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0)

    def kill(progress):
        if progress.iteration == 3:
            (child,) = multiprocessing.active_children()
            child.kill()
            child.join()

    with pytest.raises(UserError, match=r"^worker process \d+ died .*--resume"):
        shared(on_step=kill, results_root=tmp_path)
    assert last_state["iteration"] == 3
    result = shared(resume=True, results_root=tmp_path)
    assert result["provenance"]["workers"] == 2 and result["provenance"]["resumed"]
    assert_same_run(result, last_state, whole["few_shot"])


def test_a_divergence_among_workers_is_that_of_one(tmp_path, shared):
    lines = []
    for number in (1, 2):
        with pytest.raises(DivergedError) as found:
            few_shot.train(replace(SMALL["few_shot"], lr=1e20), "cpu", workers=number, results_root=tmp_path)
        lines.append(str(found.value))
    assert lines[0] == lines[1] and lines[0].startswith("training diverged at iteration 1: ")
    assert multiprocessing.active_children()


FIRST = """
import sys
from pathlib import Path
from msmeta.experiments import few_shot
sys.path.insert(0, sys.argv[2])
from test_training import SMALL

def wait(progress):
    print(progress.iteration, flush=True)
    sys.stdin.readline()

few_shot.train(SMALL["few_shot"], "cpu", on_step=wait, results_root=Path(sys.argv[1]))
"""


def test_a_second_process_of_a_run_is_refused_until_the_first_has_ended(tmp_path):
    """The first waits within its training, and is then killed: neither its lock nor half a file of it is in the way."""
    config, folder = SMALL["few_shot"], tmp_path / "checkpoints"
    command = [sys.executable, "-c", FIRST, str(tmp_path), os.path.dirname(__file__)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "1\n"
        with pytest.raises(UserError, match=f"^this run is being trained by process {first.pid}: wait for its end$"):
            few_shot.train(config, "cpu", results_root=tmp_path)
        other = few_shot.preset_config("smoke", "glyphs", 5, 1, "multistep", 4, filters=4, tasks=2, iterations=1)
        assert few_shot.train(other, "cpu", results_root=tmp_path)
        first.kill()
    (lock,) = folder.iterdir()
    place = few_shot.run(config, tmp_path)
    halves = [path.with_name(f".{path.name}.{first.pid}") for path in (place.checkpoint_path, place.result_path)]
    for half in halves:
        half.write_bytes(b"half a file")
    assert few_shot.train(config, "cpu", results_root=tmp_path)
    assert not list(folder.iterdir()) and not any(half.exists() for half in halves)


@pytest.mark.parametrize("kind", TRAIN)
def test_a_result_that_cannot_be_stored_waits_and_is_stored_by_the_next_start(kind, tmp_path, whole):
    """A file lies where its folder is to be, which nobody could know when the training began."""
    in_the_way = tmp_path / "live"
    with pytest.raises(WriteError, match=r"^cannot write .* bytes needed, [\d,]+ free\); the result waits in "):
        TRAIN[kind](SMALL[kind], "cpu", on_step=lambda step: in_the_way.touch(), results_root=tmp_path)
    assert {path.suffix for path in (tmp_path / "checkpoints").iterdir()} == {".pt", ".result"}
    in_the_way.unlink()
    steps = []
    result = TRAIN[kind](SMALL[kind], "cpu", on_step=steps.append, results_root=tmp_path)
    assert result["metrics"]["accuracy"] == whole[kind][0]["metrics"]["accuracy"] and not steps
    assert result["parameters"] == whole[kind][0]["parameters"] and not list((tmp_path / "checkpoints").iterdir())


def test_a_training_whose_checkpoint_cannot_be_written_ends_and_goes_on_from_the_last(tmp_path, monkeypatch, whole):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0)
    with monkeypatch.context() as patch:
        interrupt(patch, ("msmeta.files.put", 3, "before"), fail)
        with pytest.raises(
            WriteError, match="No space left .* stopped at iteration 3: make room, and --resume"
        ) as found:
            few_shot.train(SMALL["few_shot"], "cpu", results_root=tmp_path)
    assert found.value.exit_status == 3
    result = few_shot.train(SMALL["few_shot"], "cpu", resume=True, results_root=tmp_path)
    assert result["metrics"]["accuracy"] == whole["few_shot"][0]["metrics"]["accuracy"]


def fail():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_damaged_checkpoint_or_result_is_named_and_force_repeats_the_run(tmp_path):
    place, train = few_shot.run(SMALL["few_shot"], tmp_path), partial(few_shot.train, SMALL["few_shot"], "cpu")
    place.checkpoint_path.parent.mkdir()
    for damage in (
        lambda: place.checkpoint_path.write_bytes(b"no checkpoint"),
        lambda: place.save_checkpoint({}),
        lambda: place.save_checkpoint({"state": {}, "iteration": 1}),
    ):
        damage()
        with pytest.raises(UserError, match="^checkpoint .* is damaged: start again with --force$"):
            train(resume=True, results_root=tmp_path)
    train(force=True, results_root=tmp_path)
    place.result_path.write_text('{"config": ')
    with pytest.raises(UserError, match="is damaged"):
        train(results_root=tmp_path)
    train(force=True, results_root=tmp_path)
    assert place.result()["metrics"]["iterations"] == 5
