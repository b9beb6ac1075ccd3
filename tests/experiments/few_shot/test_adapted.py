"""A network adapted to folders of pictures: what is answered, written and refused, and that the sheet shows it."""

import csv
import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from msmeta import UserError, data
from msmeta.data import EpisodeSampler
from msmeta.experiments import few_shot
from msmeta.experiments.few_shot import adapted
from msmeta.experiments.few_shot.at_test import query_logits
from msmeta.models import Conv4


def config_of(estimator="multistep", **changes):
    return few_shot.preset_config("smoke", "glyphs", 5, 1, estimator, **{"filters": 8, "lr": 0.2} | changes)


THETA = Conv4(5, filters=8).init(1)


def ink(x):
    """A drawing of a data set, light on black, as dark ink on white paper twice as large."""
    return Image.fromarray(255 - x[0].numpy()).resize((56, 56), Image.Resampling.NEAREST)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(support, query) with three classes of two and four drawings each."""
    root, images = tmp_path_factory.mktemp("mine"), data.load("glyphs").by_class("test")
    for label, name in enumerate(("alpha", "beta", "gamma")):
        for i in range(6):
            path = root / ("support" if i < 2 else "query") / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            ink(images[label, i]).save(path)
    return root / "support", root / "query"


def test_answers_are_those_of_the_evaluation_on_the_same_task():
    """The way of training, an episode of the test classes, each statistics."""
    config = config_of()
    episodes = EpisodeSampler(data.load("glyphs"), "test", 5, 1, 15).sample(0, 1)
    x = [(255 * part[0]).round().to(torch.uint8) for part in (episodes.support_x, episodes.query_x)]
    order = torch.tensor([3, 0, 4, 1, 2])  # classes come in any order
    for norm in ("transductive", "support"):
        found = adapted.answer(config, THETA, x[0][order], order, x[1], norm, device="cpu")
        work = few_shot.Work(config, Conv4(5, filters=8), data.load("glyphs"), 1)
        work.set_theta(THETA)
        phi = work.adapted(episodes, (1,) * 8)
        expected = F.softmax(query_logits(work.model, phi, episodes, norm), -1)[0]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_running_statistics_are_gathered_on_the_run_s_data(monkeypatch):
    monkeypatch.setattr(few_shot.work, "GATHERED", 4)
    x = data.load("glyphs").images["test"][:40:20]
    found = adapted.answer(config_of(), THETA, x, torch.tensor([0, 1]), x, "running", device="cpu")
    alone = adapted.answer(config_of(), THETA, x, torch.tensor([0, 1]), x[:1], "running", device="cpu")
    torch.testing.assert_close(found[:1], alone)


def test_a_task_of_another_way_and_of_unequal_shots(folders, tmp_path):
    support, query = folders
    (support / "alpha" / "0.png").rename(tmp_path / "0.png")
    try:
        found = few_shot.adapt_to(config_of(), THETA, *folders, "support", device="cpu")
        with pytest.raises(UserError, match="minibatches: give as many support pictures of each class"):
            few_shot.adapt_to(config_of("reptile", inner_shot=1), THETA, *folders)
    finally:
        (tmp_path / "0.png").rename(support / "alpha" / "0.png")
    assert found.names == ["alpha", "beta", "gamma"] and found.probabilities.shape == (12, 3)
    torch.testing.assert_close(found.probabilities.sum(1), torch.ones(12))
    rows = list(csv.DictReader(io.StringIO(found.table())))
    assert [row["file"] for row in rows] == found.query.files and rows[0]["class"] == "alpha"
    for row, own in zip(rows, found.probabilities, strict=True):
        assert row["prediction"] == found.names[own.argmax()]
        assert float(row["confidence"]) == pytest.approx(own.max().item(), abs=1e-4)
    right = [row["class"] == row["prediction"] for row in rows]
    assert found.accuracy == pytest.approx(100 * np.mean(right))


def test_query_pictures_need_no_class(folders, tmp_path):
    for i, path in enumerate(sorted(folders[1].rglob("*.png"))[:3]):
        (tmp_path / f"{i}.png").write_bytes(path.read_bytes())
    found = few_shot.adapt_to(config_of(), THETA, folders[0], tmp_path, device="cpu")
    assert found.accuracy is None and found.query.classes == [None] * 3
    assert [line.split(",")[1] for line in found.table().splitlines()[1:]] == [""] * 3


def test_a_mistake_is_one_line(folders, tmp_path):
    support, query = folders
    with pytest.raises(
        UserError, match="must have a folder of pictures for each of two or more classes: 2.png lies in none"
    ):
        few_shot.adapt_to(config_of(), THETA, query / "alpha", query)
    (tmp_path / "delta").mkdir()
    (tmp_path / "delta" / "1.png").write_bytes((query / "beta" / "2.png").read_bytes())
    with pytest.raises(UserError, match=r"has a folder delta, which is no class of .*: alpha, beta, gamma"):
        few_shot.adapt_to(config_of(), THETA, support, tmp_path)
    with pytest.raises(UserError, match="must have a folder of pictures for each of two or more classes$"):
        few_shot.adapt_to(config_of(), THETA, tmp_path, query)
    with pytest.raises(UserError, match="2.png is a file: give its folder"):
        few_shot.adapt_to(config_of(), THETA, support, query / "beta" / "2.png")
    x, y = torch.zeros(401, 1, 28, 28, dtype=torch.uint8), torch.arange(401)
    with pytest.raises(UserError, match="running statistics are of training tasks with as many classes as yours: 401-"):
        adapted.answer(config_of(), THETA, x, y, x[:1], "running", 1, device="cpu")
    with pytest.raises(UserError, match="lower the inner"):
        few_shot.adapt_to(config_of(lr=1e30), THETA, support, query)
    with pytest.raises(UserError, match="test_norm 'batch' is unknown: choose from transductive, support, running"):
        few_shot.adapt_to(config_of(), THETA, support, query, "batch")


def test_pictures_that_are_links_are_read_where_that_is_asked_for(folders, tmp_path):
    for path in folders[1].rglob("*.png"):
        link = tmp_path / path.relative_to(folders[1])
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(path)
    with pytest.raises(UserError, match="is a link: --follow-links reads what links lead to"):
        few_shot.adapt_to(config_of(), THETA, folders[0], tmp_path)
    found, linked = (
        few_shot.adapt_to(config_of(), THETA, folders[0], query, device="cpu", follow_links=True)
        for query in (folders[1], tmp_path)
    )
    assert torch.equal(found.probabilities, linked.probabilities) and found.query.files == linked.query.files


def test_colour_networks_take_photographs(tmp_path):
    config = few_shot.preset_config("smoke", "cifar-fs", 2, 1, "multistep")
    theta = Conv4(2, 3, 32, config.filters, pool=True).init(0)
    for name, colour in (("red", (200, 30, 20)), ("blue", (20, 40, 210))):
        for i in range(2):
            noise = np.random.default_rng(i).integers(-20, 20, (40, 60, 3))
            path = tmp_path / ("support" if i else "query") / name / "1.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(path)
    found = few_shot.adapt_to(config, theta, tmp_path / "support", tmp_path / "query", device="cpu")
    assert found.support.x.shape == (2, 3, 32, 32) and found.names == ["blue", "red"]
