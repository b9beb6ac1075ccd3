"""The package's docstrings are plain text with `code`: for autodoc they become reStructuredText."""

import re

FIELDS = re.compile(r"(?:^|(?<=\. ))([a-z_]\w*(?:, [a-z_]\w*)*): ")
"""Names of arguments or fields that a paragraph, or a sentence in it, is about: `theta: dict of tensors.`"""


def rewrite(app, what, name, obj, options, lines):
    """Of each paragraph: a formula is set as it is, an argument's names are marked, all else is text."""
    paragraphs = re.split(r"\n(?:\s*\n)+", "\n".join(lines).strip())
    lines[:] = [line for paragraph in paragraphs for line in (*_paragraph(paragraph), "")]


def _paragraph(text):
    rows = text.split("\n")
    if text.startswith(">>>"):
        return rows
    if all(row.startswith("    ") for row in rows):
        return ["::", "", *rows]
    text = re.sub(r"\n +", " ", text)  # the rest of an argument's text is indented
    items = [" ".join(item.split()) for item in text.split("\n")] if FIELDS.match(text) else []
    if not items:
        return [_text(" ".join(text.split()))]
    fields = []
    for name, value in _fields(" ".join(items)):
        fields.append(f":{name}: {_text(value)}")
    return fields


def _fields(text):
    """Pairs of names and what is said of them."""
    parts = FIELDS.split(text)[1:]
    return zip(parts[::2], parts[1::2], strict=True)


def _text(text):
    """Code in double backticks; what would be markup elsewhere is escaped."""
    code = re.split(r"`([^`]+)`", text)
    return "".join(f"``{part}``" if i % 2 else re.sub(r"([\\*_|])", r"\\\1", part) for i, part in enumerate(code))


def setup(app):
    app.connect("autodoc-process-docstring", rewrite)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
