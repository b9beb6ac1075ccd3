"""Values that nobody means to give, drawn with a seed: texts for command lines and files, and objects for Python."""

import datetime
import decimal
import fractions
import itertools
import json
import math

import numpy as np
import torch

TEXTS = [
    "", " ", "0", "1", "2", "3", "-1", "1.0", "0.5", "1e-3", "1e999", "nan", "inf", "-inf", "NaN", "0x10", "1_0",
    "\u0663", str(2**31), str(2**63), str(2**64), "-9" * 9, "9" * 5000, "true", "false", "yes", "None", "null", "~",
    "[]", "{}", "[1]", "[1, 2]", "[[1, 1], 2]", "[1", "{a: 1}", "1,1", "1,,1", ",", "(4)", "1 2", "multistep",
    "first-order", "sgd", "glyphs", "omniglot", "nobody", "a" * 10_000, "\u00e9" * 300, "\x1b[2J", "\x07", "a\nb",
    "a\tb", "\u202e", "\x00", "<script>alert(1)</script>", "[red]x[/red]", "{0}", "%s", "$(id)", "../../etc", "/",
    ".", "~nobody-of-this-name", "/dev/null", "/dev/zero", "folder:", "folder:/", "folder:~nobody",
    "folder:/dev/zero@28", "2020-01-01", "!!set {a}", "&a [*a]", "!!python/name:os.system", "- 1", "a: b: c", "'",
    '"', "\\", "--", "-h", "-1,2", "*", "?", "[!", "#", "!!bool x", "!!int ''", "!!float ''",
    "!!timestamp x", "!!int '+'",
]  # fmt: skip
DEEP = "[" * 3000 + "]" * 3000


class Silent:
    """Has no words for itself."""

    def __repr__(self):
        raise ValueError("no repr")


def objects():
    """Fresh ones, as some are used up."""
    own = []
    own.append(own)
    deep = 1
    for _ in range(5000):
        deep = [deep]
    numbers = [
        *(-1, 0, 1, 2, 3, 4, 8, 10**6 + 1, 2**31, 2**64, 10**400, -(10**400), 0.5, 1.0, 1e-300, -0.0, 1e308),
        *(math.nan, math.inf, -math.inf, np.nan, np.float64(0.5), np.int64(4), np.bool_(True), np.array([1, 1])),
        *(np.array(4), np.array([[1], [2]]), True, False, 1j, fractions.Fraction(1, 3), decimal.Decimal("0.1")),
        *(decimal.Decimal("NaN"), torch.tensor(4), torch.tensor([1, 1]), torch.tensor(float("nan"))),
    ]
    others = [
        *(None, (), [], {}, set(), {1}, {"a": 1}, (4,), (2, 2), [1, 1, 2, 4], [[4]], (1, 0), (-1, 9), (1.5, 2.5)),
        *((True, 3), ("2", "2"), range(3), iter([1]), b"4", bytearray(b"4"), object(), Silent(), int, len, ...),
        *(datetime.date(2020, 1, 1), datetime.timedelta(1), own, deep, [1] * 10**5, "9" * 10**5, itertools.count()),
    ]
    return [*numbers, *others, *TEXTS, DEEP]


def mutated(value, draw):
    """JSON with one thing in it another, gone or twice. draw: a `random.Random`."""
    value = json.loads(json.dumps(value))
    inner, way = value, []
    while True:
        key = draw.choice([*inner] if isinstance(inner, dict) else range(len(inner)))
        way.append(key)
        if not (isinstance(inner[key], (dict, list)) and inner[key]) or draw.random() < 0.2:
            break
        inner = inner[key]
    kind = draw.randrange(5)
    if kind == 0:
        del inner[key]
    elif kind == 1 and isinstance(inner, list):
        inner.append(inner[key])
    elif kind == 2 and isinstance(inner, dict):
        inner[draw.choice(TEXTS)] = inner.pop(key)
    elif kind == 3 and isinstance(inner[key], (int, float)):
        inner[key] = draw.choice([-inner[key], inner[key] + 1, inner[key] * 1e9, str(inner[key]), [inner[key]], True])
    else:
        inner[key] = draw.choice([*TEXTS, None, True, 0, -1, 1.5, 2**64, 10**400, math.nan, math.inf, [], {}, [[[]]]])
    return value, way
