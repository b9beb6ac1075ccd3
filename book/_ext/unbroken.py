"""A cell of a table may have several lines, but none ends within a number and its interval, or within p = 0.05."""

import re

from docutils import nodes

INSIDE = re.compile(r" (?=±)|(?<=\bp) (?=[=<] )|(?<=\bp [=<]) ")


def unbroken(text):
    return INSIDE.sub("\u00a0", text)


def join(app, doctree, docname):
    for cell in doctree.findall(nodes.entry):
        for text in list(cell.findall(nodes.Text)):
            text.parent.replace(text, nodes.Text(unbroken(text)))


def setup(app):
    app.connect("doctree-resolved", join)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
