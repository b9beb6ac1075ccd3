"""Table 6: the paper's counts are the registry's, and those of prepared arrays are counted."""

import pytest
import torch

from msmeta import data
from msmeta.report import data_sets, paper


def test_the_papers_counts_are_those_that_preparing_enforces():
    printed = [[cell.value for cell in own.values()] for own in paper.table(6).cells.values()]
    assert printed == [[own[split] for split in data_sets.SPLITS] for own in data.TABLE_6.values()]
    assert [*paper.table(6).cells] == [data.find(name).title for name in data.TABLE_6]


@pytest.mark.parametrize(("missing", "said"), [(0, "the same"), (1, "44,999 / 5,000 / 10,000 / 59,999")])
def test_what_is_prepared_is_counted_and_what_is_not_has_its_command(tmp_path, monkeypatch, missing, said):
    monkeypatch.setenv("MSMETA_DATA", str(tmp_path))
    (tmp_path / "cifar-100").mkdir()
    sizes = {"train": 45000 - missing, "validation": 5000, "test": 10000}
    labels = {split: torch.zeros(size) for split, size in sizes.items()}
    monkeypatch.setattr(data, "load", lambda name: type("Images", (), {"labels": labels}))
    _, rows = data_sets.table_6().groups[0]
    assert rows[0][-1] == said and rows[2][-1] == "not here: msmeta data prepare bird --from DIR"
