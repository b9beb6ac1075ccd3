"""Data sets: what they are, how raw files become arrays, and episodes and minibatches drawn from them on a device."""

from msmeta.data.dataset import FEW_SHOT, L2T_WW, SEEDED, TRANSFER, Arrays, Dataset
from msmeta.data.episodes import Episodes, EpisodeSampler
from msmeta.data.fallback import glyphs_like, real_or_glyphs
from msmeta.data.folder import LEAST, in_words, is_folder, is_path, parse
from msmeta.data.images import Images
from msmeta.data.l2t_ww import LISTS as L2T_LISTS
from msmeta.data.l2t_ww import require_split
from msmeta.data.minibatches import MinibatchSampler, evaluation_batches
from msmeta.data.noise import noise
from msmeta.data.own import known_as
from msmeta.data.registry import DATASETS, TABLE_6, data_root, find, like, names
from msmeta.data.store import load, prepare, status, stored_hash, verify

__all__ = [
    "DATASETS",
    "FEW_SHOT",
    "L2T_LISTS",
    "L2T_WW",
    "SEEDED",
    "LEAST",
    "TABLE_6",
    "TRANSFER",
    "Arrays",
    "Dataset",
    "EpisodeSampler",
    "Episodes",
    "Images",
    "MinibatchSampler",
    "data_root",
    "evaluation_batches",
    "find",
    "glyphs_like",
    "in_words",
    "is_folder",
    "is_path",
    "known_as",
    "like",
    "load",
    "names",
    "noise",
    "parse",
    "prepare",
    "real_or_glyphs",
    "require_split",
    "status",
    "stored_hash",
    "verify",
]
