"""Meta-transfer learning (Section 5.1): training by Algorithm 1, model selection, evaluation.

A target network φ learns a data set while meta-networks θ decide which channels and layers of a frozen source network
it is to imitate. θ is moved by the meta-gradient of the cross-entropy after T steps on the transfer loss and one step
on the cross-entropy.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from msmeta import data, machine, runs
from msmeta.bilevel import Params, State
from msmeta.data import Images, MinibatchSampler
from msmeta.dynamics import SGD
from msmeta.errors import ConfigError
from msmeta.experiments import resume, training
from msmeta.experiments.distributed import World
from msmeta.experiments.training import Row, Training
from msmeta.experiments.transfer import sources
from msmeta.experiments.transfer.config import TARGETS, TransferConfig
from msmeta.experiments.transfer.sources import SOURCES
from msmeta.experiments.transfer.step import GraphedStepper, Iteration, TransferProblem, transfer_iteration
from msmeta.models.l2t import L2T, SourceBatch
from msmeta.models.resnet import ResNet
from msmeta.models.vgg9 import VGG9
from msmeta.optimisers import Adam

EVALUATION_BATCH = 500
LOADERS = 4
"""Threads that read and augment images of 224x224."""


def run(config: TransferConfig, root: Path | None = None, of: dict[str, Any] | None = None) -> runs.Run:
    """The place of this config's result and checkpoint; of: a result, whose data and weights are meant, not those here.

    Raises DataError where its data or weights are not here.
    """
    name = (
        f"{config.dataset}-{config.target}-{config.optimizer}-{config.estimator}-T{config.steps}-N{config.window_text}-"
        f"{config.preset}-s{config.seed}"
    )
    if of is not None:
        weights = runs.hash_of(of, "source")
    else:
        weights = None if config.estimator == "scratch" else sources.weights_hash(config.source)
    return training.place("transfer", name, config, root, weights, config.split, of and runs.hash_of(of, "data"))


class Transfer:
    """A training by Algorithm 1 (`training.Experiment`), whose processes share the images of each batch.

    Gradients are sums over the processes, at each inner step as well, and batch norm has the statistics of the whole
    batch: the meta-gradient is that of one process. Each process holds all of φ, θ and the source network.

    An iteration gives the total loss, the outer loss and the change of the gradient (Figure 1), None where there is
    none. The learning curve has the accuracy (%) on the validation images after each epoch, and the mean of the weights
    of the pairs; the φ that does best on these images is the one tested. images: instead of the data set's, for a
    timing.
    """

    place = staticmethod(run)
    logged = ("total_loss", "outer_loss", "gradient_change")
    curve = ("epoch", "seconds", "accuracy", "pair_weight")
    selection = ()
    out_of_memory = "out of memory: lower --batch or --width"

    def __init__(
        self, config: TransferConfig, device: torch.device, world: World, images: Images | None = None
    ) -> None:
        if world.size > config.batch:
            raise ConfigError(f"{world.size} processes for a batch of {config.batch} images: each needs at least one")
        images = images or data.load(config.dataset, device, split=config.split)
        self.images = images if config.train_images is None else images.subset(config.train_images)
        if images.side != (side := SOURCES[config.source].side):
            raise ConfigError(
                f"{config.source} takes {side}x{side} images, {images.title} has {images.side}x{images.side}"
            )
        self.config, self.device, self.world, self.how = config, device, world, {}
        self.target = TARGETS[config.target](config, images.classes)
        if world.size > 1:
            self.target = replace(self.target, total=world.total)
        self.sizes, self.source, self.l2t = self.target.sizes(side), None, None
        if config.estimator != "scratch":
            self.source = sources.load(config.source, device)
            self.l2t = L2T(self.source.channels, self.target.channels)
        self.sampler = MinibatchSampler(self.images, config.batch, config.seed, share=world.share(config.batch))

    def begin(self, iteration: int, state: dict[str, Any] | None) -> None:
        config = self.config
        if state is None:
            phi, statistics, theta = self._start()
            inner = State(phi)
        else:
            inner, statistics, theta = State(*state["inner"]), state["statistics"], state["theta"]
        buffers = {name: self._here(values) for name, values in inner.buffers.items()}
        self.inner, self.statistics = State(self._here(inner.phi), buffers, inner.step), self._here(statistics)
        self.theta = {name: torch.nn.Parameter(value) for name, value in self._here(theta).items()}
        self.optimizer, self.graphed, on_gpu = None, None, self.device.type == "cuda"
        if self._learns:
            self.optimizer = torch.optim.Adam(
                self.theta.values(), config.meta_lr, weight_decay=config.meta_weight_decay, fused=on_gpu,
                capturable=on_gpu,
            )  # fmt: skip
            if state is not None:
                resume.give(self.optimizer, state["optimizer"])
        for value in self.theta.values():  # filled at each iteration, where a graph finds it again
            value.grad = torch.zeros_like(value)
        self.batches = self.sampler.from_step(iteration, workers=0 if self.images.side == 32 else LOADERS)
        if on_gpu and self.world.size == 1:
            self.graphed = self._graphed(iteration)

    def state(self) -> dict[str, Any]:
        return {
            "inner": (self.inner.phi, self.inner.buffers, int(self.inner.step)),
            "statistics": self.statistics,
            "theta": {name: value.detach() for name, value in self.theta.items()},
            "optimizer": resume.tensors_of(self.optimizer) if self.optimizer else None,
        }

    def expected(self) -> tuple[dict[str, Any], Any]:
        phi, statistics, theta = self._start()
        state = {
            "inner": (phi, {name: phi for name in self._buffers}, 1),
            "statistics": statistics,
            "theta": theta,
            "optimizer": resume.adam_like(theta.values()) if self._learns else None,
        }
        return state, (phi, statistics)

    def fraction(self, done: Training) -> float:
        return done.iteration / (self.config.epochs * self.sampler.batches)

    def block(self, done: Training) -> list[Row]:
        """One iteration of Algorithm 1 and step of θ, or as many as a graph does at once, up to the next look."""
        at, config = done.iteration, self.config
        dynamics = config.dynamics(at // self.sampler.batches)
        if self.graphed:
            until = min((at // n + 1) * n for n in (config.log_every, self.sampler.batches))
            return self.graphed.run(self.batches, at, min(self.graphed.block, until - at), dynamics.lr)
        statistics = _copies(self.statistics)
        found = self._iteration(*next(self.batches), self.inner, dynamics, statistics)
        self.inner, self.statistics = found.state, statistics
        outer = found.meta.loss.item() if found.meta else None
        change = None if found.gradient_change is None else found.gradient_change.item()
        return [(found.total.item(), outer, change)]

    def look(self, done: Training) -> None:
        epoch, within = divmod(done.iteration, self.sampler.batches)
        if within == 0:
            found = evaluate(self.target, self.inner.phi, self.statistics, self.images, "validation")
            accuracy = round(found, 4)  # as the curve keeps it, so that of equal ones the first is best
            if accuracy > max(done.curve["accuracy"], default=-1.0):
                done.best = _copies(self.inner.phi), _copies(self.statistics)
            weight = self.pair_weights().mean().item() if self.l2t else None
            training.add_point(done.curve, (epoch, done.seconds, accuracy, weight))

    def accuracy(self, done: Training, row: Row) -> float | None:
        """On the validation images, after the last epoch."""
        return done.curve["accuracy"][-1] if done.curve["accuracy"] else None

    def metrics(self, done: Training) -> dict[str, Any]:
        looks, split, best = done.curve["accuracy"], self.config.evaluate_on, map(self._here, done.best)
        metrics = {
            "accuracy": round(evaluate(self.target, *best, self.images, split), 4),
            "last_accuracy": round(evaluate(self.target, self.inner.phi, self.statistics, self.images, split), 4),
            "validation_accuracy": max(looks),
            "selected_epoch": done.curve["epoch"][looks.index(max(looks))],
            "iterations": done.iteration,
            "seconds_per_iteration": round(done.seconds / done.iteration, 5),
            "seconds_per_epoch": round(done.seconds / self.config.epochs, 4),
            "images": {name: len(labels) for name, labels in self.images.labels.items()},
        }
        return metrics | (self._meta_metrics() if self.l2t else {})

    def tested(self, done: Training) -> Params:
        """φ and the running statistics of the epoch that did best, and the last θ."""
        phi, statistics = done.best
        kinds = {"phi": phi, "statistics": statistics, "theta": self.theta}
        return {f"{kind}.{name}": value for kind, own in kinds.items() for name, value in own.items()}

    def _start(self) -> tuple[Params, Params, Params]:
        """φ with the matching of features, batch norm's statistics and θ, before the first iteration."""
        phi, statistics = self.target.init(self.config.seed)
        if self.l2t is None:
            return phi, statistics, {}
        return phi | self.l2t.init_matching(self.config.seed), statistics, self.l2t.init_meta()

    @property
    def _learns(self) -> bool:
        """Whether θ moves: there is one, and a step of the inner loop depends on it."""
        return self.l2t is not None and (self.config.steps > 0 or self.config.estimator == "first-order")

    @property
    def _buffers(self) -> tuple[str, ...]:
        """Names of the inner optimiser's own variables."""
        velocity = ("velocity",) if self.config.momentum else ()
        return {"sgd": velocity, "adam": ("mean", "square")}[self.config.optimizer]

    def _here(self, params: Params) -> Params:
        return {name: value.to(self.device) for name, value in params.items()}

    def _iteration(self, x: Tensor, y: Tensor, inner: State, dynamics: SGD | Adam, statistics: Params) -> Iteration:
        """One iteration of Algorithm 1, and the step on θ."""
        config, share = self.config, len(y) / self.config.batch
        batch = self.l2t and self.l2t.source_batch(self.source.features(x), self.sizes)
        problem = TransferProblem(self.target, self.l2t, x, y, batch, config.beta, config.inner_beta, self.world, share)
        found = transfer_iteration(
            problem, inner, self.theta, dynamics, config.steps, config.window, statistics,
            first_order=config.estimator == "first-order", transfer_rate=config.transfer_rate,
            rollback=config.rollback,
        )  # fmt: skip
        if found.meta:
            grads = [value.grad for value in self.theta.values()]
            torch._foreach_copy_(grads, [found.meta.grad[name] for name in self.theta])
            self.optimizer.step()
        return found

    def _graphed(self, iteration: int) -> GraphedStepper:
        """The same as one graph, which moves `inner` and `statistics` in place."""
        dynamics = self.config.dynamics(0)
        zeros = {name: {k: torch.zeros_like(v) for k, v in self.inner.phi.items()} for name in self._buffers}
        state = replace(self.inner, buffers=zeros | self.inner.buffers)

        def iterate(x: Tensor, y: Tensor, inner: State, lr: Tensor, statistics: Params) -> Iteration:
            return self._iteration(x, y, inner, replace(dynamics, lr=lr), statistics)

        batch = self.sampler.batch_at(iteration)
        graphed = GraphedStepper(iterate, state, self.statistics, self.theta, self.optimizer, batch)
        self.inner = graphed.state
        return graphed

    @torch.no_grad()
    def _meta_metrics(self) -> dict[str, Any]:
        """How far θ has moved, and the weights of the pairs."""
        start = self.l2t.init_meta()
        moved = {
            kind: math.sqrt(
                sum((value.cpu() - start[name]).square().sum().item() for name, value in self.theta.items()
                    if name.startswith(kind))
            )
            for kind in ("what", "where")
        }  # fmt: skip
        return {
            "meta_movement": {kind: round(value, 5) for kind, value in moved.items()},
            "pair_weights": [[round(value, 4) for value in row.tolist()] for row in self.pair_weights()],
        }

    @torch.no_grad()
    def pair_weights(self) -> Tensor:
        """The mean weights λ_st of the pairs over random validation images: (targets, sources)."""
        return self.l2t.pair_weights(self.theta, self._validation)

    @cached_property
    def _validation(self) -> SourceBatch:
        """Of random validation images, without what the transfer loss alone needs."""
        count = min(EVALUATION_BATCH, len(self.images.labels["validation"]))
        x, _ = MinibatchSampler(self.images, count, split="validation", augment=False).batch_at(0)
        return self.l2t.source_batch(self.source.features(x), sizes=[])


train = partial(training.train, Transfer)
"""`training.train` of a TransferConfig."""


def reevaluate(trained: TransferConfig, parameters: Params, device: str = "auto") -> tuple[Images, dict[str, Any]]:
    """The images of a run, and the metrics of its network on those that it was tested on. parameters: as kept."""
    chosen = machine.choose_device(device)
    images = data.load(trained.dataset, chosen, split=trained.split)
    phi, statistics = (
        {name.removeprefix(kind): value.to(chosen) for name, value in parameters.items() if name.startswith(kind)}
        for kind in ("phi.", "statistics.")
    )
    network = TARGETS[trained.target](trained, images.classes)
    with machine.settings(trained.precision):
        accuracy = evaluate(network, phi, statistics, images, trained.evaluate_on)
    return images, {"accuracy": round(accuracy, 4)}


def _copies(params: Params) -> Params:
    return {name: value.clone() for name, value in params.items()}


@torch.no_grad()
def evaluate(network: VGG9 | ResNet, phi: Params, statistics: Params, images: Images, split: str) -> float:
    """Accuracy (%) on a split, with batch norm's running statistics."""
    right = 0
    for x, y in data.evaluation_batches(images, split, EVALUATION_BATCH):
        logits, _ = network(phi, x, statistics, training=False)
        right += (logits.argmax(1) == y).sum().item()
    return 100 * right / len(images.labels[split])
