"""Parameters of a notebook: names that it lacks are refused, and text becomes what the annotation says."""

import ast
from itertools import product
from pathlib import Path

import nbformat
import papermill
import pytest

from msmeta import ConfigError, report
from msmeta.experiments.few_shot import costs
from msmeta.report.parameters import converted

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"

CELL = """preset: str = "quick"  # scale
ways: list[int] = [5]  # classes
others: list[str] = ["first-order"]
settings: list[list[int]] = None
methods: list[str] = None
device: str = "auto"
windows: list = [1, 4]
way: int = None
lr: float = 0.1
force: bool = False
seeds: list[int] = [0]
epochs: int = None"""


def given(**values):
    """A notebook's globals after papermill's cell with these values."""
    injected = "# Parameters\n" + "".join(f"{name} = {value!r}\n" for name, value in values.items())
    notebook = {"In": ["", CELL, injected, "report.check_parameters(globals())"]}
    exec(CELL, notebook)
    exec(injected, notebook)
    return notebook


def test_unknown_parameters_are_refused():
    with pytest.raises(ConfigError, match="unknown parameter wyas: this notebook has preset, ways, others, settings"):
        report.check_parameters(given(preset="smoke", wyas=[20]))
    report.check_parameters(given(preset="smoke"))
    assert report.run_by_papermill(given(preset="smoke"))


def test_without_papermill_nothing_is_touched():
    notebook = {"In": ["", CELL, "report.check_parameters(globals())"], "ways": [5]}
    report.check_parameters(notebook)
    assert notebook["ways"] == [5] and not report.run_by_papermill(notebook)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("ways", "[5, 20]", [5, 20]), ("ways", "5,20", [5, 20]), ("ways", "20", [20]), ("ways", 20, [20]),
        ("ways", ["5", 20.0], [5, 20]), ("others", "reptile", ["reptile"]), ("others", "[]", []),
        ("others", "[first-order, reptile]", ["first-order", "reptile"]), ("settings", "[[5, 1]]", [[5, 1]]),
        ("settings", None, None), ("settings", "None", None), ("windows", "1,4", [1, 4]), ("way", "20", 20),
        ("way", 20.0, 20), ("way", "None", None), ("lr", "1e-2", 0.01), ("lr", 1, 1.0), ("force", "False", False),
        ("force", "true", True), ("preset", "cpu", "cpu"),
    ],
)  # fmt: skip
def test_values_become_what_the_annotation_says(name, value, expected):
    notebook = given(**{name: value})
    report.check_parameters(notebook)
    assert notebook[name] == expected and type(notebook[name]) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ways", "[5, 20", r"ways='\[5, 20': it must be of type list\[int\], such as \[5\]"),
        ("ways", "five", r"ways='five': it must be of type list\[int\]"),
        ("ways", None, r"ways=None: it must be of type list\[int\]"),
        ("way", 8.5, "way=8.5: it must be of type int"),
        ("way", "many", "way='many': it must be of type int"),
        ("lr", None, "lr=None: it must be of type float, such as 0.1"),
        ("force", "maybe", "force='maybe': it must be of type bool, such as False"),
        ("preset", 3, "preset=3: it must be of type str, such as 'quick'"),
        ("settings", "5,1", r"settings='5,1': it must be of type list\[list\[int\]\]"),
        ("settings", [[5, 1], [5]], r"settings: \[5\] must hold way, shot"),
        ("settings", [[5, 0]], "settings: shot=0: it must be at least 1"),
        ("way", 1, "way=1: it must be at least 2"),
        ("way", True, "way=True: it must be of type int"),
        ("ways", [5, -1], "ways: way=-1: it must be at least 2"),
        ("ways", [5, True], r"ways=\[5, True\]: it must be of type list"),
        ("windows", [1, "four"], "windows: window='four': give a number of steps such as 4"),
        ("windows", "&a [*a]", r"windows='&a \[\*a\]': it must be of type list"),
        ("windows", "[!!bool x]", r"windows='\[!!bool x\]': it must be of type list"),
        ("windows", "{<<: {a: 1}}", "windows=.* it must be of type list"),
        ("lr", "nan", "lr=nan: it must be finite"),
        ("others", ["first-oder"], "others: estimator 'first-oder' is unknown: .*did you mean first-order"),
        ("preset", "", "preset '' is unknown: choose from smoke, quick, cpu, paper"),
        ("methods", "MAML,Reptil", "methods: 'Reptil' is unknown: choose from MAML; Reptile"),
        ("device", "tpu9", "device 'tpu9' is not available here"),
    ],
)
def test_a_value_of_another_type_is_refused_in_one_line(name, value, message):
    with pytest.raises(ConfigError, match=message) as caught:
        report.check_parameters(given(**{name: value}), methods=["MAML", "Reptile"])
    assert "\n" not in str(caught.value)


def test_every_wrong_parameter_is_named():
    with pytest.raises(ConfigError) as caught:
        report.check_parameters(given(way=0, wyas=[5], others=["magic"], lr=0.5, force="maybe"))
    for part in ("way=0", "wyas", "others: estimator 'magic'", "force='maybe'"):
        assert part in str(caught.value)
    assert "lr=" not in str(caught.value) and "\n" not in str(caught.value)


def test_an_experiment_has_fields_of_its_own():
    wrong = given(ways=[0], seeds=[0, -1], epochs=0)  # transfer has no way
    with pytest.raises(ConfigError, match="^seeds: seed=-1: it must be at least 0; epochs=0: it must be at least 1$"):
        report.check_parameters(wrong, "transfer")


NUMBERS, TEXTS = (0, -1, 10**30, 2.5, True), ("nan", "five", "", "[", "[5", "2020-01-01", "~nobody", "é" * 5000)
BAD = (*NUMBERS, *TEXTS, [], [[]], {}, None, [None])


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_value_of_any_kind_is_taken_or_named_in_one_line(path):
    """In each notebook, for each parameter: what is taken has the type that its annotation says."""
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    parameters = next(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", []))
    check = next(cell.source for cell in cells if "report.check_parameters(" in cell.source)
    call = next(line for line in check.splitlines() if line.startswith("report.check_parameters("))
    names = [line.target.id for line in ast.parse(parameters).body]
    assert [*papermill.inspect_notebook(str(path))] == names  # it misses one with an equals sign in its comment
    for name, value in product(names, BAD):
        notebook = {"report": report, "transfer": report.transfer, "costs": costs}
        injected = f"# Parameters\n{name} = {value!r}\n"
        notebook["In"] = ["", parameters, injected, check]
        exec(parameters, notebook)
        default = notebook[name]
        exec(injected, notebook)
        try:
            exec(call, notebook)
        except ConfigError as error:
            assert (name in str(error) or f"{name}s" in str(error)) and "\n" not in str(error) and len(str(error)) < 500
        else:
            assert default is None or type(notebook[name]) is type(default), (name, value)


def test_the_methods_of_a_table_take_windows_as_papermill_gives_them():
    few_shot = report.few_shot
    assert few_shot.methods("[1, 4]", ["first-order"]) == [few_shot.MAML, few_shot.multi_step(4), few_shot.FO_MAML]
    assert few_shot.methods(4, "reptile") == [few_shot.multi_step(4), {"estimator": "reptile"}]
    assert few_shot.methods([[4, 4], 2], []) == [few_shot.multi_step((4, 4)), few_shot.multi_step(2)]
    with pytest.raises(ConfigError, match="nothing to run: an empty list was given"):
        few_shot.train("smoke", "omniglot", [], "cpu", False, way=[5], shot=[1])
    with pytest.raises(ConfigError, match="unknown data set 'cifar': choose one of omniglot"):
        few_shot.train("quick", "cifar", [few_shot.MAML], "cpu", False, way=[5], shot=[1])
    with pytest.raises(ConfigError, match="windows='four': it must be a list of whole numbers, or of lists of them"):
        few_shot.methods("four")
    assert converted("windows", (1, 2), list[int]) == [1, 2]
