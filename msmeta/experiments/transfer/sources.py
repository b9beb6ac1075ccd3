"""The frozen source networks of meta-transfer: where their weights come from, and the features they give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from msmeta import data, files
from msmeta.bilevel import Params
from msmeta.data import data_root, fetch, l2t_ww
from msmeta.errors import DataError
from msmeta.models.resnet import ResNet, split_state
from msmeta.models.resnet_cifar import ResNet32, load_source

IMAGENET_URL = "https://download.pytorch.org/models/resnet34-b627a593.pth"
"""torchvision's ResNet34_Weights.IMAGENET1K_V1; the end of the name is that of the file's SHA-256."""
IMAGENET_CLASSES = 1000
Loaded = tuple[tuple[int, ...], Callable[[Params, Tensor], list[Tensor]], Params]
"""Channels of the features, these as a function of parameters and images, and the parameters."""


@dataclass(frozen=True)
class Source:
    """A frozen network.

    channels: of its features. features: x (n, 3, side, side) -> one (n, C, H, W) a stage. hash: SHA-256 of its weights'
    file in hexadecimal, None where they are random.
    """

    name: str
    channels: tuple[int, ...]
    features: Callable[[Tensor], list[Tensor]]
    hash: str | None


@dataclass(frozen=True)
class _Entry:
    """How a source is loaded from its file of weights, if it has one, and for images of which side.

    file: below the data folder. obtain: gets it, or raises DataError. verify: its SHA-256; raises DataError for another
    file of that name, before it is loaded.
    """

    load: Callable[[Path | None], Loaded]
    side: int
    file: str | None = None
    obtain: Callable[[Path], None] | None = None
    verify: Callable[[Path], str] | None = None


def load(name: str, device: str | torch.device = "cpu") -> Source:
    """A source network on `device`, by its key in SOURCES.

    Weights that are not in the data folder are downloaded. Raises DataError in one line if they cannot be had.
    """
    path, sha256 = _weights(name)
    channels, features, params = SOURCES[name].load(path)
    params = {key: value.to(device) for key, value in params.items()}

    def of(x: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return features(params, x)

    return Source(name, channels, of, sha256)


def weights_hash(name: str) -> str | None:
    """SHA-256 of the weights' file in hexadecimal, None where they are random. Raises DataError as `load` does."""
    return _weights(name)[1]


def _weights(name: str) -> tuple[Path | None, str | None]:
    """The file of weights, which is there, and its SHA-256."""
    source = SOURCES[name]
    if source.file is None:
        return None, None
    path = data_root() / source.file
    if not path.is_file():
        source.obtain(path)
    return path, source.verify(path)


def _published(path: Path) -> None:
    data.prepare(l2t_ww.SOURCE.name)


def _resnet32(network: ResNet32, params: Params) -> Loaded:
    return network.channels, lambda params, x: network(params, x)[1], params


def _imagenet(path: Path | None) -> Loaded:
    return _resnet34(*split_state(torch.load(path, map_location="cpu", weights_only=True)))


def _verify_imagenet(path: Path) -> str:
    try:
        return fetch.require(path.read_bytes(), IMAGENET_HASH)
    except (OSError, ValueError) as error:
        way_out = "delete it, and it will be downloaded again"
        raise DataError(f"{path} is not torchvision's ResNet-34 ({error}): {way_out}") from error


def _resnet34(params: Params, statistics: Params) -> Loaded:
    network = ResNet(34, IMAGENET_CLASSES)
    return network.channels, lambda both, x: network(both, x, both, training=False)[1], params | statistics


def _download(path: Path) -> None:
    way_out = f"get {path.name} elsewhere and put it into {path.parent}"
    files.write(path, fetch.fetch(IMAGENET_URL, IMAGENET_HASH, way_out), DataError)


IMAGENET_FILE = IMAGENET_URL.rpartition("/")[2]
IMAGENET_HASH = IMAGENET_FILE.removesuffix(".pth").rpartition("-")[2]
SOURCES = {
    "tinyimagenet-resnet32": _Entry(
        lambda path: _resnet32(*load_source(path)),
        32,
        l2t_ww.SOURCE.file,
        _published,
        lambda path: l2t_ww.verify(l2t_ww.SOURCE.name, data_root()),
    ),
    "imagenet-resnet34": _Entry(_imagenet, 224, f"weights/{IMAGENET_FILE}", _download, _verify_imagenet),
    "random-resnet32": _Entry(lambda path: _resnet32(ResNet32(way=10), ResNet32(way=10).init(seed=0)), 32),
    "random-resnet34": _Entry(lambda path: _resnet34(*ResNet(34, IMAGENET_CLASSES).init(seed=0)), 224),
}
"""By name. The random ones have learned nothing: they are for timing, and where there are no weights."""
