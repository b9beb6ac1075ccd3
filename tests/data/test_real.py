"""The real archives end to end, where they are at hand: in a folder beside the checkout, or where a variable says."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from msmeta.data import prepare, verify

RAW = Path(__file__).parents[3] / "shared/data/raw"
OMNIGLOT = Path(os.environ.get("MSMETA_OMNIGLOT_RAW", RAW / "omniglot"))
CIFAR_100 = Path(os.environ.get("MSMETA_CIFAR100_RAW", RAW)) / "cifar100.tar.gz"
ROOM = 2**32
HASHES = {
    "omniglot": "1c20c6461665cac32ff57ded770d6db78475388e7f51ee5cc3ea505eda62cd78",
    "cifar-100": "ddb1c6dac15241a060856cf27affccdf646962e4d51d089a616e6cfca3893ae9",
    "cifar-fs": "f668a580c0d311c8ab9bfd697bc980151d4f2ddbfbc7bfec6fb6cda7c91987f0",
}


@pytest.fixture
def folder(tmp_path):
    """In memory where it has room: 60,000 small files are written and taken away, which takes a disk minutes."""
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > ROOM:
        with tempfile.TemporaryDirectory(dir=memory) as place:
            yield Path(place)
    else:
        yield tmp_path


@pytest.mark.parametrize(("source", "names"), [(OMNIGLOT, ["omniglot"]), (CIFAR_100, ["cifar-100", "cifar-fs"])])
def test_the_real_archives_give_the_arrays_of_the_committed_results(folder, source, names):
    if not source.exists():
        pytest.skip(f"there is no {source}")
    prepare(names[0], source, folder)
    assert {name: verify(name, folder).hash for name in names} == {name: HASHES[name] for name in names}
