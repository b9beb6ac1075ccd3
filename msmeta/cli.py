"""The command line: `msmeta data`, `train`, `tune`, `sweep`, `bench` and `results`.

A user's mistake ends in one line on standard error and exit status 2; a diverged run in status 3, Ctrl-C in 130.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from msmeta.errors import ConfigError, DivergedError, UserError

if TYPE_CHECKING:  # torch is slow to import, and most commands end before they need it
    from msmeta.runs import Run

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Multi-step estimation for gradient-based meta-learning."
)
data_app = typer.Typer(no_args_is_help=True, help="Prepare and check data sets.")
train_app = typer.Typer(no_args_is_help=True, help="Train one run and store its result.")
app.add_typer(data_app, name="data")
app.add_typer(train_app, name="train")
tune_app = typer.Typer(no_args_is_help=True, help="Choose the inner rate on validation classes.")
app.add_typer(tune_app, name="tune")

Preset = Annotated[str, typer.Option(help="smoke, quick, cpu or paper.")]
EvaluateOn = Annotated[str, typer.Option(help="test, or validation for choosing settings.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...; auto takes a GPU if there is one.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint, if there is one.")]
Force = Annotated[bool, typer.Option("--force", help="Repeat the run even if it has finished.")]
TimeBudget = Annotated[str | None, typer.Option(help="Stop with a checkpoint after this time: 90s, 25m, 2h.")]
INTERRUPTED = "interrupted: the same command with --resume goes on from the checkpoint"


def main() -> NoReturn:
    """Entry point of the `msmeta` command."""
    signal.signal(signal.SIGTERM, _interrupt)  # so that a checkpoint is written, as at Ctrl-C
    try:
        status = app(standalone_mode=False)
    except UserError as error:
        if os.environ.get("RANK", "0") != "0" and not isinstance(error, DivergedError):
            sys.exit(error.exit_status)  # torchrun's first process says the same
        _fail(str(error), error.exit_status)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except Exception as error:
        if not hasattr(error, "format_message"):  # Typer's and Click's errors of usage share no public class
            raise
        _fail(error.format_message(), 2)
    sys.exit(status if isinstance(status, int) else 0)


def _interrupt(number: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt


def _fail(message: str, status: int) -> NoReturn:
    print("msmeta: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(status)


@data_app.command("list")
def data_list() -> None:
    """Show which data sets are present, and their counts."""
    from msmeta import data

    few_shot = Table(
        "name", "data set", "state", "classes (train + test)", "images a class", "size", "hash",
        title="For few-shot tasks", title_justify="left",
    )  # fmt: skip
    labelled = Table(
        "name", "data set", "state", "classes", "images (train + validation + test)", "size", "hash",
        title="For transfer", title_justify="left",
    )  # fmt: skip
    for entry in data.status():
        size = f"{entry.bytes / 1e6:.0f} MB" if entry.bytes else "-"
        described = entry.name, entry.title, entry.state
        found = size, (entry.hash or "-")[:12]
        if entry.name in data.LABELLED:
            images = " + ".join(f"{count:,}" for count in entry.images.values())
            labelled.add_row(*described, str(entry.classes["train"]), images, *found)
        else:
            classes = f"{entry.classes['train']:,} + {entry.classes['test']:,}"
            if entry.rotations > 1:
                classes += f", x {entry.rotations} rotations"
            few_shot.add_row(*described, classes, str(entry.samples), *found)
    Console().print(few_shot, labelled)
    print(f"data folder: {data.data_root()}")


@data_app.command("prepare")
def data_prepare(
    name: Annotated[str, typer.Argument(help="Data set, as `msmeta data list` names it.")],
    source: Annotated[
        Path | None, typer.Option("--from", help="Folder with the raw files; else download them.")
    ] = None,
) -> None:
    """Turn the raw files of a data set into arrays, once."""
    from msmeta import data

    with _bar("{task.description}") as bar:
        task = bar.add_task(name)
        folder = data.prepare(
            name,
            source,
            progress=lambda what, done, total: bar.update(task, description=what, completed=done, total=total),
        )
    print(f"{name} is ready in {folder}")


@data_app.command("verify")
def data_verify(name: Annotated[str, typer.Argument(help="Data set.")]) -> None:
    """Hash a prepared data set again."""
    from msmeta import data

    entry = data.verify(name)
    if name in data.LABELLED:
        counts = f"{sum(entry.images.values()):,} images of {entry.classes['train']} classes"
    else:
        counts = f"{sum(entry.classes[s] for s in ('train', 'test')):,} classes"
    print(f"{name} is intact: {counts}, SHA-256 {entry.hash}")


_ESTIMATORS = (
    "multistep, first-order, reptile, implicit, finite-difference, gaussian-smoothing or evolution-strategies."
)
_WINDOW = "Steps that share one gradient: 4, or a partition such as 1,1,2,4."


@train_app.command("few-shot")
def train_few_shot(
    dataset: Annotated[str, typer.Option(help="Data set, as `msmeta data list` names it.")] = "omniglot",
    way: Annotated[int, typer.Option(help="Classes of a task.")] = 5,
    shot: Annotated[int, typer.Option(help="Support images of a class.")] = 1,
    query: Annotated[int | None, typer.Option(help="Query images of a class.")] = None,
    estimator: Annotated[str, typer.Option(help=_ESTIMATORS)] = "multistep",
    window: Annotated[str, typer.Option(help=_WINDOW)] = "1",
    steps: Annotated[int | None, typer.Option(help="Inner steps T.")] = None,
    preset: Preset = "quick",
    lr: Annotated[float | None, typer.Option(help="Inner learning rate.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Inner momentum.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Inner weight decay.")] = None,
    meta_lr: Annotated[float | None, typer.Option(help="Learning rate of Adam on the meta-parameters.")] = None,
    filters: Annotated[int | None, typer.Option(help="Filters of each convolution.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side that images are shrunk to.")] = None,
    tasks: Annotated[int | None, typer.Option(help="Tasks of a meta-batch.")] = None,
    iterations: Annotated[int | None, typer.Option(help="Meta-iterations at the most.")] = None,
    train_seconds: Annotated[float | None, typer.Option(help="Seconds of meta-training at the most.")] = None,
    test_episodes: Annotated[int | None, typer.Option(help="Tasks of the final evaluation.")] = None,
    curve_episodes: Annotated[int | None, typer.Option(help="Tasks of each point of the learning curve.")] = None,
    test_steps: Annotated[int | None, typer.Option(help="Inner steps at test time; else those of training.")] = None,
    select_every: Annotated[
        int | None, typer.Option(help="Meta-iterations between looks at validation classes; the best is tested.")
    ] = None,
    proximal: Annotated[float | None, typer.Option(help="Proximal weight of implicit.")] = None,
    cg_steps: Annotated[int | None, typer.Option(help="Conjugate-gradient steps of implicit.")] = None,
    samples: Annotated[int | None, typer.Option(help="Directions of estimators that draw them.")] = None,
    precision: Annotated[str | None, typer.Option(help="Of the convolutions: float32, tf32 or bf16.")] = None,
    evaluate_on: EvaluateOn = "test",
    seed: Annotated[int, typer.Option(help="Seed of the initial parameters and of the training tasks.")] = 0,
    device: Device = "auto",
    task_chunk: Annotated[int | None, typer.Option(help="Tasks processed together; less takes less memory.")] = None,
    resume: Resume = False,
    force: Force = False,
    time_budget: TimeBudget = None,
) -> None:
    """Meta-train on few-shot tasks, evaluate on new classes and store one JSON result.

    Under torchrun the processes share each meta-batch, and the first one writes the result.
    """
    from msmeta.experiments import distributed, few_shot
    from msmeta.statistics import plus_minus

    given = {
        "query": query, "steps": steps, "lr": lr, "momentum": momentum, "weight_decay": weight_decay,
        "meta_lr": meta_lr, "filters": filters, "tasks": tasks, "iterations": iterations,
        "train_seconds": train_seconds, "test_episodes": test_episodes, "curve_episodes": curve_episodes,
        "test_steps": test_steps, "select_every": select_every, "proximal": proximal, "cg_steps": cg_steps,
        "samples": samples, "precision": precision, "image_size": image_size,
    }  # fmt: skip
    changes = {name: value for name, value in given.items() if value is not None}
    config = few_shot.preset_config(
        preset, dataset, way, shot, estimator, parse_window(window), evaluate_on=evaluate_on, seed=seed, **changes
    )
    place = few_shot.run(config)
    known = place.result_path.exists() and not force
    columns = "loss {task.fields[loss]:.3f}  accuracy {task.fields[accuracy]:5.1f} %  {task.fields[speed]:.2f} it/s"
    with _bar(f"iteration {{task.fields[iteration]}}  {columns}") as bar:
        task = bar.add_task("", total=1.0, visible=False, iteration=0, loss=0.0, accuracy=0.0, speed=0.0)
        first = distributed.is_first()

        def show(step: few_shot.Progress) -> None:
            bar.update(
                task, completed=step.fraction, visible=first, iteration=step.iteration, loss=step.loss,
                accuracy=100 * step.accuracy, speed=step.speed,
            )  # fmt: skip

        try:
            result = few_shot.train(config, device, task_chunk, resume, force, parse_seconds(time_budget), on_step=show)
        except KeyboardInterrupt:
            bar.stop()
            _fail(INTERRUPTED, 130)
        finally:
            distributed.leave()
    if not first:
        return
    _announce(
        place, result, known,
        lambda metrics: f"{result['method']}, {result['data']['title']} {result['setting']}: "
        f"{plus_minus(metrics['accuracy'], metrics['accuracy_ci95'])} % on {config.test_episodes} "
        f"{config.evaluate_on} episodes",
    )  # fmt: skip


@train_app.command("transfer")
def train_transfer(
    dataset: Annotated[str, typer.Option(help="Labelled data set, as `msmeta data list` names it.")] = "cifar-100",
    estimator: Annotated[str, typer.Option(help="multistep, first-order, or scratch.")] = "multistep",
    steps: Annotated[int | None, typer.Option(help="Transfer steps T.")] = None,
    window: Annotated[int, typer.Option(help="Steps that share one gradient; 1 is the exact baseline.")] = 1,
    transfer_rate: Annotated[float | None, typer.Option(help="Factor on the transfer steps' learning rate.")] = None,
    optimizer: Annotated[str, typer.Option(help="Of the target network: sgd or adam.")] = "sgd",
    preset: Preset = "quick",
    source: Annotated[str | None, typer.Option(help="Frozen source network.")] = None,
    target: Annotated[str | None, typer.Option(help="Target network: vgg9 or resnet18.")] = None,
    width: Annotated[float | None, typer.Option(help="Factor on the channels of vgg9.")] = None,
    train_images: Annotated[int | None, typer.Option(help="Training images, the same number a class.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images of a minibatch.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate in the first epoch.")] = None,
    beta: Annotated[float | None, typer.Option(help="Weight of the transfer loss.")] = None,
    meta_lr: Annotated[float | None, typer.Option(help="Learning rate of Adam on the meta-networks.")] = None,
    rollback: Annotated[
        bool | None, typer.Option("--rollback/--no-rollback", help="Undo the inner steps after each iteration.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="Of the target's convolutions: float32, tf32 or bf16.")] = None,
    evaluate_on: EvaluateOn = "test",
    seed: Annotated[int, typer.Option(help="Seed of the initial parameters and of the batches.")] = 0,
    device: Device = "auto",
    resume: Resume = False,
    force: Force = False,
    time_budget: TimeBudget = None,
) -> None:
    """Train a target network with meta-transfer (Algorithm 1), evaluate it and store one JSON result."""
    from msmeta.experiments import transfer

    given = {
        "steps": steps, "transfer_rate": transfer_rate, "source": source, "target": target, "width": width,
        "train_images": train_images, "epochs": epochs, "batch": batch, "lr": lr, "beta": beta, "meta_lr": meta_lr,
        "rollback": rollback, "precision": precision,
    }  # fmt: skip
    changes = {name: value for name, value in given.items() if value is not None}
    config = transfer.preset_config(
        preset, dataset, estimator, optimizer, window=window, evaluate_on=evaluate_on, seed=seed, **changes
    )
    place = transfer.run(config)
    known = place.result_path.exists() and not force
    columns = "loss {task.fields[loss]:.3f}  validation {task.fields[accuracy]}  {task.fields[speed]:.2f} it/s"
    with _bar(f"iteration {{task.fields[iteration]}}  {columns}") as bar:
        task = bar.add_task("", total=1.0, visible=False, iteration=0, loss=0.0, accuracy="-", speed=0.0)

        def show(step: transfer.Progress) -> None:
            accuracy = "-" if step.accuracy is None else f"{step.accuracy:.1f} %"
            bar.update(
                task, completed=step.fraction, visible=True, iteration=step.iteration, loss=step.loss,
                accuracy=accuracy, speed=step.speed,
            )  # fmt: skip

        try:
            result = transfer.train(config, device, resume, force, parse_seconds(time_budget), on_step=show)
        except KeyboardInterrupt:
            bar.stop()
            _fail(INTERRUPTED, 130)
    _announce(
        place, result, known,
        lambda metrics: f"{result['method']} ({result['setting']}), {result['data']['title']}: "
        f"{metrics['accuracy']:.2f} % of the {evaluate_on} images",
    )  # fmt: skip


@tune_app.command("few-shot")
def tune_few_shot(
    dataset: Annotated[str, typer.Option(help="Data set, as `msmeta data list` names it.")] = "miniimagenet",
    way: Annotated[int, typer.Option(help="Classes of a task.")] = 5,
    shot: Annotated[int, typer.Option(help="Support images of a class.")] = 1,
    estimator: Annotated[str, typer.Option(help=_ESTIMATORS)] = "multistep",
    window: Annotated[str, typer.Option(help=_WINDOW)] = "1",
    rates: Annotated[str, typer.Option(help="Inner rates to try.")] = "0.1,0.04,0.01,0.004",
    preset: Preset = "cpu",
    iterations: Annotated[int | None, typer.Option(help="Meta-iterations of each run, however long.")] = None,
    test_episodes: Annotated[int | None, typer.Option(help="Validation tasks of each run.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the initial parameters and of the training tasks.")] = 0,
    device: Device = "auto",
    force: Annotated[bool, typer.Option("--force", help="Repeat runs even if they have finished.")] = False,
) -> None:
    """Choose the inner rate on validation classes, by a grid search as in Appendix F of the paper."""
    from msmeta.experiments import few_shot
    from msmeta.statistics import plus_minus

    changes = {} if iterations is None else {"iterations": iterations, "train_seconds": None}
    if test_episodes is not None:
        changes["test_episodes"] = test_episodes
    config = few_shot.preset_config(preset, dataset, way, shot, estimator, parse_window(window), seed=seed, **changes)

    def say(result: dict[str, Any]) -> None:
        metrics = result["metrics"]
        print(
            f"inner rate {result['config']['lr']:g}: {plus_minus(metrics['accuracy'], metrics['accuracy_ci95'])} % "
            f"on validation classes after {metrics['iterations']:,} iterations"
        )

    best = few_shot.tune(config, parse_rates(rates), say, device=device, resume=not force, force=force)[0]
    print(f"best: --lr {best['config']['lr']:g}")


@app.command("sweep")
def sweep_command(
    spec: Annotated[Path, typer.Argument(help="YAML file with a list `runs`, as those in results/sweeps.")],
    executor: Annotated[str, typer.Option(help="local, or slurm.")] = "local",
    preset: Annotated[str | None, typer.Option(help="Instead of the file's: smoke, quick, cpu or paper.")] = None,
    parallel: Annotated[int | None, typer.Option(help="Jobs at once; else one a GPU, or one.")] = None,
    retries: Annotated[int, typer.Option(help="How often a job that died is started again.")] = 2,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A parameter of submitit, such as slurm_partition=gpu or timeout_min=600."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs that have not finished.")] = False,
) -> None:
    """Train a grid of runs, each a job of its own; what has finished is not repeated."""
    from msmeta.experiments import sweep

    configs = sweep.read_spec(spec, preset)
    if dry_run:
        missing = [config for config in configs if sweep.place(config).result() is None]
        print(
            "\n".join([*(sweep.place(config).name for config in missing), f"{len(missing)} of {len(configs)} to run"])
        )
        return
    try:
        failed = sweep.sweep(configs, executor, parallel, retries, parse_settings(settings or []))
    except KeyboardInterrupt:
        _fail("interrupted: the same command goes on where the runs stopped", 130)
    if failed:
        raise UserError(f"{len(failed)} of {len(configs)} runs failed, as said above")


@app.command("bench", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Benchmark; without it, list them. Its options follow.")] = None,
) -> None:
    """Measure time and memory with a script of benchmarks/, which stores its result. Run it on an idle machine."""
    from msmeta import machine

    folder = (machine.repository() or Path()) / "benchmarks"
    scripts = {path.stem: path for path in sorted(folder.glob("*.py"))}
    if not scripts:
        raise ConfigError("there are no benchmarks here: they are in the checkout, not in the installed package")
    if name is None:
        print("\n".join(scripts))
        return
    if name not in scripts:
        raise ConfigError(f"benchmark {name!r} is unknown: choose from {', '.join(scripts)}")
    if status := subprocess.run([sys.executable, scripts[name], *context.args]).returncode:
        raise UserError(f"benchmark {name} ended with status {status}")


@app.command("results")
def list_results(
    live: Annotated[bool, typer.Option("--live", help="Those of the smoke and quick presets.")] = False,
) -> None:
    """List the stored results."""
    from msmeta import runs
    from msmeta.statistics import plus_minus

    table = Table(
        "data set", "setting", "method", "preset", "seed", "accuracy (%)", "iterations", "train (s)", "device"
    )
    for result in (found for kind in ("few-shot", "transfer") for found in runs.read_results(kind, live=live)):
        config, metrics, origin = result["config"], result["metrics"], result["provenance"]
        accuracy = f"{metrics['accuracy']:.2f}"
        if "accuracy_ci95" in metrics:
            accuracy = plus_minus(metrics["accuracy"], metrics["accuracy_ci95"])
        table.add_row(
            result["data"]["title"], result["setting"], result["method"], config["preset"], str(config["seed"]),
            accuracy, f"{metrics['iterations']:,}", f"{origin['train_seconds']:.0f}", origin["device"],
        )  # fmt: skip
    Console().print(table)
    print(f"results folder: {runs.results_root()}")


def _announce(
    place: Run, result: dict[str, Any] | None, known: bool, accuracy: Callable[[dict[str, Any]], str]
) -> None:
    """How a training ended. known: whether it had finished before. accuracy: words on the metrics."""
    if result is None:
        print(f"stopped at the time budget: the same command with --resume goes on from {place.checkpoint_path}")
        return
    metrics, seconds = result["metrics"], result["provenance"]["train_seconds"]
    if known:
        print("this run has finished before (--force repeats it)")
    print(f"{accuracy(metrics)}, after {metrics['iterations']:,} iterations in {seconds:.0f} s")
    print(f"result: {place.result_path}")


def parse_window(text: str) -> int | tuple[int, ...]:
    """`4` -> 4; `1,1,2,4` -> (1, 1, 2, 4). Raises ConfigError."""
    try:
        lengths = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--window {text}: give a number such as 4, or a partition such as 1,1,2,4") from None
    return lengths[0] if len(lengths) == 1 else lengths


def parse_rates(text: str) -> list[float]:
    """`0.1,0.04` -> [0.1, 0.04]. Raises ConfigError."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--rates {text}: give numbers such as 0.1,0.04,0.01") from None


def parse_settings(texts: list[str]) -> dict[str, Any]:
    """`["gpus_per_node=1", "slurm_partition=gpu"]` -> a dictionary, whole numbers as such. Raises ConfigError."""
    found: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not (name and sign):
            raise ConfigError(f"--set {text}: give NAME=VALUE, such as slurm_partition=gpu")
        found[name] = int(value) if value.isdecimal() else value
    return found


def parse_seconds(text: str | None) -> float | None:
    """`90s`, `25m`, `2h` or plain seconds -> seconds. Raises ConfigError."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if not found:
        raise ConfigError(f"--time-budget {text}: give a time such as 90s, 25m or 2h")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def _bar(text: str) -> Progress:
    return Progress(BarColumn(), TextColumn(text), TimeRemainingColumn(), console=Console(stderr=True), transient=True)
