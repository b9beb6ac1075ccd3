"""The presets of few-shot learning: `smoke`, `quick`, `cpu` and the `paper`'s own protocol."""

from __future__ import annotations

from typing import Any

from msmeta.experiments.config import Rule, resolve
from msmeta.experiments.few_shot.config import RGB, FewShotConfig

MANY_WAYS = range(20, 1_000_001)
EXACT = {"estimator": "multistep", "window": 1}
TUNED = "the best of those tried, after equal meta-iterations on classes held out for it (results/few-shot-tuning)"
TUNED_5_WAY = f"{TUNED}, 5-way 1-shot"
NICHOL = "Nichol et al. (2018), whose numbers the paper quotes"
RAJESWARAN = "Rajeswaran et al. (2019), as the paper's text has it"

RULES: list[Rule] = [
    ({}, {"steps": 8, "iterations": 60_000}, "Appendix F"),
    # The size of a run.
    ({"preset": "paper"}, {"filters": 64, "tasks": 32, "log_every": 200, "curve_every": 500}, "Appendix F"),
    ({"preset": "paper", "way": MANY_WAYS}, {"tasks": 16}, "Appendix F"),
    ({"preset": "paper", "dataset": RGB}, {"filters": 32, "tasks": 4}, "Appendix F"),
    ({"preset": "cpu"}, {"filters": 32, "tasks": 4, "iterations": 4000}, "half an hour of one core (protocol.yaml)"),
    ({"preset": "quick"}, {"filters": 32, "tasks": 4, "train_seconds": 20.0}, "live in the book"),
    ({"preset": "quick"}, {"test_episodes": 200, "curve_episodes": 50}, "live in the book"),
    ({"preset": "quick", "way": MANY_WAYS}, {"tasks": 2}, "halved, as the paper does"),
    ({"preset": "quick", "dataset": RGB}, {"filters": 16, "tasks": 2}, "an image takes longer"),
    ({"preset": ("quick", "cpu"), "dataset": "miniimagenet"}, {"image_size": 42}, "four times the meta-iterations"),
    ({"preset": "smoke"}, {"filters": 8, "tasks": 2, "iterations": 4, "log_every": 1}, "seconds"),
    ({"preset": "smoke"}, {"test_episodes": 10, "curve_episodes": 5, "curve_every": 1}, "seconds"),
    ({"preset": "smoke", "way": MANY_WAYS}, {"tasks": 1}, "seconds"),
    ({"preset": "smoke", "dataset": RGB}, {"tasks": 1}, "seconds"),
    # Model selection on the validation classes of photographs; Omniglot has none in the paper.
    ({"preset": "paper", "dataset": RGB, "evaluate_on": "test"}, {"select_every": 1000}, "Appendix F"),
    ({"preset": "cpu", "dataset": RGB, "evaluate_on": "test"}, {"select_every": 500}, "eight looks"),
    ({"preset": "quick", "dataset": RGB, "evaluate_on": "test"}, {"select_every": 50}, "a few looks in the time"),
    ({"preset": "smoke", "dataset": RGB, "evaluate_on": "test"}, {"select_every": 2}, "two looks"),
    # Inner rates. Those of photographs are the paper's in all presets, until shorter runs have their own (rates.yaml).
    ({}, {"lr": 0.1}, TUNED),
    ({"way": MANY_WAYS, **EXACT}, {"lr": 0.2}, TUNED),
    ({"estimator": "first-order"}, {"lr": 0.2}, TUNED),
    ({"estimator": "first-order", "way": MANY_WAYS}, {"lr": 0.1}, TUNED),
    ({"preset": "paper"}, {"lr": 0.4}, "Appendix F"),
    ({"dataset": RGB}, {"lr": 0.04}, "Appendix F"),
    ({"dataset": RGB, "shot": 1, "estimator": "multistep"}, {"lr": 0.01}, "Appendix F"),
    ({"dataset": RGB, "shot": 1, "estimator": "first-order"}, {"lr": 0.1}, "Appendix F"),
    ({"estimator": "implicit"}, {"lr": 0.1}, TUNED + "; the paper does not give it"),
    # Meta learning rates; the paper's is the default.
    ({"preset": ("smoke", "quick")}, {"meta_lr": 1e-2}, "few meta-iterations"),
    ({"preset": "quick", "dataset": RGB}, {"meta_lr": 3e-3}, "few meta-iterations"),
    ({"preset": "cpu"}, {"meta_lr": 3e-3}, TUNED),
    # What the other methods have of their own.
    ({"estimator": ("first-order", "reptile", "implicit")}, {"momentum": 0.0, "weight_decay": 0.0}, "vanilla SGD"),
    ({"estimator": "implicit"}, {"steps": 16}, RAJESWARAN),
    ({"estimator": "implicit", "way": MANY_WAYS}, {"steps": 25}, RAJESWARAN),
    ({"estimator": "implicit", "dataset": RGB}, {"proximal": 0.5, "damping": 0.0}, RAJESWARAN),
    ({"preset": "cpu", "estimator": "implicit"}, {"proximal": 0.02, "damping": 20.0, "meta_lr": 1e-2}, TUNED_5_WAY),
    ({"estimator": "reptile"}, {"optimizer": "adam", "steps": 5, "inner_shot": 2, "test_steps": 50}, NICHOL),
    ({"estimator": "reptile"}, {"tasks": 5, "meta_optimizer": "sgd", "meta_lr": 1.0}, NICHOL),
    ({"estimator": "reptile"}, {"meta_schedule": "linear", "lr": 0.032}, NICHOL + "; the rate is tuned"),
    ({"estimator": "reptile", "preset": "cpu"}, {"inner_shot": 4, "lr": 0.016}, TUNED_5_WAY),
    ({"estimator": "reptile", "way": MANY_WAYS}, {"steps": 10, "inner_shot": 1, "lr": 0.008}, NICHOL + "; likewise"),
    ({"estimator": "reptile", "dataset": RGB}, {"steps": 8, "inner_shot": 2, "lr": 1e-3}, NICHOL),
    ({"estimator": "reptile", "preset": "smoke"}, {"test_steps": 8, "tasks": 2}, "seconds"),
    ({"estimator": "reptile", "preset": "paper"}, {"iterations": 100_000, "lr": 1e-3}, NICHOL),
    ({"estimator": "reptile", "preset": "paper", "way": MANY_WAYS}, {"iterations": 200_000, "lr": 5e-4}, NICHOL),
]
"""Rates were tuned on Omniglot by ways, with one shot."""


def preset_config(
    preset: str, dataset: str, way: int, shot: int, estimator: str, window: int | tuple[int, ...] = 1, **changes: Any
) -> FewShotConfig:
    """The config of a preset (`smoke`, `quick`, `cpu`, `paper`), with `changes` to any of its fields.

    Raises ConfigError for an unknown preset, estimator or field, or an impossible value.
    """
    named = {"preset": preset, "dataset": dataset, "way": way, "shot": shot, "estimator": estimator, "window": window}
    return resolve(FewShotConfig, RULES, named | changes)
