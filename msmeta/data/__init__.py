"""Data sets: what they are, how raw files become arrays, and episodes drawn from them on a device."""

from msmeta.data.dataset import Arrays, Dataset, Progress, RawFile
from msmeta.data.episodes import Episodes, EpisodeSampler
from msmeta.data.fallback import real_or_glyphs
from msmeta.data.registry import DATASETS
from msmeta.data.store import ClassImages, Status, data_root, load, prepare, status, verify

__all__ = [
    "DATASETS",
    "Arrays",
    "ClassImages",
    "Dataset",
    "EpisodeSampler",
    "Episodes",
    "Progress",
    "RawFile",
    "Status",
    "data_root",
    "load",
    "prepare",
    "real_or_glyphs",
    "status",
    "verify",
]
