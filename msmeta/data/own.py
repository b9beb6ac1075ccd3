"""A data set as a user names it, and as results do."""

from pathlib import Path

from msmeta.data import folder
from msmeta.data.dataset import Progress
from msmeta.data.registry import data_root, find
from msmeta.data.scan import scan
from msmeta.data.store import prepare
from msmeta.errors import ConfigError


def known_as(name: str, purpose: str, root: Path | None = None, progress: Progress = lambda *_: None) -> str:
    """The name that results have for a data set: of `folder:PATH` the folder's, which is prepared if need be.

    Other names are given back as they are. purpose: FEW_SHOT or TRANSFER. Raises DataError in one line if the folder
    cannot be read, ConfigError if it is not for this purpose.
    """
    if not folder.is_folder(name):
        return name
    if folder.is_known(name):
        if folder.entry(name).purpose != purpose:
            raise ConfigError(f"{name} is not for {purpose}: give the folder's path")
        return name
    given = folder.parse(name, purpose)
    found = scan(given)
    name = found.dataset.name
    known = find(name, Path(root or data_root()))
    if not known.splits or known.notes.get("state") != found.state:
        links = "+links" if given.links else ""
        prepare(f"{folder.PREFIX}{found.folder}{given.suffix}{links}", root=root, progress=progress)
    return name
