"""The presets of few-shot learning: `smoke`, `quick`, `cpu` and the `paper`'s own protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msmeta.errors import ConfigError
from msmeta.experiments.few_shot.config import RGB, FewShotConfig

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"iterations": 60_000, "log_every": 200, "curve_every": 500},
    # Two cores: narrower, smaller meta-batches, and rates chosen on held-out meta-training classes.
    "cpu": {"iterations": 60_000, "train_seconds": 150.0, "meta_lr": 1e-2},
    "quick": {"iterations": 60_000, "train_seconds": 20.0, "meta_lr": 1e-2, "test_episodes": 200, "curve_episodes": 50},
    "smoke": {"iterations": 4, "meta_lr": 1e-2, "test_episodes": 10, "curve_episodes": 5, "curve_every": 1,
              "log_every": 1},
}  # fmt: skip
FILTERS = {"paper": (64, 32), "cpu": (32, 32), "quick": (32, 16), "smoke": (8, 8)}
"""Of Omniglot's network, and of miniImageNet's."""
TASKS = {"paper": (32, 16, 4), "cpu": (8, 4, 2), "quick": (4, 2, 2), "smoke": (2, 1, 1)}
"""Meta-batch of Omniglot with fewer than 20 ways and with 20, and of miniImageNet."""
PHOTOGRAPHS = {
    "cpu": {"meta_lr": 3e-3, "curve_every": 50, "curve_episodes": 100},
    "quick": {"meta_lr": 3e-3},
}
"""What is different there: fewer meta-iterations, and looks at them that take longer."""
SELECT_EVERY = {"paper": 1000, "cpu": 250, "quick": 50, "smoke": 2}
"""Model selection on the validation classes of miniImageNet; Omniglot has none in the paper."""

IMAGE_SIZE = {"cpu": 42, "quick": 42}
"""Of miniImageNet where time is short: a quarter of the pixels, so four times the meta-iterations."""

# Inner rates of the `paper` preset on miniImageNet, by shot (Appendix F); on Omniglot the rate is 0.4.
PAPER_RGB_LR = {"multistep": {1: 0.01, 5: 0.04}, "first-order": {1: 0.1, 5: 0.04}}
# Inner rates off the paper's protocol: for each method the best of those tried, after equal meta-iterations on classes
# held out for it (results/few-shot-tuning). On Omniglot by ways, fewer than 20 and 20, and found with one shot; on
# photographs by shots, one and more, where windows of 2 and 8 have the rate of windows of 4. Where MAML's rates for one
# shot did not differ it has the windows'.
LR = {
    "exact": (0.1, 0.2, 0.01, 0.04),
    "multistep": (0.1, 0.2, 0.01, 0.01),
    "first-order": (0.4, 0.8, 0.1, 0.1),
    "implicit": (0.1, 0.1, 0.1, 0.03),
    "reptile": (0.016, 0.02, 0.003, 0.003),
}


def preset_config(
    preset: str, dataset: str, way: int, shot: int, estimator: str, window: int | tuple[int, ...] = 1, **changes: Any
) -> FewShotConfig:
    """The config of a preset (`smoke`, `quick`, `cpu`, `paper`), with `changes` to any of its fields.

    Raises ConfigError for an unknown preset, estimator or field, or an impossible value.
    """
    if preset not in PRESETS:
        raise ConfigError(f"preset {preset!r} is unknown: choose from {', '.join(PRESETS)}")
    rgb, many = dataset in RGB, way >= 20
    column = 2 if rgb else int(many)
    rates = LR.get("exact" if (estimator, window) == ("multistep", 1) else estimator, LR["multistep"])
    values = {
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "filters": FILTERS[preset][rgb],
        "tasks": TASKS[preset][column],
        "image_size": IMAGE_SIZE.get(preset) if dataset == "miniimagenet" else None,
        "lr": rates[2 + (shot > 1) if rgb else int(many)],
        "select_every": SELECT_EVERY[preset] if rgb and changes.get("evaluate_on", "test") == "test" else None,
        **PRESETS[preset],
        **(PHOTOGRAPHS.get(preset, {}) if rgb else {}),
    }
    if preset == "paper" and estimator != "implicit":  # whose rate the paper does not give
        values["lr"] = PAPER_RGB_LR.get(estimator, {}).get(shot, 0.04) if rgb else 0.4
    values |= _METHODS.get(estimator, lambda *_: {})(preset, rgb, many) | changes
    return FewShotConfig(preset, dataset, way, shot, estimator, window=window, **values)


def _first_order(preset: str, rgb: bool, many: bool) -> dict[str, Any]:
    """FO-MAML adapts with vanilla SGD (Appendix F)."""
    return {"momentum": 0.0, "weight_decay": 0.0}


def _reptile(preset: str, rgb: bool, many: bool) -> dict[str, Any]:
    """The settings of Nichol et al. (2018), whose numbers the paper quotes; off `paper`, shorter and with our rates."""
    values = {
        "optimizer": "adam", "momentum": 0.0, "weight_decay": 0.0,
        "inner_shot": 1 if many else 2, "steps": 8 if rgb else 10 if many else 5, "test_steps": 50,
        "meta_optimizer": "sgd", "meta_lr": 1.0, "meta_schedule": "linear", "tasks": 5,
    }  # fmt: skip
    if preset == "paper":
        values |= {"iterations": 200_000 if many else 100_000, "lr": 5e-4 if many else 1e-3}
    if preset == "smoke":
        values |= {"test_steps": 8, "tasks": 2}
    return values


def _implicit(preset: str, rgb: bool, many: bool) -> dict[str, Any]:
    """The settings of Rajeswaran et al. (2019) as the paper's text has them."""
    return {"momentum": 0.0, "weight_decay": 0.0, "steps": 25 if many else 16, "proximal": 0.5 if rgb else 2.0}


_METHODS: dict[str, Callable[[str, bool, bool], dict[str, Any]]] = {
    "first-order": _first_order,
    "reptile": _reptile,
    "implicit": _implicit,
}
