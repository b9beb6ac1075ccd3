"""What grows, on paper: a ring's time, from how many GPUs it matters, and what the tables hold."""

import pytest

from msmeta.report import outlook
from msmeta.report.outlook import Link


def test_a_ring_sends_each_part_around_twice():
    link = Link("a link", 1e9, 1e-5)
    sent = sum(2 * 7 * part for part in [1e8 / 8] * 8) / 8  # bytes that each of 8 sends, by its parts
    assert link.all_reduce(1e8, 8) == pytest.approx(sent / 1e9 + 14e-5)
    assert link.all_reduce(1e8, 1) == 0


def test_the_number_of_gpus_from_which_a_sum_matters():
    link = Link("a link", 1e9, 0.0)
    # work/n / 10 < 2 (n - 1)/n size/rate: n - 1 > work / 20 / (size / rate)
    assert outlook.few(link, 1e6, 0.2, 100) == "12 GPUs"
    assert outlook.few(link, 1e6, 0.2, 8) == "never: one GPU a task"


def test_tables_count_what_grows(monkeypatch):
    monkeypatch.setattr(outlook, "TIMES", (1, 1000))
    growth = [line.split(" | ") for line in outlook.growth_table(80e9).splitlines()[2:]]
    names = ["as it is", *(f"{what} x 1,000" for what in ("tasks", "parameters", "steps"))]
    assert [row[0].strip("| ") for row in growth] == names
    autograd, adjoint, long = ([float(row[i].replace(",", "")) for row in growth] for i in (4, 5, 6))
    assert autograd[1] == pytest.approx(1000 * autograd[0], rel=0.01)
    assert all(adjoint[i] < autograd[i] for i in (0, 1, 3))
    assert adjoint[2] == pytest.approx(autograd[2], rel=0.1)  # where states, which both hold, outgrow images
    assert autograd[3] > 100 * autograd[0] and adjoint[3] < 4 * adjoint[0] and long[3] == long[0]
    links = [Link("fast", 1e12, 0.0), Link("slow", 1e8, 1e-3)]
    rows = [line.split(" | ") for line in outlook.communication_table(links, 1e13, (2, 16)).splitlines()[2:]]
    fast, slow = ([[float(share) for share in row[i].split(" / ")] for row in rows] for i in (4, 6))
    assert len(rows) == 6 and all(a < b for own in zip(fast, slow, strict=True) for a, b in zip(*own, strict=True))
    assert [line.split(" | ")[2] for line in outlook.indexed_table().splitlines()[2:4]] == ["1,024", "1,024,000"]
