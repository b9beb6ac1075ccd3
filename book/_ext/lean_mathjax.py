"""Leaves out two thirds of MathJax, 17 MB: bundles for other inputs and outputs than TeX and HTML."""

import shutil
from pathlib import Path

KEPT = {"tex-chtml.js", "input", "output", "a11y", "sre", "ui"}
"""The bundle that pages load, and what it may load: fonts, further packages of TeX, its menu, speech."""


def drop(app, exception):
    if exception is None:
        for path in Path(app.outdir, "_static", "mathjax").iterdir():
            if path.name not in KEPT:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def setup(app):
    app.connect("build-finished", drop, priority=900)  # after the extension that copies it
    return {"parallel_read_safe": True, "parallel_write_safe": True}
