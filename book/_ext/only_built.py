"""Refuses to render the book's text alone: book/build.py runs notebooks and cells first, in a copy of this folder."""

import sys
from pathlib import Path


def setup(app):
    app.connect("config-inited", _require_outputs, priority=0)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _require_outputs(app, config):
    pages = (path for path in Path(app.srcdir).rglob("*.md") if "_build" not in path.relative_to(app.srcdir).parts)
    if any("```{code-cell}" in page.read_text(encoding="utf-8") for page in pages):
        sys.exit(  # an error would end in jupyter-book's own traceback
            f"{app.srcdir} is the book's text, whose notebooks and cells have not been run: run `make book` in the "
            "folder above, which runs them and puts the pages into book/_build/html"
        )
