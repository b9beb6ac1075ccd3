"""Tables and figures carry the paper's numbers: one with the label `table-4` is Table 4, on whatever page it stands."""

import re

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective


class Rows(SphinxDirective):
    """A table of the rows that stand in it as HTML; its argument is the caption, if it has one."""

    optional_arguments = 1
    final_argument_whitespace = True
    option_spec = {"name": directives.unchanged}
    has_content = True

    def run(self):
        table = nodes.table(classes=["rows"])
        messages = []
        if self.arguments:
            caption, messages = self.state.inline_text(self.arguments[0], self.lineno)
            table += nodes.title(self.arguments[0], "", *caption)
        table += nodes.raw("", "\n".join(self.content), format="html")
        self.set_source_info(table)
        self.add_name(table)
        return [table, *messages]


def number(app, env):
    """Sphinx counts; here a label such as `figure-2` says the number, and what has no such label has none."""
    places = {}
    for docname, kinds in env.toc_fignumbers.items():
        for kind, ids in kinds.items():
            own = {name: int(found[1]) for name in ids if (found := re.fullmatch(rf"{kind}-(\d+)", name))}
            kinds[kind] = {name: (count,) for name, count in own.items()}
            for name in own:
                if name in places:
                    logging.getLogger(__name__).warning("%s stands on %s too", name, places[name], location=docname)
                places[name] = docname
    return []  # no page is to be read again


def setup(app):
    app.add_directive("rows", Rows)
    app.connect("env-get-updated", number, priority=900)  # after Sphinx has counted
    return {"parallel_read_safe": True, "parallel_write_safe": True}
