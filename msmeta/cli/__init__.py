"""The command line: `msmeta data`, `train`, `tune`, `sweep`, `plan`, `bench`, `results`, `evaluate` and `adapt`.

A user's mistake ends in one line on standard error and exit status 2; a diverged run and a file that cannot be
written in status 3, Ctrl-C in 130.
"""

from __future__ import annotations

import ast
import io
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from msmeta import machine, paths
from msmeta.cli import options, trained
from msmeta.errors import ConfigError, DataError, DivergedError, Interrupted, UserError, WriteError, brief, one_line
from msmeta.experiments.config import PRESETS

EXPLAINED = {error.exit_status for error in (UserError, DivergedError, WriteError, Interrupted)}
"""Exit statuses of a script that has said in one line why."""
app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Multi-step estimation for gradient-based meta-learning."
)
data_app = typer.Typer(no_args_is_help=True, help="Prepare and check data sets.")
train_app = typer.Typer(no_args_is_help=True, help="Train one run and store its result.")
app.add_typer(data_app, name="data")
app.add_typer(train_app, name="train")
tune_app = typer.Typer(no_args_is_help=True, help="Choose the inner rate on validation classes.")
app.add_typer(tune_app, name="tune")


def main() -> NoReturn:
    """Entry point of the `msmeta` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a log or an old terminal may not know a sign such as ±
            stream.reconfigure(errors="replace")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    warnings.showwarning = lambda message, *_, **__: print(f"msmeta: {one_line(str(message))}", file=sys.stderr)
    if sys.argv[1:2] in (["train"], ["tune"]):  # to import the experiments takes a second
        from msmeta.cli import train

        train.add_to(train_app, tune_app)
    if sys.argv[1:2] in ([], ["--help"], ["plan"]):
        from msmeta.cli import plan

        plan.add_to(app)
    try:
        paths.fix_roots()
        status = app(standalone_mode=False)
    except UserError as error:
        if os.environ.get("RANK", "0") != "0" and not isinstance(error, DivergedError):
            sys.exit(error.exit_status)  # torchrun's first process says the same
        _fail(str(error), error.exit_status)
    except (KeyboardInterrupt, typer.Abort):
        status = 130
    except Exception as error:
        if not hasattr(error, "format_message"):  # Typer's and Click's errors of usage share no public class
            raise
        _fail(error.format_message(), 2)
    if status == 130:  # Typer returns it, or raises, as its version is
        _fail("interrupted", 130)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str, status: int) -> NoReturn:
    if message:  # none after a help that was shown for want of a command
        print(f"msmeta: {one_line(message)}", file=sys.stderr)
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
        dataset = entry.dataset
        size = f"{entry.bytes / 1e6:.0f} MB" if entry.bytes else "-"
        described = dataset.name, dataset.title, entry.state
        found = size, (entry.hash or "-")[:12]
        if dataset.purpose == data.TRANSFER:
            images = " + ".join(f"{len(part):,}" for part in dataset.splits.values()) or "-"
            labelled.add_row(*described, str(dataset.classes), images, *found)
        elif not dataset.splits:  # a folder whose notes are damaged
            few_shot.add_row(*described, "-", "-", *found)
        else:
            classes = f"{dataset.classes_in('train'):,} + {dataset.classes_in('test'):,}"
            if dataset.rotations > 1:
                classes += f", x {dataset.rotations} rotations"
            few_shot.add_row(*described, classes, dataset.samples_in_words, *found)
    published = Table("name", "what it is", "state", "hash", title="Of the authors of L2T-ww", title_justify="left")
    for own in data.l2t_ww.PUBLISHED.values():
        published.add_row(own.name, own.title, *_state_of_published(own.name))
    Console().print(few_shot, labelled, published)
    print(f"data folder: {data.data_root()}")


def _state_of_published(name: str) -> tuple[str, str]:
    """State and the beginning of the hash."""
    from msmeta import data

    try:
        return "prepared", data.l2t_ww.verify(name, data.data_root())[:12]
    except DataError:
        there = (data.data_root() / data.l2t_ww.PUBLISHED[name].file).exists()
        return "damaged" if there else "absent", "-"


@data_app.command("prepare")
def data_prepare(
    name: Annotated[
        str, typer.Argument(help="Data set, l2t-source or l2t-splits, as `msmeta data list` names it, or folder:PATH.")
    ],
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="PATH", help="Folder with the raw files, or one of them; else download them."),
    ] = None,
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Read files that are links, and folders that stay within the folder.")
    ] = False,
) -> None:
    """Turn the raw files of a data set into arrays, once."""
    from msmeta import data

    root = data.data_root()
    before = {path: path.lstat().st_ino for path in root.iterdir()} if source and root.is_dir() else {}
    with options.preparing() as progress:
        folder = data.prepare(name, source, progress=progress, follow_links=follow_links)
    if data.is_path(name):
        name = folder.name.replace("-", ":", 1)
        options.show_folder(name)
    unread = before.get(folder) == folder.lstat().st_ino  # a folder that is built takes the place of an older one
    print(f"{name} is ready in {folder}" + (f": it was before, so {source} was not read" if unread else ""))


@data_app.command("verify")
def data_verify(name: Annotated[str, typer.Argument(help="Data set.")]) -> None:
    """Hash a prepared data set again."""
    from msmeta import data

    if name in data.l2t_ww.PUBLISHED:
        print(f"{name} is intact: SHA-256 {data.l2t_ww.verify(name, data.data_root())}")
        return
    entry = data.verify(name)
    counts = f"{entry.dataset.size:,} images of {entry.dataset.classes:,} classes"
    print(f"{name} is intact: {counts}, SHA-256 {entry.hash}")


@app.command("sweep")
def sweep_command(
    spec: Annotated[Path, typer.Argument(help="YAML file with a list `runs`, as those in results/sweeps.")],
    executor: Annotated[str, typer.Option(help="local, or slurm.")] = "local",
    preset: Annotated[str | None, typer.Option(help=f"Instead of the file's: {', '.join(PRESETS)}.")] = None,
    parallel: Annotated[int | None, typer.Option(help="Jobs at once; else one a GPU, or one.")] = None,
    retries: Annotated[int, typer.Option(help="How often a job that died is started again.")] = 2,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A parameter of submitit, such as slurm_partition=gpu or timeout_min=600."),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Show what is done, what is missing and the hours it takes.")
    ] = False,
) -> None:
    """Train a grid of runs, each a job of its own; what has finished is not repeated."""
    from msmeta import data
    from msmeta.experiments import sweep

    parts = sweep.read_parts(spec, preset)
    if plan:
        _show_plan(parts, f"msmeta sweep {spec}" + (f" --preset {preset}" if preset else ""))
        return
    configs = list(dict.fromkeys(config for part in parts.values() for config in part))
    for name in dict.fromkeys(config.dataset for config in configs if data.is_folder(config.dataset)):
        options.show_folder(name)
    try:
        failed = sweep.sweep(configs, executor, parallel, retries, parse_settings(settings or []))
    except KeyboardInterrupt:
        raise Interrupted("interrupted: the same command goes on where the runs stopped") from None
    if failed:
        raise UserError(f"{len(failed)} of {len(configs)} runs failed, as said above")


def _show_plan(parts: dict[str, list[Any]], command: str) -> None:
    try:
        from msmeta.report import campaign
    except ModuleNotFoundError as error:
        raise UserError(f"--plan needs {error.name}: pip install 'msmeta[book]'") from error

    members = campaign.plan(parts)
    print("\n".join([*campaign.lines(members), "", f"in all: {campaign.summary(members)}"]))
    print("hours: of one idle core (msmeta bench seconds measures them); ~: predicted by the cost model")
    print(f"run it: {command}")


@app.command(
    "bench", add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def bench(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Benchmark; without it, list them. Its options follow.")] = None,
    listed: Annotated[bool, typer.Option("--list", help="Say what each measures, and how long it takes.")] = False,
) -> None:
    """Measure time and memory with a script of benchmarks/, which stores its result where the machine was idle."""
    if name == "--help":  # which is a script's own after its name
        print(context.get_help())
        return
    checkout = machine.repository()
    if checkout is None:
        raise ConfigError("the benchmarks are not in the installed package: run this in a clone of the repository")
    scripts = {path.stem: path for path in sorted((checkout / "benchmarks").glob("*.py"))}
    if name is None or listed:
        table = Table("name", "minutes", "what it measures")
        for stem, path in scripts.items():
            purpose, minutes = describe_benchmark(path)
            table.add_row(stem, minutes, purpose)
        Console().print(table)
        print("minutes: about, on two idle cores; options: msmeta bench NAME --help")
        return
    if name not in scripts:
        raise ConfigError(f"benchmark {brief(name)} is unknown: choose from {', '.join(scripts)}")
    environment = {**os.environ, "PYTHONIOENCODING": f"{sys.stdout.encoding or 'utf-8'}:replace"}
    status = subprocess.run([sys.executable, scripts[name], *context.args], env=environment).returncode
    if status in EXPLAINED:
        raise typer.Exit(status)
    if status:
        raise UserError(f"benchmark {name} ended with status {status}")


def describe_benchmark(path: Path) -> tuple[str, str]:
    """The first line of a script's docstring and its constant MINUTES, read without running it."""
    tree = ast.parse(path.read_text("utf-8"))
    constants = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
    return ast.get_docstring(tree).splitlines()[0], ast.unparse(constants["MINUTES"])


for command in (trained.evaluate, trained.adapt):
    app.command()(command)
results_app = typer.Typer(invoke_without_command=True, callback=trained.results)
results_app.command()(trained.verify)
app.add_typer(results_app, name="results")


def parse_settings(texts: list[str]) -> dict[str, Any]:
    """`["gpus_per_node=1", "slurm_partition=gpu"]` -> a dictionary, whole numbers, `true` and `false` as such.

    Raises ConfigError.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not (name and sign):
            raise ConfigError(f"--set {text}: give NAME=VALUE, such as slurm_partition=gpu")
        known = {"true": True, "false": False}.get(value, value)
        found[name] = int(value) if re.fullmatch("[0-9]{1,18}", value) else known
    return found
