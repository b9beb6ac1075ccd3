"""The line under a table or figure: what it says, and what it offers for download."""

import base64
import io
import re

import pandas as pd
from stored_runs import committed, of

from msmeta.report import provenance


def csv_of(line):
    (encoded,) = re.findall(r'href="data:text/csv;base64,([^"]+)"', line._repr_html_())
    return pd.read_csv(io.BytesIO(base64.b64decode(encoded)))


def test_the_line_of_runs_names_data_device_and_commit_and_offers_its_rows_and_files():
    stored = [
        run
        | {
            "file": f"transfer/{i}.json",
            "provenance": run["provenance"] | {"finished": f"2026-11-0{1 + i % 3}T08:00:00Z"},
        }
        for i, run in enumerate(committed())
    ]
    found = of(*stored)
    line = provenance.of_runs(found, "table_2")
    assert str(line) == (
        "CIFAR-100 (SHA-256 0); split seeded; preset cpu; seeds 0, 1, 2; a processor, 2 threads; torch 2; commit abc; "
        f"2026-11-01 to 2026-11-03. Made by: {provenance.command_of(found)}"
    )
    page = line._repr_html_()
    assert 'download="table_2.csv"' in page and 'href="_sources/table_2.ipynb"' in page
    assert re.findall(r'href="(results/[^"]+)"', page) == [f"results/{file}" for file in found["file"]]
    rows = csv_of(line)
    assert list(rows["accuracy"]) == list(found["accuracy"]) and list(rows["seed"]) == list(found["seed"])
    assert list(rows["label"]) == list(found["label"]) and not {"log", "curve", "config"} & set(rows.columns)
    assert provenance.of_runs(found.iloc[:0], "x") == ""


def test_what_makes_runs_are_the_sweeps_that_ask_for_them(tmp_path, monkeypatch):
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path))
    found = of(*committed())
    assert provenance.command_of(found).startswith("msmeta train transfer --dataset cifar-100 --estimator scratch")
    (tmp_path / "other" / "sweeps").mkdir(parents=True)
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path / "other"))
    text = "experiment: transfer\npreset: cpu\nruns:\n- {dataset: cifar-100, estimator: scratch, optimizer: sgd}\n"
    (tmp_path / "other" / "sweeps" / "mine.yaml").write_text(text)
    assert provenance.command_of(found) == "msmeta sweep results/sweeps/mine.yaml"


def test_live_runs_have_no_stored_file():
    assert 'href="results/' not in provenance.of_runs(of(*committed()), "x")._repr_html_()


def test_the_line_of_a_measurement_offers_its_rows():
    where = {"device": "a processor, 2 cores", "threads": 1, "torch": "2", "commit": "0123456789", "others": 0.0}
    rows = [{"steps": 8, "seconds": 0.25}, {"steps": 16, "seconds": 0.5}]
    measured = {"config": {}, "metrics": rows, "provenance": where}
    line = provenance.of_benchmark(measured, "scaling", "scaling")
    assert "a processor, 2 cores, 1 thread; torch 2; commit 0123456" in str(line)
    assert 'href="results/benchmarks/scaling.json"' in line._repr_html_() and line.command == "msmeta bench scaling"
    assert csv_of(line).to_dict("records") == [{"measurement": "benchmarks/scaling"} | row for row in rows]
    on_gpu = {"config": {"tasks": 2}, "metrics": {"plain 1": rows[0]}, "provenance": where | {"device": "NVIDIA H100"}}
    assert provenance.of_benchmark(on_gpu, "a", "speed").command == "msmeta bench a --device cuda"
    line = provenance.of_measurements({"x/a": on_gpu, "x/b": measured}, "bench", "speed")
    assert csv_of(line).iloc[0].to_dict()["name"] == "plain 1" and len(line.rows) == 3
    assert line.files == ["x/a-cuda.json", "x/b.json"] and "2 tasks" in str(line)
    for others, said in ((2.0, "up to 2.00 cores"), (None, "others' work cannot be seen")):
        disturbed = on_gpu | {"provenance": where | {"others": others}}
        assert said in str(provenance.of_measurements({"x/a": measured, "x/b": disturbed}, "bench", "speed"))
    assert provenance.of_benchmark(None, "scaling", "scaling") == provenance.of_measurements({}, "x", "x") == ""
