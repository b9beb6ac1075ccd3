"""Windows and partitions: each is refused in one line, or its parts are whole, positive and sum up to the steps."""

import random

import strange

from msmeta import SGD, LazyHessian, MultiStep, Truncated
from msmeta.dynamics import partition
from msmeta.errors import ConfigError

ESTIMATORS = {
    "multistep": lambda steps, window: MultiStep(SGD(lr=0.1), steps, window),
    "lazy-hessian": lambda steps, window: LazyHessian(SGD(lr=0.1), steps, window),
    "truncated": lambda steps, depth: Truncated(SGD(lr=0.1), steps, depth),
}


def cases():
    """(estimator, places of the steps and of the window among the strange values), steps mostly sound."""
    draw, places = random.Random(21), range(len(strange.objects()))
    sound = [i for i, value in enumerate(strange.objects()) if type(value) is int and value in (1, 2, 4, 8)]
    steps = [draw.choice(sound if draw.random() < 0.7 else places) for _ in range(300)]
    return [(draw.choice([*ESTIMATORS]), own, draw.choice(places)) for own in steps]


def test_partitions(trials):
    def attempt(case):
        estimator, steps, window = case
        try:
            built = ESTIMATORS[estimator](strange.objects()[steps], strange.objects()[window])
        except ConfigError as error:
            return None if str(error) and len(str(error)) < 2000 else f"it says {str(error)[:200]!r}"
        if estimator == "truncated":
            return None if type(built.depth) is int and built.depth >= 0 else f"depth {built.depth!r}"
        parts = partition(built.steps, built.window)
        sound = all(type(part) is int and part > 0 for part in parts) and sum(parts) == built.steps
        return None if sound else f"the parts are {parts!r}"

    trials("Windows, partitions and depths", cases(), attempt)
