"""Seconds of an iteration of every run in results/sweeps, from which the book's time axes are made.

    python benchmarks/seconds.py [FILE.yaml ...] [--rounds 2]

Runs that differ in nothing that the time of an iteration depends on (`Config.work`: not seeds, rates or lengths) are
measured once: a few iterations of the training itself, with sampling and the step of the meta-optimiser, on random
images of the data set's shape, on which the time does not depend. Each is measured on one core and on all of them. A
round measures all in turn in a process of its own; of a round counts the median iteration, of the rounds the median.
Writes results/benchmarks/seconds.json; of files that are named, which are not all, it shows the seconds alone.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from msmeta import data, machine, runs
from msmeta.data import Images
from msmeta.errors import ConfigError, script
from msmeta.experiments import registry, sweep
from msmeta.experiments.config import Config
from msmeta.experiments.distributed import World
from msmeta.experiments.few_shot.config import FewShotConfig
from msmeta.experiments.few_shot.experiment import FewShot
from msmeta.experiments.training import Training
from msmeta.experiments.transfer.experiment import Transfer

MINUTES = 5
MOST, ENOUGH = 3, 0.2
"""Iterations that are timed at the most, and seconds after which no other is begun."""
RANDOM = {"tinyimagenet-resnet32": "random-resnet32", "imagenet-resnet34": "random-resnet34"}
"""A source network with random weights instead of one that may not be here."""


def random_images(config: Config) -> Images:
    """As many images as the config's batches are drawn from at the least."""
    if isinstance(config, FewShotConfig):
        return data.noise(config.dataset, config.way, config.shot + config.query)
    classes = data.find(config.dataset).classes
    return data.noise(config.dataset, classes, -(-config.batch // classes))


def training(config: Config) -> FewShot | Transfer:
    """A training at its start."""
    world, cpu = World(), torch.device("cpu")
    if isinstance(config, FewShotConfig):
        config = replace(config, evaluate_on="test", select_every=None)  # which train on `train`
        own = FewShot(config, cpu, world, workers=torch.get_num_threads(), images=random_images(config))
    else:
        config = replace(config, train_images=None, source=RANDOM.get(config.source, config.source))
        own = Transfer(config, cpu, world, images=random_images(config))
    own.begin(0, None)
    if isinstance(own, FewShot):
        own.team.wait()
    return own


def seconds(config: Config, threads: int) -> float:
    """Of the median iteration of a few, after one that warms up."""
    torch.set_num_threads(threads)
    own, done, times = training(config), Training({}, {}, {}), []
    while len(times) < 2 or (len(times) <= MOST and sum(times[1:]) < ENOUGH):
        start = time.perf_counter()
        done.iteration += len(own.block(done))
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def measure(configs: Sequence[Config], threads: Sequence[int]) -> list[list[float]]:
    """One round: of each config the seconds with each number of threads."""
    machine.keep_freed_memory()  # as in training
    return [[seconds(config, count) for count in threads] for config in configs]


def distinct(specs: Sequence[Path]) -> list[Config]:
    """The configs of the sweep files, one of each kind of work."""
    found: dict[str, Config] = {}
    for config in (config for spec in specs for config in sweep.read_spec(spec)):
        found.setdefault(json.dumps([type(config).__name__, config.work()]), config)
    return list(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("specs", nargs="*", type=Path, metavar="FILE.yaml", help="sweeps; else all of results/sweeps")
    parser.add_argument("--rounds", type=int, default=2)
    measurement = runs.Measurement.begin(parser)
    given = measurement.options
    specs = given.specs or sorted((runs.results_root() / "sweeps").glob("*.yaml"))
    if not (configs := distinct(specs)):
        raise ConfigError(f"there are no sweeps in {runs.results_root() / 'sweeps'}: name a file")
    threads = sorted({1, torch.get_num_threads()})
    print(f"{len(configs)} kinds of iteration, each with {' and '.join(map(str, threads))} threads")
    rounds = []
    for number in range(1, given.rounds + 1):
        start = time.perf_counter()
        rounds.append(machine.in_fresh_process(measure, configs, threads))
        print(f"round {number} of {given.rounds}: {time.perf_counter() - start:.0f} s", flush=True)
    rows = []
    for i, config in enumerate(configs):
        experiment, module = registry.experiment_of(config)
        for j, count in enumerate(threads):
            times = [found[i][j] for found in rounds]
            own = machine.medians([{"seconds": each} for each in times])
            rows.append({"experiment": experiment, "work": config.work(), "threads": count, **own})
        shown = ", ".join(f"{row['seconds']:.3f}" for row in rows[-len(threads) :])
        print(f"{config.dataset:13} {module.setting(config):14} {module.label(config):18} {shown} s")
    if not given.specs:
        options = {"specs": [spec.name for spec in specs], "rounds": given.rounds}
        measurement.save("benchmarks/seconds.json", options, rows, torch.device("cpu"))


if __name__ == "__main__":
    script(main)
