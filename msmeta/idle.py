"""Whether this machine does anything else than to measure."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

IDLE = 0.1
"""Cores: with others at less, a machine is idle. 5 % of two, about as much as rounds differ by."""
STRETCH = 10.0
"""Seconds: of a long measurement the busiest stretch counts, so that no burst is lost in a mean."""


class Watch:
    """Sees, from its making on, how many cores are taken by what is neither this process nor a descendant of it.

    That is the busy time of all cores, with what a host takes from a virtual machine, less that of the process's tree.
    For a process that does nothing else than measure: its orphans are kept as its children until it ends.
    proc: the folder with the kernel's numbers. cores: of the busiest stretch so far, None before the first, and where
    the system does not show it. load: the mean number of processes that ran or waited in the minute before.
    """

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self.cores: float | None = None
        self.load = round(os.getloadavg()[0], 2)
        self._proc, self._ended = proc, threading.Event()
        if sys.platform == "linux":
            pr_set_child_subreaper = 36
            ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1, 0, 0, 0)
        self._before = self._now()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @property
    def sees(self) -> bool:
        """Whether the system shows what others do."""
        return self._before is not None

    def look(self, shortest: float = 0.0) -> float | None:
        """Ends a stretch, unless it is shorter than so many seconds, and begins another; `cores`."""
        now = self._now()
        if now and self._before and (seconds := now[0] - self._before[0]) > 0 and seconds >= shortest:
            cores = max(0.0, (now[1] - self._before[1]) / seconds)
            self.cores, self._before = round(max(cores, self.cores or 0.0), 2), now
        return self.cores

    def end(self) -> float | None:
        """Stops watching; `cores`. A rest of a stretch, too short to be told from the clock's ticks, is left out."""
        self._ended.set()
        self._thread.join()
        return self.look(0.0 if self.cores is None else STRETCH / 2)

    def _watch(self) -> None:
        while not self._ended.wait(STRETCH):
            self.look()

    def _now(self) -> tuple[float, float] | None:
        """Seconds since the start of the machine, and processor seconds of others since then; None where unknown."""
        try:
            uptime = float((self._proc / "uptime").read_text().split()[0])
            ticks = [int(count) for count in (self._proc / "stat").read_text().split()[1:9]]
        except (OSError, ValueError, IndexError):
            return None
        if not any(ticks):  # a sandbox's
            return None
        idle, waiting = 3, 4
        busy = sum(count for kind, count in enumerate(ticks) if kind not in (idle, waiting))
        return uptime, (busy - self._own()) / os.sysconf("SC_CLK_TCK")

    def _own(self) -> int:
        """Clock ticks of this process, of its descendants, and of those of them that have ended."""
        tree = self._tree()
        while tree.keys() != (again := self._tree()).keys():  # one that ends as they are read is in no sum, or in two
            tree = again
        return sum(again.values())

    def _tree(self) -> dict[int, int]:
        """The same of each process of the tree, with its children that have ended."""
        parents, ticks = {}, {}
        for path in self._proc.glob("[0-9]*/stat"):
            with suppress(OSError):  # it has ended meanwhile
                fields = path.read_text().rpartition(")")[2].split()
                pid = int(path.parent.name)
                parents[pid], ticks[pid] = int(fields[1]), sum(map(int, fields[11:15]))
        tree = {os.getpid()} & ticks.keys()
        while more := {pid for pid, parent in parents.items() if parent in tree} - tree:
            tree |= more
        return {pid: ticks[pid] for pid in tree}
