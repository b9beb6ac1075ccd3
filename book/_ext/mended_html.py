"""What Sphinx writes wrong: signatures of several lines, links from source to the reference, the list of literature."""

import re

SIGNATURE = re.compile(r'<dt class="sig .*?</dt>', re.DOTALL)
LINES = {"<dl>": '<span class="sig-lines">', "</dl>": "</span>", "<dd>": '<span class="sig-line">', "</dd>": "</span>"}
BACK = re.compile(r'(<a class="viewcode-back" href="[^"#]*#)([^"]+)')


def mend(app, pagename, templatename, context, doctree):
    body = context.get("body") or ""
    # Lists of definitions that define nothing, which a screen reader announces.
    body = SIGNATURE.sub(lambda found: re.sub("</?d[ld]>", lambda tag: LINES[tag[0]], found[0]), body)
    body = body.replace(
        '<div role="list" class="citation-list">', '<div class="citation-list">'
    )  # with entries of no list
    if pagename.startswith("_modules/"):
        module = pagename.removeprefix("_modules/").replace("/", ".")
        documented = app.env.get_domain("py").objects
        body = BACK.sub(lambda found: found[1] + anchor(found[2], module, documented), body)
    if body:
        context["body"] = body


def anchor(name, module, documented):
    """Sphinx takes all of a module's objects for documented under one name; some are as `msmeta.bilevel.Dynamics`."""
    parts = name.split(".")
    ends = [".".join(parts[start:]) for start in range(len(parts))]
    candidates = [name, *(f"{prefix}.{end}" for prefix in (module, module.split(".")[0]) for end in ends)]
    return next((documented[candidate].node_id for candidate in candidates if candidate in documented), name)


def setup(app):
    app.connect("html-page-context", mend)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
