"""The book's own Sphinx extensions, and its PDF, without building the book."""

import re
from pathlib import Path

import chromium
import pytest
from bs4 import BeautifulSoup
from scripts import load

ROOT = Path(__file__).parent.parent


notation, proof, paper_numbers, unbroken = (
    load(f"_ext/{n}.py") for n in ("notation", "proof", "paper_numbers", "unbroken")
)
pdf = load("pdf.py")


def test_symbols_have_the_meaning_that_the_table_of_notation_gives():
    found = notation.symbols((ROOT / "book" / "notation.md").read_text())
    assert found["formulas"][r"\phi"] == ["task-parameters", "phi"]
    assert found["formulas"][r"\mathrm{g}_t"] == ["inner gradient", "grad"]
    assert set(found["words"]) == set(notation.PLAIN.values())
    assert found["words"]["N"] == ["length of a window", "window"]
    assert r"\lambda" not in found["formulas"]  # several things


def test_every_proof_of_the_checklist_is_there():
    targets = re.findall(r"{proof}`([^`]+)`", (ROOT / "book" / "checklist.md").read_text())
    assert len(targets) > 20
    for target in targets:
        proof.place(target)


def test_a_proof_names_the_line_and_what_is_not_there_is_refused():
    path, line = proof.place(
        "tests/test_book_extensions.py::test_a_proof_names_the_line_and_what_is_not_there_is_refused"
    )
    assert path.read_text().splitlines()[line - 1].startswith("def test_a_proof_names_the_line")
    assert proof.place("Makefile::book")[1] and proof.place("LICENSE")[1] is None
    for target in ("no/such.py", "LICENSE::no_such_name"):
        with pytest.raises(LookupError, match=re.escape(target)):
            proof.place(target)


def test_numbers_are_those_of_the_labels_and_nothing_else_is_numbered():
    class Env:
        toc_fignumbers = {
            "table_4": {"table": {"table-4": (1,), "conditions": (2,)}, "figure": {"figure-12": (1,), "table-9": (2,)}}
        }

    paper_numbers.number(None, Env)
    assert Env.toc_fignumbers == {"table_4": {"table": {"table-4": (4,)}, "figure": {"figure-12": (12,)}}}


PAGES = {
    "index.html": """<nav class="bd-links"><a class="reference internal" href="a.html">A</a>
        <a class="reference internal" href="deep/b.html">B</a></nav>
        <article id="main"><h1 id="top">Front</h1><a href="a.html#x">x</a><a href="https://example.org">far</a></article>""",
    "a.html": """<article><h1 id="x">A</h1><a href="#x">here</a><a href="deep/b.html">B</a>
        <a href="_modules/m.html">m</a><a href="data:text/csv,1">c</a><img src="_images/p.svg">
        <table><tr><td>71.45\u00a0±0.75</td></tr></table>
        <details><summary>s</summary>hidden</details><script>alert(1)</script></article>""",
    "deep/b.html": """<article><h1 id="x">B</h1><a href="../a.html#x">A</a><img src="../_images/p.svg"></article>""",
}


@pytest.fixture
def html(tmp_path):
    for name, text in PAGES.items():
        path = tmp_path / "html" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"<html><head></head><body>{text}</body></html>")
    return tmp_path / "html"


def test_one_page_has_all_articles_and_every_link_in_it_arrives(html):
    page = BeautifulSoup(pdf.one_page(html), "html.parser")
    assert [heading.text for heading in page.find_all("h1")] == ["Front", "A", "B"]
    places = [element["id"] for element in page.find_all(id=True)]
    assert len(places) == len(set(places))
    links = [link["href"] for link in page.find_all("a", href=True)]
    assert {link.removeprefix("#") for link in links if link.startswith("#")} <= set(places)
    assert [link for link in links if not link.startswith("#")] == ["https://example.org"]
    assert {image["src"] for image in page.find_all("img")} == {"_images/p.svg"}
    assert page.find("script") is None and page.find("details").has_attr("open")
    assert page.find("td").text == "71.45 ±0.75"  # where a line may end, so that a wide table fits a sheet


@pytest.mark.skipif(chromium.PATH is None, reason=chromium.MISSING)
def test_the_pdf_is_one_file_with_links_and_a_failure_leaves_none(html, tmp_path, monkeypatch):
    target = pdf.print_book(html, tmp_path / "book.pdf")
    content = target.read_bytes()
    assert content.startswith(b"%PDF") and b"/Dests" in content and b"/Link" in content
    assert sorted(path.name for path in html.iterdir()) == ["a.html", "deep", "index.html"]
    target.unlink()
    monkeypatch.setenv("CHROMIUM", "/bin/false")
    with pytest.raises(pdf.PdfError, match="/bin/false printed nothing"):
        pdf.print_book(html, target)
    assert not target.exists() and not (html / "nothing").exists()


def test_without_a_browser_or_a_book_there_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pdf, "BUILD", tmp_path)
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setattr(pdf.shutil, "which", lambda name: None)
    assert pdf.main() == 1 and "name it in CHROMIUM" in capsys.readouterr().err
    (tmp_path / "html").mkdir()
    monkeypatch.setenv("CHROMIUM", "/bin/false")
    assert pdf.main() == 1
    assert capsys.readouterr().err == f"pdf: {tmp_path / 'html'} holds no book: make book\n"


def test_a_line_of_a_cell_ends_nowhere_within_a_number():
    text = "Multi-step: -1.45 ±0.26, p = 0.002, a step = 3"
    assert unbroken.unbroken(text) == "Multi-step: -1.45\u00a0±0.26, p\u00a0=\u00a00.002, a step = 3"
    assert unbroken.unbroken("p < 0.001") == "p\u00a0<\u00a00.001"
