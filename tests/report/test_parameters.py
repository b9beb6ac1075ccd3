"""Parameters of a notebook: names that it lacks are refused, and text becomes what the annotation says."""

import pytest

from msmeta import ConfigError, report
from msmeta.report.parameters import converted

CELL = """preset: str = "quick"  # scale
ways: list[int] = [5]  # classes
others: list[str] = ["first-order"]
settings: list[list[int]] = None
windows: list = [1, 4]
way: int = None
lr: float = 0.1
force: bool = False"""


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
    ],
)
def test_a_value_of_another_type_is_refused_in_one_line(name, value, message):
    with pytest.raises(ConfigError, match=message) as caught:
        report.check_parameters(given(**{name: value}))
    assert "\n" not in str(caught.value)


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
