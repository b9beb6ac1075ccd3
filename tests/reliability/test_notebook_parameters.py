"""Parameters of every notebook, given as `build.py -p` takes them: refused in one line that names them, or sound."""

import ast
import math
import random

import nbformat
import pytest
import strange
from papermill.translators import PythonTranslator
from pydantic import TypeAdapter
from scripts import load

from msmeta import machine, report
from msmeta.errors import UserError
from msmeta.report import costs, transfer

ROOT = machine.repository()
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def build():
    return load("build.py")


def parts(path):
    """The source of a notebook's cell of parameters, and its own call that checks them."""
    cells = nbformat.read(path, 4).cells
    (source,) = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    calls = [
        node
        for cell in cells
        if cell.cell_type == "code" and "check_parameters" in cell.source
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("check_parameters")
    ]
    (call,) = calls
    return source, ast.unparse(call)


PARTS = {path.stem: parts(path) for path in NOTEBOOKS}


def kind(line):
    """Of a parameter, by the line that annotates it."""
    annotated = eval(ast.unparse(line.annotation))
    return annotated | None if ast.unparse(line.value) == "None" else annotated


TYPES = {name: {line.target.id: kind(line) for line in ast.parse(source).body} for name, (source, _) in PARTS.items()}
"""Of each parameter of each notebook."""


def cases():
    """(notebook, parameter, text): each parameter several times."""
    draw = random.Random(21)
    return [
        (notebook, name, text)
        for notebook, types in TYPES.items()
        for name in [*types, "no_such_parameter"]
        for text in draw.sample(strange.TEXTS, 6)
    ]


def test_notebook_parameters(trials, build, tmp_path, monkeypatch):
    monkeypatch.setenv("MSMETA_DATA", str(tmp_path))

    def attempt(case):
        notebook, name, text = case
        source, call = PARTS[notebook]
        try:
            injected = PythonTranslator.codify({name: build._value(name, text)}, "Parameters")
        except build.BuildError as error:
            return None if name in str(error) and len(str(error)) < 500 else f"it says {str(error)[:200]!r}"
        space = {"In": ["", source, injected], "report": report, "costs": costs, "transfer": transfer}
        exec(source, space)
        exec(injected, space)
        try:
            eval(call, space)
        except UserError as error:
            said = str(error)
            return None if name in said and "\n" not in said and len(said) < 2000 else f"it says {said[:200]!r}"
        if name not in TYPES[notebook]:
            return "an unknown parameter was taken"
        TypeAdapter(TYPES[notebook][name]).validate_python(space[name], strict=True)
        numbers = space[name] if isinstance(space[name], list) else [space[name]]
        finite = all(math.isfinite(value) for value in numbers if isinstance(value, (int, float)))
        return None if finite else f"{space[name]!r} was taken"

    trials("Parameters of notebooks", cases(), attempt)
