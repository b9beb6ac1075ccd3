"""The status of the reproduction, from made results."""

from stored_runs import committed, result

from msmeta.report import status


def test_core_hours_count_every_process_and_worker_and_no_gpu(store):
    where = {"device": "a processor, 4 cores", "threads": 1, "torch": "2", "commit": "abc", "train_seconds": 3600.0}
    several = ({"processes": 2}, {"workers": 3}, {"device": "NVIDIA H100"})
    runs = [result("Scratch", seed=seed) | {"provenance": where | own} for seed, own in enumerate(several)]
    store(*({"kind": "transfer", **entry} for entry in runs))
    found = status.cost()
    assert "| meta-transfer learning | 2 | 5.0 | 0.05 |" in found and found.endswith(
        "1 more run took 1.0 hours on a GPU, which several may have shared: 0.70 kWh at the most, at 700 W."
    )


def test_the_summary_counts_the_papers_cells(store):
    """All three methods on CIFAR-100 with SGD, three seeds each; iMAML has no number for miniImageNet 5-shot."""
    store(*({"kind": "transfer", **entry} for entry in committed()))
    ((_, rows),) = status.summary().groups
    hours = f"{9 * result()['provenance']['train_seconds'] / 3600:.1f}"
    empty = ["0", "-", "-", "0.0"]
    own = [["18", "3", "3", "cpu", hours], ["18", *empty], ["28", *empty], ["13", *empty]]
    assert rows == [[f"Table {number}", *row] for number, row in zip((2, 3, 4, 5), own, strict=True)]
