"""Devices, time and memory, and measuring in fresh processes."""

import os
import signal
import subprocess
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


class Proc:
    """A folder such as /proc: the seconds of the machine, of its cores, and of processes with their parents."""

    def __init__(self, folder):
        self.folder = folder

    def set(self, uptime, cores, processes):
        """cores: seconds by kind (user, nice, system, idle, iowait, irq, softirq, steal). processes: (parent, own
        seconds, seconds of children that have ended) by number."""
        tick = os.sysconf("SC_CLK_TCK")
        (self.folder / "uptime").write_text(f"{uptime}.00 1.00\n")
        counts = " ".join(str(round(seconds * tick)) for seconds in cores)
        (self.folder / "stat").write_text(f"cpu  {counts} 0 0\ncpu0 1 2 3\n")
        for number, (parent, own, children) in processes.items():
            (self.folder / str(number)).mkdir(exist_ok=True)
            times = f"{round(own * tick)} 0 {round(children * tick)} 0"
            (self.folder / str(number) / "stat").write_text(
                f"{number} (a) b) S {parent} 1 1 0 -1 0 0 0 0 0 {times} 20\n"
            )


@pytest.fixture
def proc(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.sys, "platform", "elsewhere")  # or this process would keep orphans
    return Proc(tmp_path)


def test_the_busiest_stretch_of_others_counts_and_what_the_process_and_its_children_do_does_not(proc):
    me = os.getpid()
    proc.set(
        1000, (50, 0, 5, 900, 9, 0, 0, 0), {1: (0, 8, 8), me: (1, 3, 0), me + 1: (me, 1, 0), me + 2: (me + 1, 2, 0)}
    )
    watch = machine.Watch(proc.folder)
    assert watch.sees and watch.cores is None
    # 10 s later: 14 s of the tree, of which 4 by a child that has ended, and nothing else
    proc.set(1010, (64, 0, 5, 905, 10, 0, 0, 0), {me: (1, 8, 4), me + 1: (me, 5, 0), me + 2: (me + 1, 3, 0)})
    assert watch.look() == 0.0
    # 1.5 s by others in each of 2 s of system, 3 s of a stolen core and 1 s of interrupts
    proc.set(1014, (64, 0, 7, 905, 10, 0.5, 0.5, 3), {})
    assert watch.look() == 1.5
    proc.set(1024, (65, 0, 7, 920, 12, 0.5, 0.5, 3), {})
    assert watch.look() == 1.5  # not the quieter stretch's 0.1
    proc.set(1025, (66, 0, 7, 920, 12, 0.5, 0.5, 13), {})
    assert watch.end() == 1.5  # the last second alone is too short


def test_without_proc_nothing_is_seen(proc):
    watch = machine.Watch(proc.folder / "absent")
    assert not watch.sees and watch.look() is None and watch.end() is None
    proc.set(1000, [0] * 8, {os.getpid(): (1, 3, 0)})
    watch = machine.Watch(proc.folder)
    assert not watch.sees and watch.end() is None


WITH_AN_ORPHAN = """
import os, subprocess, sys
from msmeta import machine
watch = machine.Watch()
busy = "import time\\nwhile time.process_time() < 0.5: pass"
before = watch._own()
# Its output ends when the process that it leaves behind has ended.
subprocess.run([sys.executable, "-c", f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {busy!r}])"],
               stdout=subprocess.PIPE, check=True)
print((watch._own() - before) / os.sysconf("SC_CLK_TCK"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
def test_the_processor_time_of_an_orphan_stays_that_of_the_process():
    done = subprocess.run([sys.executable, "-c", WITH_AN_ORPHAN], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0.45


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
