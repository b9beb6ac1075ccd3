"""A grid of runs, each a job of its own: a process of this machine or a job of a SLURM cluster, through submitit.

A run's config decides where its result lies, so a sweep that is started again does what is missing: finished runs are
found, unfinished ones go on from their checkpoints.
"""

from __future__ import annotations

import itertools
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from msmeta import files, machine, paths, runs
from msmeta.data import known_as
from msmeta.errors import ConfigError, UserError, brief, one_line
from msmeta.experiments import plain_yaml
from msmeta.experiments.config import Config, resolve
from msmeta.experiments.registry import EXPERIMENTS, experiment_of, place

EXECUTORS = ("local", "slurm")
POLL_SECONDS = 0.5
DEFAULT_MINUTES = 24 * 60
MOST_RUNS, MOST_BYTES = 10_000, 2**20
"""Of a spec: more are a slip."""


def read_spec(path: Path, preset: str | None = None) -> list[Config]:
    """The configs that a YAML file asks for, in its order, each once.

    The file has a list `runs`; each entry maps fields of the config to a value, or to a list of values: one run for
    each combination (a partition is a list within the list of `window`). What stands beside `runs` holds for all
    entries; `experiment` there is `few-shot`, as without it, or `transfer`. Or it has a list `parts`, each with a
    `name` and its own `runs`; what stands beside them holds for all parts. preset: instead of the file's.

    Raises ConfigError in one line that names the file and the entry.
    """
    return list(dict.fromkeys(itertools.chain(*read_parts(path, preset).values())))


def read_parts(path: Path, preset: str | None = None) -> dict[str, list[Config]]:
    """The same by the names of the parts; a file without parts is one of its own name."""
    spec = _load_yaml(path)
    if not isinstance(spec, dict) or "parts" not in spec:
        return {path.stem: _read_runs(spec, str(path), preset)}
    found: dict[str, list[Config]] = {}
    if not spec["parts"]:
        raise ConfigError(f"{path} has no parts: see results/sweeps for examples")
    shared = {name: value for name, value in spec.items() if name != "parts"}
    for number, part in enumerate(spec["parts"] if isinstance(spec["parts"], list) else [None], 1):
        if not isinstance(part, dict) or not isinstance(part.get("name"), str) or part["name"] in found:
            raise ConfigError(f"{path}, part {number}: it must be a mapping with a `name` of its own and `runs`")
        name = part["name"]
        own = {key: value for key, value in part.items() if key != "name"}
        found[name] = _read_runs(shared | own, f"{path}, part {name}", preset)
    return found


def _read_runs(spec: Any, where: str, preset: str | None) -> list[Config]:
    if not isinstance(spec, dict) or not isinstance(spec.get("runs"), list) or not spec["runs"]:
        raise ConfigError(f"{where} has no list `runs`: see results/sweeps for examples")
    shared = {name: value for name, value in spec.items() if name not in ("runs", "experiment")}
    experiment = spec.get("experiment", "few-shot")
    if not isinstance(experiment, str) or experiment not in EXPERIMENTS:
        raise ConfigError(f"{where}: experiment {brief(experiment)} is unknown: choose from {', '.join(EXPERIMENTS)}")
    kind, module = EXPERIMENTS[experiment]
    configs: dict[Config, None] = {}
    total = 0
    for number, entry in enumerate(spec["runs"], 1):
        if not isinstance(entry, dict):
            raise ConfigError(f"{where}, run {number}: {brief(entry)} is not a mapping of fields to values")
        entry = shared | entry | ({"preset": preset} if preset else {})
        columns = [value if isinstance(value, list) else [value] for value in entry.values()]
        if "dataset" in entry:  # here, so that a folder is looked through once
            place = [*entry].index("dataset")
            columns[place] = [known_as(name, experiment) for name in columns[place]]
        if [] in columns:
            raise ConfigError(f"{where}, run {number}: {list(entry)[columns.index([])]} is an empty list")
        total += math.prod(map(len, columns))
        if total > MOST_RUNS:
            raise ConfigError(f"{where}, run {number}: it asks for {total:,} runs, more than {MOST_RUNS:,}")
        for values in itertools.product(*columns):
            try:
                configs[resolve(kind, module.presets.RULES, dict(zip(entry, values, strict=True)))] = None
            except ConfigError as error:
                raise ConfigError(f"{where}, run {number}: {error}") from None
    return list(configs)


def _load_yaml(path: Path) -> Any:
    path = paths.user_path(path, "sweep")
    text = paths.read_text(path, MOST_BYTES)
    try:
        return plain_yaml.parse(text)
    except ValueError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error


@dataclass(frozen=True)
class Member:
    """One run as a job. threads: for torch on a CPU, None for torch's own choice."""

    config: Config
    threads: int | None
    root: Path

    def __call__(self) -> str | None:
        """Trains, or goes on from the checkpoint; what a user can mend is returned as a line, not raised."""
        if os.environ.get("SUBMITIT_EXECUTOR") == "local":  # on a cluster submitit takes care of signals
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        try:
            _, module = experiment_of(self.config)
            module.train(self.config, resume=True, results_root=self.root)
        except UserError as error:
            return str(error)
        return None

    def checkpoint(self) -> Any:
        """What submitit queues where the cluster takes the machine away: the same again, which resumes."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def sweep(
    configs: Sequence[Config],
    executor: str = "local",
    parallel: int | None = None,
    retries: int = 2,
    parameters: dict[str, Any] | None = None,
    say: Callable[[str], None] = print,
    root: Path | None = None,
) -> dict[str, str]:
    """Runs what has not finished; the runs that failed, by name, and why.

    executor: `local` or `slurm`. parallel: jobs at once, None for one a GPU, or one; on a CPU they share the cores.
    retries: how often a job that died without a word, as one that was killed, is started again. parameters: submitit's,
    such as `slurm_partition`. Raises UserError where jobs cannot be started.
    """
    if parallel is not None and parallel < 1:
        raise ConfigError(f"parallel={parallel}: it must be at least 1")
    if retries < 0:
        raise ConfigError(f"retries={retries}: it must be at least 0")
    root = root or runs.results_root()
    waiting = [config for config in configs if place(config, root).result() is None]
    say(f"{len(configs)} runs, {len(configs) - len(waiting)} of them finished before")
    if not waiting:
        return {}
    parallel = parallel or max(1, torch.cuda.device_count() if executor == "local" else len(waiting))
    jobs = _Jobs(executor, parallel, parameters or {}, root)
    failed: dict[str, str] = {}
    tries: dict[Config, int] = {}
    try:
        while waiting or jobs.running:
            while waiting and len(jobs.running) < parallel:
                jobs.submit(waiting.pop(0))
            for config, problem, lost in jobs.ended():
                name = place(config, root).name
                tries[config] = tries.get(config, 0) + lost
                if lost and tries[config] <= retries:
                    say(one_line(f"{name}: {problem}; starting it again ({tries[config]} of {retries})"))
                    waiting.insert(0, config)
                elif problem:
                    say(one_line(f"{name}: {problem}"))
                    failed[name] = problem
                else:
                    accuracy = place(config, root).result()["metrics"]["accuracy"]
                    say(f"{name}: {accuracy:.2f} %, {len(waiting) + len(jobs.running)} runs to go")
            time.sleep(POLL_SECONDS)
    except BaseException:
        jobs.cancel()
        raise
    return failed


class _Jobs:
    """submitit's jobs of the members that run now."""

    def __init__(self, executor: str, parallel: int, parameters: dict[str, Any], root: Path) -> None:
        try:
            import submitit
        except ImportError as error:
            raise UserError("a sweep needs submitit: pip install 'msmeta[sweep]'") from error
        if executor not in EXECUTORS:
            raise ConfigError(f"executor {brief(executor)} is unknown: choose from {', '.join(EXECUTORS)}")
        self.running: dict[Any, tuple[Config, int | None]] = {}
        self._root, self._local = root, executor == "local"
        self._gpus = torch.cuda.device_count() if self._local else 0
        self._threads = max(1, machine.cores() // parallel) if self._local else parameters.get("cpus_per_task")
        self._uncompleted = submitit.core.utils.UncompletedJobError
        self._failed_submission = submitit.core.utils.FailedSubmissionError
        jobs = root / "checkpoints" / "jobs"
        try:
            with files.write_errors(jobs):
                jobs.mkdir(parents=True, exist_ok=True)
            self._executor = submitit.AutoExecutor(jobs, cluster=executor)
            self._executor.update_parameters(**{"name": "msmeta", "timeout_min": DEFAULT_MINUTES, **parameters})
        except (RuntimeError, ValueError, NameError, TypeError, AssertionError) as error:
            raise ConfigError(f"executor {executor}: {str(error).splitlines()[0]}") from error

    def submit(self, config: Config) -> None:
        """Starts a member, on the GPU of this machine that has the fewest."""
        gpu = None
        if self._gpus:
            taken = [gpu for _, gpu in self.running.values()]
            gpu = min(range(self._gpus), key=taken.count)
            self._executor.update_parameters(local_visible_gpus=(gpu,), gpus_per_node=1)
        with _held_interrupts():
            try:
                job = self._executor.submit(Member(config, self._threads, self._root))
                self.running[job] = config, gpu
            except self._failed_submission as error:
                raise UserError(f"a job could not be started: {str(error).splitlines()[0]}") from error
            except OSError as error:
                where = self._executor.folder
                raise UserError(f"a job could not be started: {where}: {files.reason(error, where)}") from error

    def ended(self) -> list[tuple[Config, str | None, bool]]:
        """Those that ended since the last call: config, what went wrong, and whether the job died without a word."""
        found = []
        for job in [job for job in self.running if job.done()]:
            config, _ = self.running.pop(job)
            if place(config, self._root).result() is not None:
                found.append((config, None, False))
                for path in self._executor.folder.glob(f"{job.job_id}_*"):
                    path.unlink(missing_ok=True)
            elif not job.paths.result_pickle.exists():
                found.append((config, f"its process died; its log is {job.paths.stderr}", True))
            else:
                try:
                    problem = job.result()
                except self._uncompleted:
                    problem = f"it failed; its log is {job.paths.stderr}"
                found.append((config, problem, False))
        return found

    def cancel(self) -> None:
        """Asks all members to stop, and waits until they have written their checkpoints."""
        for job in self.running:
            if not self._local:
                job.cancel(check=False)
            elif not job.done():
                os.kill(int(job.job_id), signal.SIGTERM)
        while self._local and not all(job.done() for job in self.running):
            time.sleep(POLL_SECONDS)


@contextmanager
def _held_interrupts() -> Iterator[None]:
    """An interrupt waits until the block's end, when the job that it starts is known and `cancel` ends it.

    Ctrl-C reaches all processes of a terminal; the members inherit that it is blocked, since they are to end by
    `cancel`, once they wrote a checkpoint. Blocking is a thread's own, and torch has several here: a handler is needed
    as well. Outside the main thread no interrupt is raised.
    """
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    handlers = {number: signal.signal(number, lambda number, frame: came.append(number)) for number in numbers}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)
