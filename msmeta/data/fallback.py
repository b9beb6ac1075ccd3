"""Real data where they can be had, else glyphs, and a sentence that says which and why."""

from msmeta.data.registry import LABELLED, find
from msmeta.data.store import prepare
from msmeta.errors import DataError


def real_or_glyphs(name: str) -> tuple[str, str]:
    """(data set to use, why): `name` if it is prepared or can be downloaded now, else glyphs of the same kind.

    These are `glyphs` for few-shot tasks and `glyphs-rgb` for transfer.
    """
    title = find(name).title
    try:
        prepare(name)
    except DataError as error:
        return "glyphs-rgb" if name in LABELLED else "glyphs", (
            f"These runs used procedurally drawn glyphs, not {title}, because {title} could not be had: {error}"
        )
    return name, f"These runs used {title}."
