"""What the authors of L2T-ww published: had over the network or from a user's copy, whole or not at all; and the images
of their lists. Small made lists and data sets stand for theirs."""

import hashlib
import io
import os
import pickle
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from made import refused, write

from msmeta import ConfigError, cli
from msmeta.data import DATASETS, Arrays, MinibatchSampler, evaluation_batches, l2t_ww, load, prepare, raw, stored_hash
from msmeta.data.dataset import splits_of_images
from msmeta.experiments import evaluations, finished, transfer

COUNTS = {"train": 7, "validation": 5, "test": 6}
WEIGHTS = os.environ.get("MSMETA_SOURCE_WEIGHTS", Path(__file__).parents[3] / "shared/data" / l2t_ww.SOURCE.file)
NETWORK = b"a network" * 50
PATH = "logs/model.pth.tar"
TRAIN, VALIDATION = [11, 0, 5, 8, 4, 1], [7, 2, 10]
"""Of 12 published training images; three are in neither."""


def saved(classes, places) -> bytes:
    """As torch 1.0 wrote it."""
    file = io.BytesIO()
    torch.save((classes, places), file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def lists() -> dict[str, bytes]:
    parts = {"train": ([2, 0, 1], TRAIN), "val": ([2, 0, 1], VALIDATION), "test": ([2, 0, 1], [3, 1, 0, 2, 5, 4])}
    return {f"split/{name}-{part}": saved(*own) for name in l2t_ww.LISTS.values() for part, own in parts.items()}


READ_LISTS = l2t_ww.read_lists


def in_this_process(contents):
    """For to start torch in another takes seconds."""
    try:
        return {file: torch.load(io.BytesIO(data), weights_only=True) for file, data in contents.items()}
    except Exception:
        return READ_LISTS(contents)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The data sets of three classes, whose published order is a shuffled one, and the network."""

    def build(folder, progress, allocate, dataset, follow_links):
        images = allocate((18, *dataset.shape), np.uint8)
        images[:] = np.arange(18)[:, None, None, None]
        return Arrays(images, np.arange(18) // 6, list("abc"), np.random.default_rng(1).permutation(12))

    monkeypatch.setenv("no_proxy", "*")
    for name in l2t_ww.LISTS:
        own = replace(DATASETS[name], classes=3, splits=splits_of_images(**COUNTS), build=build)
        monkeypatch.setitem(DATASETS, name, own)
    source = replace(l2t_ww.SOURCE, files={PATH: hashlib.sha256(NETWORK).hexdigest()})
    monkeypatch.setattr(l2t_ww, "SOURCE", source)
    monkeypatch.setattr(l2t_ww, "read_lists", in_this_process)
    monkeypatch.setitem(l2t_ww.PUBLISHED, "l2t-source", source)


@pytest.fixture
def server(monkeypatch):
    """A web server in place of the repository's: its files, which a test may change; `stall` and `cut` name ends."""
    files, ended = {PATH: NETWORK, **lists()}, threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.content = files.get(self.path[1:])
            self.send_response(404 if self.content is None else 200)
            self.send_header("Content-Length", str(len(self.content or b"")))
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            self.wfile.write(self.content[: 100 if files.get("end") else None])
            if files.get("end") == b"stall":
                ended.wait(10)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        threading.Thread(target=http.serve_forever, daemon=True).start()
        monkeypatch.setattr(l2t_ww, "REPOSITORY", f"http://127.0.0.1:{http.server_port}")
        yield files
        ended.set()
        http.shutdown()


# Had whole or not at all


def test_the_network_is_downloaded_or_taken_from_a_copy(tmp_path, server):
    clone = write(tmp_path / "clone", {PATH: NETWORK})
    given = (
        None,
        clone,
        clone / "logs",
        clone / PATH,
        write(tmp_path / "own", {"tinyimagenet-resnet32.pth.tar": NETWORK}),
    )
    for number, source in enumerate(given):
        path = prepare("l2t-source", source, tmp_path / str(number))
        assert path == tmp_path / str(number) / "weights/tinyimagenet-resnet32.pth.tar" and path.read_bytes() == NETWORK
        assert l2t_ww.verify("l2t-source", tmp_path / str(number)) == hashlib.sha256(NETWORK).hexdigest()
        assert [each.name for each in path.parent.iterdir()] == [path.name]
    server.clear()
    assert prepare("l2t-source", None, tmp_path / "0").read_bytes() == NETWORK  # it is there: nothing is asked for


def test_the_lists_are_downloaded_or_taken_from_a_copy(tmp_path, server):
    clone = write(tmp_path / "clone", lists())
    given = (None, clone, clone / "split", clone / "split/dog-test")
    found = [prepare("l2t-splits", own, tmp_path / str(number)) for number, own in enumerate(given)]
    assert len({path.read_bytes() for path in found}) == 1 and found[0].parent == tmp_path / "0/l2t-splits"


@pytest.mark.parametrize("name", ["l2t-source", "l2t-splits"])
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"end": b"stall"}, "timed out"), ({"end": b"cut"}, "it ended after 100 bytes"), (None, "HTTP Error 404"),
        ({PATH: b"another", "split/cifar100-train": b"another"}, "its SHA-256 is|is not a list of images"),
    ],
)  # fmt: skip
def test_a_download_that_fails_is_one_line_and_leaves_nothing(tmp_path, server, name, change, why, monkeypatch):
    if why == "timed out":
        monkeypatch.setattr(raw, "STALL_SECONDS", 0.3)
    server.update(change) if change else server.clear()
    refused(why, prepare, name, None, tmp_path)
    assert not list(tmp_path.rglob("*.*"))


def test_a_host_that_is_not_there_is_one_line_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(l2t_ww, "REPOSITORY", "http://127.0.0.1:9")
    for name in l2t_ww.PUBLISHED:
        refused(
            f"could not download .*refused.*`msmeta data prepare {name} --from PATH`", prepare, name, None, tmp_path
        )


def test_a_copy_that_is_another_is_one_line(tmp_path):
    other = write(tmp_path / "other", {PATH: b"another"})
    refused(
        "model.pth.tar is not the model.pth.tar that was published: its SHA", prepare, "l2t-source", other, tmp_path
    )
    refused("there is no cifar100-train in", prepare, "l2t-splits", other, tmp_path)
    refused("there is no model.pth.tar in", prepare, "l2t-source", tmp_path / "nowhere", tmp_path)
    path = write(tmp_path, {l2t_ww.SOURCE.file: b"a user's own"}) / l2t_ww.SOURCE.file
    refused("is not what its authors published.*move it away", prepare, "l2t-source", other, tmp_path)
    assert path.read_bytes() == b"a user's own"


@pytest.mark.parametrize(
    ("file", "content", "why"),
    [
        ("split/stl10-val", saved([0, 1, 2], [7, 2, 11]), "train and validation of stl-10 are not apart"),
        ("split/stl10-val", saved([0, 1, 2], [7, 2, 12]), "or not among its training images"),
        ("split/stl10-val", saved([0, 1, 2], []), "train and validation of stl-10"),
        ("split/dog-test", saved([0, 1, 2], [0, 1, 2]), "test of dog does not list its 6 test images"),
        ("split/dog-train", saved([0, 1, 1], TRAIN), "train of dog does not list its 3 classes"),
    ],
)
def test_lists_that_do_not_fit_are_one_line(tmp_path, file, content, why):
    refused(why, prepare, "l2t-splits", write(tmp_path / "clone", lists() | {file: content}), tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_lists_are_read_in_a_process_of_their_own_which_a_hostile_one_may_end(monkeypatch):
    assert READ_LISTS(lists()) == {file: [*map(list, own)] for file, own in in_this_process(lists()).items()}
    tuples = b"}" + b")" + b"\x85" * 1_000_000 + b"Ns."  # hashed by recursion, where it is a key
    before = [torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {}]
    hostile = b"".join(pickle.dumps(own, 2) for own in before) + b"\x80\2" + tuples
    for content in (saved([0, 1, 2], None), b"", b"<html>", hostile, saved(["a"], [])):
        refused("split/dog-train is not a list of images", READ_LISTS, {"split/dog-train": content})
    monkeypatch.setattr(l2t_ww, "MAX_LIST_BYTES", 100)
    refused("cifar100-train has more than the 100 bytes allowed", READ_LISTS, lists())


@pytest.mark.skipif(not Path(WEIGHTS).exists(), reason="the source model's file is not here")
def test_the_published_network_has_the_hash_that_is_asked_for(monkeypatch):
    monkeypatch.undo()
    assert [hashlib.sha256(Path(WEIGHTS).read_bytes()).hexdigest()] == [*l2t_ww.SOURCE.files.values()]


# The images of the lists


@pytest.fixture
def root(tmp_path):
    for name in ("cifar-100", "bird", "l2t-splits"):
        prepare(name, write(tmp_path / "clone", lists()), tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.parametrize("name", ["cifar-100", "bird"])
def test_the_images_are_those_of_the_lists(root, name):
    """An image's pixels are its place in the arrays, and `order` there says which published image it is."""
    order, found = np.load(root / name / "order.npy"), load(name, root=root, split="l2t-ww")
    for split, places in (("train", TRAIN), ("validation", VALIDATION)):
        stored = torch.cat([x[:, 0, 0, 0] for x in (found.images[split][i : i + 1] for i in range(len(places)))])
        assert sorted(order[stored]) == sorted(places) and stored.tolist() == sorted(stored.tolist())
        assert found.labels[split].tolist() == (stored // 6).tolist()
    seeded = load(name, root=root)
    assert torch.equal(found.images["test"], seeded.images["test"]) and found.hash != seeded.hash
    assert (stored_hash(name, root, "l2t-ww"), stored_hash(name, root)) == (found.hash, seeded.hash)


def test_mapped_images_are_drawn_as_those_in_memory(root, monkeypatch):
    mapped = load("bird", root=root, split="l2t-ww")
    whole = replace(mapped, images={split: images[:] for split, images in mapped.images.items()})
    assert isinstance(whole.images["train"], torch.Tensor) and not isinstance(mapped.images["train"], torch.Tensor)
    for own in ({}, {"augment": False}, {"split": "validation"}):
        batches = [MinibatchSampler(images, 3, **own).batch_at(1) for images in (mapped, whole)]
        assert all(map(torch.equal, *batches))
    for one, other in zip(*(evaluation_batches(images, "train", 4) for images in (mapped, whole)), strict=True):
        assert all(map(torch.equal, one, other))
    assert torch.equal(mapped.subset(3).images["train"], whole.subset(3).images["train"])


def test_a_run_trains_on_the_lists_and_says_so(root, tmp_path, monkeypatch):
    monkeypatch.setenv("MSMETA_DATA", str(root))
    config = transfer.preset_config("smoke", "cifar-100", "scratch", split="l2t-ww", batch=3)
    result = transfer.train(config, "cpu", results_root=tmp_path / "results")
    assert result["config"]["split"] == "l2t-ww"
    assert result["metrics"]["images"] == {"train": len(TRAIN), "validation": len(VALIDATION), "test": COUNTS["test"]}
    assert result["data"]["hash"] == stored_hash("cifar-100", root, "l2t-ww") != stored_hash("cifar-100", root)
    assert transfer.run(config, tmp_path / "results").result() == result


def test_a_run_is_tested_again_on_the_images_of_its_own_split(root, tmp_path, monkeypatch):
    monkeypatch.setenv("MSMETA_DATA", str(root))
    monkeypatch.setenv("MSMETA_RESULTS", str(tmp_path))
    config = transfer.preset_config("smoke", "cifar-100", "scratch", split="l2t-ww", batch=3, evaluate_on="validation")
    result = transfer.train(config, "cpu")
    (run,) = finished.find([transfer.run(config).name])
    found = evaluations.evaluate(run, {}, "cpu", save=True)
    assert found["metrics"]["accuracy"] == result["metrics"]["accuracy"]
    assert found["data"]["hash"] == result["data"]["hash"]
    assert next(evaluations.disagreements(evaluations.place(run, {}).result_path, found), None) is None


def test_what_cannot_be_divided_so_is_one_line(root, monkeypatch):
    with pytest.raises(ConfigError, match="split=l2t-ww is impossible for indoor: .* cifar-100, stl-10, bird, dog"):
        load("indoor", root=root, split="l2t-ww")
    with pytest.raises(ConfigError, match="split 'other' is unknown: choose from seeded, l2t-ww"):
        load("bird", root=root, split="other")
    np.save(root / "bird/order.npy", np.zeros(12, np.int64))
    refused("order.npy is damaged.*it is no order", load, "bird", "cpu", root, "l2t-ww")
    (root / "bird/order.npy").unlink()
    refused("bird was prepared from a copy.*or use split 'seeded'", stored_hash, "bird", root, "l2t-ww")
    (root / l2t_ww.SPLITS.file).write_text("{}")
    refused("is not what its authors published", load, "cifar-100", "cpu", root, "l2t-ww")
    (root / l2t_ww.SPLITS.file).unlink()
    monkeypatch.setattr(l2t_ww, "REPOSITORY", "http://127.0.0.1:9")
    refused("could not .*`msmeta data prepare l2t-splits --from", load, "cifar-100", "cpu", root, "l2t-ww")


def test_command_line(msmeta, tmp_path, monkeypatch):
    monkeypatch.setattr(cli.Console, "width", 200)
    clone, path = write(tmp_path / "clone", {PATH: NETWORK, **lists()}), tmp_path / "data" / l2t_ww.SOURCE.file
    assert msmeta("data", "prepare", "l2t-source", "--from", str(clone)) == (0, f"l2t-source is ready in {path}\n", "")
    assert msmeta("data", "prepare", "l2t-splits", "--from", str(clone))[0] == 0
    (tmp_path / "data" / l2t_ww.SPLITS.file).write_text("{}")
    out = msmeta("data", "list")[1]
    states = {row.split("│")[1].strip(): row.split("│")[3].strip() for row in out.splitlines() if "l2t-s" in row}
    assert states == {"l2t-source": "prepared", "l2t-splits": "damaged"}
    assert msmeta("data", "verify", "l2t-source")[1].endswith(f"SHA-256 {hashlib.sha256(NETWORK).hexdigest()}\n")
    for mistake in (("verify", "l2t-splits"), ("prepare", "l2t-source", "--from", ""), ("prepare", "l2t-sorce")):
        status, _, err = msmeta("data", *mistake)
        assert status == 2 and err.startswith("msmeta: ") and err.count("\n") == 1
