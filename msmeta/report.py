"""Stored results -> the tables and figures of the notebooks.

Each table shows three kinds of number and says which is which: the paper's, the committed measurements of this
repository, and the live run. What was not run says so, beside the command that would run it.
"""

from __future__ import annotations

import ast
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure

from msmeta import data, fewshot, paper, runs
from msmeta.errors import ConfigError

Result = dict[str, Any]
Method = tuple[str, int | tuple[int, ...]]  # estimator and window

METHODS = ("MAML", "FO-MAML", "Multi-step (2)", "Multi-step (4)", "Multi-step (8)")
_BLIND_SAFE = sns.color_palette("colorblind")
COLOURS = {method: _BLIND_SAFE[i] for method, i in zip(METHODS, (7, 3, 0, 2, 1), strict=True)}
MARKERS = dict(zip(METHODS, "osv^D", strict=True))


def check_parameters(history: Sequence[str], known: Sequence[str]) -> None:
    """Refuses parameters that the notebook does not have; papermill itself only warns of them.

    history: the sources of the cells run so far, IPython's `In`. Papermill's own cell begins with "# Parameters".
    Raises ConfigError.
    """
    injected = [ast.parse(source) for source in history if source.startswith("# Parameters\n")]
    given = [
        target.id
        for cell in injected
        for line in cell.body
        if isinstance(line, ast.Assign)
        for target in line.targets
        if isinstance(target, ast.Name)
    ]
    if unknown := [name for name in given if name not in known]:
        raise ConfigError(f"unknown parameter {', '.join(unknown)}: this notebook has {', '.join(known)}")


def few_shot_methods(windows: Sequence[int]) -> list[Method]:
    """FO-MAML and one multi-step method for each window; window 1 is MAML."""
    return [("first-order", 1), *(("multistep", window) for window in windows)]


def train_live(
    preset: str,
    ways: Sequence[int],
    shots: Sequence[int],
    windows: Sequence[int],
    iterations: int | None,
    seed: int,
    device: str,
    force: bool,
    say: Callable[[str], None] = print,
) -> tuple[list[Result], str]:
    """Trains FO-MAML and each window on Omniglot, or on glyphs where it cannot be had; (results, what data and why).

    Finished runs with the same config are reused unless `force`. The presets `cpu` and `paper` insist on Omniglot.
    """
    if preset == "smoke":
        dataset, why = "glyphs", "The smoke preset always uses procedurally drawn glyphs, not Omniglot."
    elif preset in runs.COMMITTED_PRESETS:
        dataset, why = "omniglot", "These runs used Omniglot."
    else:
        dataset, why = data.real_or_glyphs("omniglot")
    changes = {} if iterations is None else {"iterations": iterations}
    results = []
    for way in ways:
        for shot in shots:
            for estimator, window in few_shot_methods(windows):
                config = fewshot.preset_config(preset, dataset, way, shot, estimator, window, seed=seed, **changes)
                results.append(fewshot.train(config, device, resume=not force, force=force))
                say(describe(results[-1]))
    return results, why


def describe(result: Result) -> str:
    """One line on one run."""
    metrics, origin = result["metrics"], result["provenance"]
    return (
        f"{result['method']}, {result['data']['title']} {result['setting']}: {_accuracy(metrics)} % after "
        f"{metrics['iterations']:,} iterations in {origin['train_seconds']:.0f} s on {origin['device']}"
    )


def data_in_words(name: str) -> str:
    """Counts, origin, licence and hash of a data set, in Markdown."""
    entry, images = data.DATASETS[name], data.load(name)
    train, test = (images.images[split].shape for split in ("train", "test"))
    rotated = f", each also turned by 90, 180 and 270 degrees ({images.rotations * train[0]:,} and " \
              f"{images.rotations * test[0]:,} classes)" if images.rotations > 1 else ""  # fmt: skip
    return (
        f"**{entry.title}**: {train[0]:,} characters for meta-training and {test[0]:,} others for meta-test{rotated}, "
        f"{train[1]} images of each, {train[3]}x{train[4]} pixels. Source: {entry.source} Licence: {entry.licence} "
        f"SHA-256 of the arrays: `{images.hash[:16]}`."
    )


def committed(dataset: str = "omniglot") -> list[Result]:
    """Committed few-shot results whose config is a preset's own, so that a row's name says what was run."""
    return [
        result
        for result in runs.read_results("few-shot")
        if result["config"]["dataset"] == dataset and _is_preset(result["config"])
    ]


def paper_table_4() -> str:
    """The paper's Table 4, in Markdown."""
    table = paper.table(4)
    rows = [
        [method, *(f"{cell.value:g} ±{cell.spread:g}" if cell else "-" for cell in cells.values())]
        for method, cells in table.cells.items()
    ]
    return _markdown(["Method", *table.columns], rows)


def measured_table_4() -> str:
    """Our Table 4: for each cell the `paper` preset's result, else the `cpu` preset's, else "not run", in Markdown."""
    settings, results = paper.table(4).columns, committed()
    rows = []
    for method in METHODS:
        found = [_best_evidence(results, method, setting) for setting in settings]
        rows.append([method, *(_cell(seeds) for seeds in found)])
    return _markdown(["Method", *settings], rows)


def comparison(results: Sequence[Result]) -> str:
    """Methods of one preset against MAML, at equal training time and at equal meta-iterations, in Markdown.

    The difference at equal time is paired over the common test episodes: mean and 95 % confidence interval. Equal
    iterations are the last point of the learning curves that all methods of a setting have reached.
    """
    rows = []
    for setting, group in by_setting(results).items():
        seeds = {result["config"]["seed"] for result in group if result["method"] == "MAML"}
        for seed in sorted(seeds):
            runs_of_seed = [result for result in group if result["config"]["seed"] == seed]
            reached = set.intersection(*({*result["curve"]["iteration"]} for result in runs_of_seed))
            base = next(result for result in runs_of_seed if result["method"] == "MAML")
            for result in runs_of_seed:
                at = result["curve"]["iteration"].index(max(reached)) if reached else None
                rows.append(
                    [
                        setting,
                        result["method"],
                        seed,
                        f"{result['metrics']['iterations']:,}",
                        _accuracy(result["metrics"]),
                        "-" if result is base else _paired_difference(result, base),
                        "-" if at is None else f"{_accuracy(result['curve'], at)} at {max(reached):,}",
                    ]
                )
    compared = ["at equal time (%)", "less MAML's (points)", "at equal iterations (%)"]
    head = ["Setting", "Method", "seed", "iterations", *compared]
    return _markdown(head, rows)


def missing_commands(preset: str) -> str:
    """The commands that would fill the cells that this preset has not run, as a code block; empty if there are none."""
    results, lines = committed(), []
    for setting in paper.table(4).columns:
        way, shot = (int(part.split("-")[0]) for part in setting.split())
        for estimator, window in few_shot_methods((1, 2, 4, 8)):
            method = fewshot.preset_config(preset, "omniglot", way, shot, estimator, window).method
            if not any(_is(result, method, setting, preset) for result in results):
                lines.append(
                    f"msmeta train few-shot --dataset omniglot --way {way} --shot {shot} --estimator {estimator} "
                    f"--window {window} --preset {preset}"
                )
    return "```bash\n" + "\n".join(lines) + "\n```" if lines else ""


def tuning_table() -> str:
    """How the inner rates of the `cpu` preset were chosen: accuracy on held-out meta-training classes, in Markdown."""
    results = runs.read_results("few-shot-tuning")
    rates = sorted({result["config"]["inner_lr"] for result in results})
    rows = []
    for setting, group in by_setting(results).items():
        for method in dict.fromkeys(result["method"] for result in group):
            found = {r["config"]["inner_lr"]: r for r in group if r["method"] == method}
            iterations = {f"{r['metrics']['iterations']:,}" for r in found.values()}
            cells = [_accuracy(found[rate]["metrics"]) if rate in found else "not run" for rate in rates]
            rows.append([setting, method, ", ".join(sorted(iterations)), *cells])
    return _markdown(["Setting", "Method", "Iterations", *(f"rate {rate:g}" for rate in rates)], rows)


def live_table(results: Sequence[Result]) -> str:
    """Accuracy of live runs beside the paper's row of the same method (only for the paper's data set), in Markdown."""
    rows = []
    for result in results:
        reported = _paper_cell(result["method"], result["setting"]) if result["data"]["name"] == "omniglot" else None
        rows.append(
            [
                f"{result['data']['title']} {result['setting']}",
                result["method"],
                _accuracy(result["metrics"]),
                f"{reported.value:g} ±{reported.spread:g}" if reported else "-",
                f"{result['metrics']['iterations']:,}",
                f"{result['provenance']['train_seconds']:.0f}",
                f"{result['metrics']['meta_iterations_per_second']:.1f}",
            ]
        )
    return _markdown(
        ["Setting", "Method", "Live run (%)", "Paper (%)", "Iterations", "Training (s)", "Iterations/s"], rows
    )


def conditions(results: Sequence[Result]) -> str:
    """What each measured row was run with, in Markdown: all that is known to move accuracy by points."""
    rows = []
    for result in results:
        config, metrics, origin = result["config"], result["metrics"], result["provenance"]
        windowed = metrics.get("windowed_accuracy")
        rows.append(
            [
                f"{result['setting']} {result['method']}",
                config["preset"],
                config["seed"],
                config["filters"],
                config["tasks"],
                f"{config['inner_lr']:g} / {config['momentum']:g} / {config['weight_decay']:g}",
                f"{config['meta_lr']:g}",
                f"{metrics['iterations']:,}",
                f"{origin['train_seconds']:.0f}",
                _accuracy(metrics),
                "-" if windowed is None else f"{windowed:.2f} ±{metrics['windowed_accuracy_ci95']:.2f}",
                f"{origin['device']}, {origin['threads']} threads",
                f"torch {origin['torch']}, {(origin['commit'] or 'no commit')[:7]}",
            ]
        )
    head = [
        "Run", "preset", "seed", "filters", "tasks", "inner lr / momentum / weight decay", "meta lr", "iterations",
        "training (s)", "accuracy (%)", "with training's windows (%)", "device", "code",
    ]  # fmt: skip
    return _markdown(head, rows)


def learning_curves(results: Sequence[Result], title: str) -> Figure:
    """Test accuracy against meta-iterations and against training time, one line a method (seeds apart)."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    seen: set[str] = set()
    for result in results:
        method, metrics, curve = result["method"], result["metrics"], result["curve"]
        accuracy = [*curve["accuracy"], metrics["accuracy"]]
        style = {"color": COLOURS.get(method), "marker": MARKERS.get(method), "markersize": 4, "linewidth": 1.5}
        ends = (metrics["iterations"], result["provenance"]["train_seconds"])
        for axis, column, end in zip(axes, ("iteration", "seconds"), ends, strict=True):
            axis.plot([*curve[column], end], accuracy, label=None if method in seen else method, **style)
        seen.add(method)
    axes[0].set(xscale="log", xlabel="meta-iterations", ylabel="test accuracy (%)")
    points = sorted({iteration for result in results for iteration in result["curve"]["iteration"]})
    axes[0].set_xticks(points, [f"{point:,}" for point in points])
    axes[0].minorticks_off()
    axes[1].set(xlabel="training time (s)")
    for axis in axes:
        axis.grid(alpha=0.3)
    axes[1].legend(frameon=False, fontsize="small")
    figure.suptitle(title, fontsize="medium")
    plt.close(figure)  # else a notebook shows it a second time
    return figure


def readme_picture(path: str, setting: str = "20-way 1-shot") -> None:
    """Saves the learning curves of the committed runs of one setting; README shows them."""
    results = [result for result in committed() if result["setting"] == setting]
    title = f"Omniglot {setting}, preset {' and '.join(sorted({r['config']['preset'] for r in results}))}"
    learning_curves(by_setting(results)[setting], title).savefig(path, dpi=120)


def by_setting(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results grouped by the paper's columns, methods in the tables' order."""
    groups: dict[str, list[Result]] = {}
    for result in sorted(results, key=lambda r: METHODS.index(r["method"]) if r["method"] in METHODS else 99):
        groups.setdefault(result["setting"], []).append(result)
    return dict(sorted(groups.items(), key=lambda group: tuple(int(part.split("-")[0]) for part in group[0].split())))


def _is_preset(config: dict[str, Any]) -> bool:
    names = ("preset", "dataset", "way", "shot", "estimator")
    window = tuple(config["window"]) if isinstance(config["window"], list) else config["window"]
    own = fewshot.preset_config(*(config[name] for name in names), window, seed=config["seed"])
    return runs.plain(own) == config


def _is(result: Result, method: str, setting: str, preset: str) -> bool:
    return (result["method"], result["setting"], result["config"]["preset"]) == (method, setting, preset)


def _best_evidence(results: Sequence[Result], method: str, setting: str) -> list[Result]:
    for preset in ("paper", "cpu"):
        if seeds := [result for result in results if _is(result, method, setting, preset)]:
            return seeds
    return []


def _cell(seeds: Sequence[Result]) -> str:
    """Mean accuracy over seeds and the mean half-width of their intervals over episodes."""
    if not seeds:
        return "not run"
    mean = sum(result["metrics"]["accuracy"] for result in seeds) / len(seeds)
    half_width = sum(result["metrics"]["accuracy_ci95"] for result in seeds) / len(seeds)
    count = f", {len(seeds)} seeds" if len(seeds) > 1 else ""
    return f"{mean:.2f} ±{half_width:.2f} ({seeds[0]['config']['preset']}{count})"


def _paper_cell(method: str, setting: str) -> paper.Cell | None:
    cells = paper.table(4).cells
    row = cells.get(f"{method} (ours)", cells.get(method, {}))
    return row.get(setting)


def _accuracy(found: dict[str, Any], at: int | None = None) -> str:
    """Of a run's metrics, or of point `at` of its learning curve."""
    values = [found[name] if at is None else found[name][at] for name in ("accuracy", "accuracy_ci95")]
    return f"{values[0]:.2f} ±{values[1]:.2f}"


def _paired_difference(result: Result, base: Result) -> str:
    """Mean difference of accuracy over the same test episodes, in points, and its 95 % confidence interval."""
    ours, theirs = (entry["metrics"]["right_answers"] for entry in (result, base))
    scale = 100 / result["metrics"]["answers_per_episode"]
    differences = [scale * (a - b) for a, b in zip(ours, theirs, strict=True)]
    half_width = 1.96 * statistics.stdev(differences) / len(differences) ** 0.5
    return f"{statistics.mean(differences):+.2f} ±{half_width:.2f}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return "No run yet."
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
