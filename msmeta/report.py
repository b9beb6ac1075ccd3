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
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from msmeta import data, fewshot, paper, runs
from msmeta.errors import ConfigError, UserError

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


GRADIENT_PROBLEMS = {"quadratic": "quadratic", "sine": "sine regression", "omniglot": "Omniglot, Conv4"}
_INNER = {"with momentum": "-", "without": ":"}  # how a line is drawn for each inner optimiser
_OTHERS = ("first-order", "Reptile", "implicit", "finite differences", "Gaussian smoothing", "evolution strategies")


def meta_gradients() -> dict[str, Result]:
    """Committed results of benchmarks/meta_gradients.py, by problem. Raises UserError where one was not run."""
    return {
        problem: _benchmark(f"meta-gradients/{problem}.json", f"meta_gradients.py {problem}")
        for problem in GRADIENT_PROBLEMS
    }


def steps_memory() -> Result:
    """The committed result of benchmarks/steps_memory.py. Raises UserError where it was not run."""
    return _benchmark("benchmarks/steps_memory.json", "steps_memory.py")


def _benchmark(name: str, script: str) -> Result:
    path = runs.results_root() / name
    if not path.exists():
        raise UserError(f"results/{name} is not there: run python benchmarks/{script}")
    return runs.read_result(path)


def gradients_by_window(results: dict[str, Result]) -> Figure:
    """Cosine and ratio of lengths of the windows' meta-gradient to the exact one, over N, one column a problem."""
    figure, axes = plt.subplots(2, len(results), figsize=(8.5, 6.6), sharex=True, layout="constrained", squeeze=False)
    for column, (problem, result) in zip(axes.T, results.items(), strict=True):
        steps, rows = result["config"]["steps"], result["metrics"]
        stages = list(dict.fromkeys(row["stage"] for row in rows))
        colours = sns.color_palette("viridis", len(stages))
        for stage, colour in zip(stages, colours, strict=True):
            for inner, line in _INNER.items():
                own = {r["estimator"]: r for r in rows if (r["stage"], r["momentum"]) == (stage, inner)}
                uniform = [own[_windows(n, steps)] for n in range(1, steps + 1)]
                for axis, value in zip(column, ("cosine", "norm_ratio"), strict=True):
                    middle, spread = ([row.get(k) for row in uniform] for k in (value, f"{value}_ci95"))
                    style = {"color": colour, "linestyle": line, "marker": "o", "markersize": 3}
                    axis.errorbar(range(1, steps + 1), middle, spread, elinewidth=0.8, **style)
            column[1].plot([], [], color=colour, label=stage)
        column[0].set_title(GRADIENT_PROBLEMS[problem], fontsize="medium")
        column[0].set_ylim(-0.35, 1.05)
        column[1].set(xlabel="window N (steps)", yscale="log", xticks=range(1, steps + 1))
        _plain_ticks(column[1].yaxis, [0.5, 1, 2, 4, 10, 20, 40, 100, 200, 400])
        column[1].legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.25))
        for axis in column:
            axis.grid(alpha=0.3)
    for inner, line in _INNER.items():
        axes[0][0].plot([], [], color="grey", linestyle=line, label=inner)
    axes[0][0].legend(frameon=False, fontsize="small", loc="lower left")
    axes[0][0].set_ylabel("cosine with exact")
    axes[1][0].set_ylabel("length / exact length")
    plt.close(figure)
    return figure


def gradients_by_cost(results: dict[str, Result]) -> Figure:
    """Cosine of every estimator against its time, and for Omniglot its memory: last stage, inner SGD with momentum."""
    panels = [(problem, "seconds") for problem in results] + [("omniglot", "bytes")]
    figure, axes = plt.subplots(1, len(panels), figsize=(10, 4.2), sharey=True, layout="constrained")
    for axis, (problem, cost) in zip(axes, panels, strict=True):
        result = results[problem]
        last = [row["stage"] for row in result["metrics"] if "(N" not in row["stage"]][-1]
        rows = [r for r in result["metrics"] if (r["stage"], r["momentum"]) == (last, "with momentum")]
        exact = next(row for row in rows if row["estimator"] == _windows(1, result["config"]["steps"]))
        for label, names, style in _estimator_styles(result["config"]["steps"]):
            own = [row for row in rows if row["estimator"] in names and "cosine" in row]
            x, y = [row[cost] / exact[cost] for row in own], [row["cosine"] for row in own]
            axis.errorbar(x, y, [row["cosine_ci95"] for row in own], elinewidth=0.8, label=label, **style)
        what = "time" if cost == "seconds" else "memory"
        axis.set(xscale="log", xlabel=f"{what} / exact {what}")
        _plain_ticks(axis.xaxis, [1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16] if cost == "seconds" else [0.4, 0.6, 0.8, 1])
        axis.set_title(GRADIENT_PROBLEMS[problem], fontsize="medium")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("cosine with exact")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize="small", ncols=5, loc="outside lower center")
    plt.close(figure)
    return figure


def gradients_by_partition(result: Result) -> Figure:
    """Cosine of non-uniform partitions beside the uniform one of as many windows, one panel a stage."""
    groups = {4: ["2,2,2,2", "1,1,2,4", "4,2,1,1", "1,1,1,5", "5,1,1,1"], 2: ["4,4", "2,6", "6,2", "1,7", "7,1"]}
    stages = list(dict.fromkeys(row["stage"] for row in result["metrics"]))
    figure, axes = plt.subplots(1, len(stages), figsize=(9, 3.8), sharey=True, layout="constrained", squeeze=False)
    labels = [partition for group in groups.values() for partition in group]
    for axis, stage in zip(axes[0], stages, strict=True):
        for inner, offset, colour in zip(_INNER, (-0.12, 0.12), (_BLIND_SAFE[0], _BLIND_SAFE[1]), strict=True):
            own = {r["estimator"]: r for r in result["metrics"] if (r["stage"], r["momentum"]) == (stage, inner)}
            rows = [own[f"windows {label}"] for label in labels]
            places = [i + offset for i in range(len(labels))]
            spread = [row.get("cosine_ci95") for row in rows]
            axis.errorbar(
                [row.get("cosine") for row in rows],
                places,
                xerr=spread,
                fmt="o",
                markersize=4,
                color=colour,
                label=inner,
            )
        axis.axhline(len(groups[4]) - 0.5, color="grey", linewidth=0.8)
        axis.set_yticks(range(len(labels)), [f"({label.replace(',', ', ')})" for label in labels])
        axis.set(xlabel="cosine with exact", xlim=(-0.15, 1.05))
        axis.set_title(stage.replace(" (", "\n("), fontsize="medium")
        axis.grid(alpha=0.3)
    axes[0][0].invert_yaxis()
    handles = axes[0][0].get_legend_handles_labels()
    figure.legend(*handles, frameon=False, fontsize="small", ncols=2, loc="outside lower center")
    plt.close(figure)
    return figure


def gradients_table(result: Result) -> str:
    """Every estimator at every stage of one problem, in Markdown."""
    rows = [
        [
            row["estimator"], row["stage"], row["momentum"],
            *(f"{row[k]:.3g} ±{row[k + '_ci95']:.1g}" if k in row else "diverged" for k in ("cosine", "norm_ratio")),
            f"{1000 * row['seconds']:.3g}" if "seconds" in row else "-",
            f"{row['bytes'] / 1e6:.0f}" if "bytes" in row else "-",
        ]
        for row in result["metrics"]
    ]  # fmt: skip
    head = ["Estimator", "Stage", "Inner SGD", "Cosine", "Length ratio", "Time (ms)", "Memory (MB)"]
    return _markdown(head, rows)


def memory_over_steps(result: Result) -> Figure:
    """Peak memory against the number of inner steps, for both backward passes (benchmarks/steps_memory.py)."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for i, (backward, window) in enumerate([("autograd", 1), ("autograd", 4), ("adjoint", 1), ("adjoint", 4)]):
        rows = [r for r in result["metrics"] if (r["backward"], r["window"]) == (backward, window)]
        steps = [row["steps"] for row in rows]
        style = {"marker": "os^v"[i], "markersize": 4, "color": _BLIND_SAFE[i], "label": f"{backward}, N = {window}"}
        axes[0].plot(steps, [row["bytes"] / 1e6 for row in rows], **style)
        axes[1].plot(steps, [row["seconds"] for row in rows], **style)
    axes[0].set(xscale="log", yscale="log", xlabel="inner steps T", ylabel="memory (MB)")
    axes[1].set(xscale="log", yscale="log", xlabel="inner steps T", ylabel="time (s)")
    for axis in axes:
        _plain_ticks(axis.xaxis, [1, 2, 4, 8, 16, 32, 64])
        _plain_ticks(axis.yaxis, [0.125, 0.25, 0.5, 1, 2, 4, 100, 150, 200, 300, 400, 600, 800, 1200, 1600])
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False, fontsize="small")
    plt.close(figure)
    return figure


def origin(result: Result) -> str:
    """Where a result was measured, in words."""
    where = result["provenance"]
    commit = (where["commit"] or "no commit")[:7]
    return f"{where['device']}, {where['threads']} threads, torch {where['torch']}, commit {commit}"


def _plain_ticks(axis: Axis, places: Sequence[float]) -> None:
    """Ticks of a logarithmic axis as plain numbers, only those that lie within what is drawn."""
    low, high = axis.get_view_interval()
    inside = [place for place in places if low <= place <= high]
    axis.set_ticks(inside, labels=[f"{place:g}" for place in inside])
    axis.set_ticks([], minor=True)


def _windows(n: int, steps: int) -> str:
    """The name of uniform windows of n, with a shorter last one where n does not divide the steps."""
    lengths = [n] * (steps // n) + ([steps % n] if steps % n else [])
    return f"windows {','.join(map(str, lengths))}"


def _estimator_styles(steps: int) -> list[tuple[str, list[str], dict[str, Any]]]:
    """(label, names of the estimators, how they are drawn): windows as one line over N, the others as points."""
    line = {"marker": "o", "markersize": 5, "color": _BLIND_SAFE[0], "linewidth": 1}
    point = {"linestyle": "none", "markersize": 6}
    styles = [("windows, N = 1, 2, 4, 8", [_windows(n, steps) for n in (1, 2, 4, 8)], line)]
    styles.append(("exact, adjoint", ["exact, adjoint"], {"marker": "*", "color": _BLIND_SAFE[7], **point}))
    for i, name in enumerate(_OTHERS):
        styles.append((name, [name], {"marker": "sD^vPX"[i], "color": _BLIND_SAFE[(3, 1, 2, 4, 5, 6)[i]], **point}))
    return styles


def exploration_table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of `explore.compare`, in Markdown."""
    cells = [
        [
            row["method"], f"{row['loss']:.3f}", f"{row['accuracy']:.1f}", f"{row['cosine']:.3f}",
            f"{row['ratio']:.2f}", f"{1000 * row['seconds']:.0f}", f"{row['bytes'] / 1e6:.1f}",
        ]
        for row in rows
    ]  # fmt: skip
    head = ["Method", "Query loss", "Accuracy (%)", "Cosine", "Length ratio", "Time (ms)", "Kept (MB)"]
    return _markdown(head, cells)


def exploration_figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """Query loss along the inner steps, with a marker where a gradient is evaluated; time and memory beside it."""
    figure, (path, cost) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", width_ratios=(1.4, 1))
    names = [row["method"] for row in rows]
    for i, row in enumerate(rows):
        method = row["method"].replace("N = ", "")
        of_table = {"exact": "MAML", "first-order": "FO-MAML"}.get(method, f"Multi-step ({method})")
        colour = COLOURS.get(of_table, _BLIND_SAFE[4])
        for place, column in enumerate(("seconds", "bytes")):
            share = row[column] / rows[0][column]
            cost.bar(place + 0.8 * (i + 0.5) / len(rows) - 0.4, share, 0.75 / len(rows), color=colour)
        if row["method"] == "first-order":  # its steps are the exact ones
            path.plot([], [], color=colour, linewidth=6, label=f"{row['method']} (steps as exact)")
        else:
            path.plot(
                *zip(*row["path"], strict=True), color=colour, marker="os^vD"[i], markersize=4, label=row["method"]
            )
    path.set(xlabel="inner step", ylabel="query loss")
    path.legend(frameon=False, fontsize="small")
    cost.set_xticks([0, 1], ["time", "memory kept"])
    cost.set(ylabel=f"relative to {names[0]}")
    for axis in (path, cost):
        axis.grid(alpha=0.3)
    plt.close(figure)
    return figure


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
