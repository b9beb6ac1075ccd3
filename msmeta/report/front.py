"""The front page: the idea, the verdict on each claim, and what the idea buys."""

from __future__ import annotations

from msmeta.report import few_shot, few_shot_time, verdicts
from msmeta.report.tables import listed


def page(idea: str) -> str:
    """A drawing of the idea, the verdicts, and accuracy against time, in MyST; a phone shows them in this order."""
    drawing = f'```{{raw}} html\n<figure class="idea">{idea}</figure>\n```'
    chart = f'```{{raw}} html\n<figure class="chart">{headline()}</figure>\n```'
    table = verdicts.table(details=False)._repr_markdown_()
    return "\n".join(["::::{container} front", drawing, table, chart, "::::"])


def headline() -> str:
    """Test accuracy against training time of the committed runs of Omniglot 20-way 1-shot, with a caption that says of
    which, in HTML; in words where there are none."""
    found = few_shot.committed(dataset="omniglot", way=20, shot=1)
    picture = few_shot_time.learning_curves(found, "Omniglot, 20-way 1-shot", idle=True) if len(found) else "not run"
    if isinstance(picture, str):
        return f"<p>Accuracy against time: {picture}</p>"
    filters, seeds = listed(found["filters"]), sorted(set(found["seed"]))
    caption = (
        f"Omniglot, 20-way 1-shot. Preset {listed(found['preset'])}: {filters} filters, "
        f"seed{'s' if len(seeds) > 1 else ''} {listed(seeds)}."
    )
    return f"{picture.svg()[1]}<figcaption>{caption}</figcaption>"
