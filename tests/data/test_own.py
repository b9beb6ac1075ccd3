"""A user's own folder as a data set of runs, by the command line, a sweep and a notebook."""

import io
import json

import numpy as np
import pytest
import torch
import yaml
from made import write
from PIL import Image

from msmeta.data import load
from msmeta.errors import ConfigError
from msmeta.experiments import few_shot, registry, sweep, transfer
from msmeta.experiments.few_shot.adapted import adapt_to
from msmeta.report import live
from msmeta.report.frame import FEW_SHOT, TRANSFER, frame


@pytest.fixture
def birds(tmp_path):
    """16 classes of 18 images, one of 7, and a file that is no image."""
    generator = np.random.default_rng(0)

    def image(color):
        file = io.BytesIO()
        noisy = np.clip(color + generator.integers(0, 40, (36, 36, 3)), 0, 255)
        Image.fromarray(noisy.astype(np.uint8)).save(file, "PNG")
        return file.getvalue()

    colors = generator.integers(0, 216, (17, 3))
    files = {f"bird {c:02d}/{i}.png": image(color) for c, color in enumerate(colors) for i in range(18 if c else 7)}
    return write(tmp_path / "somewhere/birds", files | {"bird 05/broken.jpg": b""})


def test_few_shot_by_the_command_line(msmeta, birds, tmp_path):
    arguments = ("train", "few-shot", "--preset", "smoke", "--way", "3", "--dataset", f"folder:{birds}@32+least16")
    status, out, err = msmeta(*arguments)
    assert status == 0, err
    for told in ("bird 00 (7)", "bird 05/broken.jpg", "a random fifth of the classes", "Folder birds 3-way 1-shot"):
        assert told in " ".join(out.replace("│", " ").split())
    (path,) = tmp_path.glob("results/live/few-shot/*.json")
    result = json.loads(path.read_text())
    name = result["config"]["dataset"]
    assert name == result["data"]["name"] and path.name.startswith(name.replace(":", "-") + "-3w1s-multistep-")
    assert "somewhere" not in path.read_text() and "somewhere" not in path.name
    assert [len(result["data"]["classes"][split]) for split in ("train", "validation", "test")] == [10, 3, 3]
    assert result["data"]["left_out"] == {"bird 00": 7} and len(result["data"]["unreadable"]) == 1
    again = msmeta("train", "few-shot", "--preset", "smoke", "--way", "3", "--dataset", name)
    assert again[0] == 0 and "this run has finished before" in again[1]
    row = frame(FEW_SHOT, [result]).iloc[0]
    assert (row["title"], row["dataset"]) == ("Folder birds", name)
    query = write(tmp_path / "query", {"x.png": (birds / "bird 09/17.png").read_bytes()})
    theta, config = torch.load(path.with_suffix(".pt")), few_shot.FewShotConfig(**result["config"])
    for part in ("bird 08", "bird 09", "bird 10"):
        write(tmp_path / "support", {f"{part}/1.png": (birds / part / "1.png").read_bytes()})
    adapted = adapt_to(config, theta, tmp_path / "support", query)
    images = torch.cat([*load(name).images.values()])
    assert (images == adapted.query.x[0]).flatten(1).all(1).any()  # read as those that it was trained on
    status, out, err = msmeta(*arguments[:-1], f"folder:{birds}@32")
    assert status == 2 and len(err.strip().splitlines()) == 1


def test_transfer_by_the_command_line(msmeta, birds, tmp_path):
    options = ("--preset", "smoke", "--estimator", "scratch", "--source", "random-resnet32", "--batch", "16")
    status, out, err = msmeta("train", "transfer", *options, "--dataset", f"folder:{birds}")
    assert status == 0, err
    (path,) = tmp_path.glob("results/live/transfer/*.json")
    result = json.loads(path.read_text())
    assert result["config"]["dataset"].endswith("@32+transfer")
    images = result["metrics"]["images"]
    assert result["data"]["split"].startswith("a random fifth of each class for the test") and images["test"] == 59
    assert sum(images.values()) == 16 * 18 + 7
    assert frame(TRANSFER, [result]).iloc[0]["title"] == "Folder birds"


def test_a_sweep_of_two_folders_of_one_name(birds, tmp_path, monkeypatch):
    monkeypatch.setenv("MSMETA_DATA", str(tmp_path / "data"))
    files = {f"{c}/{i}.png": (birds / f"bird 0{c}/{i}.png").read_bytes() for c in range(3) for i in range(7)}
    other, spec = write(tmp_path / "elsewhere/birds", files), tmp_path / "spec.yaml"
    run = {"preset": "cpu", "way": 2, "shot": 1, "estimator": "multistep"}
    spec.write_text(yaml.safe_dump({"runs": [run | {"dataset": [f"folder:{birds}", f"folder:{other}@28+grey"]}]}))
    one, two = sweep.read_spec(spec)
    assert one.dataset != two.dataset
    assert (one.select_every, two.select_every) == (500, None)  # as miniImageNet, as Omniglot
    assert registry.place(one, tmp_path).name != registry.place(two, tmp_path).name


def test_a_notebook(birds, tmp_path, monkeypatch):
    monkeypatch.setenv("MSMETA_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path / "results"))
    methods = [{"estimator": "multistep", "window": 2}]
    found, why = live.train(
        FEW_SHOT, "smoke", f"folder:{birds}@32+least16", methods, "cpu", False, lambda _: None, way=[3], shot=[1]
    )
    assert why == "These runs used Folder birds." and live.title(found).startswith("Live run (smoke), Folder birds")
    words = live.data_in_words(found["dataset"].iloc[0])
    assert "10 classes for meta-training and 3 others" in words and "; split: a random fifth of the classes" in words


def test_configs_of_folders_that_are_not_here():
    """Results of another machine are shown."""
    known = "folder:birds-0123abcd@84"
    config = few_shot.preset_config("paper", known, 5, 1, "multistep")
    assert config.dataset == known and config == few_shot.FewShotConfig(**vars(config))
    assert transfer.preset_config("paper", "folder:x-0123abcd@32+transfer", "multistep").split == "seeded"
    with pytest.raises(ConfigError, match="is not for transfer"):
        transfer.preset_config("paper", known, "multistep")
    with pytest.raises(ConfigError, match="dataset 'bird' is unknown: choose from omniglot, .*, folder:PATH"):
        few_shot.preset_config("paper", "bird", 5, 1, "multistep")
