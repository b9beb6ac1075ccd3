"""Building the book, on a small copy of it with small notebooks: what is built, refused, and left in place."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import torch
import yaml
from myst_nb.core.read import read_myst_markdown_notebook
from scripts import load

import msmeta
from msmeta import paths
from msmeta.experiments import few_shot

ROOT = Path(__file__).parent.parent
build = load("build.py")

PAGES = {
    "index.md": "# Front\n\nSee {doc}`other` and {doc}`stub`.\n",
    "other.md": "# Other\n\nSee {doc}`nowhere`.\n\n$$\na = b\n$$ (velocity)\n",
}


def write_notebook(path, *cells, text="# A notebook"):
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel, "language_info": {"name": "python"}})
    parameters = nbformat.v4.new_code_cell('preset: str = "quick"  # scale\nway: int = 5  # classes')
    parameters.metadata["tags"] = ["parameters"]
    notebook.cells = [nbformat.v4.new_markdown_cell(text), parameters]
    notebook.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    path.parent.mkdir(exist_ok=True)
    nbformat.write(notebook, path)


@pytest.fixture
def book(tmp_path):
    """The project's configuration and extensions with two bad pages and a notebook of their own."""
    folder = tmp_path / "book"
    shutil.copytree(ROOT / "book", folder, ignore=shutil.ignore_patterns("_build", "_run", "*.md", "__pycache__"))
    (folder / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters:\n- file: other\n- file: stub\n")
    for name, text in PAGES.items():
        (folder / name).write_text(text)
    write_notebook(tmp_path / "notebooks" / "stub.ipynb", "import sys; print(preset, sys.executable)")
    return folder


def numbered(number):
    """A table as `report.html.Rows` gives it to the book."""
    return f"```{{rows}} A caption.\n:name: table-{number}\n\n<tbody><tr><td>1</td></tr></tbody>\n```\n"


def test_builds_the_pages_with_the_papers_equation_numbers_and_nothing_remote(tmp_path, capsys, monkeypatch):
    """All pages of the project; their cells, which other tests and the book's own build run, are left out, and of the
    notebooks one alone is run."""
    book, text = tmp_path / "book", "# Stub\n\nSee {eq}`eq-13` and {numref}`table-6`.\n"
    shutil.copytree(ROOT / "book", book, ignore=shutil.ignore_patterns("_build", "_run", "__pycache__"))
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        target = tmp_path / "notebooks" / notebook.name
        number = notebook.stem.partition("table_")[2]
        own = f"{text}\n{numbered(number)}" if number else text
        write_notebook(target, "import sys; print(preset, sys.executable)", text=own)

    def without_cells(page, root):
        text = page.read_text().replace(
            "```{code-cell}", numbered(6) + "\n```{code-cell}", 1 if page.stem == "data" else 0
        )
        page.write_text(re.sub(r"```{code-cell}.*?\n```\n", "", text, flags=re.DOTALL))

    def run_one(notebook, target, parameters, root):
        run_notebook(notebook, target, parameters, root) if notebook.stem == "table_4" else shutil.copy(
            notebook, target
        )

    run_notebook = build.run_notebook
    monkeypatch.setattr(build, "run_page", without_cells)
    monkeypatch.setattr(build, "run_notebook", run_one)
    page = build.build_book(book, tmp_path / "notebooks", "smoke", tmp_path)
    html = {path.stem: path.read_text() for path in page.parent.glob("*.html")}
    documented = set(re.findall(r'<dt [^>]*id="msmeta\.(\w+)"', html["api"]))
    assert documented == set(msmeta.__all__)
    signatures = re.findall(r'<dt class="sig .*?</dt>', html["api"], re.DOTALL)
    assert any('class="sig-line"' in text for text in signatures) and not any("<dd" in text for text in signatures)
    back = re.compile(r'class="viewcode-back" href="[./]*api.html#([^"]+)"')
    sources = [path.read_text() for path in (page.parent / "_modules").rglob("*.html")]
    assert {name for text in sources for name in back.findall(text)} <= set(re.findall(r' id="([^"]+)"', html["api"]))
    numbers = {stem: re.findall(r'<span class="eqno">\((\d+)\)', text) for stem, text in html.items()}
    assert sorted(int(number) for found in numbers.values() for number in found) == list(range(1, 56))
    assert numbers["proposition"] == [str(number) for number in range(28, 55)]
    assert 'href="multistep.html#equation-eq-13">(13)</a>' in html["table_4"]
    assert '<span class="caption-number">Table 4 </span>' in html["table_4"]
    assert 'href="data.html#table-6"><span class="std std-numref">Table 6</span></a>' in html["table_4"]
    assert all("window.notation = {" in text for text in html.values())
    assert f"smoke {sys.executable}" in html["table_4"]  # run with the preset, by this interpreter
    assert build.remote_resources(page.parent) == [] and not any("unpkg" in text for text in html.values())
    assert 'src="_static/mathjax/tex-chtml.js"' in html["method"]
    bundles = [path.name for path in (page.parent / "_static" / "mathjax").glob("*.js")]
    assert bundles == ["tex-chtml.js"]
    assert [path.name for path in (book / "_build").iterdir()] == ["html"]
    out = capsys.readouterr().out
    assert re.search(r"^table_4: running, preset smoke\ntable_4: run in \d+ s$", out, re.MULTILINE)
    assert re.search(r"^proposition: cells run in \d+ s$", out, re.MULTILINE)
    seconds = json.loads((page.parent / build.SECONDS).read_text())
    assert seconds["table_4"] > 0 and {"proposition", "recipes/maml"} <= seconds.keys()


def test_the_results_that_pages_offer_are_those_that_they_show(tmp_path, monkeypatch):
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path / "mine"))
    file, pages = tmp_path / "mine" / "benchmarks" / "own.json", tmp_path / "pages"
    where = {"commit": None, "device": "a processor", "threads": 1, "torch": "2", "python": "3"}
    for folder in (file.parent, pages):
        folder.mkdir(parents=True)
    (pages / "index.html").write_text("")
    file.write_text(json.dumps({"config": {}, "metrics": [], "provenance": where}))
    build._add_results(ROOT, pages)
    assert [path.name for path in (pages / "results").rglob("*.json")] == ["own.json"]


def test_a_failure_names_its_place_and_keeps_the_last_good_book(book, tmp_path):
    html = book / "_build" / "html"
    html.mkdir(parents=True)
    (html / "index.html").write_text("the last good book")
    write_notebook(tmp_path / "notebooks" / "stub.ipynb", "fine = 1", "raise ValueError('no such\\nthing')")
    with pytest.raises(build.BuildError, match=r"stub.ipynb failed in cell 4: ValueError: no such thing$"):
        build.build_book(book, tmp_path / "notebooks", "smoke", tmp_path)

    write_notebook(tmp_path / "notebooks" / "stub.ipynb")
    with pytest.raises(build.BuildError, match=r"other.md:3: WARNING: unknown document: .*nowhere") as caught:
        build.build_book(book, tmp_path / "notebooks", "smoke", tmp_path)
    assert "equation label 'velocity' is not eq-N" in str(caught.value) and "\n" not in str(caught.value)
    assert (html / "index.html").read_text() == "the last good book"
    assert [path.name for path in (book / "_build").iterdir()] == ["html"]


def test_a_book_that_loads_from_another_host_is_refused(tmp_path, monkeypatch):
    pages, html = tmp_path / "pages", tmp_path / "_build" / "html"
    for folder, text in {pages: '<img src="https://example.org/x.png">', html: "the last good book"}.items():
        folder.mkdir(parents=True)
        (folder / "index.html").write_text(text)
    monkeypatch.setattr(build, "render", lambda staging: pages)
    with pytest.raises(build.BuildError, match="from other hosts: index.html: https://example.org/x.png"):
        build.build_book(tmp_path, tmp_path / "notebooks", "smoke", tmp_path)
    assert (html / "index.html").read_text() == "the last good book"
    (pages / "index.html").write_text('<img src="x.png">')
    assert build.build_book(tmp_path, tmp_path / "notebooks", "smoke", tmp_path) == html / "index.html"
    assert (html / "index.html").read_text() == '<img src="x.png">'


def test_an_interrupted_build_ends_its_kernel_and_keeps_the_last_good_book(tmp_path):
    """A real SIGTERM, as a job system sends it."""
    project = tmp_path / "project"
    shutil.copytree(ROOT / "book", project / "book", ignore=shutil.ignore_patterns("_build", "_run", "__pycache__"))
    (project / "book" / "_build" / "html").mkdir(parents=True)
    body = "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(600)"
    write_notebook(project / "notebooks" / "slow.ipynb", body)
    process = subprocess.Popen([sys.executable, project / "book" / "build.py"], stderr=subprocess.PIPE, text=True)
    while not (project / "pid").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 130 and "the last good book is untouched" in err and "Traceback" not in err
    assert [path.name for path in (project / "book" / "_build").iterdir()] == ["html"]
    with pytest.raises(ProcessLookupError):  # the kernel has ended too
        os.kill(int((project / "pid").read_text()), 0)


def test_a_page_with_cells_becomes_a_notebook_with_their_output(tmp_path):
    page, cell = tmp_path / "page.md", "```{code-cell} python\n:tags: [hide-input]\nprint('six', 2 * 3)\n```\n"
    page.write_text(f"# A page\n\nText.\n\n{cell}\nMore text.\n")
    build.run_page(page, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["page.ipynb"]
    first, code, last = nbformat.read(tmp_path / "page.ipynb", as_version=4).cells
    assert (first.source, last.source) == ("# A page\n\nText.", "More text.")
    assert code.outputs[0].text == "six 6\n" and code.metadata.tags == ["hide-input"]
    page.write_text(f"# A page\n\n{cell}\n{cell.replace('print', 'assert not ')}")
    with pytest.raises(build.BuildError, match=r"page.ipynb failed in cell 2: AssertionError"):
        build.run_page(page, tmp_path)
    assert page.exists()


@pytest.fixture
def default_dtype():
    """Pages may change it for themselves."""
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("default_dtype")
@pytest.mark.parametrize(
    ("page", "right", "wrong", "what"),
    [
        ("bilevel", "row = row @ eq_7(t)", "row = row @ eq_7(t).T", "Eqs. 6 and 7"),
        ("multistep", "matrix_power(A, n - 1) @ one", "matrix_power(A, n) @ one", "Eq. 22"),
        (
            "proposition",
            'same("Eqs. 44, 45", row[2][2:], (-eta,',
            'same("Eqs. 44, 45", row[2][2:], (eta,',
            "Eqs. 44, 45",
        ),
        ("proposition", "velocity = -rest", "velocity = rest", "constant gradient, another start"),
        ("estimators", "(eye + H / lam, stationary", "(eye + H * lam, stationary", "Eq. 18 on a bowl"),
        ("errata", "0.1 * (1 + torch.cos", "0.2 * (1 + torch.cos", "0.1 times Eq. 55"),
    ],
)
def test_a_wrong_formula_fails_a_check_of_its_page(page, right, wrong, what):
    """The cells run here, in this process; a failing one fails the build (the test above)."""
    text = (ROOT / "book" / f"{page}.md").read_text()
    assert right in text
    cells = read_myst_markdown_notebook(text.replace(right, wrong)).cells
    namespace = {}
    with pytest.raises(AssertionError, match=re.escape(what)):
        for cell in cells:
            if cell.cell_type == "code":
                exec(compile(cell.source, page, "exec"), namespace)


DOCSTRING = """Steps with |g|.

theta: a dict. steps, window: as for `MultiStep(*a)`; more
    of it. lr: a rate.
steps: T.

    A² = 1

Costs x_t: nothing.

>>> 1 + 1
2
"""


def test_docstrings_become_fields_formulas_and_text():
    docstrings = load("_ext/docstrings.py")
    lines = DOCSTRING.splitlines()
    docstrings.rewrite(None, "class", "name", None, None, lines)
    text = [r"Steps with \|g\|.", "**theta**", "    a dict.", "**steps, window**"]
    text += ["    as for ``MultiStep(*a)``; more of it.", "**lr**", "    a rate.", "**steps**", r"    \T.", "::"]
    text += ["    A² = 1", r"Costs x\_t: nothing.", ">>> 1 + 1", "2"]
    assert [line for line in lines if line] == text


def test_one_notebook_with_parameters(tmp_path):
    notebook, target = tmp_path / "stub.ipynb", tmp_path / "out" / "stub.ipynb"
    write_notebook(notebook, "print(preset, way + 1)")
    build.run_notebook(notebook, target, {"preset": "smoke", "way": 20}, tmp_path)
    assert "smoke 21" in str(nbformat.read(target, as_version=4).cells[-1].outputs)
    before = target.read_bytes()
    with pytest.raises(build.BuildError, match="stub.ipynb has no parameter wya: it has preset, way"):
        build.run_notebook(notebook, target, {"wya": 20}, tmp_path)
    write_notebook(notebook, "import os, sys; print('why', file=sys.__stderr__, flush=True); os._exit(1)")
    with pytest.raises(build.BuildError, match="stub.ipynb: its kernel died in cell 2: it ended with status 1 .why."):
        build.run_notebook(notebook, target, {}, tmp_path)
    write_notebook(notebook, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(build.BuildError, match="its kernel died in cell 2: killed by signal 9, SIGKILL, .* memory"):
        build.run_notebook(notebook, target, {}, tmp_path)
    write_notebook(notebook, "1 / 0")
    with pytest.raises(build.BuildError, match="ZeroDivisionError"):
        build.run_notebook(notebook, target, {}, tmp_path)
    assert target.read_bytes() == before and [path.name for path in target.parent.iterdir()] == ["stub.ipynb"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--notebook", "tabel_4"], "there is no notebook tabel_4: choose from adapt_yours, explore_n, figure_1"),
        (["--notebook", "table_4", "-p", "wya", "20"], "table_4.ipynb has no parameter wya: it has preset, ways"),
        (["--notebook", "table_4", "-p", "ways", "[20"], "-p ways [20: the value is no YAML"),
        (["--notebook", "table_4", "-p", "ways", "[" * 3000], "[[[: the value is no YAML"),
        (["-p", "way", "20"], "name it with --notebook"),
    ],
)
def test_mistakes_on_the_command_line_end_in_one_line(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert build.main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("build: ") and message in err and err.count("\n") == 1


def test_values_of_kinds_that_no_notebook_has_stay_text():
    for text in ("2020-01-01", "!!set {a}", "!!binary aGk=", "[2020-01-01]", "{1: {2020-01-01: 2}}", "&a [*a]"):
        assert build._value("seed", text) == text
    assert build._value("ways", "[1, 4]") == [1, 4] and build._value("force", "False") is False


def test_the_folders_of_data_and_results_are_those_of_the_command(tmp_path, monkeypatch):
    """Kernels run in the checkout."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    found = []
    monkeypatch.setattr(build, "run_notebook", lambda *_: found.extend(os.environ[name] for name in paths.ROOTS))
    monkeypatch.setenv("MSMETA_DATA", "mine")
    monkeypatch.setenv("MSMETA_RESULTS", "~/results")
    build.main(["--notebook", "table_4"])
    assert found == [str(tmp_path / "mine"), os.path.expanduser("~/results")]


def test_the_text_alone_is_not_rendered(tmp_path):
    """As by `jupyter-book build book`, into the folder of the last good book."""
    book, kept = tmp_path / "book", tmp_path / "book/_build/html/index.html"
    shutil.copytree(ROOT / "book", book, ignore=shutil.ignore_patterns("_build", "_run", "__pycache__"))
    kept.parent.mkdir(parents=True)
    kept.write_text("the last good book")
    done = subprocess.run(
        [Path(sys.executable).with_name("jupyter-book"), "build", book], capture_output=True, text=True
    )
    assert done.returncode and "run `make book`" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert kept.read_text() == "the last good book" and list(kept.parent.iterdir()) == [kept]


@pytest.mark.parametrize(
    "line",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<script>const URL = "https://cdn.example/x.js"</script>',
        '<link rel="stylesheet" href="//fonts.example/x.css">',
        '<img src="x.png" srcset="x.png 1x, HTTPS://example.org/x.png 2x">',
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
        '<script src="_static/x.js"></script><script>x = "https://example.org"</script>'
        '<img src="data:image/png;base64,AA==">'
    )
    (tmp_path / "x.css").write_text("@font-face { src: url('../fonts/x.woff2') }")
    assert build.remote_resources(tmp_path) == []
    (tmp_path / "x.css").write_text("@font-face { src: url(https://example.org/x.woff2) }")
    assert build.remote_resources(tmp_path) == ["x.css: https://example.org/x.woff2"]


def test_every_notebook_is_a_page_of_the_book():
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())
    pages = {chapter["file"] for part in toc["parts"] for chapter in part["chapters"]}
    sources = {path.relative_to(ROOT / "book").with_suffix("").as_posix() for path in (ROOT / "book").rglob("*.md")}
    written = {page for page in sources if not page.startswith("_")}
    assert written - pages == {"index"}
    assert pages - written == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}


def test_every_page_states_its_question_and_its_answer():
    folders = ("book/*.md", "book/recipes/*.md", "notebooks/*.ipynb")
    for page in itertools.chain(*map(ROOT.glob, folders)):
        if page.stem in ("index", "references"):
            continue
        own = nbformat.read(page, 4).cells if page.suffix == ".ipynb" else []
        text = "\n".join(cell.source for cell in own) or page.read_text()
        assert re.search(r"^\*\*(Question|Problem)\.\*\* ", text, re.MULTILINE), page.name
        assert re.search(r"^\*\*Answer\.\*\* |show\(.*answers\.", text, re.MULTILINE), page.name


def test_the_table_of_presets_has_the_presets_numbers():
    page = (ROOT / "book" / "rerun.md").read_text()
    own = {
        name: few_shot.preset_config(name, "omniglot", 5, 1, "multistep") for name in ("smoke", "quick", "cpu", "paper")
    }
    photographs = few_shot.preset_config("quick", "miniimagenet", 5, 1, "multistep").filters
    for name, length, others in (
        ("quick", "{train_seconds:.0f} seconds of meta-training", f" (photographs {photographs})"),
        ("cpu", "{iterations:,} meta-iterations", ""),
    ):
        text = f"  - {length}, {{filters}} filters{others}, {{test_episodes}} test episodes"
        assert text.format(**vars(own[name])) in page
    assert f"{own['smoke'].iterations} meta-iterations of a network with {own['smoke'].filters}" in page
    assert f"{own['paper'].iterations:,} meta-iterations, {own['paper'].filters} filters" in page
