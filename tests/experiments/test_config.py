"""Configs: what a field takes and refuses, in one line; and what the presets say, cell by cell."""

import dataclasses
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest

from msmeta import ConfigError, runs
from msmeta.data import DATASETS, TRANSFER
from msmeta.experiments import few_shot, transfer
from msmeta.experiments.config import PRESETS, schema

KINDS = {"few-shot": few_shot.FewShotConfig, "transfer": transfer.TransferConfig}


def few(**changes):
    own = {"preset": "smoke", "dataset": "glyphs", "way": 5, "shot": 1, "estimator": "multistep"}
    return few_shot.preset_config(**(own | changes))


def transferred(**changes):
    return transfer.preset_config(**({"preset": "smoke", "dataset": "glyphs-rgb", "estimator": "multistep"} | changes))


BUILD = {"few-shot": few, "transfer": transferred}


def rows():
    """The table of resolved configs: a row has what differs from its experiment's and preset's first row."""
    first = {}
    for line in (Path(__file__).parent / "presets.jsonl").read_text().splitlines():
        row = json.loads(line)
        own = first.setdefault((row["experiment"], row["preset"]), row)
        yield {**own, **row}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_possible_on_every_data_set_of_meta_transfer(preset):
    for name, dataset in DATASETS.items():
        if dataset.purpose != TRANSFER:
            continue
        config = transferred(preset=preset, dataset=name)
        assert (config.train_images or 0) <= dataset.counts["train"]
        assert config.width == 1 or config.target == "vgg9"
    for known in ("folder:x-0123abcd@32+transfer", "folder:x-0123abcd@224+transfer"):
        assert transferred(preset=preset, dataset=known).train_images is None


def test_every_preset_says_what_the_table_says():
    """The table was written down before the presets became rules."""
    named = {
        "few-shot": ("preset", "dataset", "way", "shot", "estimator", "window", "evaluate_on"),
        "transfer": ("preset", "dataset", "estimator", "optimizer", "steps", "window"),
    }
    count = 0
    for row in rows():
        experiment = row.pop("experiment")
        module = {"few-shot": few_shot, "transfer": transfer}[experiment]
        found = runs.plain(module.preset_config(**{name: row[name] for name in named[experiment]}))
        later = {"few-shot": {"task_chunk": None, "damping": 0.0, "depth": 1, "test_norm": "transductive"}}
        expected = {**later.get(experiment, {"split": "seeded", "inner_beta": 1.0}), **row}
        assert found == expected and {k: type(v) for k, v in found.items()} == {k: type(v) for k, v in expected.items()}
        count += 1
    assert count > 180


@pytest.mark.parametrize("module", [few_shot, transfer])
def test_every_rule_decides_a_row_of_the_table(module, monkeypatch):
    """Without it some row comes out otherwise, so the table holds all of them."""
    name = module.__name__.rpartition(".")[2].replace("_", "-")
    own = [row for row in rows() if row["experiment"] == name]
    rules = module.presets.RULES

    def resolved(row, without=None):
        monkeypatch.setattr(module.presets, "RULES", [rule for rule in rules if rule is not without])
        keys = ("preset", "dataset", "estimator", "window", "way", "shot", "evaluate_on", "optimizer", "steps")
        keys = keys[:7] if module is few_shot else (*keys[:4], *keys[7:])
        try:
            return module.preset_config(**{key: row[key] for key in keys if (key, row[key]) != ("steps", 2)})
        except ConfigError:
            return None

    before = [resolved(row) for row in own]
    for rule in rules:
        assert any(resolved(row, rule) != config for row, config in zip(own, before, strict=True)), rule
    assert all(reason for _, _, reason in rules)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"tasks": "8"}, 8), ({"tasks": " 8 "}, 8), ({"tasks": np.int64(3)}, 3), ({"lr": "1e-3"}, 1e-3),
        ({"lr": 1}, 1.0), ({"lr": np.float32(0.5)}, 0.5), ({"lr": "1"}, 1.0), ({"window": "4"}, 4),
        ({"window": "1,1,2,4"}, (1, 1, 2, 4)), ({"window": "[1, 1, 2, 4]"}, (1, 1, 2, 4)), ({"window": [4, 4]}, (4, 4)),
        ({"window": np.array([4, 4])}, (4, 4)), ({"window": np.int64(2)}, 2), ({"window": (4, "4")}, (4, 4)),
        ({"train_seconds": None}, None), ({"train_seconds": 5}, 5.0),
    ],
)  # fmt: skip
def test_a_number_is_taken_as_yaml_numpy_and_a_command_line_give_it(given, wanted):
    (name,) = given
    config = few(**given)
    assert getattr(config, name) == wanted and type(getattr(config, name)) is type(wanted)
    assert config == few(**{name: wanted}) and hash(config) == hash(few(**{name: wanted}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tasks": True}, "tasks=True: it must be a whole number"),
        ({"tasks": np.True_}, "tasks=np.True_: it must be a whole number"),
        ({"tasks": 2.5}, "tasks=2.5: it must be a whole number"),
        ({"tasks": 8.0}, "tasks=8.0: it must be a whole number"),
        ({"tasks": np.float64(3)}, "tasks=np.float64(3.0): it must be a whole number"),
        ({"iterations": "1e3"}, "iterations='1e3': it must be a whole number"),
        ({"window": 4.0}, "window=4.0: give a number of steps"),
        ({"tasks": ""}, "tasks='': it must be a whole number"),
        ({"tasks": None}, "tasks=None: it must be a whole number"),
        ({"lr": False}, "lr=False: it must be a number"),
        ({"lr": [1.0]}, "lr=[1.0]: it must be a number"),
        ({"lr": "fast\nest"}, "lr='fast\\nest': it must be a number"),
        ({"momentum": 1}, "momentum=1: it must be less than 1"),
        ({"weight_decay": -1}, "weight_decay=-1: it must be at least 0"),
        ({"seed": 2**31}, "seed=2147483648: it must be at most 2,147,483,647"),
        ({"seed": -1}, "seed=-1: it must be at least 0"),
        ({"steps": 0}, "steps=0: it must be a whole number, at least one"),
        ({"window": "2;1"}, "window='2;1': give a number of steps such as 4, or a partition"),
        ({"window": True}, "window=True: give a number of steps"),
        ({"window": None}, "window=None: give a number of steps"),
        ({"window": {2, 6}}, "window={2, 6}: give a number of steps"),
        ({"window": []}, "window=() is no partition"),
        ({"window": (4.5, 3.5)}, "window=(4.5, 3.5): give a number of steps"),
        ({"estimator": "multistp"}, "estimator 'multistp' is unknown: choose from multistep, "),
        ({"estimator": "multistp"}, "(did you mean multistep?)"),
        ({"estimator": ["multistep"]}, "estimator ['multistep'] is unknown"),
        ({"dataset": "omniglt"}, "(did you mean omniglot?)"),
        ({"optimiser": "sgd"}, "there is no field 'optimiser': choose from "),
        ({"optimiser": "sgd"}, "(did you mean optimizer?)"),
    ],
)
def test_a_wrong_value_is_one_line_that_says_what_is_allowed(given, message):
    with pytest.raises(ConfigError) as error:
        few(**given)
    assert message in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="rollback='maybe': it must be true or false"):
        transferred(rollback="maybe")


@pytest.mark.parametrize(
    ("experiment", "given", "message"),
    [
        ("few-shot", {"preset": "huge"}, "preset 'huge' is unknown: choose from "),
        ("few-shot", {"estimator": "first-order", "window": 4}, "window=4 has no meaning for first-order"),
        ("few-shot", {"window": 3}, "window=3 does not divide steps=8"),
        ("few-shot", {"estimator": "lazy-hessian", "window": 3}, "window=3 does not divide steps=8"),
        ("few-shot", {"estimator": "truncated", "window": 4}, "window=4 has no meaning for truncated"),
        ("few-shot", {"depth": 2}, "depth=2 has no meaning for multistep"),
        ("few-shot", {"estimator": "binomial", "depth": 9}, "depth=9: it must be a whole number from 0 to steps=8"),
        ("few-shot", {"estimator": "binomial", "depth": -1}, "depth=-1: it must be at least 0"),
        ("few-shot", {"image_size": 0}, "image_size=0: it must be at least 1"),
        ("few-shot", {"tasks": 0}, "tasks=0: it must be at least 1"),
        ("few-shot", {"meta_lr": 0.0}, "meta_lr=0.0: it must be positive"),
        ("transfer", {"estimator": "maml"}, "estimator 'maml' is unknown: choose from scratch, "),
        ("transfer", {"optimizer": "rmsprop"}, "optimizer 'rmsprop' is unknown: choose from sgd, adam"),
        ("transfer", {"source": "vgg"}, "source 'vgg' is unknown: choose from "),
        ("transfer", {"target": "vgg"}, "target 'vgg' is unknown: choose from vgg9, resnet18"),
        ("transfer", {"evaluate_on": "train"}, "evaluate_on 'train' is unknown: choose from test, validation"),
        ("transfer", {"epochs": 0}, "epochs=0: it must be at least 1"),
        ("transfer", {"steps": -1}, "steps=-1: it must be at least 0"),
        ("transfer", {"steps": 3, "window": 2}, "window=2 does not divide steps=3"),
        ("transfer", {"steps": 0, "window": 2}, "window=2 has no meaning without transfer steps"),
        ("transfer", {"estimator": "scratch", "window": 2}, "window=2 has no meaning for scratch"),
        ("transfer", {"target": "resnet18", "width": 0.5}, "width=0.5 has no meaning for resnet18"),
    ],
)
def test_impossible_configs_are_refused(experiment, given, message):
    with pytest.raises(ConfigError) as error:
        BUILD[experiment](**given)
    assert message in str(error.value) and "\n" not in str(error.value)


def _numeric():
    return [
        (experiment, name, own["type"])
        for experiment, kind in KINDS.items()
        for name, own in schema(kind).items()
        if own["type"] in ("integer", "number")
    ]


@pytest.mark.parametrize(("experiment", "name", "kind"), _numeric())
def test_every_number_is_finite_and_within_bounds(experiment, name, kind):
    """Whatever the way in: by a preset, by `replace`, as a number or as a text."""
    values = [
        math.nan,
        math.inf,
        -math.inf,
        "nan",
        "inf",
        "1e400",
        10**400,
        "9" * 5000,
        -1,
        -(10**30),
        "",
        "x",
        b"",
        {},
    ]
    if kind == "integer":
        values += [2**64, 10**30, 1e30, 0.5]
    config = BUILD[experiment]()
    for value in values:
        for refuse in (BUILD[experiment], lambda **own: dataclasses.replace(config, **own)):
            with pytest.raises(ConfigError) as error:
                refuse(**{name: value})
            assert str(error.value).startswith(f"{name}=") and "\n" not in str(error.value)
            assert len(str(error.value)) < 160


def test_fields_have_words_and_what_both_experiments_have_is_declared_once():
    for kind in KINDS.values():
        assert all(own.get("description") for own in schema(kind).values())
    common = schema(KINDS["few-shot"]).keys() & schema(KINDS["transfer"]).keys()
    differ = {n for n in common if schema(KINDS["few-shot"])[n] != schema(KINDS["transfer"])[n]}
    assert differ == {"dataset", "estimator"}  # whose choices are each experiment's own


@pytest.mark.parametrize("build", BUILD.values())
def test_a_config_is_a_value(build):
    config = build(seed=3)
    assert pickle.loads(pickle.dumps(config)) == config and len({config, build(seed=3), build()}) == 2
    assert type(config)(**dataclasses.asdict(config)) == config
    assert type(config)(**runs.plain(config)) == config, "as a stored result has it"
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 4
    with pytest.raises(ConfigError, match="there is no field 'sead': .*did you mean seed"):
        dataclasses.replace(config, sead=4)
    with pytest.raises(ConfigError, match="dataset is missing"):
        type(config)(preset="smoke")


@pytest.mark.parametrize("kind", KINDS)
def test_work_is_what_the_time_of_an_iteration_depends_on(kind):
    """A field that nobody has thought of is part of it."""
    config = BUILD[kind]()
    fields = {field.name for field in dataclasses.fields(config)}
    assert fields > config.UNTIMED and set(config.work()) == fields - config.UNTIMED
    assert config.work() == json.loads(json.dumps(config.work()))
    same = dataclasses.replace(config, seed=5, lr=9.0, preset="cpu", evaluate_on="validation", log_every=7)
    assert same.work() == config.work()
    for name, value in (("steps", 4), ("estimator", "first-order"), ("optimizer", "adam"), ("precision", "bf16")):
        assert dataclasses.replace(config, **{name: value}).work() != config.work()
