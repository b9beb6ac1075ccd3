"""The browser of the tests: the system's Chromium, since Playwright's own is no package."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

PATH = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MISSING = "there is no Chromium here: apt install chromium"
OPTIONS = {
    "executable_path": PATH,
    "args": [
        "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update",
    ],
}  # fmt: skip


@contextmanager
def opened(folder: Path, html: str, width: int) -> Iterator[Page]:
    """A tab with a page of this body, from a file; fails the test for an error or a request elsewhere."""
    if PATH is None:
        pytest.skip(MISSING)
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    (folder / "page.html").write_text(f"<!doctype html><html><head>{head}</head><body>{html}</body></html>")
    wrong = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(**OPTIONS)
        tab = browser.new_page(viewport={"width": width, "height": 900})
        tab.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("request", lambda request: None if request.url.startswith("file:") else wrong.append(request.url))
        tab.goto((folder / "page.html").as_uri())
        yield tab
        browser.close()
    assert wrong == []
