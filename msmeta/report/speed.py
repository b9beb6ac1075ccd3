"""Speed of a few-shot meta-iteration: beside a plain loop, above its floor, and by formulation of the convolution."""

from __future__ import annotations

from msmeta import runs
from msmeta.experiments.few_shot import method
from msmeta.report.frame import commit_in_words
from msmeta.report.style import Result, markdown, origin, stored_benchmark

STEP_METHODS = {"1": method("multistep"), "first-order": method("first-order")} | {
    str(window): method("multistep", window) for window in (2, 4, 8)
}


def step_times() -> Result:
    """The committed result of benchmarks/few_shot_step.py. Raises UserError for none."""
    return stored_benchmark("benchmarks/few_shot_step.json", "few_shot_step.py")


def step_table(result: Result) -> str:
    """A meta-iteration on a CPU beside a plain autograd loop of the same run, in Markdown; ratios to the exact loop."""
    found, rows = result["metrics"], []
    base = found["plain 1"]["seconds"]
    for name, label in STEP_METHODS.items():
        plain, own = found[f"plain {name}"], found[f"msmeta {name}"]
        rows.append(
            [
                label, f"{plain['seconds']:.2f}", f"{plain['seconds'] / base:.2f}", f"{own['seconds']:.2f}",
                f"{own['seconds'] / base:.2f}", f"{own['seconds'] / own['floor_seconds']:.1f}",
                f"{plain['bytes'] / 1e6:.0f}", f"{own['bytes'] / 1e6:.0f}",
            ]
        )  # fmt: skip
    head = ["Method", "loop (s)", "ratio", "msmeta (s)", "ratio", "times the floor", "loop (MB)", "msmeta (MB)"]
    return markdown(head, rows)


def step_ratio(result: Result, method: str, base: str) -> str:
    """Time of one row of few_shot_step.py as a multiple of another's, for prose."""
    return f"{result['metrics'][method]['seconds'] / result['metrics'][base]['seconds']:.2f}"


def convolutions_table() -> str:
    """Committed results of benchmarks/convolutions.py, in Markdown."""
    rows = []
    for path in sorted((runs.results_root() / "benchmarks").glob("convolutions-*.json")):
        result = runs.read_result(path)
        config = result["config"]
        rows += [
            [
                f"{result['provenance']['device']}, {config['precision']}", row["formulation"],
                f"{1000 * row['first']:.2f}", f"{1000 * row['second']:.2f}", commit_in_words(result["provenance"]),
            ]
            for row in result["metrics"]
        ]  # fmt: skip
    head = ["Device, precision", "Formulation", "query pass (ms)", "recorded inner step (ms)", "code"]
    return markdown(head, rows)


def graph_table() -> str:
    """A whole meta-iteration on a GPU (benchmarks/few_shot_graph.py), in Markdown, or that it was not run."""
    path = runs.results_root() / "benchmarks" / "few_shot_graph-cuda.json"
    if not path.exists():
        return "Not run: `python benchmarks/few_shot_graph.py`, on a machine with a GPU."
    result = runs.read_result(path)
    rows = [
        [
            method(row["estimator"], row["window"]), row["precision"], f"{1000 * row['seconds']:.2f}",
            f"{row['seconds'] / row['floor_seconds']:.1f}", f"{row['bytes'] / 1e6:.0f}", f"{row['cosine']:.6f}",
            f"{row['relative_difference']:.1e}",
        ]
        for row in result["metrics"]
    ]  # fmt: skip
    head = [
        "Method", "precision", "time (ms)", "times the floor", "memory (MB)", "cosine with float32",
        "relative difference",
    ]  # fmt: skip
    return f"Measured with: {origin(result)}.\n\n" + markdown(head, rows)
