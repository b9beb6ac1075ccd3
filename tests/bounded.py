"""A process that has imported the command, forked for each trial: the command with bounds on its memory and its time.

As a script it is asked as `forks` is, but has no faults. Data sets are small ones there.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from dataclasses import replace
from pathlib import Path

from forks import command

BOUNDED = __file__
MEMORY = 2**29
"""Bytes that a command may have beyond those at its start: none of the small data sets takes a tenth."""
SECONDS = 60
"""Of a processor. The slowest trials take about 3."""


def shrink() -> None:
    """Data sets of a few images, as `small` makes them."""
    from msmeta.data import DATASETS, cifar100, miniimagenet, omniglot, stl10
    from msmeta.data.dataset import splits_of_images

    omniglot.CHARACTERS, omniglot.DRAWINGS = {"images_background": 2, "images_evaluation": 1}, 2
    cifar100.CLASSES, cifar100.SAMPLES, cifar100.VALIDATION = ["bee", "sea"], {"train": 2, "test": 1}, 1
    miniimagenet.CLASSES, miniimagenet.SAMPLES = {"train": 2, "validation": 1, "test": 1}, 2
    stl10.PUBLISHED = {"train": 20, "test": 10}
    DATASETS["cifar-100"] = replace(DATASETS["cifar-100"], splits=splits_of_images(train=3, validation=1, test=2))
    DATASETS["stl-10"] = replace(DATASETS["stl-10"], splits=splits_of_images(train=10, validation=10, test=10))
    for name in ("bird", "indoor", "action", "dog"):
        counts = splits_of_images(train=2, validation=2, test=2)
        DATASETS[name] = replace(DATASETS[name], classes=2, splits=counts)


def _serve() -> None:
    import rich.progress  # noqa: F401

    import msmeta.cli  # noqa: F401

    shrink()
    for line in sys.stdin:
        _, folder, words = json.loads(line)
        child = os.fork()
        if child == 0:
            _attempt(Path(folder), words)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _attempt(folder: Path, words: list[str]) -> None:
    """The command, in this process; does not return."""
    os.chdir(folder)  # where a trial would see what a hostile file makes
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bounds = {"RLIMIT_AS": pages * resource.getpagesize() + MEMORY, "RLIMIT_CPU": SECONDS, "RLIMIT_CORE": 0}
    for name, bound in bounds.items():
        kind = getattr(resource, name)
        resource.setrlimit(kind, (bound, resource.getrlimit(kind)[1]))
    command(folder, words)


if __name__ == "__main__":
    _serve()
