"""Lists of texts from MAT-files: one that SciPy wrote, and made ones."""

import base64
import contextlib
import zlib

import pytest
from made import mat_file

from msmeta.data import mat

NAMES = ["n02-Pug/n02_1.jpg", "n02-Pug/n02_12.jpg", "x"]
BY_SCIPY = """
TUFUTEFCIDUuMCBNQVQtZmlsZSBQbGF0Zm9ybTogcG9zaXgsIENyZWF0ZWQgb246IFR1ZSBOb3YgMjQgMTY6Mzc6MzkgMjAyNgAA
AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABSU0PAAAAMgAAAHic42NgYAgAYjYg5oDS
IMAK5TMDMSMUg+RyEpNSc4oZGDiBbAkGdPDBHspwAACV2ASODwAAAGcAAAB4nONjYGAQYGRgYAPSHEAMZIIBK5TPDBUDYU4gTsvM
SY3PySwugarjA2IPBoR+FjT9IH2CSOYKQPl5Bka6AaXp+kA63lAvqyCdBPOE0MwTQjfPCGEgyDwDAuYxopjHyFABpAEN7BDCDwAA
AG8AAAB4nONjYGAQYGRgYAPSHEAMZIIBK5TPDBUDYX4gTszLyy9JLMnMz4vPySwuYeADinkwIPSzoOkH6RNEMlcAys8zMNINKE3X
B9LxhnpZBelQeWLME0IzTwjdPCOEgSDzDAiYx4hiHiNDBZAGAFKfE2M=
"""
"""scipy.io.savemat of `labels` (numbers), `file_list` (these names, 3x1) and `annotation_list`, compressed."""


def test_a_file_of_scipy():
    data = base64.b64decode(BY_SCIPY)
    assert mat.read_texts(data, "file_list") == mat.read_texts(data, "annotation_list") == NAMES
    for other in ("labels", "nothing"):
        with pytest.raises(ValueError, match=f"it holds no cell array {other}"):
            mat.read_texts(data, other)


@pytest.mark.parametrize("compress", [False, True])
def test_made_files(compress):
    names = [*NAMES, "", "é.jpg"]
    data = mat_file({"other": ["y"], "file_list": names}, compress)
    assert mat.read_texts(data, "file_list") == names


@pytest.mark.parametrize("compress", [False, True])
def test_every_cut_is_refused(compress):
    data = mat_file({"file_list": NAMES}, compress)
    for end in range(0, len(data), 3):
        with pytest.raises((ValueError, zlib.error)):
            mat.read_texts(data[:end], "file_list")


@pytest.mark.parametrize("compress", [False, True])
def test_no_changed_byte_raises_anything_else(compress):
    data = bytearray(mat_file({"file_list": NAMES}, compress))
    for place in range(len(data)):
        data[place] ^= 0xFF
        with contextlib.suppress(ValueError, zlib.error):
            mat.read_texts(bytes(data), "file_list")
        data[place] ^= 0xFF


def test_a_variable_that_is_too_large(monkeypatch):
    monkeypatch.setattr(mat, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match="too large"):
        mat.read_texts(mat_file({"file_list": ["x" * 200]}, compress=True), "file_list")


def test_version_7_3_is_refused():
    with pytest.raises(ValueError, match="not a little-endian MAT-file of version 5"):
        mat.read_texts(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(600), "file_list")
