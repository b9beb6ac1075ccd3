"""The names of a user's own images, `folder:PATH`, and what is known of them as a data set.

Results know a folder as `folder:NAME-HASH@SIDE`, the last part of its path and a hash of the names and sizes of its
files, so that no path of a machine stands in them, and folders of equal names are told apart.
"""

import itertools
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from msmeta.data.dataset import FEW_SHOT, TRANSFER, Arrays, Dataset
from msmeta.data.raw import showable
from msmeta.errors import ConfigError, DataError, brief

PREFIX = "folder:"
OPTIONS = r"(?:@(?P<side>\d{1,5}))?(?P<options>(?:\+(?:grey|squash|transfer|links|least\d{1,6}))*)"
GIVEN = re.compile(rf"{PREFIX}(?P<path>.+?){OPTIONS}", re.DOTALL)
KNOWN = re.compile(rf"{PREFIX}(?P<path>[\w.-]+-[0-9a-f]{{8}}){OPTIONS}")
LEAST = 16
"""Images of a class for a task with one shot and 15 queries."""
MOST_NAMED = 10
"""Classes or files of which a table gives the names."""


@dataclass(frozen=True)
class Given:
    """What stands in `folder:PATH@SIDE+grey+squash+transfer+links+least5`; all but the path may be left out.

    side: pixels that a network sees. squash: without keeping the ratio of the sides, whose middle square is taken else.
    links: whether they are followed. least: classes with fewer images are left out.
    """

    path: str
    side: int
    grey: bool
    squash: bool
    transfer: bool
    links: bool
    least: int

    @property
    def suffix(self) -> str:
        """All that changes the images, in one order."""
        own = {
            "grey": self.grey,
            "squash": self.squash,
            "transfer": self.transfer,
            f"least{self.least}": self.least > 1,
        }
        return f"@{self.side}" + "".join(f"+{name}" for name, on in own.items() if on)


def is_folder(name: object) -> bool:
    """Whether a data set's name is that of a folder."""
    return isinstance(name, str) and name.startswith(PREFIX)


def is_known(name: object) -> bool:
    """Whether it is what results call a folder, and none of this name lies here."""
    if not is_folder(name) or KNOWN.fullmatch(name) is None:
        return False
    given = parse(name)
    return name.endswith(given.suffix) and not Path(given.path).is_dir()


def is_path(name: object) -> bool:
    """Whether it says where a folder lies."""
    return is_folder(name) and not is_known(name)


def parse(name: str, purpose: str | None = None) -> Given:
    """The parts of a folder's name. purpose: FEW_SHOT or TRANSFER where one of them is wanted. Raises ConfigError."""
    match = GIVEN.fullmatch(name)
    if match is None:
        raise ConfigError(f"{brief(name)}: give a folder with images, such as folder:birds or folder:~/birds@64+grey")
    options = match["options"].split("+")[1:]
    transfer, grey = "transfer" in options or purpose == TRANSFER, "grey" in options
    side = int(match["side"] or (32 if transfer else 28 if grey else 84))
    least = max((int(option[5:]) for option in options if option.startswith("least")), default=1)
    if transfer and (purpose == FEW_SHOT or grey):
        raise ConfigError(f"{brief(name)}: +transfer is " + ("of colour images" if grey else "not for few-shot tasks"))
    if not 16 <= side <= 1024:
        raise ConfigError(f"{brief(name)}: images of {side}x{side} are impossible: give a side from 16 to 1024")
    return Given(match["path"], side, grey, "squash" in options, transfer, "links" in options, least)


def like(name: str) -> str:
    """The registered data set whose presets hold for a folder: one of such images, for the same purpose."""
    given = parse(name)
    if given.transfer:
        return "bird" if given.side == 224 else "cifar-100"
    return "omniglot" if given.grey else "miniimagenet" if given.side == 84 else "cifar-fs"


def entry(name: str) -> Dataset:
    """What the name alone says: neither splits nor classes are known."""
    given = parse(name)
    mapped = given.transfer and given.side == 224  # stored larger and cropped, as other photographs for transfer
    stored, title = 256 if mapped else given.side, given.path.rpartition("-")[0] or given.path
    return Dataset(
        name=name,
        title=f"Folder {title}",
        licence="not known",
        source="a folder of the user's own images",
        citation="",
        obtained=f"given with its path, {PREFIX}PATH{given.suffix}",
        classes=0,
        shape=(1 if given.grey else 3, stored, stored),
        splits={},
        build=_build_by_path,
        samples=None if given.transfer else 0,
        crop=given.side if mapped else None,
        given=f"{PREFIX}PATH{given.suffix}",
    )


def _build_by_path(*_: object) -> Arrays:
    raise DataError("a folder is prepared by its path, folder:PATH, from which it takes its name")


def stored(name: str, root: Path) -> Dataset:
    """The same with splits and counts, where it is prepared."""
    dataset = entry(name)
    try:
        file = root / dataset.stored_as / "meta.json"
        meta = json.loads(file.read_text() if file.is_file() else "")
        notes = meta["notes"]
        _check_notes(notes)
        own = {split: len(counts) for split, counts in notes["classes"].items()}
        fewest = min(min(counts.values()) for counts in notes["classes"].values())
        return replace(
            dataset,
            classes=len(meta["classes"]),
            splits={split: range(*ends) for split, ends in meta["splits"].items()},
            samples=None if dataset.purpose == TRANSFER else fewest,
            split_classes=own | ({"tune": own["train"]} if dataset.purpose == FEW_SHOT else {}),
            notes=notes,
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return dataset  # store says what is wrong when it is loaded


def _check_notes(notes: dict[str, Any]) -> None:
    """Raises ValueError, or what comes of another kind, unless they are as `scan` makes them."""
    counted = [*notes["classes"].values(), notes["left_out"]]
    numbers = [notes["unlisted"], *(number for counts in counted for number in counts.values())]
    named = [notes["split"], *notes["unreadable"], *notes.get("repeated", []), *itertools.chain(*counted)]
    if not all(type(number) is int and number >= 0 for number in numbers) or not all(map(showable, named)):
        raise ValueError("they are not as they were written")


def in_words(dataset: Dataset, least: int = LEAST) -> list[tuple[str, str]]:
    """What is in a prepared folder: counts, the split, classes with fewer than `least` images, files left out."""
    notes, lines = dataset.notes, []
    for split, counts in notes["classes"].items():
        fewest, most = min(counts.values()), max(counts.values())
        each = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
        lines.append((split, f"{sum(counts.values()):,} images of {len(counts):,} classes, {each} a class"))
    lines.append(("split", notes["split"]))
    if dataset.purpose == FEW_SHOT:
        counts = [
            (f"{label} ({n} in {split})", n) for split, own in notes["classes"].items() for label, n in own.items()
        ]
    else:
        totals = sum(map(Counter, notes["classes"].values()), Counter())
        counts = [(f"{c} ({n})", n) for c, n in totals.items()]
    lines.append((f"under {least} images", _named([text for text, count in counts if count < least])))
    if notes["left_out"]:
        lines.append(("classes left out", _named([f"{label} ({count})" for label, count in notes["left_out"].items()])))
    if notes["unlisted"]:
        lines.append(("in no list", f"{notes['unlisted']:,} images, left out"))
    lines.append(("unreadable", _named(notes["unreadable"])))
    lines.append(("the same image", _named(notes.get("repeated", []))))  # of which older folders say nothing
    return lines


def _named(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - MOST_NAMED:,} more" if len(texts) > MOST_NAMED else ""
    return f"{len(texts):,}: {'; '.join(texts[:MOST_NAMED])}{more}" if texts else "none"
