"""What the notebook of sliders shows of made rows."""

from matplotlib.colors import to_rgba

from msmeta import report


def row(window, scale):
    return {"window": window, "loss": scale, "accuracy": 50.0, "cosine": 1.0, "ratio": 1.0, "seconds": scale,
            "bytes": 1e6 * scale, "path": [(0, 2.0), (1, 1.0)]}  # fmt: skip


def test_each_window_has_its_name_and_a_colour_of_its_own():
    """All divisors of 12 beside exact and first-order: those that the tables have in the tables' colours."""
    windows = [1, 2, 3, 4, 6, 12, None]
    rows = [row(window, 1 + i) for i, window in enumerate(windows)]
    names = [line.split(" | ")[0] for line in report.exploration.table(rows).splitlines()[2:]]
    assert names == ["| exact", "| N = 2", "| N = 3", "| N = 4", "| N = 6", "| N = 12", "| first-order"]
    path, cost = report.exploration.figure(rows).axes
    colours = dict(zip(windows, (bar.get_facecolor() for bar in cost.patches[::2]), strict=True))
    assert [to_rgba(line.get_color()) for line in path.lines] == list(colours.values())[:-1]  # first-order: as exact
    assert len(set(colours.values())) == len(windows)
    known = {1: "MAML", 2: "Multi-step (2)", 4: "Multi-step (4)", None: "FO-MAML"}
    assert all(colours[window] == to_rgba(report.style.COLOURS[name]) for window, name in known.items())
    assert [bar.get_height() for bar in cost.patches[::2]] == [1, 2, 3, 4, 5, 6, 7]
    assert list(path.lines[0].get_ydata()) == [2.0, 1.0] and cost.get_ylabel() == "relative to exact"
