"""Modules in a page: each with a model of its own, and nothing that a page could take for its end."""

import re

from msmeta.report import interactive


def test_a_page_has_the_module_its_style_and_its_values():
    shown = interactive.Interactive("turn", "here", points=[{"method": "</script>"}])._repr_html_()
    assert interactive.source("turn") in shown and '<div id="here" class="turn"><noscript>' in shown
    assert shown.count("</script>") == 1 and '"method":"<\\/script>"' in shown
    assert shown.endswith('document.getElementById("here")});\n</script>')


def test_modules_are_as_anywidget_has_them_and_load_nothing():
    for name in ("explore", "turn"):
        module = interactive.source(name)
        assert "function render({ model, el })" in module and module.endswith("export default { render };\n")
        assert not re.search(r"\bimport\b|https?://(?!www\.w3\.org)", module)
