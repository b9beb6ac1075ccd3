"""What machines read of the book: an RO-Crate of its stored results, and codemeta.json of the software.

RO-Crate 1.1: www.researchobject.org/ro-crate/specification/1.1; CodeMeta 3.0: codemeta.github.io.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from msmeta import data, runs
from msmeta.report.frame import commit_in_words, device_in_words

Entity = dict[str, Any]

CRATE, SOFTWARE = "ro-crate-metadata.json", "codemeta.json"
_PROFILE = "https://w3id.org/ro/crate/1.1"
_CODE = "#msmeta"
CODEMETA_TERMS = {
    "@context", "type", "name", "description", "version", "license", "author", "dateModified", "programmingLanguage",
    "runtimePlatform", "softwareRequirements", "referencePublication", "developmentStatus", "identifier",
}  # fmt: skip
"""Properties used here of those that CodeMeta 3.0 defines."""


def codemeta(root: Path) -> Entity:
    """Of the checkout at `root`, from its pyproject.toml and CITATION.cff."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    cited = yaml.safe_load((root / "CITATION.cff").read_text())
    paper = cited["references"][0]
    return {
        "@context": "https://w3id.org/codemeta/3.0",
        "type": "SoftwareSourceCode",
        "identifier": project["name"],
        "name": cited["title"],
        "description": project["description"],
        "version": project["version"],
        "license": f"https://spdx.org/licenses/{project['license']}",
        "author": [{"type": "Organization", "name": author["name"]} for author in cited["authors"]],
        "dateModified": str(cited["date-released"]),
        "programmingLanguage": "Python",
        "runtimePlatform": f"Python {project['requires-python']}",
        "softwareRequirements": project["dependencies"],
        "developmentStatus": "active",
        "referencePublication": {
            "type": "ScholarlyArticle",
            "name": paper["title"],
            "identifier": paper["url"],
            "author": [
                {"type": "Person", "givenName": one["given-names"], "familyName": one["family-names"]}
                for one in paper["authors"]
            ],
        },
    }


def ro_crate(root: Path, pages: Path) -> Entity:
    """Of a built book with `results/` in it: each stored result, the action that made it, its data and its code."""
    software = codemeta(root)
    files = sorted((pages / "results").rglob("*.json"))
    made = [entity for file in files for entity in _result(file, pages)]
    parts = [{"@id": entity["@id"]} for entity in made if entity["@type"] == "File"]
    code = {key: value for key, value in software.items() if key in ("name", "version", "license", "description")}
    graph: list[Entity] = [
        {
            "@id": CRATE, "@type": "CreativeWork", "conformsTo": {"@id": _PROFILE}, "about": {"@id": "./"},
        },
        {
            "@id": "./", "@type": "Dataset", "name": software["name"], "description": software["description"],
            "datePublished": software["dateModified"], "license": {"@id": software["license"]},
            "hasPart": [*parts, {"@id": "index.html"}, {"@id": SOFTWARE}],
            "mentions": [{"@id": entity["@id"]} for entity in made if entity["@type"] == "CreateAction"],
        },
        {"@id": "index.html", "@type": "File", "name": "The book", "encodingFormat": "text/html"},
        {"@id": SOFTWARE, "@type": "File", "name": "CodeMeta of the software", "encodingFormat": "application/json"},
        {"@id": software["license"], "@type": "CreativeWork", "name": "MIT License"},
        {"@id": _CODE, "@type": "SoftwareSourceCode", **code, "license": {"@id": software["license"]}},
    ]  # fmt: skip
    return {"@context": f"{_PROFILE}/context", "@graph": _each_once([*graph, *made])}


def _result(file: Path, pages: Path) -> Iterator[Entity]:
    place, found = file.relative_to(pages).as_posix(), runs.read_result(file)
    where = found["provenance"]
    finished = where.get("finished")
    yield {
        "@id": place, "@type": "File", "name": file.stem, "encodingFormat": "application/json",
        "contentSize": str(file.stat().st_size), **({"dateModified": finished} if finished else {}),
    }  # fmt: skip
    action = {
        "@id": f"#made-{file.stem}", "@type": "CreateAction", "name": f"{file.stem}, {commit_in_words(where)}",
        "instrument": {"@id": _CODE}, "result": {"@id": place}, **({"endTime": finished} if finished else {}),
        "description": f"{device_in_words(where)}, torch {where['torch']}",
    }  # fmt: skip
    if "data" in found:
        own = found["data"]
        action["object"] = {"@id": f"#data-{own['hash'][:12]}"}
        licence = data.find(own["name"]).licence
        yield {"@id": f"#data-{own['hash'][:12]}", "@type": "Dataset", "name": own["title"], "identifier": own["hash"],
               "description": f"SHA-256 of the prepared arrays: {own['hash']}. Licence: {licence}"}  # fmt: skip
    yield action


def _each_once(graph: list[Entity]) -> list[Entity]:
    return list({entity["@id"]: entity for entity in graph}.values())


def write(root: Path, pages: Path) -> None:
    """Both files, into the built book. Raises ValueError where they are not as their specifications have them."""
    described = {SOFTWARE: codemeta(root)}
    (pages / SOFTWARE).write_text(json.dumps(described[SOFTWARE], indent=1))
    described[CRATE] = ro_crate(root, pages)
    if wrong := [*problems_of_codemeta(described[SOFTWARE]), *problems_of_crate(described[CRATE], pages)]:
        raise ValueError("; ".join(wrong))
    (pages / CRATE).write_text(json.dumps(described[CRATE], indent=1))


def problems_of_crate(crate: Entity, folder: Path) -> list[str]:
    """What RO-Crate 1.1 requires and a crate at `folder` lacks."""
    wrong = [] if crate.get("@context") == f"{_PROFILE}/context" else ["@context is not RO-Crate 1.1's"]
    graph = crate.get("@graph", [])
    by_id = {entity.get("@id"): entity for entity in graph}
    if len(by_id) != len(graph) or None in by_id:
        wrong.append("an entity has no @id, or one that another has")
    wrong += [f"{entity.get('@id')} has no @type" for entity in graph if not entity.get("@type")]
    descriptor, dataset = by_id.get(CRATE, {}), by_id.get("./", {})
    if descriptor.get("conformsTo") != {"@id": _PROFILE} or descriptor.get("about") != {"@id": "./"}:
        wrong.append("the metadata descriptor does not say what it conforms to and is about")
    missing = [name for name in ("name", "description", "datePublished", "license") if not dataset.get(name)]
    wrong += [f"the root data entity has no {name}" for name in missing]
    if dataset.get("@type") != "Dataset" or not _is_date(dataset.get("datePublished", "")):
        wrong.append("the root data entity is no Dataset with a date of ISO 8601")
    parts = {part["@id"] for part in dataset.get("hasPart", [])}
    for entity in graph:
        if entity.get("@type") == "File":
            wrong += [f"{entity['@id']} is no part of the root"] if entity["@id"] not in parts else []
            wrong += [f"{entity['@id']} is not there"] if not (folder / entity["@id"]).is_file() else []
        wrong += [f"{entity.get('@id')} refers to {to}, which is not described" for to in _references(entity, by_id)]
    return wrong


def _references(entity: Entity, by_id: Entity) -> Iterator[str]:
    """Local identifiers that an entity refers to and that no entity has."""
    for value in entity.values():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, dict) and each.get("@id") not in by_id and each.get("@id") != _PROFILE:
                yield str(each.get("@id"))


def problems_of_codemeta(found: Entity) -> list[str]:
    """What a codemeta.json has that CodeMeta 3.0 does not know, and what nobody can cite it without."""
    wrong = [f"codemeta has no property {name}" for name in sorted(found.keys() - CODEMETA_TERMS)]
    needed = ("@context", "type", "name", "version", "license", "author", "description")
    wrong += [f"codemeta lacks {name}" for name in needed if not found.get(name)]
    return wrong if _is_date(found.get("dateModified", "")) else [*wrong, "codemeta has no date of ISO 8601"]


def _is_date(text: str) -> bool:
    try:
        return bool(date.fromisoformat(text[:10]))
    except ValueError:
        return False
