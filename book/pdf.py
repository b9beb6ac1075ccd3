"""Prints the built book as one PDF whose links work: the articles of all pages in one file, printed by Chromium.

python book/pdf.py                                  # book/_build/html -> book/_build/book.pdf
"""

from __future__ import annotations

import os
import posixpath
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from bs4 import BeautifulSoup, Tag

from msmeta import files
from msmeta.errors import one_line

BUILD = Path(__file__).resolve().parent / "_build"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
HARD_SPACE = re.compile("\u00a0")
TIMEOUT = 600  # seconds; formulas of the whole book take tens


class PdfError(Exception):
    """One line that says what is missing."""


def pages(html: Path) -> list[str]:
    """The pages in the order of the table of contents, the front page first. Raises PdfError for want of a book."""
    if not (html / "index.html").exists():
        raise PdfError(f"{html} holds no book: make book")
    contents = _soup(html / "index.html").select("nav.bd-links a.internal")
    return list(dict.fromkeys(["index.html", *(urlsplit(link["href"]).path for link in contents)]))


def one_page(html: Path) -> str:
    """All articles in one page; a place `x` of the page `p.html` is `#p.html-x` there."""
    names = [name for name in pages(html) if name.endswith(".html") and (html / name).exists()]
    whole = _soup(html / "index.html")
    body = whole.body
    scripts = [script for script in whole.head.find_all("script") if "mathjax" in str(script).lower()]
    scripts += [script for script in body.find_all("script") if "mathjax" in str(script).lower()]
    for script in whole.find_all("script"):
        script.extract()
    body.clear()
    for name in names:
        article = _soup(html / name).select_one("article")
        for scripted in article.find_all("script"):
            scripted.decompose()
        for details in article.find_all("details"):
            details["open"] = ""
        for table in article.find_all("table"):  # which fits a sheet where its numbers may be broken
            for text in table.find_all(string=HARD_SPACE):
                text.replace_with(text.replace("\u00a0", " "))
        _move(article, name, set(names))
        article["id"] = _place(name, "")
        article["style"] = "break-before: page"
        body.append(article)
    whole.html["data-theme"] = whole.html["data-mode"] = "light"
    for script in scripts:
        whole.head.append(script)
    return str(whole)


def _move(article: Tag, name: str, names: set[str]) -> None:
    """Makes a page's places and links those of the one file."""
    for element in article.find_all(id=True):
        element["id"] = _place(name, element["id"])
    for attribute in ("href", "src", "data"):
        for element in article.find_all(attrs={attribute: True}):
            url = urlsplit(element[attribute])
            if url.scheme == "data" and element.name == "a":  # a table to download, which would fill the file
                del element[attribute]
            if url.scheme or url.netloc:
                continue
            path = posixpath.normpath(posixpath.join(posixpath.dirname(name), url.path)) if url.path else name
            if attribute == "href" and path in names:
                element[attribute] = f"#{_place(path, url.fragment)}"
            elif element.name == "a":  # a file of this machine, as the source of a function
                del element[attribute]
            elif url.path:
                element[attribute] = path


def _place(name: str, fragment: str) -> str:
    return f"{name}-{fragment}"


def _soup(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def browser() -> str:
    """Chromium's path: `$CHROMIUM`, else what is installed. Raises PdfError."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise PdfError("a PDF is printed by Chromium, which is not there: install it, or name it in CHROMIUM")
    return found


def print_book(html: Path, target: Path) -> Path:
    """Writes `target` whole or not at all. Raises PdfError."""
    program = browser()
    with files.working_folder("pdf", html.parent) as folder:
        page = html / f"{folder.name}.html"  # beside the pages, whose images it shows
        try:
            page.write_text(one_page(html), encoding="utf-8")
            made = folder / target.name
            command = [
                program, "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer",
                "--virtual-time-budget=300000", f"--user-data-dir={folder}/profile", f"--print-to-pdf={made}",
                page.as_uri(),
            ]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
            if done.returncode or not made.exists():
                raise PdfError(f"{program} printed nothing: {' '.join(done.stderr.split())[-200:]}")
            made.replace(target)
        except subprocess.TimeoutExpired:
            raise PdfError(f"{program} took more than {TIMEOUT} s") from None
        finally:
            page.unlink(missing_ok=True)
    return target


def main() -> int:
    """Exit status of the command line."""
    try:
        print(f"printed {print_book(BUILD / 'html', BUILD / 'book.pdf')}")
    except (PdfError, OSError) as error:
        print(f"pdf: {one_line(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
