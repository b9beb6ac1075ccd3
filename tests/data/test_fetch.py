"""Single files by their hash; what fails on the way to them is tested with a server in test_l2t_ww.py."""

import hashlib

import pytest
from made import refused

from msmeta.data import fetch

CONTENT = b"not much" * 100


@pytest.fixture
def url(tmp_path):
    (tmp_path / "file").write_bytes(CONTENT)
    return (tmp_path / "file").as_uri()


def test_a_file_is_known_by_the_beginning_of_its_hash(url):
    whole = hashlib.sha256(CONTENT).hexdigest()
    assert [fetch.fetch(url, sha256, "") for sha256 in (whole, whole[:8], "")] == [CONTENT] * 3
    refused(f"could not download {url} .its SHA-256 is {whole[:16]}..., not 00000000.*: try again", fetch.fetch, url,
            "0" * 8, "try again")  # fmt: skip


def test_no_more_than_is_allowed_is_read(url, monkeypatch):
    monkeypatch.setattr(fetch, "MAX_BYTES", 700)
    refused("it has more than the 700 bytes allowed", fetch.fetch, url, "", "")
