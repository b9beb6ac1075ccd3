"""Equations carry the paper's numbers: the label `eq-13` makes an equation (13), on whatever page it stands."""

import re

from sphinx.domains.math import MathDomain
from sphinx.errors import ExtensionError


class PaperMathDomain(MathDomain):
    """Sphinx's math domain with the number taken from the label instead of a counter."""

    def note_equation(self, docname, labelid, location=None):
        number = re.fullmatch(r"eq-(\d+)", labelid)
        if number is None:
            raise ExtensionError(f"{docname}: equation label {labelid!r} is not eq-N with the paper's number N")
        super().note_equation(docname, labelid, location)
        self.equations[labelid] = (docname, int(number[1]))


def setup(app):
    app.add_domain(PaperMathDomain, override=True)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
