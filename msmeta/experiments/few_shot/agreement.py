"""Whether the numbers of a few-shot result belong together, and to its config."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from msmeta.experiments.few_shot.config import FewShotConfig


def disagreements(config: FewShotConfig, result: dict[str, Any]) -> Iterator[str]:
    """What does not, each in words. result: of the schema of its kind."""
    metrics, curve, looks = result["metrics"], result["curve"], result.get("selection") or {}
    yield from of_test(config, metrics)
    for accuracy, right in zip(curve.get("accuracy", []), curve.get("right_answers", []), strict=False):
        yield from _of_answers(config, "a point of the curve", accuracy, right, config.curve_episodes)
    done = metrics["iterations"]
    if done > config.iterations or (done < config.iterations and config.train_seconds is None):
        yield f"{done:,} iterations, where the config asks for {config.iterations:,}"
    if any(columns.get("iteration", [0])[-1:] > [done] for columns in (curve, looks, result["log"])):
        yield f"points after the last of {done:,} iterations"
    chosen = metrics.get("selected_iteration"), metrics.get("validation_accuracy")
    if looks.get("accuracy"):
        at = looks["accuracy"].index(max(looks["accuracy"]))
        if chosen != (looks["iteration"][at], looks["accuracy"][at]):
            yield "the chosen iteration is not the one that did best on the validation classes"
    elif chosen != (None, None):
        yield "a chosen iteration without a look at the validation classes"
    if ("windowed_accuracy" in metrics) != (config.estimator == "multistep" and config.window != 1):
        yield "an accuracy with windows belongs to windows, and to nothing else"


def of_test(config: FewShotConfig, metrics: dict[str, Any]) -> Iterator[str]:
    """The same of the metrics of one test."""
    if metrics["answers_per_episode"] != config.way * config.query:
        yield f"{metrics['answers_per_episode']} answers an episode, where the config has {config.way * config.query}"
    yield from _of_answers(config, "the test", metrics["accuracy"], metrics["right_answers"], config.test_episodes)


def _of_answers(
    config: FewShotConfig, what: str, accuracy: float, right: Sequence[int], episodes: int
) -> Iterator[str]:
    answers = config.way * config.query
    if len(right) != episodes:
        yield f"{what} has {len(right):,} episodes, where the config asks for {episodes:,}"
    elif max(right) > answers:
        yield f"{what} has {max(right)} right answers of {answers}"
    elif accuracy != mean_accuracy(config, right):
        yield f"{what} has an accuracy of {accuracy} %, and right answers of {mean_accuracy(config, right)} %"


def percents(right: Sequence[int], answers_per_episode: int) -> list[float]:
    """Accuracies of episodes (%). right: answers of each."""
    return [100 * count / answers_per_episode for count in right]


def mean_accuracy(config: FewShotConfig, right: Sequence[int]) -> float:
    """Mean over episodes (%), as results have it. right: answers of each episode."""
    return round(100 * statistics.fmean(right) / (config.way * config.query), 4)
