"""Equations carry the paper's numbers: the label `eq-13` makes an equation (13), on whatever page it stands."""

import re

from sphinx.domains.math import MathDomain
from sphinx.util import logging


class PaperMathDomain(MathDomain):
    """Sphinx's math domain with the number taken from the label instead of a counter."""

    def note_equation(self, docname, labelid, location=None):
        super().note_equation(docname, labelid, location)
        if number := re.fullmatch(r"eq-(\d+)", labelid):
            self.equations[labelid] = (docname, int(number[1]))
        else:  # MyST labels an environment such as align by itself; align* has no label
            why = "equation label %r is not eq-N, with the paper's number N; environments take a star"
            logging.getLogger(__name__).warning(why, labelid, location=location)


def setup(app):
    app.connect("config-inited", lambda app, config: setattr(config, "math_numfig", False))  # that is another counter
    app.add_domain(PaperMathDomain, override=True)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
