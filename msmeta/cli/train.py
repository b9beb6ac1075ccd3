"""`msmeta train` and `msmeta tune`, whose options are the fields of the configs."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from typing import Annotated, Any

import typer

from msmeta import data
from msmeta.cli import options
from msmeta.data import FEW_SHOT
from msmeta.errors import ConfigError, Interrupted
from msmeta.experiments import distributed, few_shot
from msmeta.experiments.config import resolve
from msmeta.experiments.registry import EXPERIMENTS

Values = dict[str, Any]
"""Fields of a config that were given, as texts."""
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint, if there is one.")]
Force = Annotated[bool, typer.Option("--force", help="Repeat the run even if it has finished.")]
Workers = Annotated[
    str, typer.Option(help="Processes that share each meta-batch on a CPU: a number, or auto for as many as it pays.")
]
TimeBudget = Annotated[str | None, typer.Option(help="Stop with a checkpoint after this time: 90s, 25m, 2h.")]


TRAIN = {
    "few-shot": (
        "Meta-train on few-shot tasks, evaluate on new classes and store one JSON result. Under torchrun the processes "
        "share each meta-batch, and the first one writes the result.",
        {"preset": "quick", "dataset": "omniglot", "way": "5", "shot": "1", "estimator": "multistep"},
        "{label}, {title} {setting}: {accuracy:.2f} % on {config.test_episodes} {config.evaluate_on} episodes",
    ),
    "transfer": (
        "Train a target network with meta-transfer (Algorithm 1), evaluate it and store one JSON result.",
        {"preset": "quick", "dataset": "cifar-100", "estimator": "multistep"},
        "{label} ({setting}), {title}: {accuracy:.2f} % of the {config.evaluate_on} images",
    ),
}
"""Of each experiment: help, the fields' values where neither is given, and what is said of a result."""


@cache
def add_to(train_app: typer.Typer, tune_app: typer.Typer) -> None:
    """Adds the commands, once."""
    for (experiment, (about, usual, _)), command in zip(TRAIN.items(), (_few_shot, _transfer), strict=True):
        add_fields = options.with_config(*EXPERIMENTS[experiment], **usual)
        train_app.command(experiment, help=about)(add_fields(command))
    usual = {**TRAIN["few-shot"][1], "preset": "cpu", "dataset": "miniimagenet"}
    add_fields = options.with_config(*EXPERIMENTS["few-shot"], without=("lr", "evaluate_on", "select_every"), **usual)
    tune_app.command("few-shot")(add_fields(_tune_few_shot))


def _few_shot(
    values: Values,
    device: options.Device = "auto",
    workers: Workers = "auto",
    resume: Resume = False,
    force: Force = False,
    time_budget: TimeBudget = None,
) -> None:
    _train("few-shot", values, time_budget, device=device, workers=workers, resume=resume, force=force)


def _transfer(
    values: Values,
    device: options.Device = "auto",
    resume: Resume = False,
    force: Force = False,
    time_budget: TimeBudget = None,
) -> None:
    _train("transfer", values, time_budget, device=device, resume=resume, force=force)


def _train(experiment: str, values: Values, time_budget: str | None, force: bool, **how: Any) -> None:
    kind, module = EXPERIMENTS[experiment]
    budget = parse_seconds(time_budget)
    config = resolve(kind, module.presets.RULES, options.known_as(values, experiment))
    place, first = module.run(config), distributed.is_first()
    if data.is_folder(config.dataset) and first:
        least = config.shot + config.query if isinstance(config, few_shot.FewShotConfig) else data.LEAST
        options.show_folder(config.dataset, least)
    known = not force and place.finished(how["resume"]) is not None
    with options.bar("iteration {task.description}") as bar:
        task = bar.add_task("", total=1.0, visible=False)

        def show(step: Any) -> None:
            accuracy = "-" if step.accuracy is None else f"{step.accuracy:5.1f} %"
            text = f"{step.iteration}  loss {step.loss:.3f}  accuracy {accuracy}  {step.speed:.2f} it/s"
            bar.update(task, completed=step.fraction, visible=first, description=text)

        try:
            result = module.train(config, force=force, time_budget=budget, on_step=show, **how)
        except KeyboardInterrupt:
            raise Interrupted("interrupted: the same command with --resume goes on from the checkpoint") from None
        finally:
            distributed.leave()
    if not first:
        return
    if result is None:
        print(f"stopped at the time budget: the same command with --resume goes on from {place.checkpoint_path}")
        return
    if known:
        print("this run has finished before (--force repeats it)")
    names = {"label": module.label(config), "setting": module.setting(config), "title": result["data"]["title"]}
    metrics = result["metrics"]
    said = TRAIN[experiment][2].format(config=config, accuracy=metrics["accuracy"], **names)
    iterations, seconds = metrics["iterations"], result["provenance"]["train_seconds"]
    print(f"{said}, after {iterations:,} iterations in {seconds:.0f} s\nresult: {place.result_path}")


def _tune_few_shot(
    values: Values,
    rates: Annotated[str, typer.Option(help="Inner rates to try.")] = "0.1,0.04,0.01,0.004",
    device: options.Device = "auto",
    workers: Workers = "auto",
    force: Force = False,
) -> None:
    """Choose the inner rate on validation classes, by a grid search as in Appendix F of the paper."""
    unlimited = {"train_seconds": None} if "iterations" in values else {}
    values = options.known_as(unlimited | values, FEW_SHOT)
    config = resolve(few_shot.FewShotConfig, few_shot.presets.RULES, values)
    checked = [replace(config, lr=rate).lr for rate in rates.split(",")]

    def say(result: dict[str, Any]) -> None:
        metrics = result["metrics"]
        print(
            f"inner rate {result['config']['lr']:g}: {metrics['accuracy']:.2f} % on validation classes "
            f"after {metrics['iterations']:,} iterations"
        )

    try:
        found = few_shot.tune(config, checked, say, device=device, workers=workers, resume=not force, force=force)
    finally:
        distributed.leave()
    if found:
        print(f"best: --lr {found[0]['config']['lr']:g}")


def parse_seconds(text: str | None) -> float | None:
    """`90s`, `25m`, `2h` or plain seconds -> seconds. Raises ConfigError."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if not found:
        raise ConfigError(f"--time-budget {text}: give a time such as 90s, 25m or 2h")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]
