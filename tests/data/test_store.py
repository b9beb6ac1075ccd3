import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from made import flip

from msmeta.data import DATASETS, Arrays, data_root, load, prepare, status, verify
from msmeta.errors import ConfigError, DataError


@pytest.fixture
def root(prepared, tmp_path):
    """A data root of its own, with Omniglot prepared."""
    shutil.copytree(prepared, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def reads(monkeypatch):
    """Puts empty images in the place of reading Omniglot; the list grows by the folder of each reading."""
    dataset, folders = DATASETS["omniglot"], []

    def build(folder, progress):
        folders.append(folder)
        progress("read", 0, 1)
        return Arrays(np.zeros(dataset.shape, np.uint8), [str(label) for label in range(dataset.shape[0])])

    monkeypatch.setitem(DATASETS, "omniglot", replace(dataset, build=build))
    return folders


def assert_one_line(error, *parts):
    line = str(error.value)
    assert "\n" not in line
    for part in parts:
        assert str(part) in line


def test_registry():
    assert list(DATASETS) == ["omniglot", "miniimagenet", "cifar-fs", "glyphs"]
    for name, dataset in DATASETS.items():
        assert dataset.name == name and dataset.title and dataset.licence and dataset.source and dataset.obtained
        train, validation, test, tune = (dataset.splits[split] for split in ("train", "validation", "test", "tune"))
        assert set(tune) <= set(train) and not set(tune) & set(validation) and not set(test) & {*train, *validation}
        assert sorted({*train, *validation, *test}) == list(range(dataset.shape[0]))


def test_import_is_light():
    code = "import sys, msmeta.data; assert not {'torchvision', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_name():
    for call in (prepare, load, verify):
        with pytest.raises(ConfigError) as error:
            call("omniglott")
        assert_one_line(error, "omniglott", ", ".join(DATASETS))


def test_nothing_to_prepare():
    with pytest.raises(ConfigError, match="glyphs needs no preparation"):
        prepare("glyphs")


def test_hash_is_of_the_arrays(omniglot, root):
    assert load("omniglot", root).hash == omniglot.hash == verify("omniglot", root).hash
    assert len(omniglot.hash) == 64


def test_prepared_and_intact_returns_at_once(root, reads, tmp_path):
    assert prepare("omniglot", tmp_path / "no such folder", root) == root / "omniglot"
    assert reads == []


def test_prepare_is_deterministic(raw, tmp_path, reads):
    folders = [prepare("omniglot", raw, tmp_path / place) for place in "ab"]
    assert len(reads) == 2
    for name in ("images.npy", "meta.json"):
        first, second = ((folder / name).read_bytes() for folder in folders)
        assert first == second
    assert not list(tmp_path.rglob(".*"))


def test_one_of_the_archives_stands_for_their_folder(raw, tmp_path, reads):
    prepare("omniglot", raw / "images_evaluation.zip", tmp_path)
    assert reads == [raw]


def test_official_archives_are_recognised(made_zips, tmp_path, reads, monkeypatch):
    prepare("omniglot", made_zips, tmp_path)
    assert verify("omniglot", tmp_path).official is False
    found = json.loads((tmp_path / "omniglot/meta.json").read_text())["raw_md5"]
    files = tuple(replace(file, md5=found[file.name]) for file in DATASETS["omniglot"].raw_files())
    monkeypatch.setitem(DATASETS, "omniglot", replace(DATASETS["omniglot"], raw_files=lambda: files))
    prepare("omniglot", made_zips, tmp_path / "again")
    assert verify("omniglot", tmp_path / "again").official is True


@pytest.mark.parametrize("stop", [KeyboardInterrupt, DataError, MemoryError])
def test_a_stop_half_way_leaves_nothing(raw, tmp_path, reads, stop):
    def progress(what, done, total):
        raise stop("now")

    with pytest.raises(stop):
        prepare("omniglot", raw, tmp_path, progress)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_stop_while_writing_leaves_nothing(raw, tmp_path, reads, monkeypatch, error):
    def save(file, images):
        file.write_bytes(b"half")
        raise error

    monkeypatch.setattr(np, "save", save)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else DataError) as raised:
        prepare("omniglot", raw, tmp_path)
    if raised.type is DataError:
        assert_one_line(raised, "omniglot", tmp_path, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_rebuild_keeps_what_was_there(raw, root, reads):
    (root / "omniglot/meta.json").write_text("{")
    before = (root / "omniglot/images.npy").read_bytes()

    def progress(what, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare("omniglot", raw, root, progress)
    assert (root / "omniglot/images.npy").read_bytes() == before
    assert [path.name for path in root.iterdir()] == ["omniglot"]


def test_the_files_of_others_are_not_replaced(raw, tmp_path, reads):
    (tmp_path / "omniglot").mkdir()
    (tmp_path / "omniglot" / "thesis.txt").write_text("the only copy")
    with pytest.raises(DataError) as error:
        prepare("omniglot", raw, tmp_path)
    assert_one_line(error, tmp_path / "omniglot", "thesis.txt")
    assert (tmp_path / "omniglot" / "thesis.txt").exists()


def test_a_root_that_cannot_be_written(raw, tmp_path, reads):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError) as error:
        prepare("omniglot", raw, tmp_path / "file")
    assert_one_line(error, "omniglot: cannot write", tmp_path / "file")


def test_source_that_is_not_there(tmp_path):
    with pytest.raises(DataError) as error:
        prepare("omniglot", tmp_path / "nowhere", tmp_path)
    assert_one_line(error, "omniglot", tmp_path / "nowhere")


def test_absent(tmp_path):
    for call in (load, verify):
        with pytest.raises(DataError) as error:
            call("omniglot", tmp_path)
        assert_one_line(error, f"not prepared in {tmp_path}", "`msmeta data prepare omniglot`", "--from DIR")


DAMAGES = {
    "truncated": ("images.npy", lambda file: file.write_bytes(file.read_bytes()[:-1000])),
    "empty": ("images.npy", lambda file: file.write_bytes(b"")),
    "one bit": ("images.npy", lambda file: flip(file, -5)),
    "header": ("images.npy", lambda file: flip(file, 30)),
    "other shape": ("images.npy", lambda file: np.save(file, np.zeros((2, 2), np.uint8))),
    "pickle": ("images.npy", lambda file: np.save(file, np.array([{}]), allow_pickle=True)),
    "gone": ("images.npy", lambda file: file.unlink()),
    "no meta": ("meta.json", lambda file: file.unlink()),
    "half meta": ("meta.json", lambda file: file.write_text(file.read_text()[:100])),
    "other meta": ("meta.json", lambda file: file.write_text("[]")),
    "binary meta": ("meta.json", lambda file: file.write_bytes(b"\xff\xfe")),
    "no hash": ("meta.json", lambda file: file.write_text(file.read_text().replace('"hash"', '"hush"'))),
    "other split": ("meta.json", lambda file: file.write_text(file.read_text().replace("1200", "1000", 1))),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found(root, damage):
    name, do = DAMAGES[damage]
    do(root / "omniglot" / name)
    for call in (load, verify):
        with pytest.raises(DataError) as error:
            call("omniglot", root)
        assert_one_line(error, root / "omniglot" / name, "is damaged", "`msmeta data prepare omniglot`")
    states = {row.name: row.state for row in status(root)}
    assert (states["omniglot"], states["glyphs"]) == ("damaged", "generated")


def test_a_changed_class_name_is_found(root):
    meta = root / "omniglot" / "meta.json"
    meta.write_text(meta.read_text().replace("character01", "character99", 1))
    with pytest.raises(DataError, match="hash"):
        load("omniglot", root)


def test_a_damaged_one_is_built_again(raw, root, reads):
    flip(root / "omniglot/images.npy", -1)
    prepare("omniglot", raw, root)
    assert len(reads) == 1
    verify("omniglot", root)
    assert [path.name for path in root.iterdir()] == ["omniglot"]


def test_status(root, omniglot, glyphs):
    prepared, *absent, generated = (row for row in status(root) if row.name in DATASETS)
    assert {row.state for row in absent} == {"absent"}
    assert (prepared.name, prepared.state, prepared.hash) == ("omniglot", "prepared", omniglot.hash)
    assert prepared.bytes > 1623 * 20 * 28 * 28
    assert prepared.classes == {"train": 1200, "test": 423, "tune": 1100, "validation": 100}
    assert (prepared.samples, prepared.rotations, prepared.problem) == (20, 4, None)
    assert (generated.name, generated.state, generated.hash) == ("glyphs", "generated", glyphs.hash)
    absent = status(root / "nowhere")[0]
    assert (absent.state, absent.bytes, absent.hash) == ("absent", 0, None)
    assert "not prepared" in absent.problem


def test_data_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MSMETA_DATA", raising=False)
    assert data_root() == tmp_path / "data"
    checkout = tmp_path / "checkout"
    for folder in ("data", "msmeta", "notebooks"):
        (checkout / folder).mkdir(parents=True)
    (checkout / "pyproject.toml").touch()
    monkeypatch.chdir(checkout / "notebooks")
    assert data_root() == checkout / "data"
    monkeypatch.setenv("MSMETA_DATA", str(tmp_path / "elsewhere"))
    assert data_root() == tmp_path / "elsewhere"
    monkeypatch.setenv("MSMETA_DATA", "~/elsewhere")
    assert "~" not in str(data_root())


@pytest.mark.parametrize("device", ["cpu"] + ["cuda"] * torch.cuda.is_available())
def test_load_on_a_device(prepared, device):
    data = load("omniglot", prepared, device)
    assert all(images.device.type == device and images.dtype == torch.uint8 for images in data.images.values())


def test_shrunk_images_are_means_of_squares_and_shared_splits_stay_shared():
    images = load("glyphs")
    small = images.shrunk(14)
    exact = images.images["test"].double().unflatten(-1, (14, 2)).unflatten(-3, (14, 2)).mean((-1, -3))
    assert small.images["test"].dtype == torch.uint8 and small.images["test"].shape[-2:] == (14, 14)
    assert (small.images["test"] - exact).abs().max() <= 0.5  # rounded
    assert small.hash == images.hash and small.images.keys() == images.images.keys()
    twice = replace(images, images={"train": images.images["train"], "tune": images.images["train"]})
    shrunk = twice.shrunk(7).images
    assert shrunk["tune"] is shrunk["train"]
    for side in (0, 13, 56):
        with pytest.raises(ConfigError, match=f"image_size={side} is impossible: glyphs has 28x28 images"):
            images.shrunk(side)
