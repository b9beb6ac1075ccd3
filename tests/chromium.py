"""The browser of the tests: the system's Chromium, since Playwright's own is no package."""

import shutil

PATH = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MISSING = "there is no Chromium here: apt install chromium"
OPTIONS = {
    "executable_path": PATH,
    "args": [
        "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update",
    ],
}  # fmt: skip
