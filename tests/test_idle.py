"""What else a machine does, as its kernel tells it."""

import os
import subprocess
import sys

import pytest

from msmeta import idle


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
    monkeypatch.setattr(idle.sys, "platform", "elsewhere")  # or this process would keep orphans
    return Proc(tmp_path)


def test_the_busiest_stretch_of_others_counts_and_what_the_process_and_its_children_do_does_not(proc):
    me = os.getpid()
    proc.set(
        1000, (50, 0, 5, 900, 9, 0, 0, 0), {1: (0, 8, 8), me: (1, 3, 0), me + 1: (me, 1, 0), me + 2: (me + 1, 2, 0)}
    )
    watch = idle.Watch(proc.folder)
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
    watch = idle.Watch(proc.folder / "absent")
    assert not watch.sees and watch.look() is None and watch.end() is None
    proc.set(1000, [0] * 8, {os.getpid(): (1, 3, 0)})
    watch = idle.Watch(proc.folder)
    assert not watch.sees and watch.end() is None


WITH_AN_ORPHAN = """
import os, subprocess, sys
from msmeta import idle
watch = idle.Watch()
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
