"""Builds the book: papermill runs the notebooks, jupyter-book renders, and only a good book replaces the last one.

python book/build.py --preset quick                                # the whole book
python book/build.py --preset quick --notebook table_4 -p way 20   # one notebook, into book/_run/
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NoReturn

import nbformat
import papermill
import vl_convert
from jupyter_client import AsyncKernelManager
from myst_nb.core.read import read_myst_markdown_notebook
from papermill.exceptions import PapermillExecutionError

from msmeta import files, paths, runs
from msmeta.errors import ConfigError, one_line
from msmeta.experiments import plain_yaml
from msmeta.report import metadata, stored

ROOT = Path(__file__).resolve().parent.parent
KERNEL = "msmeta-build"
KERNEL_LOG = "kernel.log"
CELL = "```{code-cell}"
SECONDS = "seconds.json"
"""Beside the pages: how long the cells of each took."""


class BuildError(Exception):
    """One line that says what went wrong and where."""


def build_book(book: Path, notebooks: Path, preset: str, root: Path) -> Path:
    """Runs every notebook with `preset` and the cells of every page, renders, checks and swaps in; the front page.

    book: folder with the pages. root: folder that the notebooks run in. Raises BuildError, in which case the last good
    book is where it was.
    """
    output = book / "_build"
    with files.working_folder("staging", output) as folder:
        staging = folder / "book"
        shutil.copytree(
            book, staging, ignore=shutil.ignore_patterns("_build", "_run", "build.py", "pdf.py", "__pycache__")
        )
        seconds: dict[str, float] = {}
        for notebook in sorted(notebooks.glob("*.ipynb")):
            start = time.monotonic()
            print(f"{notebook.stem}: running, preset {preset}", flush=True)
            run_notebook(notebook, staging / notebook.name, {"preset": preset}, root)
            seconds[notebook.stem] = time.monotonic() - start
            print(f"{notebook.stem}: run in {seconds[notebook.stem]:.0f} s", flush=True)
        for page in sorted(staging.rglob("*.md")):
            if CELL in page.read_text(encoding="utf-8"):
                start = time.monotonic()
                name = page.relative_to(staging).with_suffix("").as_posix()
                run_page(page, root)
                seconds[name] = time.monotonic() - start
                print(f"{name}: cells run in {seconds[name]:.0f} s", flush=True)
        pages = render(staging)
        runs.write_json(pages / SECONDS, seconds)
        _add_library(pages / "_static")
        _add_results(root, pages)
        if found := remote_resources(pages):
            raise BuildError("pages load from other hosts: " + "; ".join(found))
        _swap(pages, output / "html")
    return output / "html" / "index.html"


def _add_library(folder: Path) -> None:
    """Vega, which draws the interactive figures; a page fetches it when a reader asks for one. Not earlier than this:
    each script of the book's own `_static` is loaded by every page."""
    folder.mkdir(exist_ok=True)
    inside = f"(() => {{{vl_convert.javascript_bundle()}}})();"  # its many names are not the page's
    (folder / "vega.js").write_text(inside, encoding="utf-8")


def _add_results(root: Path, pages: Path) -> None:
    """The stored results, which pages offer for download, and their description for machines."""
    results = runs.results_root() if os.environ.get("MSMETA_RESULTS") else root / "results"
    if results.exists() and (root / "CITATION.cff").exists():
        unfinished = shutil.ignore_patterns("live", "checkpoints", "sweeps", "*.pt", ".*")
        shutil.copytree(results, pages / "results", ignore=unfinished)
        for path in (pages / "results").glob("*/*.json"):
            if stored.find(path) is None:  # which says why
                path.unlink()
        metadata.write(root, pages)


def run_page(page: Path, root: Path) -> None:
    """Replaces a MyST page with cells by the executed notebook; raises BuildError for a failing cell, as of a check."""
    notebook = read_myst_markdown_notebook(page.read_text(encoding="utf-8"))
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    with files.working_folder("page", page.parent) as folder:
        source = folder / f"{page.stem}.ipynb"
        nbformat.write(notebook, source)
        run_notebook(source, page.with_suffix(".ipynb"), {}, root)
    page.unlink()


def run_notebook(notebook: Path, target: Path, parameters: dict[str, Any], root: Path) -> None:
    """Executes `notebook` in folder `root` and writes `target` whole or not at all.

    Raises BuildError for an unknown parameter and for a failing cell, which it names.
    """
    known = papermill.inspect_notebook(str(notebook))
    if unknown := sorted(set(parameters) - set(known)):
        raise BuildError(f"{notebook.name} has no parameter {', '.join(unknown)}: it has {', '.join(known)}")
    with files.working_folder("run", target.parent) as folder, _kernel(folder):
        temporary, ended = folder / target.name, []
        try:
            papermill.execute_notebook(
                str(notebook), str(temporary), parameters, kernel_name=KERNEL, cwd=str(root), progress_bar=False,
                kernel_manager_class=_manager(ended),
            )  # fmt: skip
        except PapermillExecutionError as error:
            reason = " ".join(f"{error.ename}: {error.evalue}".split())
            raise BuildError(f"{notebook.name} failed in cell {error.cell_index}: {reason}") from error
        except RuntimeError as error:  # the kernel did not start, or it died
            cell, log = _last_cell(temporary), (folder / KERNEL_LOG).read_text().strip().splitlines()
            where = "" if cell is None else f" in cell {cell}"
            why = _end_in_words(ended[-1] if ended else None, (log or ["no word of why"])[-1])
            raise BuildError(f"{notebook.name}: its kernel died{where}: {why}") from error
        temporary.replace(target)


def _manager(ended: list[int]) -> type[AsyncKernelManager]:
    """A kernel manager that adds the exit status of its kernel, once there is one, to `ended`."""

    class Manager(AsyncKernelManager):
        async def is_alive(self) -> bool:
            if self.has_kernel and (status := await self.provisioner.poll()) is not None:
                ended.append(status)
            return await self._async_is_alive()

    return Manager


def _last_cell(notebook: Path) -> int | None:
    """The number of the last cell that papermill began to run, by what it wrote."""
    if not notebook.exists():
        return None
    states = [cell.metadata.get("papermill", {}).get("status") for cell in nbformat.read(notebook, 4).cells]
    return max((number for number, state in enumerate(states) if state not in (None, "pending")), default=None)


def _end_in_words(status: int | None, last: str) -> str:
    """Why a kernel died. status: its exit status, if known. last: the last line that it wrote."""
    if status is None or status >= 0:
        return last if status is None else f"it ended with status {status} ({last})"
    name = signal.Signals(-status).name
    memory = ", as the system does where memory runs out: close other programs, or take a smaller preset"
    return f"killed by signal {-status}, {name}" + (memory if name == "SIGKILL" else "")


@contextmanager
def _kernel(folder: Path) -> Iterator[None]:
    """A kernel that is this very interpreter, whatever kernels the user has installed."""
    place = folder / "kernels" / KERNEL
    place.mkdir(parents=True)
    # Its own messages go to a file: a notebook's errors come with the notebook.
    quiet = 'exec "$0" -m ipykernel_launcher -f "$1" 2>"$2"'
    command = ["/bin/sh", "-c", quiet, sys.executable, "{connection_file}", str(folder / KERNEL_LOG)]
    specification = {"argv": command, "display_name": "Python 3", "language": "python"}
    (place / "kernel.json").write_text(json.dumps(specification))
    before = os.environ.get("JUPYTER_PATH")
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [str(folder), before]))
    try:
        yield
    finally:
        os.environ.pop("JUPYTER_PATH") if before is None else os.environ.update(JUPYTER_PATH=before)


def render(staging: Path) -> Path:
    """HTML pages of a clean copy of the book; any warning of Sphinx is an error. Raises BuildError."""
    jupyter_book = str(Path(sys.executable).with_name("jupyter-book"))
    command = [jupyter_book, "build", "-W", "-n", "--keep-going", str(staging)]
    done = subprocess.run(command, capture_output=True, text=True)
    pages = staging / "_build" / "html"
    if done.returncode or not (pages / "index.html").exists():
        text = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr).replace(f"{staging}{os.sep}", "")
        notes = [line for line in text.splitlines() if re.search(r"WARNING|ERROR|[Ee]xception", line)]
        raise BuildError("jupyter-book failed: " + " | ".join(notes or text.splitlines()[-3:]))
    return pages


class _Resources(HTMLParser):
    """Collects what a page loads by itself, or a script in it may load; links that a reader may follow do not count."""

    LOADED = {"object": ["data"], "link": ["href"], "use": ["href", "xlink:href"], "image": ["href", "xlink:href"]}
    NOT_LOADED = {"canonical", "next", "prev", "search", "author", "license", "alternate"}

    def __init__(self, page: str) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "link" and set(values.get("rel", "").split()) & self.NOT_LOADED:
            return
        self.urls += [values.get(name, "") for name in ("src", "poster", *self.LOADED.get(tag, []))]
        self.urls += [part.split()[0] for part in values.get("srcset", "").split(",") if part.strip()]
        self.urls += _css_urls(values.get("style", ""))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "style":
            self.urls += _css_urls(data)
        elif self.cdata_elem == "script":  # a script may load others
            self.urls += re.findall(r"""["'`]((?:https?:)?//[^"'`\s]+\.(?:m?js|css|woff2?))\b""", data)


def _css_urls(text: str) -> list[str]:
    return re.findall(r"""(?:url\(|@import)\s*["']?([^"')\s;]+)""", text)


def remote_resources(pages: Path) -> list[str]:
    """`page: url` for each script, style sheet, font, image or frame that a page would load from another host."""
    found = []
    for path in sorted(pages.rglob("*")):
        if path.suffix == ".html":
            urls = _Resources(path.read_text(encoding="utf-8")).urls
        elif path.suffix == ".css":
            urls = _css_urls(path.read_text(encoding="utf-8"))
        else:
            continue
        remote = dict.fromkeys(url for url in urls if re.match(r"\s*(?:https?:)?//", url, re.IGNORECASE))
        found += [f"{path.relative_to(pages)}: {url}" for url in remote]
    return found


def _swap(new: Path, place: Path) -> None:
    """Puts folder `new` in `place`; the two renames leave no moment without a whole book on disk."""
    old = place.with_name(f".{place.name}-old")
    shutil.rmtree(old, ignore_errors=True)
    try:
        if place.exists():
            place.rename(old)
        new.rename(place)
    except BaseException:
        if old.exists() and not place.exists():
            old.rename(place)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _value(name: str, text: str) -> Any:
    """As YAML; a value of a kind that notebooks have no use for, such as a date, stays the text that it is."""
    try:
        value = plain_yaml.parse(text)
    except ValueError:
        raise BuildError(f"-p {name} {text[:80]}: the value is no YAML, such as 20, quick or [1, 8]") from None
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return text
    return value


def _interrupt(number: int, frame: Any) -> NoReturn:
    logging.disable(logging.CRITICAL)  # what libraries have to say of the kernel's end is no news
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status of the command line."""
    parser = argparse.ArgumentParser(description="Build the book, or run one of its notebooks.")
    parser.add_argument("--preset", default="quick", help="smoke, quick, cpu or paper")
    parser.add_argument("--notebook", metavar="NAME", help="run this notebook alone, into book/_run/")
    parser.add_argument(
        "-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
        help="a parameter of the notebook; lists as YAML, such as [1, 8]",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves it
            signal.signal(number, _interrupt)
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what goes wrong is said once, by this program
    start, book, notebooks = time.monotonic(), ROOT / "book", ROOT / "notebooks"
    try:
        paths.fix_roots()  # a kernel runs in another folder than this command
        if options.notebook is None:
            if options.parameters:
                raise BuildError("-p sets a parameter of one notebook: name it with --notebook")
            page = build_book(book, notebooks, options.preset, ROOT)
            print(f"book built in {time.monotonic() - start:.0f} s: {page.relative_to(ROOT)}")
        else:
            notebook, target = notebooks / f"{options.notebook}.ipynb", book / "_run" / f"{options.notebook}.ipynb"
            if not notebook.exists():
                known = ", ".join(sorted(path.stem for path in notebooks.glob("*.ipynb")))
                raise BuildError(f"there is no notebook {options.notebook}: choose from {known}")
            values = {name: _value(name, text) for name, text in options.parameters}
            run_notebook(notebook, target, {"preset": options.preset, **values}, ROOT)
            print(f"{options.notebook} run in {time.monotonic() - start:.0f} s: {target.relative_to(ROOT)}")
    except (BuildError, ConfigError, OSError) as error:
        print(f"build: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("build: interrupted; the last good book is untouched", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
