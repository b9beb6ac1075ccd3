"""Result files that were damaged, edited or made up: each is left out of tables and named, or says what it said."""

import json
import random

import pytest
import strange

from msmeta.experiments import evaluations, few_shot, finished, stored, transfer
from msmeta.experiments.registry import EXPERIMENTS
from msmeta.report import few_shot as few_shot_report
from msmeta.report import rerun, status
from msmeta.report import transfer as transfer_report
from msmeta.report.frame import FEW_SHOT, TRANSFER
from msmeta.report.frame import stored as frame_of

SIZES = {"iterations": 2, "filters": 2, "tasks": 1, "test_episodes": 3, "curve_episodes": 2, "select_every": 1}
COUNT = 420
SHOWN = {"few-shot": ("accuracy", "right_answers", "iterations"), "transfer": ("selected_epoch", "iterations")}
"""Metrics that belong to others, so that none of them can be changed alone."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Results by kind and name, of small trainings."""
    root = tmp_path_factory.mktemp("results")
    config = few_shot.preset_config("smoke", "glyphs", 5, 1, "multistep", 4, curve_every=1, **SIZES)
    few_shot.train(config, "cpu", results_root=root)
    config = transfer.preset_config("smoke", "glyphs-rgb", "multistep", "sgd", batch=8, train_images=32)
    transfer.train(config, "cpu", results_root=root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MSMETA_RESULTS", str(root))
        (one,) = finished.find(["glyphs-5w*"])
        evaluations.evaluate(one, {"way": 3}, "cpu", save=True)
    paths = sorted((root / "live").glob("*/*.json"))
    return {path.parent.name: (path.name, json.loads(path.read_text())) for path in paths}


def text_of(sound, number):
    """(kind, name, text) of a trial: edited at one place as JSON, or cut or broken as text."""
    draw = random.Random(number)
    kind = draw.choice(["few-shot", "few-shot", "transfer", "evaluations"])
    name, result = sound[kind]
    if number % 4:
        return kind, name, json.dumps(strange.mutated(result, draw)[0])
    text = json.dumps(result)
    at, end = sorted(draw.sample(range(len(text)), 2))
    broken = [text[:at], text[at:], text[:at] + draw.choice(strange.TEXTS) + text[at + 1 :], text[:at] + text[end:]]
    whole = ["", "null", "0", '"a"', strange.DEEP, text * 2, '{"kind": "few-shot"}', "[" + text + "]", "\ufeff" + text]
    return kind, name, draw.choice([*broken, *broken, draw.choice(whole)])


def test_result_files(trials, sound, tmp_path, monkeypatch):
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path))

    def attempt(number):
        kind, name, text = text_of(sound, number)
        (tmp_path / kind).mkdir(exist_ok=True)
        path = tmp_path / kind / name
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        try:
            left_out = []
            found = stored.results(kind, leave_out=left_out.append)
            assert len(found) + len(left_out) == 1
            for error in left_out:
                said = str(error)
                if name not in said or "\n" in said or len(said) > 2000:
                    return f"it says {said[:200]!r}"
            for experiment in (FEW_SHOT, TRANSFER):
                frame = frame_of(experiment, experiment.kind)
                (few_shot_report if experiment is FEW_SHOT else transfer_report).conditions(frame)
            status.cost(), status.summary(), rerun.presets(), [*stored.problems(tmp_path)]
        finally:
            path.unlink()
        own, was = found[0] if found else None, sound[kind][1]
        meant = EXPERIMENTS[kind][0] if kind in EXPERIMENTS else dict  # where a field's default may be left out
        if own and (meant(**own["config"]), own["data"]["hash"]) != (meant(**was["config"]), was["data"]["hash"]):
            return "another config or other data were taken"
        if own and any(
            own["metrics"][shown] != was["metrics"][shown] for shown in SHOWN.get(kind, SHOWN["few-shot"][:2])
        ):
            return "a number of another was taken"
        return None

    trials("Result files damaged or edited", range(COUNT), attempt)
