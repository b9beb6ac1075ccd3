"""Hands the table of the page `notation` to notation.js, which shows a symbol's meaning where prose uses it."""

import json
import re
from pathlib import Path

ROW = re.compile(r"^\* - (.+)\n  - ([^$\n]+)\n  - ?`?([^$`\n]*)", re.MULTILINE)
PLAIN = {r"\theta": "θ", r"\phi": "φ", r"\eta": "η", r"\mu": "μ", r"\omega": "ω", "T": "T", "N": "N", "K": "K"}
"""Symbols that prose has without dollars."""


def symbols(text):
    """Of the page's source: formula -> [what it is, its name in code], and the same of what stands without dollars."""
    formulas = {}
    for names, noun, code in ROW.findall(text):
        if " in Eq" not in names:
            for first, second in re.findall(r"\$([^$=]+?)(?: =[^$]*)?\$|(?<![\w\\])([A-Z])(?!\w)", names):
                formulas[first or second] = [noun.partition(";")[0], code]
    return {"formulas": formulas, "words": {PLAIN[name]: own for name, own in formulas.items() if name in PLAIN}}


def hand_over(app):
    """jupyter-book loads notation.js by itself, as all scripts in _static."""
    page = Path(app.srcdir, "notation.md")
    if page.exists():
        app.add_js_file(None, body=f"window.notation = {json.dumps(symbols(page.read_text()))};")


def setup(app):
    app.connect("builder-inited", hand_over)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
