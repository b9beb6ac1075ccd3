"""A GPU from nothing: whether its numbers are right, how fast it is, and then a sweep's runs until the time is up.

    msmeta bench gpu --out FOLDER [--minutes 9] [--sweep results/sweeps/table_3.yaml --preset paper] [--resume FOLDER]

In this order: graphed meta-iterations and an iteration of meta-transfer, in float64 and float32, against float64 on the
processor, and nothing else where one of them is off; whether a short training gives the same parameters once more, and
where it was stopped and went on; the benchmarks few_shot_graph, convolutions and transfer_step, but
those that an earlier call measured; the runs that the sweep's file asks for, one after another by what they are worth
(`report.campaign.by_worth`), which go on from the checkpoints of an earlier call.
What each step came to is in FOLDER/gpu.json and all results and checkpoints are in FOLDER/results.tar.gz, in volumes
results.tar.gz.0 and so on where it is large; both are written anew after every step. What the volumes have no room for
is left out, parameters first, and gpu.json says so. `--device cpu --small` is a rehearsal on a processor, of a few
seconds for each step.
"""

import argparse
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from transfer_step import SETTINGS
from transfer_step import Row as TransferRow

from msmeta import data, files, machine, runs
from msmeta.bilevel import Params, State, detach
from msmeta.data import Episodes, EpisodeSampler
from msmeta.errors import ConfigError, UserError, script
from msmeta.experiments import few_shot, registry, sweep
from msmeta.experiments.config import Config
from msmeta.experiments.distributed import World
from msmeta.experiments.few_shot.config import META_OPTIMIZERS
from msmeta.experiments.few_shot.step import GraphedStepper, MetaStepper
from msmeta.experiments.training import Progress
from msmeta.experiments.transfer import TransferProblem, preset_config, sources, transfer_iteration
from msmeta.experiments.transfer.config import TARGETS
from msmeta.models.l2t import L2T
from msmeta.report import campaign

MINUTES = 9
ARCHIVE = "results.tar.gz"
SPEED = {
    "few_shot_graph": ([], ["--way", "2", "--steps", "2", "--tasks", "1", "--filters", "2", "--blocks", "1"]),
    "convolutions": ([], ["--tasks", "1", "--filters", "2"]),
    "transfer_step": (["--settings", "32x32", "--rounds", "1"],
                      ["--settings", "32x32", "--rounds", "1", "--repeats", "1", "--batch", "2", "--width", "0.0625"]),
}  # fmt: skip
"""Options of each benchmark, and those of the rehearsal."""
TOLERANCES = {torch.float64: 1e-8, torch.float32: 5e-2}
"""Of ‖found - right‖ / ‖right‖. In float32 ReLUs that change side make a few thousandths, on a processor as well."""
METHODS = (("multistep", 1), ("multistep", 2), ("multistep", 8), ("first-order", 1))
ITERATIONS = 3
META_LR = 2**-7  # which float32 has exactly
VOLUME, VOLUMES = 15 * 2**20, 7
"""Bytes of a volume, and how many there may be: a GPU that is there for minutes may give back few small files."""


@dataclass
class Log:
    """The steps and what they came to, kept in files from step to step. results: the folder of results. left_out: what
    its archive had no room for."""

    out: Path
    results: Path
    deadline: float
    steps: list[dict] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def left(self) -> float:
        """Seconds until the time is up."""
        return self.deadline - time.monotonic()

    def run(self, name: str, step: Callable[[], object], **said: object) -> bool:
        """Whether the step ended well. Whatever it raises is noted, with what it said. said: more to note."""
        self.steps.append({"step": name, "outcome": "unfinished", **said})
        self.write()
        start, outcome = time.monotonic(), {}
        try:
            if self.left <= 0:
                raise TimeoutError
            outcome = {"outcome": "well", "found": step()}
        except (TimeoutError, subprocess.TimeoutExpired):
            outcome = {"outcome": "out of time"}
        except Exception as error:  # the next step may do well all the same
            outcome = {"outcome": "failed", "says": f"{type(error).__name__}: {error}"[-2000:]}
        self.steps[-1] |= {**outcome, "seconds": round(time.monotonic() - start, 2)}
        print(f"{name}: {outcome['outcome']} {outcome.get('says', '')}".rstrip(), flush=True)
        self.write()
        return outcome["outcome"] == "well"

    def write(self) -> None:
        packed, self.left_out = pack(self.results)
        volumes = [packed[start : start + VOLUME] for start in range(0, len(packed), VOLUME)]
        names = [ARCHIVE] if len(volumes) == 1 else [f"{ARCHIVE}.{i}" for i in range(len(volumes))]
        for name, volume in zip(names, volumes, strict=True):
            files.write(self.out / f".{name}", volume)
        for name in names:  # at once: killed among them, neither the old nor the new ones would be an archive
            (self.out / f".{name}").replace(self.out / name)
        for path in self.out.glob(f"{ARCHIVE}*"):
            if path.name not in names:
                path.unlink()
        said = {"device": torch.cuda.is_available() and torch.cuda.get_device_name(), "torch": torch.__version__}
        runs.write_json(self.out / "gpu.json", {**said, "steps": self.steps, "left_out": self.left_out})


def pack(results: Path) -> tuple[bytes, list[str]]:
    """The archive of a folder of results, and what it had no room for: finished runs' parameters, then checkpoints,
    those before the last of a run first, then the largest."""
    files = sorted(path for path in results.rglob("*") if path.is_file() and path.suffix != ".lock")
    checkpoints = [path for path in files if path.is_relative_to(results / "checkpoints")]
    parameters = {path for path in files if path.suffix == ".pt"} - {*checkpoints}
    checkpoints.sort(key=lambda path: (path.suffix != ".before", -path.stat().st_size))
    without = [{*checkpoints[:count]} for count in range(1, len(checkpoints) + 1)]
    for left_out in (set(), parameters, *(parameters | some for some in without)):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
            for path in files:
                if path not in left_out:
                    archive.add(path, path.relative_to(results.parent))
        if len(buffer.getbuffer()) <= VOLUME * VOLUMES:
            break
    return buffer.getvalue(), [str(path.relative_to(results)) for path in sorted(left_out)]


def unpack(given: Path, folder: Path) -> None:
    """The results of an earlier call: its folder, or the archive in it. Raises ConfigError."""
    volumes = [given] if given.is_file() else sorted(given.glob(f"{ARCHIVE}*"), key=lambda path: path.suffix)
    try:
        with tarfile.open(fileobj=io.BytesIO(b"".join(path.read_bytes() for path in volumes))) as archive:
            archive.extractall(folder, filter="data")
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise ConfigError(f"--resume {given} has no archive of results: {error}") from error


class _Sampler(EpisodeSampler):
    """Images of θ's type."""

    dtype = torch.float32

    def gather(self, places: torch.Tensor) -> Episodes:
        return super().gather(places).to(self.dtype)


def meta_iterations(
    kind: type[MetaStepper], estimator: str, window: int, device: torch.device, dtype: torch.dtype, small: bool
) -> Params:
    """θ's change in the first meta-iteration by SGD and, in float64, the meta-gradient of the third, by name."""
    config = few_shot.preset_config(
        "paper", "glyphs", 5, 1, estimator, window, filters=16 if small else 64, tasks=4, meta_optimizer="sgd"
    )
    images = data.load("glyphs", device=device)
    model = few_shot.network(config)
    start = {name: value.to(device, dtype) for name, value in model.init(0).items()}
    theta = {name: torch.nn.Parameter(value.clone()) for name, value in start.items()}
    optimizer = META_OPTIMIZERS["sgd"](list(theta.values()), META_LR, device.type == "cuda")
    sampler = _Sampler(images, "train", config.way, config.shot, config.query, 0)
    vars(sampler)["dtype"] = dtype
    stepper = kind(config, model, theta, optimizer, sampler, config.tasks, World())
    stepper.run(0, 1, META_LR)
    found = {f"moved {name}": value - start[name] for name, value in detach(theta).items()}
    if dtype == torch.float64:  # float32 goes ways of its own after the first
        stepper.run(1, ITERATIONS - 1, META_LR)
        found |= {name: value.grad for name, value in theta.items()}
    return {name: value.cpu().double() for name, value in found.items()}


def transfer(device: torch.device, dtype: torch.dtype, small: bool) -> Params:
    """The meta-gradient and the adapted φ of an iteration of meta-transfer, by name."""
    chosen = TransferRow("32x32", "sgd", {"steps": 2, "window": 1, "width": 0.0625 if small else 1.0}).config()
    target, source = TARGETS[chosen.target](chosen, 10), sources.load(chosen.source)
    l2t, x = (
        L2T(source.channels, target.channels),
        torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)),
    )
    features = [value.to(device, dtype) for value in source.features(x)]
    phi, theta, statistics = (
        {name: value.to(device, dtype) for name, value in part.items()}
        for part in (target.init()[0] | l2t.init_matching(), l2t.init_meta(), target.init()[1])
    )
    x, y = x.to(device, dtype), torch.arange(4, device=device)
    batch = l2t.source_batch(features, target.sizes(SETTINGS["32x32"].side))
    problem = TransferProblem(target, l2t, x, y, batch)
    found = transfer_iteration(problem, State(phi), theta, chosen.dynamics(0), 2, 1, statistics)
    parts = {f"theta {k}": v for k, v in found.meta.grad.items()} | {f"phi {k}": v for k, v in found.meta.phi.items()}
    return {name: value.cpu().double() for name, value in parts.items()}


def compare(found: Params, right: Params, dtype: torch.dtype) -> dict[str, float]:
    """How far they are apart. Raises UserError where that is too far."""
    size = sum(right[name].square().sum() for name in found).sqrt().item()
    apart = sum((value - right[name]).square().sum() for name, value in found.items()).sqrt().item()
    if not apart <= TOLERANCES[dtype] * size:
        raise UserError(
            f"in {dtype} it is {apart / size:.2g} from float64's on the processor: {TOLERANCES[dtype]:g} is allowed"
        )
    return {"relative_difference": apart / size}


def check(log: Log, device: torch.device, small: bool) -> None:
    """Raises UserError where a step was off."""
    cpu, right, good = torch.device("cpu"), {}, True
    machine.set_precision("float32")
    for dtype in TOLERANCES:
        for estimator, window in METHODS:
            key = estimator, window
            right.setdefault(key, lambda key=key: meta_iterations(MetaStepper, *key, cpu, torch.float64, small))

            def step(key=key, dtype=dtype) -> dict[str, float]:
                if callable(right[key]):
                    right[key] = right[key]()
                return compare(meta_iterations(GraphedStepper, *key, device, dtype, small), right[key], dtype)

            good &= log.run(f"check {estimator} {window} {dtype}", step)
        good &= log.run(
            f"check transfer {dtype}",
            lambda dtype=dtype: compare(transfer(device, dtype, small), transfer(cpu, torch.float64, small), dtype),
        )
    if not good:
        raise UserError(f"numbers are not right on {device}, or could not be had: see {log.out / 'gpu.json'}")


def repeated(config: Config, device: torch.device, stops: tuple[int, ...]) -> dict[str, str]:
    """The hash of a run's parameters. stops: iterations. Raises UserError where they are others the next time, or where
    training was stopped there and went on from its checkpoint."""

    def parameters(stops: tuple[int, ...] = ()) -> str:
        with tempfile.TemporaryDirectory() as folder:
            train = partial(registry.experiment_of(config)[1].train, config, str(device), resume=True)
            for stop in stops:
                with suppress(KeyboardInterrupt):
                    train(results_root=Path(folder), on_step=partial(interrupt, stop))
            return train(results_root=Path(folder))["parameters"]["hash"]

    first, again, resumed = parameters(), parameters(), parameters(stops)
    differing = [name for name, found in (("again", again), ("stopped", resumed)) if found != first]
    if differing:
        raise UserError(f"other parameters: {', '.join(differing)}")
    return {"parameters": first}


def interrupt(stop: int, progress: Progress) -> None:
    if progress.iteration >= stop:
        raise KeyboardInterrupt


def repeat(log: Log, device: torch.device, small: bool) -> None:
    iterations, filters = (8, 4) if small else (150, 32)
    looks = {"test_episodes": 10, "curve_episodes": 5, "curve_every": iterations // 2}
    for estimator, window in METHODS:
        config = few_shot.preset_config(
            "cpu", "glyphs", 5, 1, estimator, window, filters=filters, iterations=iterations, **looks
        )
        stops = iterations // 3, iterations // 2
        log.run(f"repeat {estimator} {window}", partial(repeated, config, device, stops))
    for optimizer in ("sgd",) if small else ("sgd", "adam"):
        config = preset_config("smoke", "glyphs-rgb", "multistep", optimizer, window=2, epochs=2)
        log.run(f"repeat transfer {optimizer}", partial(repeated, config, device, (2, 4)))


def speed(log: Log, device: torch.device, small: bool) -> None:
    for name, options in SPEED.items():
        command = [sys.executable, Path(__file__).with_name(f"{name}.py"), "--device", device.type, "--anyway"]
        environment = {**os.environ, "MSMETA_RESULTS": str(log.results)}

        def step(command=command, own=options[small], environment=environment) -> str:
            done = subprocess.run(
                [*command, *own], env=environment, timeout=log.left, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise UserError(done.stderr)
            return done.stdout

        if not any((log.results / "benchmarks").glob(f"{name}*")):
            log.run(f"speed {name}", step)


def train(log: Log, device: torch.device, parts: dict[str, list[Config]]) -> None:
    """The runs that are not finished, until the time is up."""
    for part, configs in parts.items():
        for config in campaign.by_worth([config for config in configs if not finished(config, log.results)]):

            def step(config=config) -> object:
                _, module = registry.experiment_of(config)
                result = module.train(config, str(device), resume=True, time_budget=log.left, results_root=log.results)
                if result is None:
                    raise TimeoutError
                return {"accuracy": result["metrics"]["accuracy"], "seconds": result["provenance"]["train_seconds"]}

            try:
                name = registry.place(config, log.results).name
            except UserError as error:  # no data here
                name = f"{config.dataset} ({error})"
            log.run(f"train {name}", step, part=part, hours_of_a_core=campaign.known_hours(config))
            if log.steps[-1]["outcome"] == "out of time":
                return


def finished(config: Config, results: Path) -> bool:
    """Whether a run has its result."""
    try:
        return registry.place(config, results).result() is not None
    except UserError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json and results.tar.gz")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="after which nothing is begun any more")
    parser.add_argument(
        "--sweep", type=Path, help="a file such as those in results/sweeps; without it nothing is trained"
    )
    parser.add_argument("--preset", help="instead of the file's")
    parser.add_argument("--resume", type=Path, help="FOLDER of an earlier call, or its archive, to go on from")
    parser.add_argument("--small", action="store_true", help="a rehearsal with the smallest sizes")
    args = parser.parse_args()
    device, parts = machine.choose_device(args.device), sweep.read_parts(args.sweep, args.preset) if args.sweep else {}
    with tempfile.TemporaryDirectory() as folder:
        if args.resume:
            unpack(args.resume, Path(folder))
        results = Path(folder, "results")
        results.mkdir(exist_ok=True)
        log = Log(args.out, results, time.monotonic() + 60 * args.minutes)
        check(log, device, args.small)
        repeat(log, device, args.small)
        speed(log, device, args.small)
        train(log, device, parts)
    print(f"results: {args.out}")
    lost = [name for name in log.left_out if name.startswith("checkpoints/") and not name.endswith(".before")]
    if lost:
        raise UserError(f"no room in {VOLUMES} volumes for {', '.join(lost)}: the next call begins these runs anew")


if __name__ == "__main__":
    script(main)
