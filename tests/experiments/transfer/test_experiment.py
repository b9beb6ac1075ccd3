"""Meta-transfer end to end: what is learnt, what is stored, and that a run can be cut short. Algorithm 1's steps are
tested in test_step.py."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from msmeta import SGD, Adam, ConfigError, DataError, DivergedError, data, runs
from msmeta.data import l2t_ww
from msmeta.experiments import finished, transfer
from msmeta.experiments.transfer import sources

SHARED = Path(__file__).parents[4] / "shared/data"
WEIGHTS = Path(os.environ.get("MSMETA_SOURCE_WEIGHTS", SHARED / l2t_ww.SOURCE.file))


WHOLE = {"batch": 64, "train_images": None}  # of the smoke preset


def smoke(estimator="multistep", optimizer="sgd", **changes):
    """4 iterations an epoch, as the preset has, of small batches."""
    return transfer.preset_config(
        "smoke", "glyphs-rgb", estimator, optimizer, **{"batch": 8, "train_images": 32, **changes}
    )


@pytest.fixture
def train(tmp_path):
    return lambda config, **options: transfer.train(config, "cpu", results_root=tmp_path, **options)


def test_result_holds_what_a_reader_needs(train, tmp_path):
    config = smoke(window=2)
    result = train(config)
    assert json.loads(transfer.run(config, tmp_path).result_path.read_text()) == result
    assert result["config"] == runs.plain(config)
    assert (transfer.label(config), transfer.setting(config)) == ("Multi-step", "SGD")
    metrics, images = result["metrics"], data.load("glyphs-rgb")
    assert metrics["iterations"] == 4 and result["log"]["iteration"] == [1, 2, 3, 4]  # 32 images in batches of 8
    assert metrics["images"] == {name: len(labels) for name, labels in images.labels.items()} | {"train": 32}
    assert 0 <= metrics["accuracy"] <= 100 and result["curve"]["accuracy"] == [metrics["validation_accuracy"]]
    assert all(value > 0 for value in metrics["meta_movement"].values())
    assert [len(row) for row in metrics["pair_weights"]] == [3] * 5
    assert result["curve"]["pair_weight"] == [pytest.approx(np.mean(metrics["pair_weights"]), abs=1e-4)]
    assert result["data"]["hash"] == images.hash and result["source"] == {"name": "random-resnet32", "hash": None}
    assert 0 < result["provenance"]["train_seconds"] < result["provenance"]["wall_seconds"]
    assert not list((tmp_path / "checkpoints").glob("*"))
    kept = finished.read(transfer.run(config, tmp_path).result_path).parameters()
    phi, statistics = (
        {name.removeprefix(kind): value for name, value in kept.items() if name.startswith(kind)}
        for kind in ("phi.", "statistics.")
    )
    target = transfer.TARGETS[config.target](config, images.classes)
    assert transfer.evaluate(target, phi, statistics, images, "test") == pytest.approx(metrics["accuracy"], abs=1e-4)


def test_scratch_learns_drawings(train):
    """20 classes, so chance is 5 %: far above it after 40 iterations, and the loss falls."""
    result = train(smoke("scratch", epochs=10, width=0.25, lr=0.1, **WHOLE))
    assert result["metrics"]["accuracy"] > 50
    assert result["log"]["total_loss"][-1] < result["log"]["total_loss"][0]
    assert result["source"] is None and "pair_weights" not in result["metrics"]
    assert set(result["log"]["outer_loss"]) == {None} == set(result["curve"]["pair_weight"])


def test_the_network_of_the_best_epoch_is_tested(train):
    result = train(smoke("scratch", epochs=6, lr=0.3, **WHOLE))
    looks = result["curve"]["accuracy"]
    assert len(looks) == 6 and result["metrics"]["validation_accuracy"] == max(looks)
    assert result["metrics"]["selected_epoch"] == 1 + looks.index(max(looks))


@pytest.mark.parametrize(
    ("changes", "method"),
    [
        ({"window": 1}, "Baseline"),
        ({"steps": 3, "window": 3}, "3-step Est. (3)"),
        ({"steps": 0}, "0-step"),
        ({"steps": 1, "transfer_rate": 2.0}, "1-step, 2·lr"),
        ({"estimator": "first-order"}, "First-order"),
        ({"rollback": False}, "Baseline"),
        ({"window": 2, "inner_beta": 0.5}, "Multi-step, inner β 0.5"),
    ],
)
def test_each_method_trains_with_both_optimizers(train, changes, method):
    for optimizer in ("sgd", "adam"):
        config = smoke(optimizer=optimizer, **changes)
        result = train(config)
        assert transfer.label(config) == method
        moves = method != "0-step"
        assert (result["metrics"]["meta_movement"]["what"] > 0) == moves
        assert (result["log"]["outer_loss"][0] is not None) == moves
        two_gradients = result["config"]["steps"] > 1 and result["config"]["window"] == 1
        assert (result["log"]["gradient_change"][0] is not None) == (two_gradients)


def test_learning_rate_is_annealed_by_the_cosine():
    config = smoke(epochs=4)
    assert [config.dynamics(epoch).lr for epoch in range(4)] == pytest.approx(
        [config.lr * (1 + math.cos(math.pi * t / 4)) / 2 for t in range(4)]
    )
    assert smoke(lr=0.2).dynamics(0) == SGD(0.2, 0.9, 1e-4)
    assert smoke(optimizer="adam", lr=0.2).dynamics(0) == Adam(0.2, (0.9, 0.999), weight_decay=1e-4)


def test_paper_preset_is_the_papers():
    small = transfer.preset_config("paper", "cifar-100", "multistep", "sgd", window=2)
    assert (small.batch, small.epochs, small.meta_lr, small.beta, small.steps) == (128, 200, 1e-3, 0.5, 2)
    assert (small.source, small.target, small.lr, small.width) == ("tinyimagenet-resnet32", "vgg9", 0.1, 1.0)
    large = transfer.preset_config("paper", "bird", "multistep", "adam")
    assert (large.batch, large.meta_lr, large.source, large.target) == (64, 1e-4, "imagenet-resnet34", "resnet18")
    assert large.lr == 1e-3 and large.train_images is None and large.meta_weight_decay == 1e-4


def test_source_and_images_have_to_fit(train):
    with pytest.raises(ConfigError, match="takes 224x224 images"):
        train(smoke(source="random-resnet34", target="resnet18", width=1.0))


def test_divergence_is_one_line_and_leaves_no_checkpoint(train, tmp_path):
    with pytest.raises(DivergedError):
        train(smoke(lr=1e20, epochs=2))
    assert not list((tmp_path / "checkpoints").glob("*.pt"))


def test_missing_weights_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("MSMETA_DATA", str(tmp_path))
    monkeypatch.setattr(l2t_ww, "REPOSITORY", "http://127.0.0.1:9")
    with pytest.raises(DataError, match="could not download .*`msmeta data prepare l2t-source --from PATH`"):
        sources.load("tinyimagenet-resnet32")
    assert sources.weights_hash("random-resnet32") is None and not list(tmp_path.iterdir())
    monkeypatch.setattr(sources, "IMAGENET_URL", "http://127.0.0.1:9/resnet34-b627a593.pth")
    with pytest.raises(DataError, match="put it into"):
        sources.load("imagenet-resnet34")
    (tmp_path / "weights").mkdir(exist_ok=True)
    (tmp_path / "weights" / sources.IMAGENET_FILE).write_bytes(b"not a model")
    with pytest.raises(DataError, match="is not torchvision's ResNet-34"):
        sources.load("imagenet-resnet34")


@pytest.mark.skipif(not WEIGHTS.exists(), reason="the source model's file is not here")
def test_the_published_source_is_loaded_and_hashed(tmp_path, monkeypatch):
    monkeypatch.setenv("MSMETA_DATA", str(tmp_path))
    (tmp_path / "weights").mkdir()
    (tmp_path / l2t_ww.SOURCE.file).symlink_to(WEIGHTS)
    source = sources.load("tinyimagenet-resnet32")
    assert [tuple(f.shape) for f in source.features(torch.zeros(2, 3, 32, 32))] == [
        (2, 16, 32, 32), (2, 32, 16, 16), (2, 64, 8, 8)
    ]  # fmt: skip
    assert len(source.hash) == 64


def test_command_line(msmeta):
    command = ["train", "transfer", "--preset", "smoke", "--dataset"]
    small = [*command, "glyphs-rgb", "--batch", "8", "--train-images", "32", "--window", "2"]
    status, out, _ = msmeta(*small)
    assert status == 0 and "Multi-step (SGD), Glyphs (32x32):" in out
    assert msmeta(*small)[1].startswith("this run has")
    status, _, err = msmeta(*command, "omniglot")
    assert status == 2 and len(err.strip().splitlines()) == 1
    for mistake in (["--window", "3"], ["--width", "10000"], ["--batch", "300"], ["--train-images", "5"]):
        status, _, err = msmeta(*command, "glyphs-rgb", *mistake)
        assert status == 2 and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("batch", [10, 20])
def test_theta_that_is_no_number_or_too_large_is_never_stored(batch, tmp_path):
    """Though all losses were finite: the last step, of two or of one, can do it."""
    with pytest.raises(DivergedError, match="^training diverged at its last iterations: lower --meta-lr"):
        config = transfer.preset_config("smoke", "glyphs-rgb", "multistep", batch=batch, train_images=20, meta_lr=1e30)
        transfer.train(config, "cpu", results_root=tmp_path)
    assert not list(tmp_path.rglob("*.json"))
