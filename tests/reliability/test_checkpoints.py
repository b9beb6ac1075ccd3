"""Checkpoints that are damaged, or of something else: the one before is used, or one line says why none is."""

import copy
import os
import random
import shutil
import warnings

import commands
import pytest
import torch
from forks import Fault

from msmeta import UserError, checkpoints
from msmeta.experiments import few_shot, transfer

NAMES = ("multistep", "transfer, multistep --window 2 --optimizer adam")


@pytest.fixture(scope="module")
def stopped(serve, tmp_path_factory):
    """Folders of commands that were stopped on their way, with a checkpoint and the one before, by name."""
    found = {}
    for name in NAMES:
        found[name] = commands.emptied(tmp_path_factory.mktemp("stopped") / "run")
        assert serve(found[name], *commands.COMMANDS[name], fault=Fault("rename", 5, "after", "SIGTERM")) == 130
    return found


def copied(folder, to):
    """The same folder for the next trial; its checkpoint, and the one before."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(folder, to)
    (path,) = to.glob("results/checkpoints/*.pt")
    return path, checkpoints.before(path)


def flip(path, place):
    """One bit. place: fraction of the file, from its end if negative, in bytes then."""
    content = bytearray(path.read_bytes())
    bit = int(place * len(content) * 8) if place >= 0 else len(content) * 8 + int(place * 8)
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def flat(value):
    """Tensors' bytes and plain values, in order."""
    if isinstance(value, torch.Tensor):
        return [str(value.dtype), tuple(value.shape), value.numpy().tobytes()]
    if isinstance(value, dict):
        value = [part for pair in value.items() for part in pair]
    return [leaf for part in value for leaf in flat(part)] if isinstance(value, (list, tuple)) else [value]


def flips(count, seed):
    """(command, place of the bit, whether the one before is there); a quarter of the bits are in the seal."""
    draw = random.Random(seed)
    places = [-draw.uniform(0.2, 106) if draw.random() < 0.25 else draw.random() for _ in range(count)]
    return [(draw.choice(NAMES), place, draw.random() < 0.5) for place in places]


def test_a_flipped_bit(trials, stopped, tmp_path):
    """What is read is the last checkpoint, or the one before with one warning; or one line names the file."""

    def attempt(case):
        name, place, has_before = case
        path, before = copied(stopped[name], tmp_path / "run")
        last, earlier = flat(checkpoints.read(path)), flat(checkpoints.read(before))
        flip(path, place)
        if not has_before:
            before.unlink()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                found = flat(checkpoints.load(path))
            except UserError as error:
                return f"refused: {error}" if has_before or str(path) not in str(error) else None
        said = [str(each.message) for each in warned]
        if has_before and found == earlier:
            return None if len(said) == 1 and str(path) in said[0] else f"warned {said}"
        return None if found == last and not said else f"something else was read, and warned {said}"

    trials("a bit of a checkpoint is flipped", flips(400, 0), attempt, sample=40)


def test_a_flipped_bit_and_the_command(trials, serve, whole, stopped, tmp_path):
    """The same to the end: the result of the run that nothing happened to, or status 2 and one line."""

    def attempt(case):
        name, place, has_before = case
        path, before = copied(stopped[name], tmp_path / "run")
        flip(path, place)
        if not has_before:
            before.unlink()
        status, said = serve(tmp_path / "run", *commands.COMMANDS[name], "--resume"), commands.said(tmp_path / "run")
        if len(said) > 1 or any(str(path) not in line for line in said):
            return f"it said {said}"
        if status == 2 and not has_before:
            return None if said else "it said nothing"
        return None if status == 0 and commands.stored(tmp_path / "run") == whole(name) else f"{status}: {said}"

    trials("a bit of a checkpoint is flipped, and the training resumed", flips(60, 1), attempt, sample=4)


def parts(value, path=()):
    """The places in a nested state."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield (*path, key)
            yield from parts(part, (*path, key))


CHANGES = {
    "missing": lambda owner, key: owner.pop(key),
    "under another name": lambda owner, key: owner.update({f"{key}?": owner.pop(key)}),
    "with another beside it": lambda owner, key: owner.update({f"{key}?": owner[key]}),
    "a text": lambda owner, key: owner.update({key: "text"}),
    "a tensor of another shape": lambda owner, key: owner.update({key: torch.zeros(1, 2, 3, 4, 5)}),
    "a tensor of another type": lambda owner, key: owner.update({key: torch.zeros(()).to(torch.int8)}),
    "infinite": lambda owner, key: owner.update({key: float("inf")}),
}
OTHERS = {
    "empty": lambda path, content: path.write_bytes(b""),
    "a text": lambda path, content: path.write_text("no checkpoint"),
    "halved": lambda path, content: path.write_bytes(content[: len(content) // 2]),
    "a byte short": lambda path, content: path.write_bytes(content[:-1]),
    "a byte longer": lambda path, content: path.write_bytes(content + b"\n"),
    "without its seal": lambda path, content: path.write_bytes(content[: content.rindex(b"\nmsmeta")]),
    "of torch alone": lambda path, content: torch.save({"iteration": 1}, path),
    "a folder": lambda path, content: (path.unlink(), path.mkdir()),
    "a pipe": lambda path, content: (path.unlink(), os.mkfifo(path)),
    "a program": lambda path, content: path.write_bytes(checkpoints.pack(Program(path))),
    "a list": lambda path, content: path.write_bytes(checkpoints.pack([1, 2])),
}


class Program:
    """Runs where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (f"{self.path}.was-run",)


def cases(stopped):
    draw = random.Random(0)
    for name in NAMES:
        content = checkpoints.read(next(stopped[name].glob("results/checkpoints/*.pt")))
        yield from ((name, other, None) for other in [*OTHERS, "of another format"])
        for path in parts(content):
            wrong = [*CHANGES]
            if path[0] in ("config", "kind", "data", "source"):  # the words may be longer there
                wrong = ["under another name", "with another beside it", "a tensor of another shape"]
                wrong += ["missing"] * (len(path) == 1)  # a missing field of the config has its default
            if path[0] == "best":
                wrong.remove("missing") if len(path) == 1 else None
            yield from ((name, change, path) for change in draw.sample(wrong, 2))


def test_a_damaged_or_foreign_checkpoint(trials, stopped, tmp_path, monkeypatch):
    """Each part of a checkpoint, changed under a right seal; and files that are none."""

    def attempt(case):
        name, change, part = case
        path, before = copied(stopped[name], tmp_path / "run")
        before.unlink()
        content = checkpoints.read(path)
        module = transfer if name.startswith("transfer") else few_shot
        config = (transfer.TransferConfig if module is transfer else few_shot.FewShotConfig)(**content["config"])
        if part:
            owner = changed = copy.deepcopy(content)
            for key in part[:-1]:
                owner = owner[key]
            CHANGES[change](owner, part[-1])
            path.write_bytes(checkpoints.pack(changed))
        elif change in OTHERS:
            OTHERS[change](path, path.read_bytes())
        else:
            with monkeypatch.context() as patch:
                patch.setattr(checkpoints, "FORMAT", 3)
                path.write_bytes(checkpoints.pack(content))
        try:
            module.train(config, "cpu", resume=True, results_root=tmp_path / "run" / "results")
        except UserError as error:
            said = str(error)
        else:
            return "it was taken"
        executed = path.with_name(f"{path.name}.was-run").exists()
        return None if said.startswith(f"checkpoint {path}") and "\n" not in said and not executed else said

    trials("a checkpoint is damaged, or of another run, version or kind", [*cases(stopped)], attempt, sample=30)
