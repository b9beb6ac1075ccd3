"""Which images are for training, validation and test, where only training and test are published.

The random numbers depend on the number of images alone, so a split is a pure function of the data set.
"""

import numpy as np

SEED = 0


def divide(labels: np.ndarray, testing: np.ndarray, validation: int) -> np.ndarray:
    """The order that puts images in the order of the splits, each split in the order given: int64 (N,).

    `labels` (N,); `testing` (N,) says what is published as test images; `validation` of the others are for that.
    """
    training = np.flatnonzero(~testing)
    held_out = np.zeros(len(training), bool)
    held_out[stratified(labels[training], validation)] = True
    return np.concatenate([training[~held_out], training[held_out], np.flatnonzero(testing)])


def stratified(labels: np.ndarray, count: int) -> np.ndarray:
    """Sorted places of `count` of the images, from each class in proportion: the method of largest remainders."""
    sizes = np.bincount(labels)
    shares, remainders = np.divmod(count * sizes, len(labels))
    # A stable sort gives equal remainders to the classes that come first.
    shares[np.argsort(-remainders, kind="stable")[: count - shares.sum()]] += 1
    return draw(labels, shares)


def shuffled(count: int, seed: int = SEED) -> np.ndarray:
    """The places from 0 to count - 1 in a random order, the same with every NumPy version."""
    return np.argsort(np.random.Philox(key=seed).random_raw(count), kind="stable")


def balanced(labels: np.ndarray, count: int) -> np.ndarray:
    """Sorted places of `count` of the images, the same number of each class as far as the classes reach."""
    sizes = np.bincount(labels)
    shares = np.zeros_like(sizes)
    while left := count - shares.sum():
        open_ = np.flatnonzero(shares < sizes)
        if each := left // len(open_):
            shares[open_] = np.minimum(shares[open_] + each, sizes[open_])
        else:
            shares[open_[:left]] += 1
    return draw(labels, shares)


def draw(labels: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Sorted places of `shares[label]` random images of each class; of a larger share, a smaller one is a part."""
    keys = np.random.Philox(key=SEED).random_raw(len(labels))
    order = np.lexsort((keys, labels))  # class by class, in random order
    starts = np.cumsum(np.bincount(labels)) - np.bincount(labels)
    rank = np.empty(len(labels), np.int64)
    rank[order] = np.arange(len(labels)) - starts[labels[order]]
    return np.flatnonzero(rank < shares[labels])
