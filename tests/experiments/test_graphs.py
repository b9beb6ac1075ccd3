"""Captures: what they leave behind, and in which order they run."""

import gc
from contextlib import contextmanager

import pytest
import torch

from msmeta.experiments import graphs

OPTIMISERS = {
    "adam": lambda params: torch.optim.Adam(params, lr=0.1),
    "sgd": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
}


class _Training:
    """A step on |x|² that counts itself."""

    def __init__(self, optimizer, steps=0):
        self.x, self.count = torch.nn.Parameter(torch.tensor([1.0, -2.0])), torch.zeros(1)
        self.x.grad = torch.zeros_like(self.x)
        self.optimizer = OPTIMISERS[optimizer]([self.x])
        for _ in range(steps):
            self.step()

    def step(self):
        self.x.grad.copy_(2 * self.x.detach())
        self.optimizer.step()
        self.count += 1

    def values(self):
        state = [v for v in self.optimizer.state[self.x].values() if v is not None]
        return [self.x.detach(), self.x.grad, self.count, *state]


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_a_capture_leaves_no_trace_and_replays_go_on_in_the_same_tensors(optimizer, before):
    expected, found = _Training(optimizer, before), _Training(optimizer, before)
    replay = graphs.capture(found.step, [found.x.grad, found.count], torch.device("cpu"), found.optimizer)
    if before:
        assert all(map(torch.equal, found.values(), expected.values()))
    places = [value.data_ptr() for value in found.values()]
    for _ in range(3):
        replay()
        expected.step()
        for ours, theirs in zip(found.values(), expected.values(), strict=True):
            torch.testing.assert_close(ours, theirs)
    assert [value.data_ptr() for value in found.values()] == places


class Cuda:
    type = "cuda"


@pytest.fixture
def done(monkeypatch):
    """The calls, without a GPU."""
    done = []

    class Stream:
        def wait_stream(self, other):
            done.append("wait")

    class Graph:
        def replay(self):
            done.append("replay")

    @contextmanager
    def within(what, *rest):
        done.append(f"{type(what).__name__} begins")
        yield
        done.append(f"{type(what).__name__} ends")

    for name, value in (
        ("Stream", Stream), ("current_stream", Stream), ("CUDAGraph", Graph), ("stream", within), ("graph", within),
        ("device", within),
    ):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    return done


def test_on_a_gpu_warm_ups_run_on_a_side_stream_before_the_one_run_that_is_recorded(done):
    """The recorded run is the only one that nothing is put back after."""
    x = torch.zeros(1)

    def function():
        x.add_(1)
        done.append(f"run from {x.item() - 1:g}")

    graphs.capture(function, [x], Cuda())()
    warm_up = ["wait", "Stream begins", *["run from 0"] * graphs.WARM_UPS, "Stream ends", "wait"]
    assert done == ["Cuda begins", *warm_up, "Graph begins", "run from 0", "Graph ends", "Cuda ends", "replay"]


def test_what_an_earlier_run_left_is_deleted_before_a_run_is_recorded_and_not_meanwhile(done):
    class Earlier:
        def __init__(self):
            self.itself = self  # which only Python's collector deletes

        def __del__(self):
            done.append("deleted")

    def function():
        done.append(f"run, collecting {gc.isenabled()}")
        Earlier()

    graphs.capture(function, [torch.zeros(1)], Cuda())
    begins = done.index("Graph begins")
    assert done[:begins].count("deleted") == graphs.WARM_UPS
    assert done[begins:] == ["Graph begins", "run, collecting False", "Graph ends", "Cuda ends"]
    assert gc.isenabled()
