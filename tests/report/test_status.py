"""The status of the reproduction, from made results."""

from stored_runs import committed, result

from msmeta.report import status


def test_the_summary_counts_the_papers_cells(store):
    """All three methods on CIFAR-100 with SGD, three seeds each; iMAML has no number for miniImageNet 5-shot."""
    store(*({"kind": "transfer", **entry} for entry in committed()))
    ((_, rows),) = status.summary().groups
    hours = f"{9 * result()['provenance']['train_seconds'] / 3600:.1f}"
    empty = ["0", "-", "-", "0.0"]
    own = [["18", "3", "3", "cpu", hours], ["18", *empty], ["28", *empty], ["13", *empty]]
    assert rows == [[f"Table {number}", *row] for number, row in zip((2, 3, 4, 5), own, strict=True)]
