"""Real data where they can be had, else glyphs, and a sentence that says which and why."""

from msmeta.data.dataset import FEW_SHOT
from msmeta.data.registry import find
from msmeta.data.store import prepare
from msmeta.errors import DataError


def real_or_glyphs(name: str) -> tuple[str, str]:
    """(data set to use, why): `name` if it is prepared or can be downloaded now, else glyphs of the same kind.

    These are `glyphs` for few-shot tasks and `glyphs-rgb` for transfer.
    """
    entry = find(name)
    try:
        prepare(name)
    except DataError as error:
        return "glyphs" if entry.purpose == FEW_SHOT else "glyphs-rgb", (
            f"These runs used procedurally drawn glyphs, not {entry.title}, because {entry.title} could not be had: "
            f"{error}"
        )
    return name, f"These runs used {entry.title}."
