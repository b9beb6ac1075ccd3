"""What a training does where it is asked to end."""

from __future__ import annotations

import signal
import threading
from typing import Any

from msmeta.experiments import distributed


class Signals:
    """Within the block SIGINT and SIGTERM only ask for an end; a second one raises KeyboardInterrupt at once.

    Under torchrun, which sends its processes a signal of its own after the terminal's, a second one asks again. A
    signal that is ignored, or that another program takes care of (a cluster's), is left alone; so are all of them
    outside the main thread, where Python lets nobody take them.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *raised: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked and distributed.alone():
            raise KeyboardInterrupt
        self.asked = True
