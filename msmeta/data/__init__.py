"""Data sets: what they are, how raw files become arrays, and episodes and minibatches drawn from them on a device."""

from msmeta.data.dataset import Arrays, Dataset, LabelledDataset, Labels, Progress, RawFile
from msmeta.data.episodes import Episodes, EpisodeSampler
from msmeta.data.fallback import real_or_glyphs
from msmeta.data.labelled import LabelledImages, MinibatchSampler, evaluation_batches, load_labelled
from msmeta.data.registry import DATASETS, LABELLED, TABLE_6
from msmeta.data.store import ClassImages, Status, data_root, load, prepare, status, verify

__all__ = [
    "DATASETS",
    "LABELLED",
    "TABLE_6",
    "Arrays",
    "ClassImages",
    "Dataset",
    "EpisodeSampler",
    "Episodes",
    "LabelledDataset",
    "LabelledImages",
    "Labels",
    "MinibatchSampler",
    "Progress",
    "RawFile",
    "Status",
    "data_root",
    "evaluation_batches",
    "load",
    "load_labelled",
    "prepare",
    "real_or_glyphs",
    "status",
    "verify",
]
