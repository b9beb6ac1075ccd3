"""Minibatches of labelled images, a pure function of (seed, split, step).

Images are augmented and normalised as in Appendix D of the paper. There is no stream to restore after a resume.
"""

import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, lru_cache

import numpy as np
import torch
from torch import Tensor

from msmeta.data.images import Images, stream
from msmeta.errors import ConfigError

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the three channels, for pixels in [0, 1]."""
PADDING = 4
"""Black pixels on each side of a 32x32 image before it is cropped."""


@dataclass(frozen=True)
class MinibatchSampler:
    """Minibatches of a split in a random order, a new one each epoch, cropped and flipped at random if `augment`.

    32x32 images are padded with black, cropped to 32x32 and flipped; of 256x256 images, 224x224 are cropped and
    flipped. Without `augment` the middle is cropped. An epoch leaves out what does not fill a batch. share: what is
    given of each batch, for one of several processes.
    Raises ConfigError in one line if the split cannot give such a batch.
    """

    data: Images
    batch: int
    seed: int = 0
    split: str = "train"
    augment: bool = True
    share: slice = field(default_factory=lambda: slice(None))

    def __post_init__(self) -> None:
        _check(self.data, self.split, self.batch)
        if self.seed < 0:
            raise ConfigError(f"seed {self.seed} is impossible: it must be at least 0")
        if self.batch > (count := len(self.data.labels[self.split])):
            raise ConfigError(
                f"a batch of {self.batch} images is impossible: split {self.split} of {self.data.name} has {count:,}"
            )

    @property
    def batches(self) -> int:
        """Of an epoch; at most batch - 1 images are left out of it."""
        return len(self.data.labels[self.split]) // self.batch

    def batch_at(self, step: int) -> tuple[Tensor, Tensor]:
        """Images float32 (batch, 3, side, side), normalised, and labels int64 (batch,), on the device of the labels.

        The same on every device. Raises ConfigError if `step` is negative.
        """
        plan = self._plan(step)
        return normalised(self._cut(plan).to(self.data.device)), self._labels(plan)

    def from_step(self, step: int, workers: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches from `step` on, without end, as `batch_at` gives them.

        Images that are mapped files are read and cropped by `workers` threads, if any, while others are used.
        """
        if workers == 0 or not self._mapped:
            yield from map(self.batch_at, itertools.count(step))
            return
        waiting: deque[tuple[np.ndarray, Future[Tensor]]] = deque()
        pool = ThreadPoolExecutor(workers)
        try:
            for at in itertools.count(step):
                plan = self._plan(at)
                waiting.append((plan, pool.submit(self._cut, plan)))
                if len(waiting) > 2 * workers:
                    plan, crops = waiting.popleft()
                    yield normalised(crops.result().to(self.data.device)), self._labels(plan)
        finally:
            pool.shutdown(cancel_futures=True)

    @property
    def _mapped(self) -> bool:
        return self.data.images[self.split].shape[-1] > self.data.side

    def _plan(self, step: int) -> np.ndarray:
        """Of each image of a batch its place, the row and column where its crop starts, and whether it is flipped.

        int64 (4, batch). Rows and columns count from the padding, if there is any.
        """
        if step < 0:
            raise ConfigError(f"step {step} is impossible: it must be at least 0")
        images, side = self.data.images[self.split], self.data.side
        epoch, within = divmod(step, self.batches)
        order = _permutation(len(images), self.seed, self.split, epoch)
        room = images.shape[-1] - side if self._mapped else 2 * PADDING
        plan = np.empty((4, self.batch), np.int64)  # of the whole batch, so that a share is a part of the same
        plan[0] = order[within * self.batch : (within + 1) * self.batch]
        if self.augment:
            bits = stream(self.seed, self.split, step, _AUGMENTATION).random_raw(3 * self.batch).reshape(3, -1)
            plan[1:3], plan[3] = bits[:2] % np.uint64(room + 1), bits[2] % np.uint64(2)
        else:
            plan[1:3], plan[3] = room // 2, 0
        return plan[:, self.share]

    def _cut(self, plan: np.ndarray) -> Tensor:
        """The images of a plan, uint8 (batch, 3, side, side), where the images of the split are."""
        images = self.data.images[self.split]
        if self._mapped:
            return _crop(images, plan, self.data.side)
        return _pad_and_crop(images, torch.from_numpy(plan).to(images.device))

    def _labels(self, plan: np.ndarray) -> Tensor:
        return self.data.labels[self.split][torch.from_numpy(plan[0]).to(self.data.device)]


def evaluation_batches(data: Images, split: str, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Every image of a split once, in order: its middle, normalised, and its label, as `MinibatchSampler` has them.

    The last batch may be smaller. Raises ConfigError if there is no such split or `batch` is not positive.
    """
    _check(data, split, batch)
    images, labels = data.images[split], data.labels[split]
    start = (images.shape[-1] - data.side) // 2
    middle = slice(start, start + data.side)
    parts = (slice(first, first + batch) for first in range(0, len(images), batch))
    return ((normalised(images[part, :, middle, middle].to(data.device)), labels[part]) for part in parts)


def normalised(images: Tensor) -> Tensor:
    """uint8 (n, 3, height, width) to float32 of about zero mean and unit variance."""
    scale, shift = _normalisation(images.device)
    # A product and a sum, each rounded: the same on every device, which is not so of a division by a constant.
    return images.to(torch.float32).mul_(scale).add_(shift)


@cache
def _normalisation(device: torch.device) -> tuple[Tensor, Tensor]:
    """`scale` and `shift` (3, 1, 1) such that pixel * scale + shift is (pixel / 255 - mean) / deviation."""
    mean, deviation = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (MEAN, DEVIATION))
    return (1 / (255 * deviation)).float().to(device), (-mean / deviation).float().to(device)


def _pad_and_crop(images: Tensor, plan: Tensor) -> Tensor:
    """Images (n, 3, side, side) padded, cropped and flipped as planned, in one gather: (batch, 3, side, side)"""
    channels, side = images.shape[1:3]
    place, top, left, flip = plan[..., None]
    along = torch.arange(side, device=images.device)
    rows = top + along - PADDING  # (batch, side), and so are columns
    columns = left + torch.where(flip == 1, side - 1 - along, along) - PADDING
    inside = ((rows >= 0) & (rows < side))[:, None, :, None] & ((columns >= 0) & (columns < side))[:, None, None, :]
    rows, columns = rows.clamp(0, side - 1), columns.clamp(0, side - 1)
    channel = torch.arange(channels, device=images.device)
    crops = images[place[..., None, None], channel[:, None, None], rows[:, None, :, None], columns[:, None, None]]
    return crops * inside


def _crop(images: Tensor, plan: np.ndarray, side: int) -> Tensor:
    """Images (n, 3, stored, stored) cropped and flipped as planned: (batch, 3, side, side).

    One image at a time, so that no more of a mapped file than the crops is read.
    """
    crops = [images[place, :, top : top + side, left : left + side] for place, top, left, _ in plan.T.tolist()]
    return torch.stack([crop.flip(-1) if flip else crop for crop, flip in zip(crops, plan[3], strict=True)])


_ORDER, _AUGMENTATION = range(2)


@lru_cache(maxsize=4)
def _permutation(count: int, seed: int, split: str, epoch: int) -> np.ndarray:
    """The order of the images in an epoch, kept for its next batches."""
    return np.argsort(stream(seed, split, epoch, _ORDER).random_raw(count), kind="stable")


def _check(data: Images, split: str, batch: int) -> None:
    data.require(split)
    if batch < 1:
        raise ConfigError(f"a batch of {batch} images is impossible: it must have at least 1")
