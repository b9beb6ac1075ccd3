"""The tables of the page on rerunning: of every notebook's parameters, and of what each preset takes."""

import json
import re
from pathlib import Path

import papermill
from stored_runs import result

from msmeta.report import rerun

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def test_every_notebook_has_its_parameters_as_papermill_has_them():
    found = re.findall(r"^\*\*([^*\n]+)\*\*\n\n(.+?)(?:\n\n|\Z)", rerun.parameters(NOTEBOOKS), re.MULTILINE | re.DOTALL)
    tables = {name: table for names, table in found for name in names.split(", ")}
    assert tables.keys() == {path.stem for path in NOTEBOOKS.glob("*.ipynb")}
    for name, table in tables.items():
        known = papermill.inspect_notebook(str(NOTEBOOKS / f"{name}.ipynb"))
        assert re.findall(r"^\| `(\w+): ", table, re.MULTILINE) == list(known)
        for parameter in known.values():
            assert f"{parameter['inferred_type_name']} = {parameter['default']}` | {parameter['help']} |" in table


def test_what_was_not_measured_says_how_and_what_was_run_is_counted(store, tmp_path):
    assert "| `quick` | not measured: `msmeta bench books --preset quick` | - | - | - | - |" in rerun.presets()
    assert "| `paper` | not measured: `msmeta bench books --preset paper` | - | none | - | - |" in rerun.presets()
    store(result(), result(seed=1), result("Scratch"))
    (tmp_path / "benchmarks").mkdir()
    origin = {"device": "a processor", "threads": 2, "torch": "2", "commit": "abc", "others": 0.0}
    metrics = {"seconds": 540.0, "page_bytes": 30_000_000, "result_bytes": 1_200_000}
    metrics["pages"] = {"table_1": 99.0, "recipes/maml": 3.4, "recipes/which": 12.3}
    (tmp_path / "benchmarks" / "book-quick.json").write_text(
        json.dumps({"config": {}, "metrics": metrics, "provenance": origin})
    )
    text = rerun.presets()
    assert "| `quick` | 9.0 minutes | 31.2 MB | - | - | - |" in text and "`quick`: a processor, 2 threads" in text
    assert "Of its 2 recipes the slowest, `which`, ran in 12 seconds." in text
    size = sum(path.stat().st_size for path in (tmp_path / "transfer").iterdir()) / 1e6
    assert f"| `cpu` | not measured: `msmeta bench books --preset cpu` | - | 3 | 0.1 | {size:.1f} MB |" in text
