"""Devices, time and memory, and measuring in fresh processes."""

import os
import signal
import sys
from functools import partial

import pytest
import torch

from msmeta import ConfigError, UserError, machine

CPU = torch.device("cpu")


def test_devices():
    assert machine.choose_device("cpu") == CPU
    assert machine.choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("cuda:99", "abacus"):
        with pytest.raises(ConfigError, match=f"device '{name}' is not available"):
            machine.choose_device(name)


def test_peak_memory_sees_what_a_call_has_freed_again():
    """In a process of its own, since another test's peak would hide it."""
    times, grown = machine.in_fresh_process(machine.timed, partial(torch.ones, 50_000_000), CPU, 2)
    assert len(times) == 2 and min(times) > 0
    assert 190e6 < grown < 260e6  # 200 MB of float32


def test_each_call_has_a_process_of_its_own_and_brings_back_what_it_returns_or_raises():
    processes = {machine.in_fresh_process(os.getpid) for _ in range(2)}
    assert len(processes) == 2 and os.getpid() not in processes
    with pytest.raises(ConfigError, match="device 'abacus' is not available"):
        machine.in_fresh_process(machine.choose_device, "abacus")


def test_a_killed_process_is_one_line_and_the_next_one_works():
    with pytest.raises(UserError, match=r"^raise_signal\(9\): its process was killed, for want of memory perhaps$"):
        machine.in_fresh_process(signal.raise_signal, 9)
    assert machine.in_fresh_process(abs, -1) == 1


def test_rows_take_turns_and_their_medians_are_kept(monkeypatch):
    calls, seconds = [], iter([1.0, 10.0, 5.0, 30.0, 2.0, 20.0])

    def measure(row, scale):
        calls.append(row)
        return {"seconds": scale * next(seconds), "bytes": 7}

    monkeypatch.setattr(machine, "in_fresh_process", lambda function, *args: function(*args))
    found = machine.in_turns(measure, ["a", "b"], 3, 2)
    assert calls == ["a", "b"] * 3
    assert found[0] == {"seconds": 4.0, "bytes": 7, "seconds_all": [2.0, 10.0, 4.0], "bytes_all": [7, 7, 7]}
    assert found[1] == {"seconds": 40.0, "bytes": 7, "seconds_all": [20.0, 60.0, 40.0], "bytes_all": [7, 7, 7]}


def test_memory_that_is_shared_with_others_is_left_out():
    """In a fresh process, whose libraries are this one's as well; the whole where nothing says what is shared."""
    peak = machine.in_fresh_process(machine.peak_memory, CPU)
    unshared = machine.in_fresh_process(_unshared_after, 1)
    assert 0 < unshared < peak or sys.platform != "linux"
    grown = machine.in_fresh_process(_unshared_after, 50_000_000)
    assert 190e6 < grown - unshared < 260e6


def _unshared_after(count):
    torch.ones(count)
    return machine.unshared_memory()


def test_live_bytes_are_those_of_new_tensors_while_they_live():
    before = torch.ones(1000)
    with machine.LiveBytes() as live:
        a = before.view(10, 100)  # no memory of its own
        b = before + 1
        c = b.view(-1)[:10]
        del b  # c holds its memory
        assert live.now == 4000
        d = torch.zeros(500, dtype=torch.float64) * 2
        assert (live.now, live.peak) == (8000, 12000)
        del c
        assert live.now == 4000
        e = torch.ones(100, requires_grad=True)
        loss = (e.exp() * e).sum()
        held = live.now
        loss.backward()
    assert held > 4000 + 400 + 4 and live.peak == 12000 and a.shape == (10, 100) and d.shape == (500,)
    assert machine.bytes_used(lambda: before + 1, torch.device("cpu")) == 4000
