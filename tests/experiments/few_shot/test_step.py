"""Meta-iterations: the same meta-gradient in chunks, processes, minibatches and graphs."""

import dataclasses
import importlib

import numpy as np
import pytest
import torch
from problems import relative_error
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensorDeviceMismatchError,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode

from msmeta import SGD, ConfigError, DivergedError, data
from msmeta.bilevel import begin, detach
from msmeta.data import EpisodeSampler
from msmeta.dynamics import advance, inner_gradient
from msmeta.experiments import few_shot, graphs
from msmeta.experiments.distributed import World
from msmeta.experiments.few_shot.config import META_OPTIMIZERS, META_SCHEDULES
from msmeta.experiments.few_shot.step import (
    GraphedStepper,
    MetaStepper,
    episode_problem,
    reptile_episodes,
    stepper,
    task_chunk,
)


def smoke(estimator="multistep", window=1, **changes):
    return few_shot.preset_config("smoke", "glyphs", 5, 1, estimator, window, filters=4, tasks=4, **changes)


def steppers(kind, config, world=World(), chunk=2):  # noqa: B008 - frozen
    images = data.load("glyphs")
    model = few_shot.network(config)
    theta = {name: torch.nn.Parameter(value) for name, value in model.init(config.seed).items()}
    optimizer = META_OPTIMIZERS[config.meta_optimizer](list(theta.values()), config.meta_lr, False)
    sampler = EpisodeSampler(images, "train", config.way, config.shot, config.query, config.seed)
    return kind(config, model, theta, optimizer, sampler, chunk, world)


@pytest.mark.parametrize(("estimator", "window"), [("multistep", 1), ("multistep", 4), ("first-order", 1)])
def test_graphed_meta_iterations_are_the_eager_ones(estimator, window):
    """On a CPU what the graph would hold is run as it stands: the block's inputs, counter and outputs are the same."""
    config = smoke(estimator, window)
    eager, graphed = steppers(MetaStepper, config), steppers(GraphedStepper, config)
    expected = eager.run(0, 7, 1.0)
    found = graphed.run(0, 3, 1.0) + graphed.run(3, 4, 1.0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert relative_error(detach(graphed.theta), detach(eager.theta)) < 1e-5


def _buffers(stepper):
    state = [value for values in stepper.optimizer.state.values() for value in values.values()]
    groups = [group["lr"] for group in stepper.optimizer.param_groups]
    grads = [value.grad for value in stepper.theta.values()]
    return [*stepper.theta.values(), *grads, *state, *groups, stepper.places, stepper.found, stepper.at]


@pytest.mark.parametrize("optimizer", META_OPTIMIZERS)
def test_all_that_a_graph_reads_and_writes_stays_where_it_is(optimizer):
    graphed = steppers(GraphedStepper, smoke(meta_optimizer=optimizer))
    places = [value.data_ptr() for value in _buffers(graphed)]
    for first, lr in ((0, 1e-3), (3, 1e-4)):
        graphed.run(first, 3, lr)
        assert [value.data_ptr() for value in _buffers(graphed)] == places


@pytest.fixture
def fake_stepper(monkeypatch):
    """A stepper as on a GPU all of whose tensors have shapes and a device, `meta`, but no numbers."""
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(graphs, "WARM_UPS", 1)  # they run the same
    optimisers = importlib.import_module("torch.optim.optimizer")
    monkeypatch.setattr(optimisers, "_get_fused_kernels_supported_devices", lambda: ["meta"])
    with (
        torch.library._scoped_library("aten", "IMPL", "Meta") as library,
        FakeTensorMode(allow_non_fake_inputs=False) as mode,
    ):
        for name in ("_fused_adam_.tensor_lr", "_fused_sgd_.tensor_lr"):
            library.impl(name, lambda *_, **__: None)

        def make(config):
            with unset_fake_temporarily():
                real = steppers(MetaStepper, config)
                start, pool = detach(real.theta), real.sampler._pool
            theta = {name: torch.nn.Parameter(mode.from_tensor(value).to("meta")) for name, value in start.items()}
            optimizer = META_OPTIMIZERS[config.meta_optimizer](list(theta.values()), config.meta_lr, True)
            vars(real.sampler)["_pool"] = mode.from_tensor(pool).to("meta")
            return GraphedStepper(config, real.model, theta, optimizer, real.sampler, config.tasks, World())

        yield make


@pytest.mark.parametrize("optimizer", META_OPTIMIZERS)
@pytest.mark.parametrize(("estimator", "window"), [("multistep", 1), ("multistep", 2), ("first-order", 1)])
def test_a_captured_meta_iteration_reads_no_number_and_mixes_no_devices(estimator, window, optimizer, fake_stepper):
    """Sampling, passes and optimiser: fake tensors raise for either."""
    stepper = fake_stepper(smoke(estimator, window, steps=2, meta_optimizer=optimizer))
    stepper.replay()
    with pytest.raises(DataDependentOutputException):
        stepper.found.tolist()
    with pytest.raises(FakeTensorDeviceMismatchError):
        stepper.found + torch.zeros(2)


def test_steps_and_gradients_keep_the_layout_of_the_weights():
    """Channels last, as convolutions on a CPU take them: otherwise each step copies what it differentiates."""
    eager = steppers(MetaStepper, smoke())
    problem = episode_problem(eager.model, eager.sampler.sample(0, 3))
    theta, state = begin(problem, detach(eager.theta))
    _, grad = inner_gradient(problem, state.phi, theta, 0, create_graph=True)
    after = advance(SGD(0.1), state, grad, 4).phi
    for values in (state.phi, grad, after):
        assert all(
            value.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
            for value in values.values()
            if value.dim() == 5
        )


class _Kernels(TorchDispatchMode):
    """Counts the operations that compute or move something: what a GPU is launched for, or more than that."""

    FREE = ("detach", "alias", "_unsafe_view", "empty", "new_empty", "device", "_record_function")
    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not (function.is_view or function.overloadpacket.__name__.startswith(self.FREE))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("window", "most"), [(1, 1800), (8, 360)])
def test_a_captured_meta_iteration_is_few_kernels(window, most, fake_stepper):
    """5-way 1-shot, 8 steps. A GPU takes longer to launch each of them than to do its work."""
    stepper = fake_stepper(smoke(window=window, steps=8))
    with _Kernels() as kernels:
        stepper.replay()
    assert 0.8 * most < kernels.count <= most


def test_only_estimators_that_ask_the_host_nothing_are_graphed():
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    kinds = {name: stepper(smoke(name), gpu) for name in few_shot.ESTIMATORS}
    assert {name for name, kind in kinds.items() if kind is GraphedStepper} == {"multistep", "first-order"}
    assert stepper(smoke(), cpu) is MetaStepper


def test_graphed_divergence_names_the_iteration():
    stepper = steppers(GraphedStepper, smoke())
    with torch.no_grad():
        stepper.theta["head.weight"].fill_(float("nan"))
    # The estimator's own check, which a capture skips, is what a CPU meets first.
    with pytest.raises(DivergedError):
        stepper.run(4, 2, 1.0)
    stepper.replay = lambda: stepper.found[1].fill_(float("inf"))
    with pytest.raises(DivergedError, match="diverged at iteration 6: outer loss is inf"):
        stepper.run(4, 2, 1.0)


def test_shares_of_processes_add_up_to_the_meta_batch():
    for tasks, size in ((4, 3), (5, 5), (32, 8), (7, 2)):
        shares = [range(tasks)[World(rank, size).share(tasks)] for rank in range(size)]
        assert [task for share in shares for task in share] == list(range(tasks))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("changes", [{"tasks": 5}, {"tasks": 1}, {"tasks": 3, "filters": 64, "task_chunk": 3}])
def test_training_does_not_depend_on_torchs_threads(changes):
    """The same bits of θ: chunks follow from the config, each is worked on by one thread, and they are added in order.

    Five tasks in chunks of three at the most, one task, and one chunk of all with more than the 32,768 numbers from
    which torch shares out a sum or a step of Adam.
    """
    config = dataclasses.replace(smoke(window=4, steps=4), **changes)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            steps = steppers(MetaStepper, config, chunk=task_chunk(config, torch.device("cpu")))
            found.append((steps.run(0, 3, config.meta_lr), steps.theta))
    finally:
        torch.set_num_threads(before)
    assert found[0][0] == found[1][0]
    assert all(torch.equal(value, found[1][1][name]) for name, value in found[0][1].items())


@pytest.mark.parametrize(
    ("dataset", "changes", "cpu"),
    [("glyphs", {"tasks": 32}, 4), ("glyphs", {"tasks": 5}, 3), ("glyphs", {"tasks": 1}, 1),
     ("glyphs", {"tasks": 32, "way": 20, "shot": 1, "filters": 64}, 2),
     ("glyphs", {"tasks": 32, "way": 20, "shot": 5, "filters": 32}, 2),
     ("glyphs", {"tasks": 32, "way": 20, "shot": 5, "filters": 64}, 1),
     ("miniimagenet", {"tasks": 4}, 1), ("glyphs", {"tasks": 32, "task_chunk": 7}, 7)],
)  # fmt: skip
def test_tasks_worked_on_at_once_follow_from_the_config(dataset, changes, cpu):
    config = dataclasses.replace(smoke(), dataset=dataset, **changes)
    gpu = changes.get("task_chunk", changes["tasks"])
    assert [task_chunk(config, torch.device(kind)) for kind in ("cpu", "cuda")] == [cpu, gpu]


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_the_schedule_changes_the_rate(name):
    """By the optimiser's own formula: half the rate is half the step, of Adam as well, whose step no factor on the
    gradient changes. Twice, since Adam's second step depends on the first gradient."""
    config = smoke(meta_optimizer=name, meta_lr=0.01)
    steps = {lr: steppers(MetaStepper, config) for lr in (0.01, 0.005)}
    before = detach(steps[0.01].theta)
    before = {key: value.clone() for key, value in before.items()}
    for lr, own in steps.items():
        own.run(0, 1, lr)
    whole, half = ({key: own.theta[key].detach() - before[key] for key in before} for own in steps.values())
    assert relative_error({key: 2 * value for key, value in half.items()}, whole) < 1e-3
    rate = META_SCHEDULES["linear"]
    assert [rate(fraction) for fraction in (0, 0.25, 1, 1.5)] == [1, 0.75, 0, 0]
    theta = {key: value.detach().clone() for key, value in steps[0.01].theta.items()}
    steps[0.01].run(1, 1, config.meta_lr * rate(1.0))
    assert all(torch.equal(value, theta[key]) for key, value in steps[0.01].theta.items())


def test_a_divergence_names_the_iteration():
    with pytest.raises(DivergedError, match="diverged at iteration 3: inner loss is (nan|inf) at step"):
        steppers(MetaStepper, smoke(lr=1e20)).run(2, 1, 1.0)


def test_reptile_sees_each_image_once_a_round_and_no_class_more_often():
    episodes = EpisodeSampler(data.load("glyphs"), "train", 5, 1, 7).sample(0, 2)
    marks = torch.arange(5 * 8).reshape(5, 8)  # 8 images of each of 5 classes
    mark = lambda part: part.reshape(1, -1, 1, 1, 1).expand(2, -1, 1, 28, 28).float()  # noqa: E731
    coded = dataclasses.replace(episodes, support_x=mark(marks[:, :1]), query_x=mark(marks[:, 1:]))
    seen = []

    class Model:
        way = 5

        def __call__(self, params, x):
            seen.append(x[0, :, 0, 0, 0].long().tolist())
            return torch.zeros(*x.shape[:2], 5)

    problem = episode_problem(Model(), reptile_episodes(coded, 5), inner_shot=3)
    for t in range(8):
        problem.inner({}, {}, t)
    assert sorted(seen[0]) == sorted(marks[:, :3].flatten().tolist())
    counts = np.bincount(np.concatenate(seen), minlength=40)
    assert (counts == 3).all()  # 8 steps x 3 images of 8
    assert all([sorted(i // 8 for i in batch) == sorted(list(range(5)) * 3) for batch in seen])


def test_random_estimators_do_not_depend_on_the_chunk_and_repeat_themselves():
    config = smoke("evolution-strategies")
    runs = [steppers(MetaStepper, config) for _ in range(2)]
    assert runs[0].chunk == config.tasks
    assert runs[0].run(0, 2, 1.0) == runs[1].run(0, 2, 1.0)
    assert runs[0].run(2, 1, 1.0) != runs[1].run(3, 1, 1.0)


def test_more_processes_than_tasks_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("msmeta.experiments.distributed.join", lambda device: (World(0, 9), "cpu"))
    monkeypatch.setattr(World, "of_first", lambda world, value: value)
    with pytest.raises(ConfigError, match="9 processes for 4 tasks"):
        few_shot.train(smoke(), "cpu", results_root=tmp_path)
