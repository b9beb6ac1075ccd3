"""Images that are not to be trusted, and the processes that decode them."""

import io
import os
import struct
import sys
import zlib
from dataclasses import replace
from functools import partial

import made
import numpy as np
import pytest
from made import write
from PIL import Image

from msmeta.data import DATASETS, decoders, pixels
from msmeta.data.decoders import FORMATS, Decode
from msmeta.errors import DataError

decode = Decode(FORMATS, 3, 4)


def image_bytes(kind="PNG", mode="RGB", size=(6, 4), **options):
    file = io.BytesIO()
    Image.new(mode, size, 90).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_an_image(kind):
    for mode in ("RGB", "L"):
        found = decode(image_bytes(kind, mode), "x")
        assert found.shape == (3, 4, 4) and found.dtype == np.uint8
        assert (found[:, 0, 0] == [90, 0 if mode == "RGB" else 90, 0 if mode == "RGB" else 90]).all() or kind != "PNG"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_damage_is_refused(kind, monkeypatch):
    whole = image_bytes(kind, size=(60, 40))
    for damaged in (b"", b"GIF89a", whole[:10], whole[: len(whole) // 2]):
        made.refused("a/b is not a readable PNG, JPEG or WebP image: ", decode, damaged, "a/b")
    monkeypatch.setattr(pixels, "MAX_PIXELS", 2_399)
    made.refused("60x40 pixels are too many", decode, whole, "a/b")


@pytest.mark.parametrize("options", [{"lossless": True}, {"lossless": False}, {"save_all": True, "append_images": []}])
def test_the_size_of_webp_is_known_before_it_is_opened(options):
    for size in ((60, 40), (1, 300)):
        frames = {"append_images": [Image.new("RGB", size, "red")]} if "save_all" in options else {}
        assert pixels._size_of_webp(image_bytes("WEBP", size=size, **options | frames)) == size
    assert pixels._size_of_webp(image_bytes("PNG")) == pixels._size_of_webp(b"RIFF") == (0, 0)


def test_the_exact_size_is_asked_of_the_header_alone():
    """The content of this one is not there at all."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 5_000, 5_000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    made.refused("x is 5000x5000 instead of 4x4", decode._replace(exact=4), png + bytes([0, 0, 0, 0]) + b"IDAT", "x")


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_a_pixel_become_eight(channels):
    """Pillow converts them by cutting off at 255."""
    values = np.array([[0, 10_000], [32_768, 65_535]], np.uint16)
    found = Decode(FORMATS, channels, 2)(made.image(values), "x")
    assert all(np.array_equal(channel, [[0, 39], [128, 255]]) for channel in found)


def test_each_of_sixteen_bits_is_rounded():
    values = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(Decode(FORMATS, 1, 256)(made.image(values), "x")[0], np.round(values / 257))


@pytest.mark.parametrize("values", [[-1, 5], [0, 70_000], [0.5, 1.0]])
def test_pixels_that_are_not_of_8_or_16_bits_are_refused(values):
    """As TIFF files can hold; Pillow would clip them."""
    file = io.BytesIO()
    Image.fromarray(np.array([values], np.float32 if 0.5 in values else np.int32)).save(file, "TIFF")
    made.refused("its pixels are not of 8 or 16 bits", Decode(("TIFF",), 3, 4), file.getvalue(), "x")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "TIFF"])
def test_of_an_animated_image_the_first_is_taken(kind):
    others = [Image.new("RGB", (6, 4), colour) for colour in ("lime", "blue")]
    data = image_bytes(kind, save_all=True, append_images=others, **({"lossless": True} if kind == "WEBP" else {}))
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 3
    assert (Decode((kind,), 3, 4)(data, "x") == np.array([90, 0, 0])[:, None, None]).all()


@pytest.mark.parametrize(("data", "why"), [(b"", "it is empty"), (b"<html>", "it has none of these formats")])
def test_an_image_that_is_none_is_refused_without_an_address_in_memory(data, why):
    with pytest.raises(DataError) as error:
        decode(data, "n01/a.jpg")
    assert str(error.value) == f"n01/a.jpg is not a readable PNG, JPEG or WebP image: {why}"


# Many, in processes of their own


@pytest.fixture
def read(tmp_path):
    """decode_all of files in a folder, by name, as 4x4 RGB."""
    dataset = replace(DATASETS["omniglot"], title="Letters", shape=(3, 4, 4))
    return partial(decoders.decode_all, dataset, tmp_path, decode=decode, allocate=np.empty)


def test_all_are_in_their_places(tmp_path, read, monkeypatch):
    names = [f"{number}.png" for number in range(300)]
    colours = np.arange(900).reshape(300, 3) % 256
    write(
        tmp_path,
        {name: made.image(np.full((5, 5, 3), colour, np.uint8)) for name, colour in zip(names, colours, strict=True)},
    )
    for count in (1, 3):
        monkeypatch.setattr(decoders, "DECODERS", count)
        steps = []
        images = read(names, progress=lambda *step, steps=steps: steps.append(step))
        assert (images == colours[:, :, None, None]).all()
        assert steps == [("read Letters", done, 300) for done in range(301)]
    assert read([], progress=lambda *_: None).shape == (0, 3, 4, 4)


def test_the_first_error_ends_it_or_each_is_noted(tmp_path, read):
    write(tmp_path, {"a": image_bytes(), "b": b"b", "c": image_bytes(), "\udcff": b""})
    os.mkfifo(tmp_path / "fifo")
    why = {
        "b": "b is not a readable",
        "none": "none cannot be read: No such file",
        "fifo": "fifo cannot be read: it is a",
    }
    for name, message in why.items():
        made.refused(message, lambda name=name: read(["a", name, "c"], progress=lambda *_: None))
    unreadable = {}
    images = read(["a", "b", "c", "none", "\udcff", "a"], progress=lambda *_: None, unreadable=unreadable)
    assert unreadable.keys() == {"b", "none", "\udcff"} and (images[[0, 2, 5], 0] == 90).all()


HOSTILE = """
import os, runpy, signal, sys
found = runpy.run_path(sys.argv[1])
Recipe, main = found["Recipe"], found["main"]
main.__globals__["SECONDS"] = 1
decode = Recipe.pixels

def pixels(recipe, data):
    if data == b"crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if data == b"memory":
        bytearray(2**32)
    while data == b"loop":
        pass
    return decode(recipe, data)

Recipe.pixels = pixels
main()
"""


def test_an_image_that_ends_its_decoder_is_named_and_the_others_are_read(tmp_path, read, monkeypatch):
    """As a defect of a decoder would, by a real signal; a decoder that is hijacked by its memory or never ends."""
    monkeypatch.setattr(decoders, "COMMAND", [sys.executable, "-P", "-c", HOSTILE, pixels.__file__])
    monkeypatch.setattr(decoders, "DECODERS", 1)
    monkeypatch.setattr(pixels, "SECONDS", 1)
    files = {"a": image_bytes(), "b": b"crash", "c": image_bytes(), "d": b"loop", "e": b"memory", "f": image_bytes()}
    write(tmp_path, files)
    unreadable = {}
    images = read(list(files), progress=lambda *_: None, unreadable=unreadable)
    assert unreadable == {
        "b": "b is damaged: it ends the process that decodes it (SIGSEGV)",
        "d": "d takes more than 1 s to decode",
        "e": "e is damaged: it ends the process that decodes it (status 1)",
    }
    assert (images[[0, 2, 5], 0] == 90).all()
    made.refused("b is damaged: it ends the process", lambda: read(list(files), progress=lambda *_: None))


def test_an_interrupt_ends_the_processes(tmp_path, read, monkeypatch):
    started = []

    class Seen(decoders.subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self)

    def interrupt(what, done, total):
        raise KeyboardInterrupt

    monkeypatch.setattr(decoders.subprocess, "Popen", Seen)
    write(tmp_path, {str(number): image_bytes() for number in range(50)})
    with pytest.raises(KeyboardInterrupt):
        read([str(number) for number in range(50)], progress=interrupt)
    assert started and all(process.returncode is not None for process in started)
