"""The real archives end to end, where they are at hand: in a folder beside the checkout, or where a variable says."""

import os
from pathlib import Path

import pytest

from msmeta.data import prepare, verify

RAW = Path(__file__).parents[3] / "shared/data/raw"
OMNIGLOT = Path(os.environ.get("MSMETA_OMNIGLOT_RAW", RAW / "omniglot"))
CIFAR_100 = Path(os.environ.get("MSMETA_CIFAR100_RAW", RAW)) / "cifar100.tar.gz"
HASHES = {
    "omniglot": "1c20c6461665cac32ff57ded770d6db78475388e7f51ee5cc3ea505eda62cd78",
    "cifar-100": "ddb1c6dac15241a060856cf27affccdf646962e4d51d089a616e6cfca3893ae9",
    "cifar-fs": "f668a580c0d311c8ab9bfd697bc980151d4f2ddbfbc7bfec6fb6cda7c91987f0",
}


@pytest.mark.parametrize(("source", "names"), [(OMNIGLOT, ["omniglot"]), (CIFAR_100, ["cifar-100", "cifar-fs"])])
def test_the_real_archives_give_the_arrays_of_the_committed_results(tmp_path, source, names):
    if not source.exists():
        pytest.skip(f"there is no {source}")
    prepare(names[0], source, tmp_path)
    assert {name: verify(name, tmp_path).hash for name in names} == {name: HASHES[name] for name in names}
