"""Pickles that are hostile or damaged: nothing in them is executed, and none takes more than it holds."""

from __future__ import annotations

import os
import pickle
import random
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import made
import numpy as np
import small
from attempts import Case, prepared
from made import Hostile

MARK = "executed"
"""A file that a hostile pickle would make beside the raw files."""


CALLS: dict[str, Hostile] = {
    "os.system": Hostile(os.system, f"touch {MARK}"),
    "eval": Hostile(eval, f"open('{MARK}', 'w')"),
    "exec": Hostile(exec, f"open('{MARK}', 'w')"),
    "subprocess": Hostile(subprocess.Popen, ["touch", MARK]),
    "open": Hostile(open, MARK, "w"),
    "numpy.load": Hostile(np.load, MARK),
    "numpy.memmap": Hostile(np.memmap, MARK, "uint8", "w+", 0, (10,)),
    "a module": Hostile(__import__, "antigravity"),
    "globals": Hostile(globals),
}


def array(data: bytes, shape: bytes, code: bytes = b"u1", order: bytes = b"|") -> bytes:
    """An array as protocol 2 has it, on the stack. shape: instructions that make it."""
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\1b\x87R(K\1" + shape
        + b"cnumpy\ndtype\nU" + bytes([len(code)]) + code + b"K\0K\1\x87R(K\3U" + bytes([len(order)]) + order
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89B" + struct.pack("<I", len(data)) + data + b"tb"
    )  # fmt: skip


def keyed(value: bytes, key: bytes = b"U\x0aimage_data") -> bytes:
    """A dictionary with this value; both are instructions."""
    return b"\x80\2}" + key + value + b"s."


def repeated(value: object, count: int) -> dict[str, object]:
    """One thing under so many keys."""
    return dict.fromkeys(map(str, range(count)), value)


IMAGE = array(bytes(21168), b"KTKTK\3\x87")
PIXELS = np.zeros((84, 84, 3), np.uint8)


def with_rows(rows: dict[str, list[int]]) -> bytes:
    """Of miniImageNet, where the images are right."""
    images = np.random.default_rng(0).integers(0, 256, (4, 84, 84, 3), np.uint8)
    return pickle.dumps({"image_data": images, "class_dict": rows}, 2)


OF_MINI = (
    "a class that clears the terminal",
    "an image in two classes",
    "an image twice",
    "rows of a class a million times",
    "one list of images in 10,000 classes",
    "no rows, a billion times",
)
HUGE = struct.pack("<Q", 2**62)
RAW: dict[str, Callable[[], bytes]] = {
    "a key of tuples in tuples": lambda: b"}" + b")" + b"\x85" * 10**6 + b"Ns.",
    "a value of tuples in tuples": lambda: keyed(b")" + b"\x85" * 10**6),
    "nothing but tuples in tuples": lambda: b")" + b"\x85" * 10**6 + b".",
    "lists in lists": lambda: keyed(b"]" * 10**6 + b"a" * (10**6 - 1)),
    "dictionaries in dictionaries": lambda: keyed(b"}" + b"K\1}" * 10**6 + b"s" * 10**6),
    "marks": lambda: b"(" * 10**6 + b".",
    "a list that holds itself": lambda: keyed(b"]q\0h\0a"),
    "a dictionary that holds itself": lambda: b"}q\0U\1ah\0s.",
    "a dictionary for a key": lambda: b"}}Ns.",
    "bytes of 4 EiB": lambda: keyed(b"\x8e" + HUGE),
    "an array of bytes of 4 EiB": lambda: keyed(b"\x96" + HUGE),
    "a text of 4 EiB": lambda: keyed(b"\x8d" + HUGE),
    "a text of 4 GiB": lambda: keyed(b"X\xff\xff\xff\xff"),
    "bytes of 4 GiB": lambda: keyed(b"B\xff\xff\xff\xff"),
    "bytes of less than none": lambda: keyed(b"T\xff\xff\xff\xff"),
    "a number of 2 GiB": lambda: keyed(b"\x8b\xff\xff\xff\x7f"),
    "a number of less than none": lambda: keyed(b"\x8b\xff\xff\xff\xff"),
    "a number of a million digits": lambda: keyed(b"I" + b"9" * 10**6 + b"\n"),
    "a long number of a million digits": lambda: keyed(b"L" + b"9" * 10**6 + b"L\n"),
    "a frame of 4 EiB": lambda: b"\x80\4\x95" + HUGE + b"}.",
    "a memory of 4 billion places": lambda: keyed(b"Nr\xff\xff\xff\xff"),
    "a place of memory that is a million digits": lambda: keyed(b"Np" + b"9" * 10**6 + b"\n"),
    "what was not remembered": lambda: keyed(b"h\7"),
    "5 million lists": lambda: keyed(b"(" + b"]" * 5 * 10**6 + b"l"),
    "texts encoded 100,000 times": lambda: keyed(
        b"(X" + struct.pack("<I", 10**5) + b"a" * 10**5 + b"q\0c_codecs\nencode\nq\1"
        + b"h\1h\0U\6latin1\x86R" * 10**5 + b"l"
    ),
    "an array a million times": lambda: keyed(b"](" + IMAGE + b"q\7" + b"h\7" * 10**6 + b"e"),
    "rows of a class a million times": lambda: with_rows(repeated([0] * 10**4, 10**5)),
    "one list of images in 10,000 classes": lambda: pickle.dumps(repeated([PIXELS] * 600, 10**4), 2),
    "no rows, a billion times": lambda: keyed(array(bytes(84672), b"(K\4KTKTK\3t"))[:-1]
    + b"U\x0aclass_dict" + array(b"", b"J\0\0\0\x40K\0\x86") + b"s.",
    "an array of more rows than it has": lambda: keyed(array(bytes(10), b"(J\xff\xff\xff\x7fKTKTK\3t")),
    "an array of less than no rows": lambda: keyed(array(bytes(21168), b"(J\xfe\xff\xff\xffKTKTK\3t")),
    "an array of objects": lambda: pickle.dumps({"image_data": np.array([{}, []], object)}),
    "an array of records": lambda: pickle.dumps({"image_data": np.zeros(3, "u1,f8")}),
    "an array of texts": lambda: pickle.dumps({"image_data": np.array(["a" * 100])}),
    "an array of times": lambda: pickle.dumps({"image_data": np.zeros(3, "datetime64[s]")}),
    "a masked array": lambda: pickle.dumps({"image_data": np.ma.zeros(3)}),
    "a type of 100,000 letters": lambda: keyed(array(bytes(3), b"K\3\x85", b"u" * 255)),
    "an object of protocol 0": lambda: b"(ios\nsystem\n(S'touch " + MARK.encode() + b"'\ntR.",
    "an instance": lambda: b"(S'touch " + MARK.encode() + b"'\nios\nsystem\n.",
    "an object": lambda: b"(cos\nsystem\nS'touch " + MARK.encode() + b"'\no.",
    "a new object": lambda: b"\x80\2cos\nsystem\nU\1a\x85\x81.",
    "a new object with words": lambda: b"\x80\4cos\nsystem\nU\1a\x85}\x92.",
    "a name from the stack": lambda: b"\x80\4\x8c\2os\x8c\6system\x93\x8c\x04true\x85R.",
    "a name with dots": lambda: b"\x80\4\x8c\5numpy\x8c\x10ndarray.__init__\x93.",
    "an extension": lambda: b"\x80\2\x82\1.",
    "an object kept elsewhere": lambda: b"Psecret\n.",
    "an object kept elsewhere, from the stack": lambda: b"\x80\2U\1aQ.",
    "a buffer from elsewhere": lambda: b"\x80\5\x97.",
    "a state of a function": lambda: b"\x80\2cnumpy\nndarray\n}U\1aU\1bsb.",
    "a state of a list": lambda: b"\x80\2]}U\1aU\1bsb.",
    "a call of a text": lambda: b"\x80\2U\1a)R.",
    "a call with a list": lambda: b"\x80\2cnumpy\nndarray\n]R.",
    "appending to a tuple": lambda: b"\x80\2)Na.",
    "storing in a list": lambda: b"\x80\2]K\0Ns.",
    "an odd number of items": lambda: b"\x80\2}(U\1au.",
    "an end without anything": lambda: b".",
    "an end too early": lambda: b"\x80\2}",
    "an instruction that nobody knows": lambda: b"\xff.",
    "a protocol of the future": lambda: b"\x80\x63\xfe\xfd.",
    "no dictionary": lambda: pickle.dumps([1, 2]),
    "an empty dictionary": lambda: pickle.dumps({}),
    "numbers for keys": lambda: pickle.dumps({1: 2}),
    "a name that clears the terminal": lambda: b"c\x1b[2J\nx\n.",
    "a class that clears the terminal": lambda: with_rows({"n1": [0, 1], "\x1b[2J": [2, 3]}),
    "an image in two classes": lambda: with_rows({"n1": [0, 1], "n2": [1, 2]}),
    "an image twice": lambda: with_rows({"n1": [0, 1], "n2": [2, 2]}),
    "another kind of file": lambda: small.compressed({"a": b"a"}, 8),
    "noise": lambda: random.Random(5).randbytes(1000),
    "nothing": lambda: b"",
}  # fmt: skip
PLACES = {
    "miniimagenet": ("mini-imagenet-cache-train.pkl", small.mini_pickles()),
    "cifar-100": (
        "cifar-100-python/train",
        {f"cifar-100-python/{name}": data for name, data in small.cifar_pickles().items()},
    ),
}
"""By data set: the pickle that is replaced, and all of them."""


def cases() -> list[Case]:
    contents = {name: make for name, make in RAW.items()} | {
        f"{name}, protocol {protocol}": lambda call=call, protocol=protocol: pickle.dumps(
            {"image_data": call}, protocol
        )
        for name, call in CALLS.items()
        for protocol in (0, 2, 4)
    }

    def write(raw: Path, dataset: str, make: Callable[[], bytes]) -> None:
        name, files = PLACES[dataset]
        made.write(raw, files | {name: make()})

    return [
        Case(dataset, name, lambda raw, dataset=dataset, make=make: write(raw, dataset, make))
        for name, make in contents.items()
        for dataset in PLACES
        if dataset == "miniimagenet" or name not in OF_MINI
    ]


def test_hostile_pickles(trials, refuses):
    trials("hostile pickles (calls, nesting, sizes, repetition)", cases(), refuses)


def test_damaged_pickles(trials, bounded, folders):
    """A pickle has no checksum: whatever is read, it is arrays of the right sizes."""
    generator = random.Random("pickles")
    damages = [(generator.choice(list(PLACES)), generator.random()) for _ in range(150)]

    def attempt(damage: tuple[str, float]) -> str | None:
        dataset, share = damage
        name, files = PLACES[dataset]
        content = bytearray(files[name])
        places = [place for place in range(len(content)) if place < 300 or place > len(content) - 300]
        content[places[int(share * len(places))]] ^= 1 << int(share * 1e6) % 8  # not in the pixels
        folder = next(folders)
        status, said = prepared(
            bounded, folder, Case(dataset, "", lambda raw: made.write(raw, files | {name: bytes(content)}))
        )
        return None if status == 0 or status == 2 and said.count("\n") == 1 else f"status {status}: {said[-300:]}"

    trials("pickles with a bit flipped: refused, or arrays of the right sizes", damages, attempt)
