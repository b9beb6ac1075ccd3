"""Values of every field of the configs: each is refused in one line, or means the same after JSON."""

import json
import random

import strange

from msmeta import runs
from msmeta.errors import UserError
from msmeta.experiments.config import schema
from msmeta.experiments.registry import EXPERIMENTS

SOUND = {
    "few-shot": {"preset": "smoke", "dataset": "glyphs", "way": 5, "shot": 1, "estimator": "multistep"},
    "transfer": {"preset": "smoke", "dataset": "glyphs-rgb", "estimator": "multistep"},
}


def cases():
    """(experiment, field, place of the value among the strange ones)."""
    draw = random.Random(21)
    places = range(len(strange.objects()))
    fields = [(experiment, name) for experiment, (kind, _) in EXPERIMENTS.items() for name in schema(kind)]
    return [(*draw.choice(fields), draw.choice(places)) for _ in range(400)]


def test_configs(trials):
    def attempt(case):
        experiment, field, place = case
        kind, module = EXPERIMENTS[experiment]
        try:
            config = module.preset_config(**SOUND[experiment] | {field: strange.objects()[place]})
        except UserError as error:
            said = str(error)
            return None if said and "\n" not in said and len(said) < 2000 else f"it says {said[:200]!r}"
        plain = json.loads(json.dumps(runs.plain(config), allow_nan=False))
        return None if kind(**plain) == config else f"not the same after JSON: {getattr(config, field)!r}"

    trials("Values of the configs' fields", cases(), attempt)
