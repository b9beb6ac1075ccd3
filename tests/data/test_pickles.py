"""Pickles that are not to be trusted."""

import os
import pickle

import numpy as np
import pytest
from made import Hostile, refused

from msmeta.data.pickles import as_text, load_pickle


@pytest.fixture
def unpickle(tmp_path):
    def load(data):
        (tmp_path / "some.pkl").write_bytes(data)
        return load_pickle(tmp_path, "some.pkl")

    return load


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickled_arrays(unpickle, protocol):
    pixels, numbers = np.arange(24, dtype=np.uint8).reshape(2, 3, 4), np.arange(-3, 3).reshape(2, 3)
    content = {"pixels": pixels, "numbers": numbers, "turned": pixels.T, "list": [1, "two"]}
    found = unpickle(pickle.dumps(content, protocol))
    for name in ("pixels", "numbers", "turned"):
        assert np.array_equal(found[name].values, content[name]) and found[name].values.dtype == content[name].dtype
    assert found["list"] == [1, "two"]


def test_pickle_of_python_2(unpickle):
    """As CIFAR-100's: texts and array contents are byte strings."""
    data = (
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
        b"(K\x01K\x02K\x02\x86cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tb\x89U\x04\x01\x02\xfe\xfftbU\x05names]U\x05a.pngau."
    )
    found = unpickle(data)
    assert found["data"].values.tolist() == [[1, 2], [254, 255]]
    assert [as_text(name) for name in found["names"]] == ["a.png"]


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("call", [os.mkdir, eval, exec, getattr, np.load, np.fromfile])
def test_a_hostile_pickle_executes_nothing(unpickle, tmp_path, call, protocol):
    made = tmp_path / "made"
    argument = f"__import__('os').mkdir({str(made)!r})" if call in (eval, exec) else str(made)
    data = pickle.dumps({"image_data": Hostile(call, argument)}, protocol)
    refused(r"cannot read some\.pkl: it asks for \w+\.\w+", unpickle, data)
    assert not made.exists()


@pytest.mark.parametrize("name", ["numpy\nload", "numpy.core.multiarray\nfromfile", "builtins\neval", "os\nsystem"])
def test_names_beside_the_admitted_ones_are_refused(unpickle, name):
    refused("it asks for", unpickle, b"c" + name.encode() + b"\n.")


def test_damaged_pickles(unpickle):
    whole = pickle.dumps({"a": np.zeros((2, 2), np.uint8)})
    others = [pickle.dumps(content) for content in ([], 1, {1: 2}, {}, {"a": np.zeros(2, bool)}, {"a": np.array([{}])})]
    longer = pickle.dumps({"a": np.zeros((2, 2), np.uint8)}, 2).replace(b"K\x02K\x02\x86", b"K\x02K\x03\x86")
    for damaged in [whole[:end] for end in range(0, len(whole), 7)] + others + [longer]:
        refused(r"cannot read some\.pkl: ", unpickle, damaged)


@pytest.mark.parametrize("kind", ["uint8", "int32", "int64", "float16", "float32", "float64"])
def test_numbers(unpickle, kind):
    values = np.arange(4).astype(kind)
    found = unpickle(pickle.dumps({"array": values, "number": values[3]}))
    assert found["array"].values.dtype == kind and found["array"].values.tolist() == [0, 1, 2, 3]
    assert found["number"] == 3 and type(found["number"]) in (int, float)


@pytest.mark.parametrize("kind", ["complex64", "bool", ">i4"])
def test_an_array_that_is_not_of_little_endian_numbers_is_refused_by_name(unpickle, kind):
    why = "an array is not little-endian" if kind == ">i4" else f"it holds an array of {kind} where"
    refused(rf"cannot read some\.pkl: {why}", unpickle, pickle.dumps({"image_data": np.zeros(2, kind)}))
