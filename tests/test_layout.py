"""The package's structure: who imports whom, and how long a file may be."""

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "msmeta"
METHOD = (
    "checks",
    "bilevel",
    "losses",
    "rates",
    "dynamics",
    "optimisers",
    "outer_terms",
    "repeats",
    "adjoint",
    "adaptation",
    "estimators",
)
RIVALS = ("truncated", "binomial", "lazy_hessian", "perturbed")
LATER = (
    "checks",
    "losses",
    "rates",
    "optimisers",
    "outer_terms",
    "repeats",
    "adaptation",
    *(f"estimators.{name}" for name in RIVALS),
)
"""Files that the method got after it held what the paper has: not in the bound on its length."""
ROOMS = (
    "errors",
    *METHOD,
    "verify",
    "modules",
    "models",
    "statistics",
    "paths",
    "files",
    "tensors",
    "machine",
    "idle",
    "checkout",
    "counting",
    "comparison",
    "partitions",
)
ROOMS += ("workers", "data", "checkpoints", "results", "runs", "experiments", "report", "cli")
"""In the order in which data flows: a module imports of its own room and of those before it."""


def name_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(path):
    """Every module that a file imports, wherever in the file, by its full name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from (names & MODULES.keys()) or {node.module}


GRAPH = {name: set(imports(path)) - {name} for name, path in MODULES.items()}


def room(name):
    return name.split(".")[1] if "." in name else None


def test_no_import_circle():
    """A package's `__init__` gathers what its modules offer, and they may import their siblings through it."""
    plain = {name for name, path in MODULES.items() if path.stem != "__init__"}
    TopologicalSorter({name: GRAPH[name] & plain for name in plain}).prepare()  # raises CycleError, which names it


def test_data_flows_one_way():
    backwards = [
        f"{name} imports {other}"
        for name, others in GRAPH.items()
        for other in others & MODULES.keys()
        if room(name) in ROOMS and room(other) in ROOMS and ROOMS.index(room(other)) > ROOMS.index(room(name))
    ]
    assert {room(name) for name in MODULES} - {None, "__main__"} == set(ROOMS) and not backwards


def test_the_method_needs_torch_alone():
    foreign = {
        other
        for name, others in GRAPH.items()
        if room(name) in METHOD
        for other in others
        if other.split(".")[0] not in {"torch", "msmeta", *sys.stdlib_module_names}
    }
    assert not foreign


def test_files_are_short():
    lines = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert not {name: count for name, count in lines.items() if count > 350}
    # 1,200 and what the later estimators share with the others: exports, orders in `adjoint`, two ways to walk, the
    # proximal term; where the terms of `outer_at` are added or refused; a generator of the estimators' own; and what
    # keeps frozen entries, unused ones, graphs that `init` made and half precision right; a state from `init` is
    # checked, and so are steps that are taken twice.
    method = {name.removeprefix("msmeta."): count for name, count in lines.items() if room(name) in METHOD}
    assert sum(count for name, count in method.items() if name not in LATER) < 1345
