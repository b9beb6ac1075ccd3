"""The status of the reproduction, from made results."""

from stored_runs import committed, result

from msmeta.report import status


def test_the_summary_counts_the_papers_cells(store):
    """All three methods on CIFAR-100 with SGD, three seeds each; iMAML has no number for miniImageNet 5-shot."""
    store(*({"kind": "transfer", **entry} for entry in committed()))
    rows = [row.strip("| ").split(" | ")[1:] for row in status.summary().splitlines()[2:]]
    hours = f"{9 * result()['provenance']['train_seconds'] / 3600:.1f}"
    empty = ["0", "-", "-", "0.0"]
    assert rows == [["18", "3", "3", "cpu", hours], ["18", *empty], ["28", *empty], ["13", *empty]]
