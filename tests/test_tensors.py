"""Files of torch that may be anybody's: what torch.save writes is read, and the rest ends in an exception."""

import io
import zipfile

import pytest
import torch

from msmeta import tensors

NESTED = {"iteration": 3, "log": [1.0, None], "theta": {"w": torch.arange(6.0).view(2, 3)}, "names": ("a", ("b",))}


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def archive(pickle, *more, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        file.writestr("archive/data.pkl", pickle)
        file.writestr("archive/version", "3")
        for name in more:
            file.writestr(name, "")
    return buffer.getvalue()


def test_tensors_and_plain_values_come_back():
    found = tensors.unpack(saved(NESTED))
    assert torch.equal(found["theta"].pop("w"), NESTED["theta"]["w"]) and found == NESTED | {"theta": {}}


DEEP = b"\x80\x02}" + b")" + b"\x85" * 10**6 + b"Ns."
"""A dict whose key is a tuple in a tuple, a million times: its hash is taken by recursion."""


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (archive(DEEP), "tensors and plain values"),
        (saved({"w": torch.zeros(1).expand(10**12)}), "a tensor that is larger than the file"),
        (saved([[({"w": torch.zeros(1).expand(10**12)},)]]), "a tensor that is larger than the file"),
        (archive(b"\x80\x02}.", "other/data.pkl"), "no file of torch.save"),
        (archive(b"\x80\x02}.", compression=zipfile.ZIP_DEFLATED), "no file of torch.save"),
        (archive(b"\x80\x02N" + b"0N" * 2_000_001 + b"."), "tensors and plain values"),
    ],
    ids=["deep", "large", "large inside", "two pickles", "compressed", "long"],
)
def test_what_would_end_the_process_is_refused(content, why):
    with pytest.raises(ValueError, match=why):
        tensors.unpack(content)
