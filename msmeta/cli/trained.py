"""`msmeta results`, `evaluate` and `adapt`: what was trained, tested again, and used on a user's own pictures."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from msmeta.cli.options import Device
from msmeta.errors import UserError, one_line

if TYPE_CHECKING:
    from msmeta.experiments.finished import Finished

WIDE = 1000
"""Characters, more than any table of results takes."""
Norm = Annotated[
    str | None,
    typer.Option(
        help="Batch norm's statistics for query images: transductive (theirs), support or running.",
        show_default="the run's",
    ),
]
Steps = Annotated[str | None, typer.Option(help="Inner steps.", show_default="the run's at test time")]
Window = Annotated[
    str | None, typer.Option(help="Steps that share one gradient: 4, or a partition of them.", show_default="1")
]


def results(
    context: typer.Context,
    live: Annotated[bool, typer.Option("--live", help="Those of the smoke and quick presets.")] = False,
    remove_theta: Annotated[
        list[str] | None, typer.Option(metavar="RUN", help="Delete θ of a run, and keep its numbers.")
    ] = None,
) -> None:
    """List the stored results, and what is kept of θ; or `verify` them."""
    if context.invoked_subcommand:
        return
    from msmeta import runs
    from msmeta.experiments import finished

    for each in finished.find(remove_theta or []):
        each.remove_theta()
        print(f"{each.theta_path} is gone; {each.name} keeps its numbers")
    if remove_theta:
        return
    names = ("run", "method", "accuracy (%)", "iterations", "train (s)", "θ (kB)")
    table = Table(*(Column(name, no_wrap=True) for name in names), box=SIMPLE)
    sizes, wrong = [], []
    for each in finished.all_of(live, wrong.append):
        metrics, kept = each.result["metrics"], each.theta_path.exists()
        sizes += [each.theta_path.stat().st_size] if kept else []
        table.add_row(
            escape(each.name), each.module.label(each.config),
            f"{metrics['accuracy']:.2f}", f"{metrics['iterations']:,}",
            f"{each.result['provenance']['train_seconds']:.0f}", f"{sizes[-1] / 1e3:.0f}" if kept else "-",
        )  # fmt: skip
    console = Console(width=WIDE)
    console.width = console.measure(table).maximum  # so that a name stands in one piece and can be copied
    console.print(table)
    most = "" if live else f"; version control takes {finished.KEPT_BYTES / 1e6:g} MB at the most (.gitignore)"
    print(f"θ: kept of {len(sizes)} of {table.row_count} runs, {sum(sizes) / 1e6:.1f} MB{most}")
    print(f"results folder: {runs.results_root()}")
    _say_wrong(map(str, wrong), "are left out")


def verify(
    twins: Annotated[
        bool, typer.Option("--twins", help="Also train a small twin of each run, on glyphs: about two minutes.")
    ] = False,
) -> None:
    """Check that every committed result fits its schema and holds together: name, config, data, numbers, θ, commit."""
    from msmeta import runs
    from msmeta.experiments import finished, stored
    from msmeta.experiments import twins as small

    root = runs.results_root()
    if not root.is_dir():
        raise UserError(f"there is no results folder {root}")
    paths = stored.paths(root)
    wrong = {path: f"{path}: {what}" if str(path) not in what else what for path, what in stored.problems(root)}
    if twins:
        sound = [path for path in paths if path.parent.name in finished.KINDS and path not in wrong]
        found = small.of({path: finished.read(path).config for path in sound})
        wrong |= {paths[0]: f"{paths[0]}: {what}" for twin, paths in found.items() if (what := small.problem(twin))}
        print(f"{len(found)} twins of {len(sound)} runs trained")
    print(f"{len(paths) - len(wrong)} of {len(paths)} results verified in {root}")
    _say_wrong(wrong.values(), "do not verify")


def _say_wrong(lines: Iterable[str], what: str) -> None:
    """Each line on standard error; raises UserError where there is one."""
    found = [f"msmeta: {one_line(line)}" for line in lines]
    if found:
        print("\n".join(found), file=sys.stderr)
        raise UserError(f"{len(found)} results {what}, as said above")


def evaluate(
    run: Annotated[list[str], typer.Argument(help="Runs by the names that `msmeta results` shows, or a pattern.")],
    dataset: Annotated[str | None, typer.Option(help="Another data set, as `msmeta data list` names it.")] = None,
    way: Annotated[str | None, typer.Option(help="Classes of a task.")] = None,
    shot: Annotated[str | None, typer.Option(help="Support images of a class.")] = None,
    query: Annotated[str | None, typer.Option(help="Query images of a class.")] = None,
    steps: Steps = None,
    window: Window = None,
    norm: Annotated[
        str | None,
        typer.Option(
            help="Batch norm's statistics for query images, with commas for several: transductive (theirs), support, "
            "running.",
            show_default="the run's",
        ),
    ] = None,
    episodes: Annotated[str | None, typer.Option(help="Test episodes.")] = None,
    device: Device = "auto",
    workers: Annotated[str, typer.Option(help="Processes that share the tasks on a CPU: a number, or auto.")] = "auto",
    save: Annotated[bool, typer.Option("--save", help="Store each as JSON, and do not repeat what is stored.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Repeat it all the same.")] = False,
) -> None:
    """Test finished runs again: as they were, or on other tasks, with other inner steps or statistics of batch norm."""
    from msmeta.experiments import evaluations, finished
    from msmeta.experiments.config import field_values
    from msmeta.experiments.few_shot import FewShotConfig

    named = {
        "dataset": dataset, "way": way, "shot": shot, "query": query, "test_steps": steps, "test_episodes": episodes,
        "window": window,
    }  # fmt: skip
    given = field_values(FewShotConfig, named)
    norms = [field_values(FewShotConfig, {"test_norm": each}) for each in (norm.split(",") if norm else [None])]
    found, failed = finished.find(run), 0
    for each, own in product(found, norms):
        changes = given | own
        try:
            result = evaluations.evaluate(each, changes, device, workers, save, force)
        except UserError as error:
            if len(found) == 1:
                raise
            failed += 1
            print(one_line(f"{each.name}: {error}"), file=sys.stderr)
            continue
        print(f"{each.name}: {_in_words(each, changes, result)}")
        if save:
            print(f"result: {evaluations.place(each, changes).result_path}")
    if failed:
        raise UserError(f"{failed} of {len(found) * len(norms)} tests failed, as said above")


def _in_words(run: Finished, changes: dict[str, Any], result: dict[str, Any]) -> str:
    """What a test found and, where nothing was changed, whether that is what is stored."""
    from msmeta import runs, statistics
    from msmeta.experiments import evaluations, few_shot
    from msmeta.experiments.few_shot import agreement

    metrics, config = result["metrics"], run.config
    accuracy, what = f"{metrics['accuracy']:.2f} %", f"{config.evaluate_on} images of {result['data']['title']}"
    if run.experiment == "few-shot":
        config = evaluations.tested_config(config, changes)
        right = agreement.percents(metrics["right_answers"], metrics["answers_per_episode"])
        accuracy = statistics.plus_minus(*statistics.mean_ci(right)) + " %"
        what = f"{len(right)} {config.evaluate_on} episodes of {result['data']['title']}, {few_shot.setting(config)}"
        what += f", batch norm {config.test_norm}"
    text = f"{accuracy} on {what}"
    if config != run.config or "window" in changes:
        return text
    stored = run.result["metrics"]
    if all(stored[name] == value for name, value in metrics.items()):
        return f"{text}: as stored, to the last answer"
    why = "" if runs.hash_of(run.result, "data") == runs.hash_of(result, "data") else " with other data"
    origin = run.result["provenance"]
    return f"{text}; stored: {stored['accuracy']:.2f} %,{why} on {origin['device']}, torch {origin['torch']}"


def adapt(
    run: Annotated[str, typer.Argument(help="A few-shot run, as `msmeta results` names it, or its beginning.")],
    support: Annotated[str, typer.Option(metavar="DIR", help="Folder with a folder of pictures for each class.")],
    query: Annotated[
        str, typer.Option(metavar="DIR", help="Folder with the pictures to classify, or with such folders.")
    ],
    out: Annotated[str, typer.Option(help="OUT.csv and OUT.png are written; or a folder.")] = "predictions",
    steps: Steps = None,
    window: Window = None,
    norm: Norm = None,
    device: Device = "auto",
    follow_links: Annotated[bool, typer.Option("--follow-links", help="Read pictures that are links.")] = False,
) -> None:
    """Adapt a meta-trained network to a few pictures of each of your classes, and classify others."""
    from msmeta import files, paths
    from msmeta.experiments import few_shot, finished
    from msmeta.experiments.config import field_values

    one = finished.few_shot_run(run)
    given = field_values(few_shot.FewShotConfig, {"test_steps": steps, "window": window, "test_norm": norm})
    how = given.get("test_norm"), given.get("test_steps"), given.get("window"), device, follow_links
    adapted = few_shot.adapt_to(one.config, one.parameters(), support, query, *how)
    out = paths.user_path(out, "--out")
    if out.is_dir():
        out = out / "predictions"
    elif out.suffix in (".csv", ".png"):
        out = out.with_suffix("")
    table, picture = (out.with_name(out.name + suffix) for suffix in (".csv", ".png"))
    files.write(table, adapted.table().encode())
    title = f"{one.module.label(one.config)}, meta-trained on {one.result['data']['title']}"
    right = "" if adapted.accuracy is None else f", {adapted.accuracy:.1f} % of those in a folder of their class right"
    many = len(adapted.query.files)
    print(f"{title}: {many} picture{'s' if many > 1 else ''} of {len(adapted.names)} classes{right}")
    if adapted.norm == "transductive":
        print("batch norm is transductive: each answer depends on all pictures (--norm support: on its own alone)")
    print(f"predictions: {table}")
    try:
        from msmeta.report.adapted import sheet
    except ModuleNotFoundError as error:
        print(f"no picture sheet, for want of {error.name}: pip install 'msmeta[book]'")
        return
    with files.replacing(picture) as temporary:
        sheet(adapted, title).save_png(temporary)
    print(f"picture sheet: {picture}")
