"""The frame of results: a row a run, what counts as evidence, and where the evidence comes from."""

import json
from pathlib import Path

import pytest
import stored_runs

from msmeta import UserError
from msmeta.experiments import sweep
from msmeta.experiments.few_shot import preset_config
from msmeta.report import few_shot
from msmeta.report.frame import FEW_SHOT, TRANSFER, commit_in_words, committed, frame, stored

RESULTS = Path(__file__).parents[2] / "results"


def test_every_committed_run_is_evidence_of_its_preset_or_asked_for_by_a_sweep_beside_it():
    specs = [RESULTS / "sweeps" / name for name in ("campaign.yaml", "transfer_strength.yaml")]
    asked = {config for spec in specs for config in sweep.read_spec(spec)}
    for experiment in (FEW_SHOT, TRANSFER):
        own, every = committed(experiment), stored(experiment, experiment.kind)
        assert len(every) == len(list((RESULTS / experiment.kind).glob("*.json"))) and len(own) > 15
        assert set(every["config"]) - set(own["config"]) <= asked
        assert (own["iterations"] > 0).all() and own["accuracy"].between(0, 100).all()
        assert len(stored(experiment, f"{experiment.kind}-tuning", preset="cpu")) > 20
    assert set(committed(FEW_SHOT, dataset="omniglot", way=20)["setting"]) == {"20-way 1-shot"}


def test_rows_stand_in_the_order_of_the_tables():
    own = committed(TRANSFER, dataset="cifar-100", optimizer="adam")
    order = [
        "Scratch", "Scratch, 144 epochs", "0-step", "1-step", "1-step, 2·lr", "Baseline", "Multi-step",
        "Multi-step, 16 epochs", "3-step", "3-step Est. (3)", "First-order",
    ]  # fmt: skip
    rows = list(own["row"].unique())
    assert rows == [row for row in order if row in rows] and {"Scratch", "Baseline", "Multi-step"} <= {*rows}
    settings, methods = [(20, 1), (5, 5), (5, 1)], [few_shot.methods()[i] for i in (6, 4, 3, 1, 5, 2, 0)]
    configs = [preset_config("cpu", "omniglot", *setting, **values) for setting in settings for values in methods]
    own = frame(FEW_SHOT, [stored_runs.few_shot(config, {"accuracy": 90.0}, {}) for config in configs])
    assert list(own["label"].unique()) == [
        "MAML", "Multi-step (2)", "Multi-step (4)", "Multi-step (8)", "FO-MAML", "iMAML", "Reptile",
    ]  # fmt: skip
    assert list(own["setting"].unique()) == ["5-way 1-shot", "5-way 5-shot", "20-way 1-shot"]


def test_a_frame_without_runs_has_the_columns_all_the_same():
    empty = frame(FEW_SHOT, [])
    assert empty[empty["preset"] == "cpu"].empty and list(empty.groupby("row")) == []


def test_a_config_of_another_version_is_refused_in_one_line():
    (path, *_) = (RESULTS / "transfer").glob("*.json")
    result = json.loads(path.read_text())
    result["config"]["no_such_field"] = 1
    with pytest.raises(UserError, match="a transfer result has a config that this version does not know: .*no_such_"):
        frame(TRANSFER, [result])


def test_a_commit_is_said_with_what_it_lacks():
    assert commit_in_words({"commit": "0123456789"}) == "0123456" and commit_in_words({"commit": None}) == "no commit"
    resumed = {"commit": "abcdefghi", "earlier_commits": ["0123456789"]}
    assert commit_in_words({"commit": "0123456789"}, resumed) == "0123456, abcdefg"
    assert commit_in_words({"commit": "0123456789-dirty"}) == (
        "0123456 with changes that no commit holds: to be measured again"
    )


def test_no_committed_result_is_from_a_tree_with_changes():
    """Else no commit reproduces it: commit the code, then measure again."""
    paths = [p for p in RESULTS.rglob("*.json") if p.relative_to(RESULTS).parts[0] not in ("live", "checkpoints")]
    assert len(paths) > 200
    commits = {path.name: json.loads(path.read_text())["provenance"]["commit"] for path in paths}
    assert [name for name, commit in commits.items() if commit is None or commit.endswith("-dirty")] == []
