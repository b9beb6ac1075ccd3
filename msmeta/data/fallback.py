"""Real data where they can be had, else glyphs, and a sentence that says which and why."""

from msmeta.data.dataset import FEW_SHOT
from msmeta.data.registry import find
from msmeta.data.store import prepare
from msmeta.errors import DataError


def glyphs_like(name: str) -> str:
    """The generated data set of the same kind: `glyphs` for few-shot tasks, `glyphs-rgb` for transfer."""
    return "glyphs" if find(name).purpose == FEW_SHOT else "glyphs-rgb"


def real_or_glyphs(name: str) -> tuple[str, str]:
    """(data set to use, why): `name` if it is prepared or can be downloaded now, else glyphs of the same kind."""
    entry = find(name)
    try:
        prepare(name)
    except DataError as error:
        return glyphs_like(name), (
            f"These runs used procedurally drawn glyphs, not {entry.title}, because {entry.title} could not be had: "
            f"{error}"
        )
    return name, f"These runs used {entry.title}."
