"""Devices, time and memory, and measuring in fresh processes."""

import os
import signal
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
    assert found[0] == {"seconds": 4.0, "bytes": 7, "seconds_all": [2.0, 10.0, 4.0]}
    assert found[1] == {"seconds": 40.0, "bytes": 7, "seconds_all": [20.0, 60.0, 40.0]}
