"""Whether the numbers of a meta-transfer result belong together, and to its config."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msmeta.experiments.transfer.config import TransferConfig

ROUNDING = 1e-6
"""Of an accuracy that is stored as per cent, in images an image."""


def disagreements(config: TransferConfig, result: dict[str, Any]) -> Iterator[str]:
    """What does not, each in words. result: of the schema of its kind."""
    metrics, curve, images = result["metrics"], result["curve"], result["metrics"]["images"]
    tested, looked = images.get(config.evaluate_on, 0), images.get("validation", 0)
    for name in ("accuracy", "last_accuracy"):
        if not _of_images(metrics[name], tested):
            yield f"{name} {metrics[name]} % is no number of {tested:,} images"
    looks = curve.get("accuracy", [])
    if not all(_of_images(accuracy, looked) for accuracy in looks):
        yield f"the curve has an accuracy that is no number of {looked:,} images"
    if curve.get("epoch") != list(range(1, config.epochs + 1)):
        yield f"the curve is not of the {config.epochs:,} epochs that the config asks for"
    elif (metrics["validation_accuracy"], metrics["selected_epoch"]) != (max(looks), 1 + looks.index(max(looks))):
        yield "the chosen epoch is not the one that did best on the validation images"
    if config.train_images is not None and images.get("train") != config.train_images:
        yield f"{images.get('train', 0):,} training images, where the config asks for {config.train_images:,}"
    wanted = config.epochs * (images.get("train", 0) // config.batch)
    if metrics["iterations"] != wanted:
        yield f"{metrics['iterations']:,} iterations, where {config.epochs:,} epochs have {wanted:,}"
    if (result.get("source") is None) != (config.estimator == "scratch"):
        yield "a source network belongs to every method but scratch"


def _of_images(accuracy: float, images: int) -> bool:
    right = accuracy * images / 100
    return images > 0 and abs(right - round(right)) <= ROUNDING * images
