"""The role `proof` links an answer to what proves it: a file of the repository, or the line of a name in it.

{proof}`tests/test_dynamics.py::test_window` offers the file for download, and fails the build for want of the name.
"""

import os
import re
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

import msmeta

ROOT = Path(msmeta.__file__).resolve().parent.parent


def place(target):
    """(file, line) of `file`, of `file::name` for a definition or a target of make, or of `file::# Heading`.

    Raises LookupError where there is no such thing.
    """
    name, _, wanted = target.partition("::")
    path = ROOT / name
    if not path.is_file():
        raise LookupError(f"{target}: no such file")
    if not wanted:
        return path, None
    begins = re.compile(rf"\s*(?:def |class )?{re.escape(wanted)}\b")
    found = next((i for i, line in enumerate(path.read_text().splitlines(), 1) if begins.match(line)), None)
    if found is None:
        raise LookupError(f"{target}: no such name in {name}")
    return path, found


class Proof(SphinxRole):
    """A link to the file, with the line in its text."""

    def run(self):
        try:
            path, line = place(self.text)
        except LookupError as error:
            logging.getLogger(__name__).warning("%s", error, location=self.get_location())
            return [nodes.literal(text=self.text)], []
        text = self.text.partition("::")[0] + (f", line {line}" if line else "")
        here = Path(self.env.doc2path(self.env.docname)).parent
        link = addnodes.download_reference(self.rawtext, "", reftarget=os.path.relpath(path, here), reftitle=self.text)
        link += nodes.literal(text=text)
        return [link], []


def setup(app):
    app.add_role("proof", Proof())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
