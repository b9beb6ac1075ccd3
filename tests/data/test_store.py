"""The registry, and what is prepared, read and checked, with small made data sets of each kind (see conftest.py)."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made import flip, refused
from torchvision.datasets import CIFAR100, STL10, Omniglot

from msmeta import data
from msmeta.data import (
    DATASETS,
    FEW_SHOT,
    TABLE_6,
    TRANSFER,
    Arrays,
    data_root,
    load,
    names,
    prepare,
    status,
    stored_hash,
    verify,
)
from msmeta.data.store import digest
from msmeta.errors import ConfigError, DataError

STORED = ("pictures", "photographs", "drawings")


def load_from(name, root):
    return load(name, root=root)


# The registry


def test_registry():
    few_shot, transfer = names(FEW_SHOT), names(TRANSFER)
    assert few_shot == ("omniglot", "miniimagenet", "cifar-fs", "glyphs")
    assert transfer == ("cifar-100", "stl-10", "bird", "indoor", "action", "dog", "glyphs-rgb")
    for name, dataset in DATASETS.items():
        assert dataset.name == name and dataset.title and dataset.licence and dataset.source and dataset.obtained
        assert dataset.generated or dataset.citation
    for dataset in (DATASETS[name] for name in few_shot):
        train, validation, test, tune = (dataset.splits[split] for split in ("train", "validation", "test", "tune"))
        assert set(tune) <= set(train) and not set(tune) & set(validation) and not set(test) & {*train, *validation}
        assert sorted({*train, *validation, *test}) == list(range(dataset.classes * dataset.samples))
        assert all(len(part) == dataset.classes_in(split) * dataset.samples for split, part in dataset.splits.items())
    for dataset in (DATASETS[name] for name in transfer):
        assert list(dataset.splits) == ["train", "validation", "test"]
        assert sum(len(part) for part in dataset.splits.values()) == dataset.size
        assert (dataset.shape[-1], dataset.side) in ((32, 32), (256, 224))


def test_raw_files_are_those_of_torchvision():
    published = {
        "omniglot": [
            (f"{Omniglot.download_url_prefix}/{part}.zip", f"{part}.zip", md5)
            for part, md5 in Omniglot.zips_md5.items()
        ],
        "cifar-100": [(CIFAR100.url, CIFAR100.filename, CIFAR100.tgz_md5)],
        "stl-10": [(STL10.url, STL10.filename, STL10.tgz_md5)],
    }
    found = {name: [(file.url, file.name, file.md5) for file in entry.raw_files] for name, entry in DATASETS.items()}
    assert {name: files for name, files in found.items() if files} == published


def test_citations_are_in_the_references():
    references = (Path(__file__).parents[2] / "book" / "references.bib").read_text()
    for dataset in DATASETS.values():
        assert not dataset.citation or f"{{{dataset.citation}," in references


def test_table_6_is_that_of_the_paper():
    assert {DATASETS[name].title: list(counts.values()) for name, counts in TABLE_6.items()} == {
        "CIFAR-100": [45_000, 5_000, 10_000, 60_000],
        "STL-10": [4_500, 500, 8_000, 13_000],
        "Bird": [4_994, 1_000, 5_794, 11_788],
        "Indoor": [4_360, 1_000, 1_340, 6_700],
        "Action": [3_600, 400, 5_532, 9_532],
        "Dog": [10_800, 1_200, 8_580, 20_580],
    }


def test_import_is_light():
    code = "import sys, msmeta.data; assert not {'torchvision', 'matplotlib', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_name():
    for call in (prepare, load, verify):
        with pytest.raises(ConfigError, match=f"unknown data set 'omniglott': .*{', '.join(DATASETS)}") as error:
            call("omniglott")
        assert "\n" not in str(error.value)


# Preparing


@pytest.mark.parametrize("name", STORED)
def test_what_is_prepared_is_loaded(root, name):
    dataset, data = DATASETS[name], load(name, root=root)
    made = dataset.build(None, lambda *_: None, np.empty, dataset, False)
    for split, part in dataset.splits.items():
        assert np.array_equal(data.images[split].numpy(), made.images[part.start : part.stop])
        assert np.array_equal(data.labels[split].numpy(), made.labels[part.start : part.stop])
        assert data.images[split].dtype == torch.uint8 and data.labels[split].dtype == torch.int64
    assert data.images["train"].untyped_storage().data_ptr() == data.images["test"].untyped_storage().data_ptr()
    assert (data.name, data.classes, data.side, data.rotations) == (name, 3, dataset.side, dataset.rotations)
    found = verify(name, root)
    assert data.hash == found.hash == digest(made) and len(data.hash) == 64
    assert (found.dataset, found.state) == (dataset, "prepared")
    assert sorted(path.name for path in (root / name).iterdir()) == ["images.npy", "labels.npy", "meta.json"]


def test_a_view_is_stored_once_and_reads_what_it_views(root):
    assert not (root / "again").exists() and prepare("again", root=root) == root / "pictures"
    data, whole = load("again", root=root), load("pictures", root=root)
    order = torch.cat([*whole.labels.values()]).argsort(stable=True)
    assert torch.equal(
        torch.cat([data.images["train"], data.images["test"]]), torch.cat([*whole.images.values()])[order]
    )
    assert data.by_class("train").shape == (2, 15, 3, 32, 32) and data.hash != whole.hash
    assert verify("again", root).hash == data.hash
    flip(root / "pictures/images.npy", -5)
    for call in (load_from, verify):
        refused("pictures/images.npy is damaged.*`msmeta data prepare pictures`", call, "again", root)


@pytest.mark.parametrize("name", [*STORED, "again"])
def test_the_hash_is_known_without_the_images(root, name):
    expected = load(name, root=root).hash
    for file in root.rglob("images.npy") if name in STORED else ():
        file.write_bytes(b"")
    assert stored_hash(name, root) == expected


def test_the_hash_of_what_is_generated_and_of_what_is_absent(tmp_path):
    assert stored_hash("glyphs", tmp_path) == load("glyphs").hash
    for name in ("omniglot", "cifar-fs"):
        refused("is not prepared in", stored_hash, name, tmp_path)


@pytest.mark.parametrize("device", ["cpu"] + ["cuda"] * torch.cuda.is_available())
def test_load_on_a_device(root, device):
    data = load("drawings", device, root)
    assert data.device.type == device and all(images.device.type == device for images in data.images.values())


def test_preparing_is_deterministic(root, tmp_path):
    for name in STORED:
        again = prepare(name, tmp_path, tmp_path / "again")
        for file in again.iterdir():
            assert file.read_bytes() == (root / name / file.name).read_bytes()
    assert not list(tmp_path.rglob(".*"))


def test_prepared_and_intact_returns_at_once(root, tmp_path):
    assert prepare("pictures", tmp_path / "no such folder", root) == root / "pictures"


def test_nothing_to_prepare():
    for name in ("glyphs", "glyphs-rgb"):
        with pytest.raises(ConfigError, match=f"{name} needs no preparation"):
            prepare(name)


def test_absent(tmp_path):
    for call in (load_from, verify):
        refused(f"Bird is not prepared in {tmp_path}: .*`msmeta data prepare bird`.*--from DIR", call, "bird", tmp_path)
    refused("bird cannot be downloaded: it is given with `msmeta data prepare bird", prepare, "bird", None, tmp_path)


def test_source_that_is_not_there(tmp_path):
    refused(f"omniglot: .*{tmp_path}/nowhere", prepare, "omniglot", tmp_path / "nowhere", tmp_path)


@pytest.mark.usefixtures("small")
def test_what_is_read_is_the_folder_of_the_file_that_is_given_its_archives_extracted(tmp_path, monkeypatch):
    source = tmp_path / "raw"
    source.mkdir()
    (source / "a.txt").write_text("a")
    with tarfile.open(source / "part.tar", "w") as archive:
        archive.add(source / "a.txt", "b.txt")
    seen, dataset, made = {}, DATASETS["pictures"], DATASETS["pictures"].build

    def build(folder, *others):
        seen.update({path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.txt")})
        return made(folder, *others)

    monkeypatch.setitem(DATASETS, "pictures", replace(dataset, archives=("part",), build=build))
    prepare("pictures", source / "part.tar", tmp_path / "data")
    assert seen == {"a.txt": "a", "part/b.txt": "a"}
    assert sorted(path.name for path in source.iterdir()) == ["a.txt", "part.tar"]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("stop", [KeyboardInterrupt, DataError, MemoryError])
def test_a_stop_half_way_leaves_nothing(tmp_path, name, stop):
    def progress(what, done, total):
        raise stop("now")

    with pytest.raises(stop):
        prepare(name, tmp_path, tmp_path / "data", progress)
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.usefixtures("small")
@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve space")
def test_a_full_disk_ends_in_one_line(tmp_path, monkeypatch):
    def full(file, offset, size):
        assert size > DATASETS["photographs"].size * 3 * 40 * 40
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    message = f"photographs: cannot write {tmp_path}/data.*: No space left on device"
    refused(message, prepare, "photographs", tmp_path, tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_a_failed_rebuild_keeps_what_was_there(root, tmp_path):
    (root / "pictures/meta.json").write_text("{")
    before = (root / "pictures/images.npy").read_bytes()

    def progress(what, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare("pictures", tmp_path, root, progress)
    assert (root / "pictures/images.npy").read_bytes() == before
    assert sorted(path.name for path in root.iterdir()) == sorted(STORED)


@pytest.mark.usefixtures("small")
def test_the_files_of_others_are_not_replaced(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "thesis.txt").write_text("the only copy")
    refused(f"{tmp_path}/pictures holds something else .thesis.txt.", prepare, "pictures", tmp_path, tmp_path)
    assert (tmp_path / "pictures" / "thesis.txt").exists()


@pytest.mark.usefixtures("small")
def test_a_root_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    refused(f"pictures: cannot write {tmp_path}/file", prepare, "pictures", tmp_path, tmp_path / "file")


# Damage


def replace_text(file, old, new):
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))


def several():
    file = io.BytesIO()
    np.savez(file, a=np.zeros(2), b=np.zeros(2))
    return file.getvalue()


DAMAGES = {
    "truncated": ("images.npy", lambda file: file.write_bytes(file.read_bytes()[:-1000])),
    "empty": ("images.npy", lambda file: file.write_bytes(b"")),
    "header": ("images.npy", lambda file: flip(file, 30)),
    "other shape": ("images.npy", lambda file: np.save(file, np.zeros((2, 2), np.uint8))),
    "pickle": ("images.npy", lambda file: np.save(file, np.array([{}]), allow_pickle=True)),
    "gone": ("images.npy", lambda file: file.unlink()),
    "other label": ("labels.npy", lambda file: flip(file, -8)),
    "no labels": ("labels.npy", lambda file: file.unlink()),
    "short labels": ("labels.npy", lambda file: np.save(file, np.zeros(5, np.int64))),
    "other labels": ("labels.npy", lambda file: np.save(file, np.zeros(45, np.int32))),
    "class name": ("labels.npy", lambda file: replace_text(file.with_name("meta.json"), '"b"', '"d"')),
    "no meta": ("meta.json", lambda file: file.unlink()),
    "half meta": ("meta.json", lambda file: file.write_text(file.read_text()[:100])),
    "other meta": ("meta.json", lambda file: file.write_text("[]")),
    "binary meta": ("meta.json", lambda file: file.write_bytes(b"\xff\xfe")),
    "no hash": ("meta.json", lambda file: replace_text(file, '"hash"', '"hush"')),
    "no hash of labels": ("meta.json", lambda file: replace_text(file, "labels_hash", "hash_of_labels")),
    "deep meta": ("meta.json", lambda file: file.write_text("[" * 100_000)),
    "a FIFO for meta": ("meta.json", lambda file: (file.unlink(), os.mkfifo(file))),
    "a FIFO for images": ("images.npy", lambda file: (file.unlink(), os.mkfifo(file))),
    "a link to a device for labels": ("labels.npy", lambda file: (file.unlink(), file.symlink_to("/dev/zero"))),
    "several arrays": ("images.npy", lambda file: file.write_bytes(several())),
    "other split": ("meta.json", lambda file: replace_text(file, "30", "29")),
}


@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_mended(root, name, damage):
    file, do = DAMAGES[damage]
    do(root / name / file)
    for call in (load_from, verify):
        refused(f"{root}/{name}/{file} is damaged.*`msmeta data prepare {name}`", call, name, root)
    prepare(name, root, root)
    verify(name, root)
    assert sorted(path.name for path in root.iterdir()) == sorted(STORED)


def test_a_changed_pixel_is_found_at_once_in_memory_and_by_verify_on_disk(root):
    for name in STORED:
        flip(root / name / "images.npy", -5)
        refused("its hash is not the one noted", verify, name, root)
    for name in ("pictures", "drawings"):
        refused("its hash is not the one noted", load_from, name, root)
    load("photographs", root=root)


def test_a_mapped_file_is_not_changed_by_a_write_to_its_images(root):
    load("photographs", root=root).images["train"][0] = 0
    verify("photographs", root)


def test_the_digest_depends_on_each_part():
    images, labels = np.zeros((4, 1, 2, 2), np.uint8), np.array([0, 0, 1, 1])
    others = [
        Arrays(images, labels, ["a", "b"]),
        Arrays(images + 1, labels, ["a", "b"]),
        Arrays(images.reshape(4, 1, 4, 1), labels, ["a", "b"]),
        Arrays(images, labels[::-1], ["a", "b"]),
        Arrays(images, labels, ["a", "c"]),
    ]
    assert len({digest(arrays) for arrays in others}) == len(others)


# What is present, and where


def test_status(root):
    (root / "drawings/meta.json").write_text("{")
    rows = {row.dataset.name: row for row in status(root)}
    assert list(rows) == list(DATASETS)
    states = {name: row.state for name, row in rows.items()}
    assert states["pictures"] == states["photographs"] == states["again"] == "prepared"
    assert (states["drawings"], states["bird"], states["cifar-fs"]) == ("damaged", "absent", "absent")
    assert states["glyphs"] == states["glyphs-rgb"] == "generated"
    assert rows["pictures"].bytes > 45 * 3 * 32 * 32 and rows["pictures"].problem is None
    assert rows["glyphs"].hash == load("glyphs").hash
    assert (rows["bird"].bytes, rows["bird"].hash) == (0, None) and "not prepared" in rows["bird"].problem


def test_folders_whose_notes_are_damaged_are_listed_with_the_others(root, monkeypatch, msmeta):
    monkeypatch.setenv("COLUMNS", "140")
    for options in ("@16", "@32+transfer"):
        folder = root / f"folder-birds-0123abcd{options}"
        folder.mkdir()
        (folder / "meta.json").write_text("{}")
    code, out, _ = msmeta("data", "list")
    assert code == 0 and out.count("damaged") == 2 and "1,200 + 423" in out
    for options in ("@16", "@32+transfer"):
        shutil.rmtree(root / f"folder-birds-0123abcd{options}")


def test_the_command_line(root, monkeypatch, msmeta):
    monkeypatch.setenv("COLUMNS", "140")

    code, out, _ = msmeta("data", "list")
    few_shot, transfer = out.split("For transfer")
    assert code == 0 and "1,200 + 423" in few_shot and "2 + 1, x 4 rotations" in few_shot and "pictures" not in few_shot
    assert "30 + 6 + 9" in transfer and "4,994 + 1,000 + 5,794" in transfer and str(root) in transfer
    for name in STORED:
        code, out, _ = msmeta("data", "verify", name)
        assert code == 0 and f"{name} is intact: 45 images of 3 classes, SHA-256" in out
    code, _, err = msmeta("data", "prepare", "bird")
    assert code == 2 and len(err.strip().splitlines()) == 1 and "bird cannot be downloaded" in err


def test_data_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MSMETA_DATA", raising=False)
    assert data_root() == Path(data.__file__).parents[2] / "data"  # of the checkout, from wherever
    monkeypatch.setenv("MSMETA_DATA", "elsewhere")
    assert data_root() == tmp_path / "elsewhere"
    monkeypatch.setenv("MSMETA_DATA", "~/elsewhere")
    assert "~" not in str(data_root())
