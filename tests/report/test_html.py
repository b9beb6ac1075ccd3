"""Tables of results as HTML: what is escaped, aligned and grouped."""

from html.parser import HTMLParser

from msmeta.report.html import Rows, interval, link, quiet, verdict
from msmeta.statistics import Verdict


class Tags(HTMLParser):
    """Every tag with its attributes; fails where one is closed that is not open."""

    def __init__(self, text):
        super().__init__()
        self.open, self.found = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_table_has_heads_groups_and_aligned_numbers():
    rows = [["A < B", interval(1.5, 0.25, best=True)], ["C", quiet("not run")]]
    table = Rows("A caption & more", ["Method", "Number"], [("First", rows), ("", [["D", "2"]])], ["Number"], "table-4")
    html = table._repr_html_()
    tags = Tags(html).found
    scopes = [attrs["scope"] for tag, attrs in tags if tag == "th"]
    assert scopes == ["col", "col", "rowgroup", "row", "row", "row"]
    assert [attrs for tag, attrs in tags if tag == "td"] == [{"class": "number"}] * 3
    assert "A &lt; B" in html and "A caption &amp; more" in html and "<strong>1.50</strong>" in html
    assert str(table).splitlines()[1] == "| First: A < B | 1.50 ±0.25 |"
    assert table._repr_markdown_().splitlines()[:2] == ["```{rows} A caption & more", ":name: table-4"]


def test_verdicts_are_told_apart_without_colour():
    shown = {verdict(each).html for each in Verdict}
    assert len(shown) == 4 and all(str(each) in verdict(each).html for each in Verdict)
    assert link("x & y", "table_4").html == '<a href="table_4.html">x &amp; y</a>'
