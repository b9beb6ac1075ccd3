"""The picture sheet, which network the page takes, and the notebook's run by papermill and its uploads."""

from datetime import datetime
from pathlib import Path

import nbformat
import pytest
import torch
from scripts import load

from msmeta import UserError, data
from msmeta.data.pictures import Pictures, read_pictures
from msmeta.experiments import few_shot, finished
from msmeta.experiments.few_shot.adapted import Adapted
from msmeta.report import adapted as report

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "adapt_yours.ipynb"


def adapted(times=1):
    """Three classes of two pictures each, and four pictures, one of which is in no folder, so many times."""
    x = data.load("glyphs").images["test"][:10]
    support = Pictures(x[:6], list("abcdef"), [name for name in ("one", "two", "three") for _ in range(2)])
    query = Pictures(x[6:].repeat(times, 1, 1, 1), list("ghij") * times, ["one", "two", None, "three"] * times)
    shares = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.3, 0.3, 0.4], [0.0, 0.0, 1.0]]).repeat(times, 1)
    return Adapted(["one", "two", "three"], support, query, shares, "support")


def test_the_sheet_shows_every_picture_with_its_answer():
    (figure,) = report.sheet(adapted(), "A title").panels
    axes = figure.get_axes()
    assert sum(len(axis.images) for axis in axes) == 10
    titles = [axis.get_title() for axis in axes if axis.get_title()]
    assert titles[:6] == ["one", "one", "two", "two", "three", "three"]
    assert titles[6:] == ["✓ one\n70 %", "✗ one\n50 %", "three\n40 %", "✓ three\n100 %"]
    assert figure.subfigs[0].get_suptitle() == "A title\nSupport set"


def test_of_many_pictures_the_first_are_shown():
    (figure,), most = report.sheet(adapted(50)).panels, report.ACROSS * report.MOST_ROWS
    assert sum(len(axis.images) for axis in figure.get_axes()) == 6 + most
    assert figure.subfigs[1].get_suptitle().endswith(f"(the first {most} of 200)")
    assert len(report.table(adapted(50)).splitlines()) == 2 + most
    assert "| `i` | - | three | 40 |" in report.table(adapted())


def test_the_page_takes_a_committed_theta_where_there_is_one(tmp_path, monkeypatch):
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path))
    monkeypatch.setattr(finished, "disagreements", lambda found: iter(()))  # its accuracies are made up
    monkeypatch.setitem(report.USUAL, "dataset", "glyphs")
    found, why = report.learner(None, "smoke", "cpu")
    assert found.config.preset == "smoke" and why.startswith("No committed θ is here, so a network was trained now")
    for seed, accuracy in ((0, 60.0), (1, 70.0)):
        config = few_shot.preset_config("cpu", "glyphs", 5, 1, "multistep", 4, seed=seed)
        result = {name: found.result[name] for name in ("log", "curve", "data", "provenance")}
        metrics = {**found.result["metrics"], "accuracy": accuracy}
        few_shot.run(config, tmp_path).save_result({**result, "metrics": metrics}, found.parameters())
    best, why = report.learner(None, "smoke", "cpu")
    assert best.config.seed == 1 and "committed run" in why and "70.0 % on its test classes" in why
    best.theta_path.unlink()
    assert report.learner(None, "smoke", "cpu")[0].config.seed == 0
    assert report.learner(found.name, "smoke", "cpu")[0].path == found.path
    with pytest.raises(UserError, match="there is no result omniglot-x"):
        report.learner("omniglot-x", "smoke", "cpu")


def test_the_shipped_drawings_are_five_signs():
    support, query = (read_pictures(report.shipped() / name, 1, 28) for name in ("support", "query"))
    assert len(set(support.classes)) == len(support.files) == 5 and set(query.classes) == set(support.classes)
    assert len(query.files) == 10 and all(x.max() > 200 and x.float().mean() < 80 for x in (*support.x, *query.x))


def test_uploads_are_put_in_folders_of_their_class(tmp_path):
    """The cell as the notebook has it, with files as ipywidgets gives them."""
    namespace, seen = {}, []
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    exec(next(cell.source for cell in cells if "def into_folders(" in cell.source), namespace)

    def look(*folders):
        seen.append([sorted(path.parent.name for path in folder.rglob("*.png")) for folder in folders])

    box = namespace["uploads"](look)
    (learn, ask), button = box.children[0].children, box.children[1]
    content = memoryview((report.shipped() / "support/fish/1.png").read_bytes())
    for widget, names in ((learn, ["fish 1.png", "fish (2).png", "old_key-3.png", "7.png"]), (ask, ["x.png"])):
        widget.value = [
            {
                "name": name,
                "type": "image/png",
                "size": len(content),
                "content": content,
                "last_modified": datetime(2026, 1, 1),
            }
            for name in names
        ]
    button.click()
    assert seen == [[["7", "fish", "fish", "old_key"], ["x"]]]


def test_the_notebook_runs_without_a_browser(tmp_path, monkeypatch):
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path / "results"))
    target = tmp_path / "adapt_yours.ipynb"
    load("build.py").run_notebook(NOTEBOOK, target, {"preset": "smoke", "norm": "support", "steps": 2}, tmp_path)
    outputs = [out for cell in nbformat.read(target, as_version=4).cells for out in cell.get("outputs", [])]
    text = "".join(str(out.get("text", "")) + str(out.get("data", {}).get("text/markdown", "")) for out in outputs)
    parts = "No committed θ is here", "answered 10 pictures", "the smoke preset always does", "| `fish/1.png` | fish |"
    assert all(part in text for part in (*parts, "Uploading needs a live kernel"))
    assert not any("widget" in str(out) for out in outputs)
    assert sum("<svg" in str(out.get("data", {}).get("text/html", "")) for out in outputs) == 1
