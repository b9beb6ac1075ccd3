"""Tables 4 and 5: few-shot accuracy, the paper's beside what was measured here, and how it was measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from msmeta import data, runs
from msmeta.experiments import few_shot
from msmeta.report import paper
from msmeta.report.parameters import converted
from msmeta.report.style import COLOURS, MARKERS, METHODS, Result, accuracy_text, markdown

Method = tuple[str, int | tuple[int, ...]]  # estimator and window

PAPER_DATA = {4: "omniglot", 5: "miniimagenet"}
"""Data set of each of the paper's tables."""
OTHERS = ("first-order", "implicit", "reptile")


def few_shot_methods(windows: Sequence[int] = (1, 2, 4, 8), others: Sequence[str] = OTHERS) -> list[Method]:
    """One multi-step method for each window (window 1 is MAML), and the other estimators. Raises ConfigError."""
    windows = converted("windows", windows, list[int | tuple[int, ...]], [1, 4])
    others = converted("others", others, list[str], list(OTHERS))
    return [*(("multistep", window) for window in windows), *((other, 1) for other in others)]


def train_live(
    preset: str,
    dataset: str,
    ways: Sequence[int],
    shots: Sequence[int],
    methods: Sequence[Method],
    iterations: int | None,
    seed: int,
    device: str,
    force: bool,
    say: Callable[[str], None] = print,
) -> tuple[list[Result], str]:
    """Trains each method on a data set, or on glyphs where it cannot be had; (results, what data and why).

    Finished runs with the same config are reused unless `force`. The presets `cpu` and `paper` insist on the data set.
    """
    title = data.DATASETS[dataset].title
    if preset == "smoke":
        dataset, why = "glyphs", f"The smoke preset always uses procedurally drawn glyphs, not {title}."
    elif preset in runs.COMMITTED_PRESETS:
        why = f"These runs used {title}."
    else:
        dataset, why = data.real_or_glyphs(dataset)
    changes = {} if iterations is None else {"iterations": iterations}
    results = []
    for way in ways:
        for shot in shots:
            for estimator, window in methods:
                config = few_shot.preset_config(preset, dataset, way, shot, estimator, window, seed=seed, **changes)
                results.append(few_shot.train(config, device, resume=not force, force=force))
                say(describe(results[-1]))
    return results, why


def describe(result: Result) -> str:
    """One line on one run."""
    metrics, origin = result["metrics"], result["provenance"]
    return (
        f"{result['method']}, {result['data']['title']} {result['setting']}: {accuracy_text(metrics)} % after "
        f"{metrics['iterations']:,} iterations in {origin['train_seconds']:.0f} s on {origin['device']}"
    )


def data_in_words(name: str) -> str:
    """Counts, origin, licence and hash of a data set, in Markdown."""
    entry, images = data.DATASETS[name], data.load(name)
    train, test = (images.images[split].shape for split in ("train", "test"))
    rotated = f", each also turned by 90, 180 and 270 degrees ({images.rotations * train[0]:,} and " \
              f"{images.rotations * test[0]:,} classes)" if images.rotations > 1 else ""  # fmt: skip
    return (
        f"**{entry.title}**: {train[0]:,} classes for meta-training and {test[0]:,} others for meta-test{rotated}, "
        f"{train[1]} images of each, {train[3]}x{train[4]} pixels. Source: {entry.source} Licence: {entry.licence} "
        f"SHA-256 of the arrays: `{images.hash[:16]}`."
    )


def committed(dataset: str = "omniglot") -> list[Result]:
    """Committed few-shot results whose config is a preset's own, so that a row's name says what was run."""
    stored = runs.results_with_defaults("few-shot", few_shot.FewShotConfig)
    return [r for r in stored if r["config"]["dataset"] == dataset and _is_preset(r["config"])]


def paper_table(number: int) -> str:
    """The paper's Table 4 or 5, in Markdown."""
    table = paper.table(number)
    rows = [
        [method, *(f"{cell.value:g} ±{cell.spread:g}" if cell else "-" for cell in cells.values())]
        for method, cells in table.cells.items()
    ]
    return markdown(["Method", *table.columns], rows)


def measured_table(number: int, dataset: str | None = None) -> str:
    """Our Table 4 or 5, in Markdown: each cell is the `paper` preset's result, else the `cpu` preset's, or "not run".

    dataset: another one than the paper's, with the same columns.
    """
    settings, results = paper.table(number).columns, committed(dataset or PAPER_DATA[number])
    rows = []
    for method in METHODS:
        found = [best_evidence(results, method, setting) for setting in settings]
        rows.append([method, *(_cell(seeds) for seeds in found)])
    return markdown(["Method", *settings], rows)


def comparison(results: Sequence[Result]) -> str:
    """Methods of one preset against MAML, at equal training time and at equal meta-iterations, in Markdown.

    Differences are paired over the common test episodes: mean and 95 % confidence interval. Equal iterations are the
    last point of the learning curves that both MAML and the method have reached.
    """
    rows = []
    for setting, group in by_setting(results).items():
        for base in (result for result in group if result["method"] == "MAML"):
            seed = base["config"]["seed"]
            for result in (r for r in group if r["config"]["seed"] == seed):
                by_time, by_iterations = paired(result, base), paired(result, base, equal_iterations=True)
                own = result is base
                rows.append(
                    [
                        setting,
                        result["method"],
                        seed,
                        f"{result['metrics']['iterations']:,}",
                        accuracy_text(result["metrics"]),
                        "-" if own else _difference_text(by_time),
                        "-" if own or not by_iterations else _difference_text(by_iterations),
                        "-" if own or not by_iterations else f"{common_iteration(result, base):,}",
                    ]
                )
    head = [
        "Setting", "Method", "seed", "iterations", "at equal time (%)", "less MAML's (points)",
        "at equal iterations, less MAML's (points)", "these iterations",
    ]  # fmt: skip
    return markdown(head, rows)


def paired(result: Result, base: Result, equal_iterations: bool = False) -> list[float]:
    """Differences of accuracy on each common test episode, in points: at the end of both runs, or where both had taken
    equally many meta-iterations; empty where there is no such point."""
    ours, theirs = (entry["metrics"]["right_answers"] for entry in (result, base))
    if equal_iterations:
        at = common_iteration(result, base)
        if at is None:
            return []
        curves = [entry["curve"] for entry in (result, base)]
        ours, theirs = (curve["right_answers"][curve["iteration"].index(at)] for curve in curves)
    scale = 100 / result["metrics"]["answers_per_episode"]
    return [scale * (a - b) for a, b in zip(ours, theirs, strict=True)]


def common_iteration(result: Result, base: Result) -> int | None:
    """The last point of the learning curve that both runs have."""
    return max({*result["curve"]["iteration"]} & {*base["curve"]["iteration"]}, default=None)


def missing_commands(preset: str, number: int, dataset: str | None = None) -> str:
    """The commands that would fill the cells that this preset has not run, as a code block; empty if there are none."""
    dataset = dataset or PAPER_DATA[number]
    results, lines = committed(dataset), []
    for setting in paper.table(number).columns:
        way, shot = (int(part.split("-")[0]) for part in setting.split())
        for estimator, window in few_shot_methods():
            method = few_shot.label(few_shot.preset_config(preset, dataset, way, shot, estimator, window))
            if not any(_is(result, method, setting, preset) for result in results):
                lines.append(
                    f"msmeta train few-shot --dataset {dataset} --way {way} --shot {shot} --estimator {estimator} "
                    f"--window {window} --preset {preset}"
                )
    return "```bash\n" + "\n".join(lines) + "\n```" if lines else ""


def tuning_table(dataset: str = "omniglot") -> str:
    """How the rates of the `cpu` preset were chosen: accuracy on classes held out for it, in Markdown.

    The rates that the preset has are bold.
    """
    stored = runs.results_with_defaults("few-shot-tuning", few_shot.FewShotConfig)
    results = [r for r in stored if r["config"]["dataset"] == dataset]
    rates = sorted({result["config"]["lr"] for result in results})
    rows = []
    for setting, group in by_setting(results).items():
        names = [_tuned(result)[0] for result in group]
        for name, meta_lr in sorted(set(map(_tuned, group)), key=lambda each: (names.index(each[0]), each[1])):
            line = {r["config"]["lr"]: r for r in group if _tuned(r) == (name, meta_lr)}
            iterations = {f"{r['metrics']['iterations']:,}" for r in line.values()}
            cells = [_tuned_cell(line[rate]) if rate in line else "-" for rate in rates]
            rows.append([setting, name, ", ".join(sorted(iterations)), f"{meta_lr:g}", *cells])
    return markdown(["Setting", "Method", "Iterations", "Meta rate", *(f"inner rate {rate:g}" for rate in rates)], rows)


def _tuned(result: Result) -> tuple[str, float]:
    """The method, with λ where it has one, and the meta rate."""
    config = result["config"]
    name = f"{result['method']}, λ = {config['proximal']:g}" if config["estimator"] == "implicit" else result["method"]
    return name, config["meta_lr"]


def _tuned_cell(result: Result) -> str:
    """The accuracy, bold where the rates are those of the preset."""
    config, text = result["config"], accuracy_text(result["metrics"])
    window = config["window"] if isinstance(config["window"], int) else tuple(config["window"])
    own = few_shot.preset_config("cpu", *(config[name] for name in ("dataset", "way", "shot", "estimator")), window)
    chosen = (config["lr"], config["meta_lr"]) == (own.lr, own.meta_lr)
    return f"**{text}**" if chosen else text


def live_table(results: Sequence[Result], number: int) -> str:
    """Accuracy of live runs beside the paper's row of the same method (only for the paper's data set), in Markdown."""
    rows = []
    for result in results:
        same_data = result["data"]["name"] == PAPER_DATA[number]
        reported = paper_cell(number, result["method"], result["setting"]) if same_data else None
        rows.append(
            [
                f"{result['data']['title']} {result['setting']}",
                result["method"],
                accuracy_text(result["metrics"]),
                f"{reported.value:g} ±{reported.spread:g}" if reported else "-",
                f"{result['metrics']['iterations']:,}",
                f"{result['provenance']['train_seconds']:.0f}",
                f"{result['metrics']['meta_iterations_per_second']:.1f}",
            ]
        )
    return markdown(
        ["Setting", "Method", "Live run (%)", "Paper (%)", "Iterations", "Training (s)", "Iterations/s"], rows
    )


def conditions(results: Sequence[Result]) -> str:
    """What each measured row was run with, in Markdown: all that is known to move accuracy by points."""
    rows = []
    for result in results:
        config, metrics, origin = result["config"], result["metrics"], result["provenance"]
        windowed = metrics.get("windowed_accuracy")
        selected = metrics.get("selected_iteration")
        rows.append(
            [
                f"{result['setting']} {result['method']}",
                config["preset"],
                config["seed"],
                f"{config['filters']}" + (f" at {size}x{size}" if (size := config["image_size"]) else ""),
                config["tasks"],
                f"{config['steps']} / {config['test_steps'] or config['steps']}",
                f"{config['optimizer']} {config['lr']:g} / {config['momentum']:g} / {config['weight_decay']:g}",
                f"{config['meta_optimizer']} {config['meta_lr']:g}",
                f"{metrics['iterations']:,}",
                "the last" if selected is None else f"{selected:,}",
                f"{origin['train_seconds']:.0f}",
                accuracy_text(metrics),
                "-" if windowed is None else f"{windowed:.2f} ±{metrics['windowed_accuracy_ci95']:.2f}",
                f"{origin['device']}, {origin['threads']} threads",
                f"torch {origin['torch']}, {(origin['commit'] or 'no commit')[:7]}",
            ]
        )
    head = [
        "Run", "preset", "seed", "filters, image size if shrunk", "tasks", "steps in training / at test",
        "inner optimiser, lr / momentum / weight decay", "meta optimiser, lr", "iterations", "tested",
        "training (s)", "accuracy (%)", "with training's windows (%)", "device", "code",
    ]  # fmt: skip
    return markdown(head, rows)


def learning_curves(results: Sequence[Result], title: str) -> Figure:
    """Test accuracy against meta-iterations and against training time, one line a method (seeds apart)."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    seen: set[str] = set()
    for result in results:
        method, metrics, curve = result["method"], result["metrics"], result["curve"]
        accuracy = [*curve["accuracy"], metrics["accuracy"]]
        ends = (metrics["iterations"], result["provenance"]["train_seconds"])
        for axis, column, end in zip(axes, ("iteration", "seconds"), ends, strict=True):
            axis.plot(
                [*curve[column], end],
                accuracy,
                label=method if axis is axes[0] and method not in seen else None,
                **_line(method),
            )
        seen.add(method)
    axes[0].set(xscale="log", xlabel="meta-iterations", ylabel="test accuracy (%)")
    points = sorted({iteration for result in results for iteration in result["curve"]["iteration"]})
    axes[0].set_xticks(points, [f"{point:,}" for point in points])
    axes[0].minorticks_off()
    axes[1].set(xlabel="training time (s)")
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.legend(frameon=False, fontsize="small", ncols=4, loc="outside lower center")
    figure.suptitle(title, fontsize="medium")
    plt.close(figure)  # else a notebook shows it a second time
    return figure


def accuracy_over_time(groups: dict[str, Sequence[Result]]) -> Figure:
    """Test accuracy against training time for every method, one panel a setting: what a user's time buys."""
    count = len(groups)
    rows = -(-count // 2)
    figure, axes = plt.subplots(
        rows, min(2, count), figsize=(9, 3.2 * rows + 0.5), layout="constrained", squeeze=False, sharex=True
    )
    methods: dict[str, Any] = {}
    for axis, (title, results) in zip(axes.flat, groups.items(), strict=False):
        for result in results:
            metrics, curve = result["metrics"], result["curve"]
            x = [*curve["seconds"], result["provenance"]["train_seconds"]]
            y = [*curve["accuracy"], metrics["accuracy"]]
            spread = [*curve["accuracy_ci95"], metrics["accuracy_ci95"]]
            line = axis.errorbar(x, y, spread, elinewidth=0.7, **_line(result["method"]))
            methods.setdefault(result["method"], line)
        axis.set_title(title, fontsize="medium")
        axis.set(xlabel="training time (s)", ylabel="test accuracy (%)")
        axis.grid(alpha=0.3)
    for axis in axes.flat[count:]:
        axis.axis("off")
    known = [method for method in METHODS if method in methods]
    handles = [methods[method] for method in known]
    figure.legend(handles, known, frameon=False, fontsize="small", ncols=4, loc="outside lower center")
    plt.close(figure)
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


def best_evidence(results: Sequence[Result], method: str, setting: str) -> list[Result]:
    """A cell's results, one for each seed: of the `paper` preset where there are any, else of `cpu`."""
    for preset in ("paper", "cpu"):
        if seeds := [result for result in results if _is(result, method, setting, preset)]:
            return seeds
    return []


def paper_cell(number: int, method: str, setting: str) -> paper.Cell | None:
    """The paper's cell of a method: its own measurement where it has one, else the one that it quotes."""
    cells = paper.table(number).cells
    return cells.get(f"{method} (ours)", cells.get(method, {})).get(setting)


def _line(method: str) -> dict[str, Any]:
    return {"color": COLOURS.get(method), "marker": MARKERS.get(method), "markersize": 4, "linewidth": 1.5}


def _is_preset(config: dict[str, Any]) -> bool:
    names = ("preset", "dataset", "way", "shot", "estimator")
    window = tuple(config["window"]) if isinstance(config["window"], list) else config["window"]
    own = few_shot.preset_config(*(config[name] for name in names), window, seed=config["seed"])
    return runs.plain(own) == config


def _is(result: Result, method: str, setting: str, preset: str) -> bool:
    return (result["method"], result["setting"], result["config"]["preset"]) == (method, setting, preset)


def _cell(seeds: Sequence[Result]) -> str:
    """Mean accuracy over seeds and the mean half-width of their intervals over episodes."""
    if not seeds:
        return "not run"
    mean = sum(result["metrics"]["accuracy"] for result in seeds) / len(seeds)
    half_width = sum(result["metrics"]["accuracy_ci95"] for result in seeds) / len(seeds)
    count = f", {len(seeds)} seeds" if len(seeds) > 1 else ""
    return f"{mean:.2f} ±{half_width:.2f} ({seeds[0]['config']['preset']}{count})"


def _difference_text(differences: Sequence[float]) -> str:
    """Mean difference, in points, and its 95 % confidence interval over episodes."""
    half_width = 1.96 * statistics.stdev(differences) / len(differences) ** 0.5
    return f"{statistics.mean(differences):+.2f} ±{half_width:.2f}"
