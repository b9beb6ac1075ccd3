"""Turn N on measured data: its numbers are those of results/, and the page shows them."""

import json
import statistics
import subprocess
from importlib.resources import files

import chromium
import numpy as np
import pytest
from playwright._impl._driver import compute_driver_executable
from playwright.sync_api import expect

from msmeta import runs
from msmeta.report import interactive, turn

MAML, WINDOWS, SHORT, OTHER = (
    {
        "setting": "Omniglot, 5-way 1-shot", "method": turn.MULTI_STEP, "exact": "MAML", "steps": steps,
        "windows": windows,
        "accuracy": accuracy, "half": 0.5, "seconds": seconds, "cost": cost, "cosine": cosine,
        "paper": {"value": 99.1, "spread": 0.77},
        "runs": {"preset": "cpu", "seeds": [0, 1], "iterations": [4000], "files": []},
    }
    for steps, windows, accuracy, seconds, cost, cosine in (
        (8, [1] * 8, 95.0, 0.4, {"seconds": 0.5, "bytes": 200e6}, {"value": 1.0, "half": 0.0, "problem": "Omniglot"}),
        (8, [4, 4], 94.25, 0.2, {"seconds": 0.25, "bytes": 150e6}, {"value": -0.5, "half": 0.1, "problem": "Omniglot"}),
        (4, [4], 90.0, None, None, None),
        (16, [8, 4, 4], 96.0, 0.3, None, None),
    )
)  # fmt: skip
FIRST_ORDER = {**SHORT, "method": "FO-MAML", "windows": [], "steps": 8, "accuracy": None, "half": None, "runs": None}
OF_TRANSFER = {"setting": "CIFAR-100, SGD", "method": turn.TRANSFERRED, "exact": "L2T-ww", "steps": 2, "cost": None,
               "cosine": None}  # fmt: skip
TWICE, ONCE = MAML | OF_TRANSFER | {"windows": [1, 1]}, WINDOWS | OF_TRANSFER | {"windows": [2], "accuracy": 95.5}
POINTS = [MAML, WINDOWS, SHORT, OTHER, FIRST_ORDER, TWICE, ONCE]


def test_each_number_is_that_of_the_stored_files():
    """All of results/, whatever it holds: read here again, file by file."""
    root = runs.results_root()
    found = turn.points()
    for point in found:
        if point["runs"]:
            own = [json.loads((root / file).read_text()) for file in point["runs"]["files"]]
            assert point["accuracy"] == pytest.approx(statistics.fmean(run["metrics"]["accuracy"] for run in own))
            for run in own:
                config = run["config"]
                optimizers = {"sgd": "SGD", "adam": "Adam"}
                few = run["kind"] == "few-shot"
                setting = f"{config['way']}-way {config['shot']}-shot" if few else optimizers[config["optimizer"]]
                assert point["setting"] == f"{run['data']['title']}, {setting}"
                steps = 0 if config["estimator"] == "scratch" else config["steps"]
                windows = config["estimator"] == "multistep" and steps > 0
                assert (point["steps"], bool(point["windows"])) == (steps, windows)
                window = config["window"]
                if point["windows"] and isinstance(window, int):
                    assert point["windows"][0] == window and sum(point["windows"]) == config["steps"]
                elif point["windows"]:
                    assert point["windows"] == window
            assert point["runs"]["seeds"] == [run["config"]["seed"] for run in own]
    costs = json.loads((root / "benchmarks" / "few_shot_costs.json").read_text())["metrics"]
    shown = [point["cost"] for point in found if point["cost"]]
    stored = [{name: row[name] for name in ("seconds", "bytes")} for row in costs if row["window"] <= row["steps"]]
    assert sorted(map(str, shown)) == sorted(map(str, stored))
    near = [row for path in (root / "meta-gradients").glob("*.json") for row in json.loads(path.read_text())["metrics"]]
    means = [statistics.fmean(np.atleast_1d(row["cosine"])) for row in near if row.get("cosine")]
    assert all(
        min(abs(point["cosine"]["value"] - mean) for mean in means) < 1e-12 for point in found if point["cosine"]
    )
    keys = [(p["setting"], p["method"], p["steps"], tuple(p["windows"])) for p in found]
    assert len(keys) == len(set(keys))


def test_where_nothing_was_run_the_paper_s_numbers_stand_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path))
    found = turn.points()
    assert found == turn.view().state["points"] and all(point["accuracy"] is None for point in found)
    values = {(p["setting"], p["method"], p["steps"], tuple(p["windows"])): p["paper"]["value"] for p in found}
    printed = json.loads(files("msmeta.report").joinpath("paper_results.json").read_text())["4"]
    table = {str(row["config"]): [value and value[0] for value in row["values"]] for row in printed["rows"]
             if not row.get("quoted")}  # fmt: skip
    columns = [column["config"] for column in printed["columns"]]
    settings = [f"Omniglot, {column['way']}-way {column['shot']}-shot" for column in columns]
    for window in (2, 4, 8):
        own = [values[setting, turn.MULTI_STEP, 8, (window,) * (8 // window)] for setting in settings]
        assert own == table[str({"estimator": "multistep", "window": window})]


def test_where_nothing_was_transferred_the_paper_s_numbers_stand_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path))
    found = {(p["setting"], p["method"], tuple(p["windows"])): p["paper"]["value"] for p in turn.points()}
    printed = json.loads(files("msmeta.report").joinpath("paper_results.json").read_text())
    methods = ("Scratch", ()), (turn.TRANSFERRED, (1, 1)), (turn.TRANSFERRED, (2,))
    for number, optimizer in (("2", "SGD"), ("3", "Adam")):
        for i, title in enumerate(("CIFAR-100", "STL-10", "Bird", "Indoor", "Action", "Dog")):
            own = [found[f"{title}, {optimizer}", *method] for method in methods]
            assert own == [row["values"][i][0] for row in printed[number]["rows"]], title


def test_windows_by_their_names():
    node, _ = compute_driver_executable()
    script = "const m = await import(process.argv[1]);"
    script += "console.log(JSON.stringify([[4, 4], [8], [4, 4, 1], [1, 1, 2], [2, 6], [1]].map(m.windowName)))"
    module = (turn.__file__.rpartition("/")[0]) + "/turn.js"
    command = [node, "--no-warnings", "--input-type=module", "-e", script, f"file://{module}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["N = 4", "N = 8", "N = 4", "(1, 1, 2)", "(2, 6)", "N = 1"]


@pytest.fixture
def page(tmp_path):
    """The page's part in Chromium, on a phone."""
    html = interactive.Interactive("turn", points=POINTS, size="64 filters, 2 tasks", windows=[4, 4])._repr_html_()
    with chromium.opened(tmp_path, html, 360) as tab:
        yield tab


def shown(tab):
    """Text and number of each card."""
    cards = tab.locator(".turn-card").all()
    values = {card.get_attribute("data-card"): card.locator(".turn-value") for card in cards}
    return {name: (value.inner_text(), value.get_attribute("data-value")) for name, value in values.items()}


def test_the_sliders_choose_what_is_shown(page):
    assert shown(page) == {
        "accuracy": ("94.25 % ±0.50", "94.25"), "seconds": ("0.200 s", "0.2"), "time": ("250 ms", "0.25"),
        "memory": ("150 MB", "150000000"), "cosine": ("−0.500 ±0.100", "-0.5"),
    }  # fmt: skip
    summary = page.locator(".turn-summary")
    expect(summary).to_have_text(
        "Multi-step, N = 4, T = 8: takes 50 % of the exact method's time and 75 % of its memory, "
        "and is 0.75 points behind it in these runs."
    )
    expect(page.locator('[data-card="accuracy"] .turn-note')).to_have_text(
        "Paper: 99.1 % ±0.77. 2 seeds, preset cpu, 4,000 iterations. Exact (grey): 95.00 % ±0.50."
    )
    page.get_by_label("Window N").press("ArrowLeft")
    expect(summary).to_have_text("MAML, exact, T = 8.")
    assert shown(page)["accuracy"][0] == "95.00 % ±0.50"
    page.get_by_label("Steps T").press("ArrowRight")
    expect(page.locator("output").nth(1)).to_have_text("(8, 4, 4)")
    assert shown(page)["memory"] == ("not measured", "")
    page.get_by_label("Steps T").press("Home")
    expect(summary).to_have_text("Multi-step, N = 4, T = 4.")
    page.get_by_label("Method").select_option(label="FO-MAML")
    expect(page.locator('[data-card="accuracy"] .turn-note')).to_contain_text("Not run.")
    assert page.get_by_label("Window N").is_disabled() and page.get_by_label("Steps T").is_disabled()
    page.get_by_label("Setting").select_option(label="CIFAR-100, SGD")
    expect(summary).to_have_text("L2T-ww, exact, T = 2.")
    page.get_by_label("Window N").press("ArrowRight")
    expect(summary).to_have_text(
        "Multi-step, N = 2, T = 2: takes 50 % of the exact method's time, and is 0.50 points ahead of it in these runs."
    )


def test_it_fits_a_phone_and_fingers(page):
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for name in ("Setting", "Method", "Steps T", "Window N"):
        box = page.get_by_label(name).bounding_box()
        assert box["height"] >= 24 and box["x"] + box["width"] <= 360
