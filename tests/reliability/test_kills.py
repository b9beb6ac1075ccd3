"""Processes ended by a signal at any place: what is resumed is what it would have been, to the last bit."""

import random
import shutil

import commands
from forks import Fault

WRITES = {"open": 7, "sync": 7, "rename": 10, "remove": 7, "store": 1}
PLACES = {
    "few-shot": {"optimizer": 5, "evaluation": 5, "pack": 7, **WRITES},
    "transfer": {"iteration": 4, "validation": 4, "pack": 6, **WRITES},
}
"""Where a process is ended, and how many calls there are of it, at the least."""
SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT")


def cases():
    """(command, its faults): one, and another when it is resumed in every third. Drawn once for all."""
    draw = random.Random(0)

    def fault(name, place, calls):
        place = "sgd" if (name, place) == ("reptile", "optimizer") else place
        return Fault(place, draw.randint(1, calls), draw.choice(("before", "after")), draw.choice(SIGNALS))

    for name in commands.COMMANDS:
        places = PLACES["transfer" if name.startswith("transfer") else "few-shot"]
        for place, calls in places.items():
            for _ in range(2):
                faults = [fault(name, place, calls)]
                if draw.random() < 1 / 3:
                    faults.append(fault(name, draw.choice(("load", "open", "rename")), 2))
                yield name, tuple(faults)


def test_ended_by_a_signal_and_resumed(trials, serve, whole, tmp_path):
    def attempt(case):
        name, faults = case
        folder = commands.emptied(tmp_path / "run")
        for number, fault in enumerate(faults):
            status = serve(folder, *commands.COMMANDS[name], *["--resume"] * (number > 0), fault=fault)
            if status != {"SIGKILL": -9}.get(fault.what, 130) and (number == 0 or status):
                return f"{fault} ended in {status}: {commands.said(folder)}"
            if status == 130 and (len(said := commands.said(folder)) != 1 or "interrupted" not in said[0]):
                return f"{fault} said {said}"
        if serve(folder, *commands.COMMANDS[name], "--resume"):
            return f"--resume ended in {commands.said(folder)}"
        if commands.stored(folder) != whole(name):
            return "the result is another"
        return f"{kept} is left" if (kept := commands.left(folder)) else None

    trials("a training is killed or interrupted, and resumed to the same bits", list(cases()), attempt)
    shutil.rmtree(tmp_path / "run")
