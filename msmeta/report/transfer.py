"""Section 5.1: accuracy of meta-transfer, the paper's beside what was measured here, and how it was measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from msmeta import data, runs
from msmeta.data.registry import find_labelled
from msmeta.errors import ConfigError
from msmeta.experiments import transfer
from msmeta.experiments.transfer import preset_config, sources
from msmeta.experiments.transfer.config import TransferConfig
from msmeta.report import paper
from msmeta.report.style import TRANSFER_METHODS, Result, markdown

Method = tuple[str, dict[str, Any]]  # estimator, and what of its config is not the default
Rows = dict[str, list[Result]]  # runs by the name of their row, one a seed

TRANSFER_SPECS: dict[str, Method] = {
    "Scratch": ("scratch", {}),
    "Baseline": ("multistep", {}),
    "Multi-step": ("multistep", {"window": 2}),
    "0-step": ("multistep", {"steps": 0}),
    "1-step": ("multistep", {"steps": 1}),
    "1-step, 2·lr": ("multistep", {"steps": 1, "transfer_rate": 2.0}),
    "3-step": ("multistep", {"steps": 3}),
    "3-step Est. (3)": ("multistep", {"steps": 3, "window": 3}),
    "First-order": ("first-order", {}),
}
"""The methods of Tables 2 and 3, then those that Figure 4 and Section 5.1 add."""
TABLE_METHODS = ("Scratch", "Baseline", "Multi-step")
TABLE_OPTIMIZERS = {2: "sgd", 3: "adam"}
"""Inner optimiser of each of the paper's tables."""
TRANSFER_COLUMNS = {entry.title: name for name, entry in data.LABELLED.items() if not entry.generated}
"""The tables' columns, and the names of their data sets."""
SEEDS = (0, 1, 2)
"""The paper's ± is over three models."""
_ROW = ("steps", "window", "transfer_rate", "epochs", "seed")
"""Fields in which runs of one preset may differ: the name of a row tells them, or the seed."""


def transfer_methods(names: Sequence[str] = TABLE_METHODS) -> list[Method]:
    """Methods by their names in the tables. Raises ConfigError for an unknown one."""
    if unknown := [name for name in names if name not in TRANSFER_SPECS]:
        raise ConfigError(f"unknown method {unknown[0]!r}: choose from {'; '.join(TRANSFER_SPECS)}")
    return [TRANSFER_SPECS[name] for name in names]


def transfer_steps_methods(steps: int = 2, window: int = 2) -> list[Method]:
    """No transfer, T steps exactly, and T steps in windows of N."""
    return [("scratch", {}), ("multistep", {"steps": steps}), ("multistep", {"steps": steps, "window": window})]


def train_transfer(
    preset: str,
    dataset: str,
    optimizers: Sequence[str],
    methods: Sequence[Method],
    seeds: Sequence[int],
    epochs: int | None,
    device: str,
    force: bool,
    say: Callable[[str], None] = print,
) -> tuple[list[Result], str]:
    """Trains each method on a data set, or on glyphs where the data or the source network cannot be had.

    Returns the results, and in words which data and source and why. Finished runs with the same config are reused
    unless `force`. The presets `cpu` and `paper` insist on the data set.
    """
    dataset, why = _live_data(preset, dataset)
    changes = {} if epochs is None else {"epochs": epochs}
    results = []
    for optimizer in optimizers:
        for estimator, own in methods:
            for seed in seeds:
                config = preset_config(preset, dataset, estimator, optimizer, seed=seed, **own, **changes)
                results.append(transfer.train(config, device, resume=not force, force=force))
                say(describe_transfer(results[-1]))
    return results, why


def _live_data(preset: str, dataset: str) -> tuple[str, str]:
    title = find_labelled(dataset).title
    if preset == "smoke":
        dataset, why = "glyphs-rgb", f"The smoke preset always uses procedurally drawn glyphs, not {title}."
    elif preset in runs.COMMITTED_PRESETS:
        why = f"These runs used {title}."
    elif not sources.available(source := preset_config(preset, dataset, "scratch").source):
        missing = f"the weights of the source network {source} are not in the data folder"
        dataset, why = "glyphs-rgb", f"These runs used procedurally drawn glyphs, not {title}, because {missing}."
    else:
        dataset, why = data.real_or_glyphs(dataset)
    source = preset_config(preset, dataset, "scratch").source
    untrained = ", whose weights are random: it has nothing to teach" if source.startswith("random") else ""
    return dataset, f"{why} The source network is {source}{untrained}."


def describe_transfer(result: Result) -> str:
    """One line on one run."""
    metrics, where = result["metrics"], result["provenance"]
    return (
        f"{row_name(result)} ({result['setting']}), {result['data']['title']}, seed {result['config']['seed']}: "
        f"{metrics['accuracy']:.2f} % after {metrics['iterations']:,} iterations in {where['train_seconds']:.0f} s on "
        f"{where['device']}"
    )


def images_in_words(name: str) -> str:
    """Counts, origin, licence and hash of a data set for transfer, in Markdown."""
    entry, images = data.LABELLED[name], data.load_labelled(name)
    train, validation, test = (f"{len(images.labels[split]):,}" for split in ("train", "validation", "test"))
    return (
        f"**{entry.title}**: {images.way} classes; {train} images for training, {validation} for validation, {test} "
        f"for the test, {images.side}x{images.side} pixels. Source: {entry.source}. Licence: {entry.licence}. "
        f"SHA-256 of the arrays: `{images.hash[:16]}`."
    )


def transfer_runs(optimizer: str | None = None, dataset: str | None = None) -> list[Result]:
    """Committed runs whose config is a preset's own but for what the name of a row tells, and the seed."""
    wanted = {"optimizer": optimizer, "dataset": dataset}
    return [
        result
        for result in runs.results_with_defaults("transfer", TransferConfig)
        if all(value in (None, result["config"][name]) for name, value in wanted.items())
        and _is_preset(result["config"])
    ]


def _is_preset(config: dict[str, Any]) -> bool:
    names = ("preset", "dataset", "estimator", "optimizer")
    own = preset_config(*(config[name] for name in names), **{name: config[name] for name in _ROW})
    return runs.plain(own) == config


def row_name(result: Result) -> str:
    """The method, with its epochs where they are not the preset's."""
    config = result["config"]
    usual = preset_config(*(config[name] for name in ("preset", "dataset", "estimator", "optimizer"))).epochs
    return result["method"] if config["epochs"] == usual else f"{result['method']}, {config['epochs']} epochs"


def transfer_rows(results: Sequence[Result]) -> Rows:
    """Runs of one data set, optimiser and preset by row, in the tables' order; of a row in the order of their seeds."""
    rows: Rows = {}
    for result in sorted(results, key=lambda r: (place_of(r["method"]), r["config"]["epochs"], r["config"]["seed"])):
        rows.setdefault(row_name(result), []).append(result)
    return rows


def place_of(method: str) -> int:
    """Where a method stands in the tables."""
    return TRANSFER_METHODS.index(method) if method in TRANSFER_METHODS else len(TRANSFER_METHODS)


def _by_preset(results: Sequence[Result], title: str) -> dict[str, Rows]:
    """The rows of a data set: those of the `paper` preset first."""
    own = [result for result in results if result["data"]["title"] == title]
    return {p: transfer_rows([r for r in own if r["config"]["preset"] == p]) for p in reversed(runs.COMMITTED_PRESETS)}


def transfer_table(results: Sequence[Result]) -> str:
    """Our Table 2 or 3, in Markdown: mean and standard deviation over seeds of the `paper` preset where it has been
    run, else of the `cpu` preset, else "not run".

    results: committed ones of the table's optimiser. Rows that the paper lacks, as Scratch with more epochs, are added.
    """
    found = {title: _by_preset(results, title) for title in TRANSFER_COLUMNS}
    known = {name for by_preset in found.values() for rows in by_preset.values() for name in rows}
    names = [name for base in TABLE_METHODS for name in (base, *sorted(known)) if name.partition(", ")[0] == base]
    lines = []
    for name in dict.fromkeys(names):
        seeds = [next((r[name] for r in by_preset.values() if name in r), []) for by_preset in found.values()]
        lines.append([name, *(f"{mean_text(accuracies(s))} ({_evidence(s)})" if s else "not run" for s in seeds)])
    return markdown(["Method", *TRANSFER_COLUMNS], lines)


def accuracies(results: Sequence[Result]) -> list[float]:
    """Test accuracies (%) of the selected networks."""
    return [result["metrics"]["accuracy"] for result in results]


def _evidence(seeds: Sequence[Result]) -> str:
    return f"{seeds[0]['config']['preset']}, {len(seeds)} seed{'s' if len(seeds) > 1 else ''}"


def mean_text(values: Sequence[float], digits: int = 2) -> str:
    """Mean and standard deviation; the value alone where there is one."""
    spread = f" ±{statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def transfer_commands(
    preset: str, optimizer: str, results: Sequence[Result], names: Sequence[str], datasets: Sequence[str]
) -> str:
    """The commands that would fill what this preset has not run, as a code block; empty if there are none."""
    lines = []
    for dataset in datasets:
        rows = _by_preset(results, data.LABELLED[dataset].title)[preset]
        own = []
        for name in names:
            done = {result["config"]["seed"] for result in rows.get(name, [])}
            if missing := [str(seed) for seed in SEEDS if seed not in done]:
                own.append(f"for seed in {' '.join(missing)}; do {_command(preset, optimizer, dataset, name)}; done")
        if own:
            given = "" if data.LABELLED[dataset].raw_files() else " --from DIR"
            lines += [f"msmeta data prepare {dataset}{given}", *own]
    return "```bash\n" + "\n".join(lines) + "\n```" if lines else ""


def _command(preset: str, optimizer: str, dataset: str, name: str) -> str:
    estimator, own = TRANSFER_SPECS[name]
    flags = "".join(f" --{field.replace('_', '-')} {value:g}" for field, value in own.items())
    return (
        f"msmeta train transfer --dataset {dataset} --estimator {estimator}{flags} --optimizer {optimizer} "
        f"--preset {preset} --seed $seed"
    )


def transfer_presets(
    optimizer: str = "sgd", presets: Sequence[str] = ("paper", "cpu", "quick"), dataset: str = "cifar-100"
) -> str:
    """What a run of each preset is, side by side, in Markdown; the `paper` preset is the paper's protocol."""
    configs = [preset_config(preset, dataset, "multistep", optimizer) for preset in presets]
    scratch = [preset_config(preset, dataset, "scratch", optimizer) for preset in presets]
    counts = data.TABLE_6[dataset]
    images = [config.train_images or counts["train"] for config in configs]
    lines = {
        "training images": [f"{count:,}" for count in images],
        "validation images, for the choice of the epoch": [f"{counts['validation']:,}"] * len(configs),
        "test images": [f"{counts['test']:,}"] * len(configs),
        "source network": [config.source for config in configs],
        "target network": [_network(config.target, config.width) for config in configs],
        "images of a minibatch": [str(config.batch) for config in configs],
        "epochs": [str(config.epochs) for config in configs],
        "iterations": [f"{config.epochs * (n // config.batch):,}" for config, n in zip(configs, images, strict=True)],
        "first rate of φ, annealed by Eq. 55": [f"{c.lr:g}, weight decay {c.weight_decay:g}" for c in configs],
        "first rate of φ, Scratch": [f"{config.lr:g}" for config in scratch],
        "rate of θ (Adam)": [f"{config.meta_lr:g}, weight decay {config.meta_weight_decay:g}" for config in configs],
        "β": [f"{config.beta:g}" for config in configs],
    }
    return markdown(["", *(f"`{preset}`" for preset in presets)], [[name, *cells] for name, cells in lines.items()])


def _network(target: str, width: float) -> str:
    return target if width == 1 else f"{target}, channels x {width:g}"


def transfer_tuning_table(optimizer: str) -> str:
    """How the `cpu` preset's first rates of φ and θ were chosen: accuracy (%) on validation images, in Markdown.

    One row a method and rate of θ, one column a rate of φ, with the number of pairs that are off; the rates that the
    preset has are bold.
    """
    tried: dict[str, dict[float, dict[float, Result]]] = {}
    for result in runs.results_with_defaults("transfer-tuning", TransferConfig):
        config = result["config"]
        if config["optimizer"] == optimizer:
            tried.setdefault(result["method"], {}).setdefault(config["meta_lr"], {})[config["lr"]] = result
    rates = sorted({lr for rows in tried.values() for row in rows.values() for lr in row})
    lines = [
        [name, "-" if name == "Scratch" else f"{meta_lr:g}", *(_tuning_cell(row.get(lr)) for lr in rates)]
        for name in sorted(tried, key=place_of)
        for meta_lr, row in sorted(tried[name].items())
    ]
    return markdown(["Method", "rate of θ", *(f"{lr:g}" for lr in rates)], lines)


def _tuning_cell(result: Result | None) -> str:
    if result is None:
        return "-"
    config, text = result["config"], f"{result['metrics']['accuracy']:.2f}"
    own = preset_config(*(config[name] for name in ("preset", "dataset", "estimator", "optimizer")))
    if (config["lr"], config["meta_lr"]) == (own.lr, own.meta_lr):
        text = f"**{text}**"
    return f"{text} ({pairs_off(result)} off)" if result["source"] else text


def pairs_off(result: Result) -> int:
    """Pairs with λ under 0.01: they take no part, and ReLU6 passes them hardly any gradient to come back."""
    return sum(weight < 0.01 for row in result["metrics"]["pair_weights"] for weight in row)


def transfer_conditions(results: Sequence[Result]) -> str:
    """What each row was run with, in Markdown: all that is known to move accuracy by points. ± is over seeds."""
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result["data"]["title"], result["setting"], result["config"]["preset"]), []).append(result)
    lines = []
    for (title, setting, preset), own in groups.items():
        for name, seeds in transfer_rows(own).items():
            config, transfers, metrics = seeds[0]["config"], seeds[0]["source"], [r["metrics"] for r in seeds]
            where = [result["provenance"] for result in seeds]
            lines.append(
                [
                    f"{title}, {setting}, {name}",
                    preset,
                    _listed(r["config"]["seed"] for r in seeds),
                    " / ".join(f"{count:,}" for count in metrics[0]["images"].values()),
                    config["source"] if transfers else "-",
                    _network(config["target"], config["width"]),
                    f"{config['steps']} / {config['window']}" if transfers else "-",
                    f"{config['lr']:g} / {config['momentum']:g} / {config['weight_decay']:g}",
                    f"{config['meta_lr']:g}" if transfers else "-",
                    config["batch"],
                    config["epochs"],
                    f"{metrics[0]['iterations']:,}",
                    _listed(m["selected_epoch"] for m in metrics),
                    *(mean_text([m[k] for m in metrics]) for k in ("validation_accuracy", "accuracy", "last_accuracy")),
                    mean_text([w["train_seconds"] for w in where], 0),
                    _listed(dict.fromkeys(f"{w['device']}, {w['threads']} threads" for w in where)),
                    _listed(dict.fromkeys(f"torch {w['torch']}, {(w['commit'] or 'no commit')[:7]}" for w in where)),
                ]
            )
    head = [
        "Run", "preset", "seeds", "images for training / validation / test", "source", "target", "T / N",
        "lr / momentum or β₁ / weight decay", "meta lr", "minibatch", "epochs", "iterations", "epochs selected",
        "their validation accuracy (%)", "their test accuracy (%)", "last epoch's test accuracy (%)", "training (s)",
        "device", "code",
    ]  # fmt: skip
    return markdown(head, lines)


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))


def live_transfer_table(results: Sequence[Result]) -> str:
    """Live runs beside the paper's cell of the same method, data set and optimiser, in Markdown."""
    rows = []
    for result in results:
        config, metrics = result["config"], result["metrics"]
        reported = transfer_cell(config["optimizer"], result["method"], result["data"]["title"])
        rows.append(
            [
                f"{result['data']['title']}, {result['setting']}",
                row_name(result),
                config["seed"],
                f"{metrics['accuracy']:.2f}",
                f"{reported.value:g} ±{reported.spread:g}" if reported else "-",
                f"{metrics['validation_accuracy']:.2f}",
                config["epochs"],
                f"{metrics['iterations']:,}",
                f"{1000 * metrics['seconds_per_iteration']:.0f}",
                f"{result['provenance']['train_seconds']:.0f}",
            ]
        )
    head = [
        "Setting", "Method", "seed", "Live run (%)", "Paper (%)", "Validation (%)", "Epochs", "Iterations",
        "ms an iteration", "Training (s)",
    ]  # fmt: skip
    return markdown(head, rows)


def transfer_cell(optimizer: str, method: str, title: str) -> paper.Cell | None:
    """The paper's cell of Table 2 or 3; None where it has none."""
    (number,) = [number for number, own in TABLE_OPTIMIZERS.items() if own == optimizer]
    cells = {name.partition(" (")[0]: row for name, row in paper.table(number).cells.items()}
    return cells.get(method, {}).get(title)


@dataclass(frozen=True)
class _Claim:
    """`method` less `base` is more than `bound` points."""

    words: str
    method: str
    base: str
    bound: float = 0.0


_CLAIMS = (
    _Claim("competitive with the Baseline", "Multi-step", "Baseline", -1.0),
    _Claim("meta-learning boosts transfer", "Baseline", "Scratch"),
    _Claim("meta-learning boosts transfer", "Multi-step", "Scratch"),
)


def _equal_time_claims(rows: Rows) -> list[_Claim]:
    """Multi-step with more epochs against the Baseline, and what transfers against Scratch with more epochs."""
    pairs = [(name, "Baseline") for name in rows if name.startswith("Multi-step, ")]
    pairs += [(method, name) for name in rows if name.startswith("Scratch, ") for method in TABLE_METHODS[1:]]
    return [_Claim("not in the paper", *pair) for pair in pairs]


def transfer_claims(results: Sequence[Result]) -> str:
    """Each claim on Table 2 or 3 for the data sets that were run, in Markdown.

    A difference is paired over seeds: mean, standard deviation, and the p-value of the two-sided t test that it is the
    claim's bound. "holds" and "does not hold": p < 0.05 and the mean on that side; else "undecided". Rows with more
    epochs than the preset's, of which the paper says nothing, are added.
    """
    lines = []
    for title in TRANSFER_COLUMNS:
        for rows in _by_preset(results, title).values():
            for claim in (*_CLAIMS, *_equal_time_claims(rows)) if rows else ():
                optimizer = results[0]["config"]["optimizer"]
                reported = [transfer_cell(optimizer, name, title) for name in (claim.method, claim.base)]
                lines.append(
                    [
                        title,
                        claim.words,
                        f"{claim.method} less {claim.base}",
                        f"> {claim.bound:g}",
                        f"{reported[0].value - reported[1].value:+.2f}" if all(reported) else "-",
                        tested(paired_accuracies(rows, claim.method, claim.base), claim.bound),
                    ]
                )
    return markdown(["Data", "The paper's words", "Difference (points)", "Claim", "Paper", "Ours"], lines)


def paired_accuracies(rows: Rows, method: str, base: str) -> list[float]:
    """Differences of test accuracy in points, one for each seed that both rows have."""
    ours, theirs = (
        {result["config"]["seed"]: result["metrics"]["accuracy"] for result in rows.get(name, [])}
        for name in (method, base)
    )
    return [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]


def tested(differences: Sequence[float], bound: float) -> str:
    """Mean, standard deviation, count, p-value and verdict on the claim that the mean is more than `bound`."""
    if len(differences) < 2:
        return f"{differences[0]:+.2f}, n = 1: no test" if differences else "not run"
    mean, spread = statistics.mean(differences), statistics.stdev(differences)
    p = t_test(differences, bound)
    verdict = "undecided" if p >= 0.05 else "holds" if mean > bound else "does not hold"
    return f"{mean:+.2f} ±{spread:.2f}, n = {len(differences)}, {p_text(p)}: {verdict}"


def p_text(p: float) -> str:
    """A p-value to three digits."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def t_test(values: Sequence[float], bound: float) -> float:
    """p-value of the two-sided one-sample t test that the mean is `bound`, of at least two values."""
    off, error = abs(statistics.mean(values) - bound), statistics.stdev(values) / math.sqrt(len(values))
    return _student(off / error, len(values) - 1) if error else float(off == 0)


def _student(t: float, freedom: int) -> float:
    """Probability that Student's t lies farther from 0: finite sums (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle, odd = math.atan(t / math.sqrt(freedom)), freedom % 2
    term = math.cos(angle) ** odd
    total = term if freedom > 1 else 0.0
    for power in range(2 + odd, freedom - 1, 2):
        term *= math.cos(angle) ** 2 * (power - 1) / power
        total += term
    inside = math.sin(angle) * total
    return 1 - (2 / math.pi * (angle + inside) if odd else inside)


def text_numbers() -> str:
    """What the paper gives in its text alone, on Bird: accuracy and time without inner steps, and first-order."""
    cells = [*paper.without_transfer_steps().values(), paper.first_order_accuracy()]
    accuracy, seconds, first_order = (f"{cell.value:g} ±{cell.spread:g}" for cell in cells)
    rows = [["T = 0, Adam", accuracy, seconds], ["First-order", first_order, "-"]]
    return markdown(["Method", "Accuracy (%)", "Seconds an epoch"], rows)
