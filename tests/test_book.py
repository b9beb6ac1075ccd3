"""Building the book, on a small copy of it with small notebooks: what is built, refused, and left in place."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
_spec = importlib.util.spec_from_file_location("build", ROOT / "book" / "build.py")
build = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(build)

PAGE = "# Front\n\nSee {eq}`eq-13` and {doc}`stub`.\n\n$$\na = b\n$$ (eq-2)\n"
OTHER = "# Other\n\n$$\nc = d\n$$ (eq-13)\n\nBack to {eq}`eq-2`.\n"


def write_notebook(path, *cells, preset="quick"):
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel, "language_info": {"name": "python"}})
    parameters = nbformat.v4.new_code_cell(f'preset: str = "{preset}"  # scale\nway: int = 5  # classes')
    parameters.metadata["tags"] = ["parameters"]
    title = nbformat.v4.new_markdown_cell("# A notebook")
    notebook.cells = [title, parameters, *(nbformat.v4.new_code_cell(cell) for cell in cells)]
    path.parent.mkdir(exist_ok=True)
    nbformat.write(notebook, path)


@pytest.fixture
def book(tmp_path):
    """The project's configuration and extension with two pages and a notebook of their own."""
    folder = tmp_path / "book"
    shutil.copytree(ROOT / "book", folder, ignore=shutil.ignore_patterns("_build", "_run", "*.md", "__pycache__"))
    (folder / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters:\n- file: other\n- file: stub\n")
    (folder / "index.md").write_text(PAGE)
    (folder / "other.md").write_text(OTHER)
    write_notebook(tmp_path / "notebooks" / "stub.ipynb", "import sys; print(preset, sys.executable)")
    return folder


def test_builds_pages_with_the_papers_equation_numbers_and_nothing_remote(book, tmp_path):
    page = build.build_book(book, tmp_path / "notebooks", "smoke", tmp_path)
    front, other = page.read_text(), (page.parent / "other.html").read_text()
    assert 'href="other.html#equation-eq-13">(13)</a>' in front and '<span class="eqno">(2)' in front
    assert 'href="index.html#equation-eq-2">(2)</a>' in other and '<span class="eqno">(13)' in other
    notebook = (page.parent / "stub.html").read_text()
    assert f"smoke {sys.executable}" in notebook  # run with the preset, by this interpreter
    assert build.remote_resources(page.parent) == [] and "mathjax/tex-chtml.js" in front
    assert (page.parent / "_static" / "mathjax" / "tex-chtml.js").exists()
    assert [path.name for path in (book / "_build").iterdir()] == ["html"]


def test_a_failure_names_its_place_and_keeps_the_last_good_book(book, tmp_path):
    html = book / "_build" / "html"
    html.mkdir(parents=True)
    (html / "index.html").write_text("the last good book")
    write_notebook(tmp_path / "notebooks" / "stub.ipynb", "fine = 1", "raise ValueError('no such\\nthing')")
    with pytest.raises(build.BuildError, match=r"stub.ipynb failed in cell 4: ValueError: no such thing$"):
        build.build_book(book, tmp_path / "notebooks", "smoke", tmp_path)

    write_notebook(tmp_path / "notebooks" / "stub.ipynb")
    (book / "other.md").write_text("# Other\n\nSee {doc}`nowhere`.\n")  # and eq-13 is gone
    with pytest.raises(build.BuildError, match="nowhere") as caught:
        build.build_book(book, tmp_path / "notebooks", "smoke", tmp_path)
    assert "eq-13" in str(caught.value) and "\n" not in str(caught.value)
    assert (html / "index.html").read_text() == "the last good book"
    assert [path.name for path in (book / "_build").iterdir()] == ["html"]


def test_an_interrupted_build_ends_its_kernel_and_keeps_the_last_good_book(tmp_path):
    """A real SIGTERM, as a job system sends it."""
    project = tmp_path / "project"
    shutil.copytree(ROOT / "book", project / "book", ignore=shutil.ignore_patterns("_build", "_run", "__pycache__"))
    (project / "book" / "_build" / "html").mkdir(parents=True)
    body = "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(600)"
    write_notebook(project / "notebooks" / "slow.ipynb", body)
    process = subprocess.Popen([sys.executable, project / "book" / "build.py"], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (project / "pid").exists():
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "the last good book is untouched" in err and "Traceback" not in err
    assert [path.name for path in (project / "book" / "_build").iterdir()] == ["html"]
    kernel = int((project / "pid").read_text())
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and _alive(kernel):
        time.sleep(0.1)
    assert not _alive(kernel)


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_one_notebook_with_parameters(tmp_path):
    notebook, target = tmp_path / "stub.ipynb", tmp_path / "out" / "stub.ipynb"
    write_notebook(notebook, "print(preset, way + 1)")
    build.run_notebook(notebook, target, {"preset": "smoke", "way": 20}, tmp_path)
    assert "smoke 21" in str(nbformat.read(target, as_version=4).cells[-1].outputs)
    before = target.read_bytes()
    with pytest.raises(build.BuildError, match="stub.ipynb has no parameter wya: it has preset, way"):
        build.run_notebook(notebook, target, {"wya": 20}, tmp_path)
    write_notebook(notebook, "import os, sys; print('why', file=sys.__stderr__, flush=True); os._exit(1)")
    with pytest.raises(build.BuildError, match="stub.ipynb lost its kernel: why"):
        build.run_notebook(notebook, target, {}, tmp_path)
    write_notebook(notebook, "1 / 0")
    with pytest.raises(build.BuildError, match="ZeroDivisionError"):
        build.run_notebook(notebook, target, {}, tmp_path)
    assert target.read_bytes() == before and [path.name for path in target.parent.iterdir()] == ["stub.ipynb"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--notebook", "tabel_4"], "there is no notebook tabel_4: choose from table_4"),
        (["--notebook", "table_4", "-p", "wya", "20"], "table_4.ipynb has no parameter wya: it has preset, ways"),
        (["-p", "way", "20"], "name it with --notebook"),
    ],
)
def test_mistakes_on_the_command_line_end_in_one_line(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert build.main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("build: ") and message in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "line",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<link rel="stylesheet" href="//fonts.example/x.css">',
        '<img src="http://example.org/x.png">',
        '<p style="background: url(https://example.org/x.png)">',
        '<style>@import "https://example.org/x.css";</style>',
        '<iframe src="https://example.org"></iframe>',
    ],
)
def test_a_page_that_loads_from_another_host_is_found(tmp_path, line):
    (tmp_path / "index.html").write_text(f"<html><body>{line}</body></html>")
    (found,) = build.remote_resources(tmp_path)
    assert found.startswith("index.html: ")


def test_links_and_local_resources_are_no_remote_resources(tmp_path):
    (tmp_path / "index.html").write_text(
        '<link rel="canonical" href="https://example.org"><a href="https://example.org">x</a>'
        '<script src="_static/x.js"></script><img src="data:image/png;base64,AA==">'
    )
    (tmp_path / "x.css").write_text("@font-face { src: url('../fonts/x.woff2') }")
    assert build.remote_resources(tmp_path) == []
    (tmp_path / "x.css").write_text("@font-face { src: url(https://example.org/x.woff2) }")
    assert build.remote_resources(tmp_path) == ["x.css: https://example.org/x.woff2"]
