"""The package's docstrings are plain text with `code`: for autodoc they become reStructuredText."""

import re

NAMES = re.compile(r"(?:^|(?<=\. ))([a-z_]\w*(?:, [a-z_]\w*)*): ")
"""Arguments or fields that a paragraph, or a sentence in it, is about: `theta: dict of tensors.`"""


def rewrite(app, what, name, obj, options, lines):
    """Formulas and examples stay as they are, arguments get entries of their own, all else is text."""
    paragraphs = re.split(r"\n\s*\n", "\n".join(lines).strip())
    lines[:] = [line for paragraph in paragraphs for line in (*_paragraph(paragraph), "")]


def _paragraph(text):
    rows = text.split("\n")
    if text.startswith(">>>"):
        return rows
    if all(row.startswith("    ") for row in rows):
        return ["::", "", *rows]
    text = " ".join(text.split())
    if not NAMES.match(text):
        return [_text(text)]
    _, *parts = NAMES.split(text)
    entries = zip(parts[::2], parts[1::2], strict=True)
    return [line for names, said in entries for line in (f"**{names}**", f"    {_text(said.strip())}")]


def _text(text):
    """Code in double backticks; what would be markup elsewhere is escaped, as the `T.` that would number a list."""
    number = re.compile(r"^(?=\w\.(?:\s|$))")
    code = re.split(r"`([^`]+)`", text)
    escaped = [f"``{part}``" if i % 2 else re.sub(r"([\\*_|])", r"\\\1", part) for i, part in enumerate(code)]
    return number.sub(r"\\", "".join(escaped))


def setup(app):
    app.connect("autodoc-process-docstring", rewrite)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
