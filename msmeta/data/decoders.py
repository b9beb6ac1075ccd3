"""Images decoded in processes of their own, since a damaged file can end the process that decodes it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from msmeta import machine
from msmeta.data import pixels
from msmeta.data.apart import ONE_THREAD
from msmeta.data.dataset import Allocate, Dataset, Progress
from msmeta.data.pixels import Recipe, Unreadable
from msmeta.errors import DataError

FORMATS = ("PNG", "JPEG", "WebP")
"""Of data sets with an image a file."""
DECODERS = min(4, machine.cores())
AT_ONCE = 64
"""Files that a process is asked for."""
COMMAND = [sys.executable, "-P", "-W", "ignore", pixels.__file__]


class Decode(Recipe):
    """A recipe that can be called, for one image in this process."""

    __slots__ = ()

    def __call__(self, data: bytes, name: str) -> np.ndarray:
        """uint8 (channels, side, side). Raises DataError in one line that names the image if it cannot be read."""
        try:
            return self.pixels(data)
        except Unreadable as error:
            raise DataError(f"{name} {error}") from error


def decode_all(
    dataset: Dataset,
    folder: Path,
    names: Sequence[str],
    decode: Decode,
    progress: Progress,
    allocate: Allocate,
    unreadable: dict[str, str] | None = None,
) -> np.ndarray:
    """The images of these files in `folder`, decoded by several processes: uint8 (N, *dataset.shape).

    unreadable: takes the reason of each file that cannot be read; else the first one's is raised, as a DataError.
    """
    images = allocate((len(names), *dataset.shape), np.uint8)
    decode_into(images, f"read {dataset.title}", folder, names, decode, progress, unreadable)
    return images


def decode_into(
    images: np.ndarray,
    what: str,
    folder: Path,
    names: Sequence[str],
    decode: Decode,
    progress: Progress = lambda *_: None,
    unreadable: dict[str, str] | None = None,
) -> None:
    """As `decode_all`, into images uint8 (N, channels, side, side). what: is done, for the progress."""
    each = max(1, min(AT_ONCE, len(names) // (4 * DECODERS)))
    parts = [range(start, min(start + each, len(names))) for start in range(0, len(names), each)]
    free: SimpleQueue[_Decoder] = SimpleQueue()

    def fill(part: range) -> None:
        decoder = free.get()
        try:
            for place, found in zip(part, decoder.decoded([folder / names[place] for place in part]), strict=True):
                if not isinstance(found, str):
                    images[place] = found
                elif unreadable is None:
                    raise DataError(f"{names[place]} {found}")
                else:
                    unreadable[names[place]] = f"{names[place]} {found}"
        except BaseException:
            decoder.end()  # which owes answers
            raise
        finally:
            free.put(decoder)

    with ExitStack() as stack:
        decoders = [_Decoder(decode) for _ in range(min(DECODERS, len(parts)) or 1)]
        stack.callback(_end, decoders)  # and those that were being started when they were ended
        pool = stack.enter_context(ThreadPoolExecutor(len(decoders)))
        stack.callback(_end, decoders)  # so that no thread waits for an answer
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        for decoder in decoders:
            free.put(decoder)
        for part, _ in zip(parts, pool.map(fill, parts), strict=True):
            for done in part:
                progress(what, done, len(names))
        progress(what, len(names), len(names))


def _end(decoders: Sequence["_Decoder"]) -> None:
    for decoder in decoders:
        decoder.end()


class _Decoder:
    """A process that decodes, started when it is needed and again when a file has ended it."""

    def __init__(self, decode: Decode) -> None:
        self.decode, self.shape = decode, (decode.channels, decode.side, decode.side)
        self.process: subprocess.Popen[bytes] | None = None
        self.ended = False

    def decoded(self, paths: Sequence[Path]) -> Iterator[np.ndarray | str]:
        """The pixels of each file, or what is wrong with it."""
        owes = False
        for done, _ in enumerate(paths):
            if not owes:
                self._ask(paths[done:])
            found = self._answer()
            owes = found is not None
            yield found if owes else self._cause_of_death()

    def end(self) -> None:
        """Whatever it is doing."""
        self.ended = True
        if self.process:
            self.process.kill()
            self._cause_of_death()

    def _ask(self, paths: Sequence[Path]) -> None:
        if self.ended:
            raise DataError("interrupted")
        try:
            self.process = self.process or subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | ONE_THREAD,
            )
        except OSError as error:
            raise DataError(f"cannot start a process that decodes images: {error.strerror}") from error
        with suppress(BrokenPipeError):  # there will be no answer
            self.process.stdin.write(json.dumps([self.decode, [str(path) for path in paths]]).encode() + b"\n")
            self.process.stdin.flush()

    def _answer(self) -> np.ndarray | str | None:
        """None where the process has ended."""
        line = self.process.stdout.readline()
        why, size = json.loads(line) if line.endswith(b"\n") else (None, 0)
        if why:
            return why
        data = self.process.stdout.read(size)
        return np.frombuffer(data, np.uint8).reshape(self.shape) if data and len(data) == size else None

    def _cause_of_death(self) -> str:
        process, self.process = self.process, None
        with process, suppress(BrokenPipeError):
            process.stdin.close()
        if process.returncode == -signal.SIGXCPU:
            return f"takes more than {pixels.SECONDS} s to decode"
        number = -process.returncode
        cause = signal.Signals(number).name if number in set(signal.Signals) else f"status {process.returncode}"
        return f"is damaged: it ends the process that decodes it ({cause})"
