"""Few-shot episodes, a pure function of (seed, split, step): there is no stream to restore after a resume."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from msmeta.data.images import Images, in_unit_range, stream
from msmeta.errors import ConfigError


@dataclass(frozen=True)
class Episodes:
    """A batch of independent few-shot tasks, images float32 in [0, 1], labels int64, samples of a class adjacent."""

    support_x: Tensor  # (tasks, way*shot, channels, height, width)
    support_y: Tensor  # (tasks, way*shot)
    query_x: Tensor  # (tasks, way*query, channels, height, width)
    query_y: Tensor  # (tasks, way*query)

    def __len__(self) -> int:
        return len(self.support_x)

    def to(self, dtype: torch.dtype) -> "Episodes":
        """The same tasks with images of this type."""
        return replace(self, support_x=self.support_x.to(dtype), query_x=self.query_x.to(dtype))

    def chunks(self, size: int) -> Iterator["Episodes"]:
        """The same tasks in order, at most `size` at a time; views. Raises ConfigError if `size` is not positive."""
        if size < 1:
            raise ConfigError(f"a chunk of {size} tasks is impossible: it must have at least 1")
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield Episodes(self.support_x[part], self.support_y[part], self.query_x[part], self.query_y[part])


@dataclass(frozen=True)
class EpisodeSampler:
    """Draws `way`-way `shot`-shot tasks with `query` query images a class from one split.

    As in the code of MAML (Finn et al. 2017, data_generator.py, make_data_tensor), the classes of a task are distinct
    characters, each turned by a multiple of 90 degrees of its own, for meta-training and meta-test alike.
    Raises ConfigError in one line with the limit if the split cannot give such a task.
    """

    data: Images
    split: str
    way: int
    shot: int
    query: int
    seed: int = 0

    def __post_init__(self) -> None:
        self.data.require(self.split)
        for option in ("way", "shot", "query"):
            if getattr(self, option) < 1:
                raise ConfigError(f"{option} {getattr(self, option)} is impossible: it must be at least 1")
        if self.seed < 0:
            raise ConfigError(f"seed {self.seed} is impossible: it must be at least 0")
        name, sizes = self.data.name, self._sizes
        if self.way > len(sizes):
            raise ConfigError(f"{self.way}-way is impossible: split {self.split} of {name} has {len(sizes):,} classes")
        if self.shot + self.query > (fewest := sizes.min()):
            differ = f"in classes of split {self.split}, and +least{self.shot + self.query} leaves these out"
            raise ConfigError(
                f"shot {self.shot} and query {self.query} are impossible together: "
                f"{name} has {fewest:,} images {'a class' if fewest == sizes.max() else differ}"
            )

    @property
    def device(self) -> torch.device:
        """Of the images, and so of the tasks."""
        return self.data.images[self.split].device

    def sample(self, step: int, tasks: int) -> Episodes:
        """The first `tasks` tasks of `step`, on the device of the data. Raises ConfigError if there can be none."""
        return self.gather(torch.from_numpy(self.places(step, tasks)).to(self.device))

    def places(self, step: int, tasks: int) -> np.ndarray:
        """Which images the first `tasks` tasks of `step` are made of, for `gather`: int64 (tasks, way, shot+query).

        Each task has a row of random bits of its own in one Philox stream, so that it does not depend on how many
        tasks are asked for. Ranking random numbers gives distinct classes and drawings without a loop.
        """
        if tasks < 1 or step < 0:
            raise ConfigError(f"{tasks} tasks at step {step} are impossible: at least 1 task, at step 0 or later")
        sizes = self._sizes
        count, samples = len(sizes), sizes.max()
        widths = [count, self.way * samples, self.way]
        bits = stream(self.seed, self.split, step).random_raw(tasks * sum(widths)).reshape(tasks, -1)
        for_classes, for_drawings, for_turns = np.split(bits, np.cumsum(widths)[:-1], axis=1)
        classes = for_classes.argsort(-1)[:, : self.way]  # (tasks, way), and so are turns
        for_drawings = for_drawings.reshape(tasks, self.way, samples)
        if sizes.min() < samples:  # what a smaller class has not comes last
            lacking = np.arange(samples) >= sizes[classes][..., None]
            for_drawings = np.where(lacking, np.iinfo(np.uint64).max, for_drawings)
        drawings = for_drawings.argsort(-1)[..., : self.shot + self.query]
        turns = (for_turns % np.uint64(self.data.rotations)).astype(np.int64)
        first = sizes.cumsum() - sizes  # images of the classes before each
        return (turns * sizes.sum() + first[classes])[..., None] + drawings

    def gather(self, places: Tensor) -> Episodes:
        """The tasks at these places, which lie on the device of the data; nothing here waits for the host."""
        tasks = len(places)
        x = in_unit_range(self._images(places.flatten())).unflatten(0, places.shape)

        def batch(part: Tensor) -> tuple[Tensor, Tensor]:
            labels = torch.arange(self.way, device=part.device).repeat_interleave(part.shape[2]).repeat(tasks, 1)
            return part.flatten(1, 2), labels

        return Episodes(*batch(x[:, :, : self.shot]), *batch(x[:, :, self.shot :]))

    @cached_property
    def _sizes(self) -> np.ndarray:
        """Images of each class of the split."""
        return self.data.sizes(self.split)

    def _images(self, places: Tensor) -> Tensor:
        """Of the turned images of the split, one turn's after the other's: (n, C, H, W)."""
        if places.device.type != "cpu" or self.data.rotations == 1:
            return self._pool.index_select(0, places)
        images = self.data.images[self.split]
        x = images.index_select(0, places % len(images))
        return x.flatten(1).gather(1, self._pixels.index_select(0, places // len(images))).view_as(x)

    @cached_property
    def _pool(self) -> Tensor:
        """All images of the split, every quarter turn made once: four times the memory, which a GPU has."""
        images = self.data.images[self.split]
        if self.data.rotations == 1:
            return images
        return torch.cat([torch.rot90(images, turn, (-2, -1)) for turn in range(self.data.rotations)])

    @cached_property
    def _pixels(self) -> Tensor:
        """Where the pixels of a turned image are in the image: (turns, C * H * W)."""
        shape = self.data.images[self.split].shape[1:]
        pixels = torch.arange(shape.numel()).view(shape)
        return torch.stack([torch.rot90(pixels, turn, (-2, -1)).flatten() for turn in range(self.data.rotations)])
