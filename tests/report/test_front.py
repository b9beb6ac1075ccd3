"""The front page's idea, verdicts and chart, with and without results."""

from msmeta.report import front


def test_the_front_page_is_whole_without_any_run(store):
    store()
    text = front.page("<svg></svg>")
    assert text.count("```{raw} html") == 2 and "Accuracy against time: not run" in text
    assert text.index("<svg>") < text.index("```{rows}") < text.index("Accuracy against time")
    assert text.count("not-run") > 10 and "::::{container} front" in text.splitlines()[0]
