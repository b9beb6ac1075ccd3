"""Speed of a few-shot meta-iteration: beside a plain loop, above its floor, and by formulation of the convolution."""

from __future__ import annotations

from msmeta import runs
from msmeta.experiments.few_shot import method
from msmeta.report.frame import commit_in_words
from msmeta.report.style import Result, disturbance, find_benchmark, measured_with, table_of

STEP_METHODS = {"1": method("multistep"), "first-order": method("first-order")} | {
    str(window): method("multistep", window) for window in (2, 4, 8)
}


def step_table(result: Result) -> str:
    """A meta-iteration on a CPU beside a plain autograd loop of the same run, in Markdown; ratios to the exact loop."""
    rows = []
    for name, label in STEP_METHODS.items():
        loop, own = (result["metrics"][f"{code} {name}"] for code in ("plain", "msmeta"))
        loop_ratio, own_ratio = (step_ratio(result, f"{code} {name}", "plain 1") for code in ("plain", "msmeta"))
        rows.append(
            f"{label} | {loop['seconds']:.2f} | {loop_ratio} | {own['seconds']:.2f} | {own_ratio} | "
            f"{own['seconds'] / own['floor_seconds']:.1f} | {loop['bytes'] / 1e6:.0f} | {own['bytes'] / 1e6:.0f}"
        )
    return table_of("Method | loop (s) | ratio | msmeta (s) | ratio | times the floor | loop (MB) | msmeta (MB)", rows)


def step_ratio(result: Result, method: str, base: str) -> str:
    """Time of one row of few_shot_step.py as a multiple of another's."""
    return f"{result['metrics'][method]['seconds'] / result['metrics'][base]['seconds']:.2f}"


def convolutions_table() -> str:
    """Committed results of benchmarks/convolutions.py, in Markdown."""
    results = map(runs.read_result, sorted((runs.results_root() / "benchmarks").glob("convolutions-*.json")))
    return table_of(
        "Device, precision | Formulation | query pass (ms) | recorded inner step (ms) | code",
        (
            f"{result['provenance']['device']}, {result['config']['precision']} | {row['formulation']} | "
            f"{1000 * row['first']:.2f} | {1000 * row['second']:.2f} | {commit_in_words(result['provenance'])}"
            f"{disturbance(result['provenance'])}"
            for result in results
            for row in result["metrics"]
        ),
    )


def graph_table() -> str:
    """A whole meta-iteration on a GPU (benchmarks/few_shot_graph.py), in Markdown, or that it was not run."""
    result = find_benchmark("benchmarks/few_shot_graph")
    if result is None:
        return "Not run: `python benchmarks/few_shot_graph.py`, on a machine with a GPU."
    rows = table_of(
        "Method | precision | time (ms) | times the floor | memory (MB) | cosine with float32 | relative difference",
        (
            f"{method(row['estimator'], row['window'])} | {row['precision']} | {1000 * row['seconds']:.2f} | "
            f"{row['seconds'] / row['floor_seconds']:.1f} | {row['bytes'] / 1e6:.0f} | {row['cosine']:.6f} | "
            f"{row['relative_difference']:.1e}"
            for row in result["metrics"]
        ),
    )
    return f"{measured_with(result)}\n\n{rows}"
