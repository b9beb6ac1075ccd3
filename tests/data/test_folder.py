"""The names of folders of a user's own."""

import pytest

from msmeta.data import FEW_SHOT, TRANSFER, find, like
from msmeta.data.folder import Given, entry, is_known, is_path, parse
from msmeta.errors import ConfigError

KNOWN = "folder:birds-0123abcd@84"


@pytest.mark.parametrize(
    ("name", "purpose", "path", "suffix", "links"),
    [
        ("folder:birds", None, "birds", "@84", False),
        ("folder:~/a b/birds@64", FEW_SHOT, "~/a b/birds", "@64", False),
        ("folder:x+grey", None, "x", "@28+grey", False),
        ("folder:x", TRANSFER, "x", "@32+transfer", False),
        ("folder:x@224+least5+links+squash", TRANSFER, "x", "@224+squash+transfer+least5", True),
        ("folder:a@b/c+d@32+greyish", None, "a@b/c+d@32+greyish", "@84", False),
        (KNOWN, None, "birds-0123abcd", "@84", False),
    ],
)
def test_what_a_name_says(name, purpose, path, suffix, links):
    found = parse(name, purpose)
    assert (found.path, found.suffix, found.links) == (path, suffix, links) and isinstance(found, Given)
    assert is_known(name) == (name == KNOWN) and is_path(name) != is_known(name)


@pytest.mark.parametrize("name", ["omniglot", 7, None, "folders"])
def test_other_names(name):
    assert not is_known(name) and not is_path(name)


@pytest.mark.parametrize(
    ("name", "purpose", "why"),
    [
        ("folder:", None, "give a folder with images, such as folder:birds"),
        ("folder:x@15", None, "images of 15x15 are impossible: give a side from 16 to 1024"),
        ("folder:x+transfer", FEW_SHOT, "is not for few-shot tasks"),
        ("folder:x+grey", TRANSFER, "is of colour images"),
    ],
)
def test_impossible_names(name, purpose, why):
    with pytest.raises(ConfigError, match=why):
        parse(name, purpose)


def test_a_folder_that_is_here_is_none_that_results_know(tmp_path, monkeypatch):
    """Its name may end as theirs do, in a date of eight digits."""
    monkeypatch.chdir(tmp_path)
    assert is_known("folder:scan-20240131@28+grey")
    (tmp_path / "scan-20240131").mkdir()
    assert is_path("folder:scan-20240131@28+grey") and is_known(KNOWN)


def test_whose_presets_hold():
    expected = {
        "omniglot": "omniglot",
        KNOWN: "miniimagenet",
        "folder:x-0123abcd@32": "cifar-fs",
        "folder:x-0123abcd@28+grey": "omniglot",
        "folder:x-0123abcd@32+transfer": "cifar-100",
        "folder:x-0123abcd@224+transfer": "bird",
    }
    for name, registered in expected.items():
        assert like(name) == registered
        one, other = find(name), find(registered)
        assert (one.purpose, one.shape[0]) == (other.purpose, other.shape[0])
        assert registered in ("miniimagenet", "cifar-fs") or (one.side, one.shape) == (other.side, other.shape)


def test_what_is_known_of_a_folder_that_is_not_here(tmp_path):
    """As where results came from another machine."""
    assert find(KNOWN, tmp_path) == entry(KNOWN) and entry(KNOWN).title == "Folder birds" and entry(KNOWN).size == 0
