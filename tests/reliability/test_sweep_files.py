"""Sweep files that are none: each is read, or refused in one line that names it."""

import random

import strange
import yaml

from msmeta.errors import UserError
from msmeta.experiments import sweep
from msmeta.experiments.config import schema
from msmeta.experiments.registry import EXPERIMENTS

SPEC = {
    "preset": "smoke", "experiment": "few-shot", "seed": [0, 1],
    "parts": [
        {"name": "a", "runs": [{"dataset": "glyphs", "way": [5, 20], "shot": 1, "estimator": "multistep",
                                "window": [4, [4, 4]]}]},
        {"name": "b", "experiment": "transfer", "runs": [{"dataset": "glyphs-rgb", "estimator": "multistep"}]},
    ],
}  # fmt: skip
RUN = "preset: smoke\nruns: [{{dataset: glyphs, way: 5, shot: 1, estimator: multistep, {name}: {value}}}]"
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{i + 1}: &a{i + 1} {{<<: [{', '.join([f'*a{i}'] * 9)}]}}\n" for i in range(12))
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}, *a{i}, *a{i}, *a{i}, *a{i}, *a{i}, *a{i}, *a{i}]\n" for i in range(12)
)
BOMBS = [
    LAUGHS + "runs: [*a12]", LAUGHS + "runs: *a12", LAUGHS + "runs: [{way: *a12}]", LAUGHS + "runs: [{dataset: *a12}]",
    MERGED, MERGED + "runs: [*a12]", LAUGHS + "parts: *a12", LAUGHS + "runs: [{way: 5}]\nexperiment: *a12", LAUGHS,
    "runs: " + strange.DEEP, strange.DEEP, RUN.format(name="seed", value=f"[{','.join(map(str, range(10_001)))}]"),
    "#" * 2**21, "runs: [{}]\n" * 10_000, "&a {runs: [*a]}", "&a [*a]", "runs: &a [*a]", "runs: [&a {way: *a}]",
    "\ufeffruns: []", "\t", "%YAML 9.9\n---\n",
    RUN.format(name="window", value="[" + ",".join(["[1, 1]"] * 9999) + "]"), "--- 1\n--- 2\n", "runs: !!binary aGk=",
]  # fmt: skip


def cases():
    """Texts: one value of a run, or a sound file with one thing another, or broken, or made to burst."""
    draw, found = random.Random(21), [*BOMBS]
    names = [*schema(EXPERIMENTS["few-shot"][0]), "experiment", "no_such_field", "<<", "1", "~", "[1]"]
    for _ in range(200):
        found.append(RUN.format(name=draw.choice(names), value=draw.choice(strange.TEXTS)))
    for _ in range(100):
        changed, _ = strange.mutated(SPEC, draw)
        found.append(yaml.safe_dump(changed))
    sound = yaml.safe_dump(SPEC)
    for _ in range(60):
        at = draw.randrange(len(sound))
        found.append(sound[:at] + draw.choice([*strange.TEXTS, ":", "- ", "]", "\n"]) + sound[at + draw.randrange(3) :])
    return found


def test_sweep_files(trials, tmp_path):
    path = tmp_path / "a sweep.yaml"

    def attempt(text):
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        try:
            configs = sweep.read_spec(path)
        except UserError as error:
            said = str(error)
            return None if str(path) in said and len(said) < 3000 else f"an error of {len(said)} signs: {said[:200]}"
        return None if all(type(config) in dict(EXPERIMENTS.values()) for config in configs) else "no configs"

    trials("Sweep files of wrong kinds, sizes and depths", cases(), attempt)
