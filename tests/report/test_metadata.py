"""What machines read of a built book: the RO-Crate of its results, and codemeta.json."""

import copy
import json
from pathlib import Path

import pytest
from stored_runs import committed

from msmeta.report import metadata

ROOT = Path(__file__).parents[2]


@pytest.fixture
def pages(tmp_path):
    """A book with two runs and a measurement."""
    where = {"device": "a processor", "threads": 1, "torch": "2", "python": "3", "commit": None,
             "finished": "2026-11-01T08:00:00Z"}  # fmt: skip
    stored = {
        f"transfer/run-{i}": run | {"provenance": {**where, "train_seconds": 1.0}}
        for i, run in enumerate(committed()[:2])
    }
    del stored["transfer/run-1"]["provenance"]["finished"]
    stored["benchmarks/scaling"] = {"config": {}, "metrics": [], "provenance": where}
    for name, result in stored.items():
        path = tmp_path / "results" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result))
    (tmp_path / "index.html").write_text("")
    return tmp_path


def test_each_result_is_described_with_what_made_it(pages):
    metadata.write(ROOT, pages)
    crate = json.loads((pages / metadata.CRATE).read_text())
    by_id = {entity["@id"]: entity for entity in crate["@graph"]}
    made = {entity["result"]["@id"]: entity for entity in crate["@graph"] if entity["@type"] == "CreateAction"}
    assert made.keys() == {
        f"results/{name}.json" for name in ("benchmarks/scaling", "transfer/run-0", "transfer/run-1")
    }
    run = made["results/transfer/run-0.json"]
    assert "endTime" not in made["results/transfer/run-1.json"]
    assert by_id[run["object"]["@id"]]["name"] == "CIFAR-100" and run["endTime"] == "2026-11-01T08:00:00Z"
    assert (
        by_id[run["instrument"]["@id"]]["@type"] == "SoftwareSourceCode"
        and "object" not in made["results/benchmarks/scaling.json"]
    )
    assert metadata.problems_of_crate(crate, pages) == []


def test_codemeta_is_of_this_project(pages):
    metadata.write(ROOT, pages)
    found = json.loads((pages / metadata.SOFTWARE).read_text())
    assert found["identifier"] == "msmeta" and found["license"] == "https://spdx.org/licenses/MIT"
    assert found["referencePublication"]["identifier"] == "https://arxiv.org/abs/2006.04298"
    assert metadata.problems_of_codemeta(found) == []
    assert metadata.problems_of_codemeta(found | {"licence": "MIT", "name": ""}) == [
        "codemeta has no property licence", "codemeta lacks name"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda graph: graph[1].pop("license"), "the root data entity has no license"),
        (lambda graph: graph[1].update(datePublished="yesterday"), "no Dataset with a date of ISO 8601"),
        (lambda graph: graph[0].pop("conformsTo"), "does not say what it conforms to"),
        (lambda graph: graph[1]["hasPart"].pop(0), "results/benchmarks/scaling.json is no part of the root"),
        (lambda graph: graph[-1].pop("@type"), "has no @type"),
        (lambda graph: graph.append(dict(graph[-1])), "one that another has"),
        (lambda graph: graph[-1].update(instrument={"@id": "#nothing"}), "refers to #nothing, which is not described"),
        (lambda graph: graph[2].update({"@id": "away.html"}), "away.html is not there"),
    ],
)
def test_what_the_specification_requires_is_checked(pages, harm, said):
    crate = copy.deepcopy(metadata.ro_crate(ROOT, pages))
    (pages / metadata.SOFTWARE).write_text("{}")
    assert metadata.problems_of_crate(crate, pages) == []
    harm(crate["@graph"])
    assert said in "; ".join(metadata.problems_of_crate(crate, pages))
