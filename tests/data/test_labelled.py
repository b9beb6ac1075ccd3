"""Labelled images on disk and on a device, and minibatches of them."""

import hashlib
import os
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from made import flip
from torchvision.transforms.v2 import functional as transforms

from msmeta import cli
from msmeta.data import (
    DATASETS,
    LABELLED,
    TABLE_6,
    LabelledDataset,
    LabelledImages,
    Labels,
    MinibatchSampler,
    RawFile,
    evaluation_batches,
    load,
    load_labelled,
    prepare,
    real_or_glyphs,
    status,
    verify,
)
from msmeta.data import labelled as module
from msmeta.errors import ConfigError, DataError

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
COUNTS = {"train": 30, "validation": 6, "test": 9}
"""Of three classes."""


def build(folder, images, progress) -> Labels:
    progress("read", 0, 1)
    images[:] = np.random.default_rng(0).integers(0, 256, images.shape, np.uint8)
    return Labels(np.concatenate([np.repeat(np.arange(3), count // 3) for count in COUNTS.values()]), list("abc"))


def entry(name: str, stored: int, side: int) -> LabelledDataset:
    return LabelledDataset(name, name.title(), "", "", "", "given", lambda: (), 3, stored, side, COUNTS, build)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Two made data sets: `pictures`, read into memory, and `photographs`, mapped and to be cropped."""
    monkeypatch.setitem(LABELLED, "pictures", entry("pictures", 32, 32))
    monkeypatch.setitem(LABELLED, "photographs", entry("photographs", 40, 32))


@pytest.fixture
def root(tmp_path) -> Path:
    """A data root with both."""
    for name in ("pictures", "photographs"):
        prepare(name, tmp_path, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture(params=["pictures", "photographs"])
def data(request, root) -> LabelledImages:
    return load_labelled(request.param, root)


@pytest.fixture
def photographs(root) -> LabelledImages:
    return load_labelled("photographs", root)


def assert_one_line(error, *parts):
    line = str(error.value)
    assert "\n" not in line
    for part in parts:
        assert str(part) in line


def same(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# The registry


def test_registry(monkeypatch):
    monkeypatch.undo()
    assert list(LABELLED) == ["cifar-100", "stl-10", "bird", "indoor", "action", "dog", "glyphs-rgb"]
    assert not LABELLED.keys() & DATASETS.keys()
    for name, dataset in LABELLED.items():
        assert dataset.name == name and dataset.title and dataset.licence and dataset.source and dataset.obtained
        assert dataset.generated or dataset.citation
        assert list(dataset.counts) == ["train", "validation", "test"]
        assert sum(len(part) for part in dataset.splits.values()) == dataset.shape[0]
        assert (dataset.stored, dataset.side) in ((32, 32), (256, 224))


def test_citations_are_in_the_references():
    references = (Path(__file__).parents[2] / "book" / "references.bib").read_text()
    for dataset in (*DATASETS.values(), *LABELLED.values()):
        assert not dataset.citation or f"{{{dataset.citation}," in references


def test_table_6_is_that_of_the_paper(monkeypatch):
    monkeypatch.undo()
    assert {LABELLED[name].title: list(counts.values()) for name, counts in TABLE_6.items()} == {
        "CIFAR-100": [45_000, 5_000, 10_000, 60_000],
        "STL-10": [4_500, 500, 8_000, 13_000],
        "Bird": [4_994, 1_000, 5_794, 11_788],
        "Indoor": [4_360, 1_000, 1_340, 6_700],
        "Action": [3_600, 400, 5_532, 9_532],
        "Dog": [10_800, 1_200, 8_580, 20_580],
    }


def test_names_of_the_other_kind_are_refused():
    with pytest.raises(ConfigError) as error:
        load("cifar-100")
    assert_one_line(error, "cifar-100 is for transfer, not for few-shot tasks", ", ".join(DATASETS))
    with pytest.raises(ConfigError) as error:
        load_labelled("omniglot")
    assert_one_line(error, "omniglot is for few-shot tasks, not for transfer", ", ".join(LABELLED))
    with pytest.raises(ConfigError, match="unknown data set 'cifar-10': choose one of .*cifar-100"):
        load_labelled("cifar-10")


def test_glyphs_stand_in(monkeypatch):
    def unreachable(name):
        raise DataError("no answer from the host")

    monkeypatch.setattr("msmeta.data.fallback.prepare", unreachable)
    name, why = real_or_glyphs("cifar-100")
    assert name == "glyphs-rgb" and "not CIFAR-100" in why and "no answer from the host" in why


# On disk


def test_what_is_prepared_is_loaded(data, root):
    images = np.empty(LABELLED[data.name].shape, np.uint8)
    labels = build(None, images, lambda *_: None)
    assert np.array_equal(torch.cat([*data.images.values()]).numpy(), images)
    assert np.array_equal(torch.cat([*data.labels.values()]).numpy(), labels.labels)
    assert {split: len(part) for split, part in data.images.items()} == COUNTS
    assert {split: len(part) for split, part in data.labels.items()} == COUNTS
    assert all(part.dtype == torch.uint8 for part in data.images.values())
    assert all(part.dtype == torch.int64 and torch.equal(part, part.sort()[0]) for part in data.labels.values())
    found = verify(data.name, root)
    assert data.hash == found.hash and found.images == COUNTS and found.classes == dict.fromkeys(COUNTS, 3)
    assert (found.state, found.samples, found.official) == ("prepared", None, None)
    assert sorted(path.name for path in (root / data.name).iterdir()) == ["images.npy", "labels.npy", "meta.json"]


def test_preparing_is_deterministic(root, tmp_path):
    for name in ("pictures", "photographs"):
        again = prepare(name, tmp_path, tmp_path / "again")
        for file in again.iterdir():
            assert file.read_bytes() == (root / name / file.name).read_bytes()


def test_status_lists_both_kinds(root):
    states = {row.name: row.state for row in status(root)}
    assert list(states) == [*DATASETS, *LABELLED]
    assert states["pictures"] == states["photographs"] == "prepared" and states["bird"] == "absent"


def test_the_command_line_shows_both_kinds(root, monkeypatch, capsys):
    monkeypatch.setenv("MSMETA_DATA", str(root))
    monkeypatch.setenv("COLUMNS", "140")

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["msmeta", "data", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    code, out, _ = call("list")
    few_shot, labelled = out.split("For transfer")
    assert code == 0 and "1,200 + 423" in few_shot and "pictures" not in few_shot
    assert "30 + 6 + 9" in labelled and "4,994 + 1,000 + 5,794" in labelled and str(root) in labelled
    code, out, _ = call("verify", "photographs")
    assert code == 0 and "photographs is intact: 45 images of 3 classes, SHA-256" in out
    code, _, err = call("prepare", "bird")
    assert code == 2 and len(err.strip().splitlines()) == 1 and "bird cannot be downloaded" in err


def test_absent(tmp_path):
    for call in (load_labelled, verify):
        with pytest.raises(DataError) as error:
            call("bird", tmp_path)
        assert_one_line(error, f"Bird is not prepared in {tmp_path}", "`msmeta data prepare bird`", "--from DIR")
    with pytest.raises(DataError, match="bird cannot be downloaded: it is given with `msmeta data prepare bird"):
        prepare("bird", None, tmp_path)
    with pytest.raises(ConfigError, match="glyphs-rgb needs no preparation"):
        prepare("glyphs-rgb")


DAMAGES = {
    "truncated": ("images.npy", lambda file: file.write_bytes(file.read_bytes()[:-1000])),
    "empty": ("images.npy", lambda file: file.write_bytes(b"")),
    "header": ("images.npy", lambda file: flip(file, 30)),
    "other shape": ("images.npy", lambda file: np.save(file, np.zeros((2, 2), np.uint8))),
    "gone": ("images.npy", lambda file: file.unlink()),
    "other label": ("labels.npy", lambda file: flip(file, -8)),
    "no labels": ("labels.npy", lambda file: file.unlink()),
    "short labels": ("labels.npy", lambda file: np.save(file, np.zeros(5, np.int64))),
    "other labels": ("labels.npy", lambda file: np.save(file, np.zeros(45, np.int32))),
    "class name": ("labels.npy", lambda file: replace_text(file.with_name("meta.json"), '"b"', '"d"')),
    "no meta": ("meta.json", lambda file: file.unlink()),
    "half meta": ("meta.json", lambda file: file.write_text(file.read_text()[:100])),
    "no hash": ("meta.json", lambda file: replace_text(file, '"hash"', '"hush"')),
    "no hash of labels": ("meta.json", lambda file: replace_text(file, "labels_hash", "hash_of_labels")),
    "other split": ("meta.json", lambda file: replace_text(file, "30", "29")),
}


def replace_text(file, old, new):
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


@pytest.mark.parametrize("name", ["pictures", "photographs"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found(root, name, damage):
    file, do = DAMAGES[damage]
    do(root / name / file)
    for call in (load_labelled, verify):
        with pytest.raises(DataError) as error:
            call(name, root)
        assert_one_line(error, root / name / file, "is damaged", f"`msmeta data prepare {name}`")
    assert {row.name: row.state for row in status(root)}[name] == "damaged"
    prepare(name, root, root)
    verify(name, root)


def test_a_changed_pixel_is_found_at_once_in_memory_and_by_verify_on_disk(root):
    for name in ("pictures", "photographs"):
        flip(root / name / "images.npy", -5)
        with pytest.raises(DataError, match="its hash is not the one noted"):
            verify(name, root)
    with pytest.raises(DataError, match="its hash is not the one noted"):
        load_labelled("pictures", root)
    load_labelled("photographs", root)
    for name in ("pictures", "photographs"):
        prepare(name, root, root)
        verify(name, root)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, DataError, MemoryError])
def test_a_stop_half_way_leaves_nothing(tmp_path, stop):
    def progress(what, done, total):
        raise stop("now")

    with pytest.raises(stop):
        prepare("photographs", tmp_path, tmp_path / "data", progress)
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve space")
def test_a_full_disk_ends_in_one_line(tmp_path, monkeypatch):
    def full(file, offset, size):
        assert size > np.prod(LABELLED["photographs"].shape)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError) as error:
        prepare("photographs", tmp_path, tmp_path / "data")
    assert_one_line(error, "photographs: cannot write", tmp_path / "data", "No space left on device")
    assert list((tmp_path / "data").iterdir()) == []


def test_official_archives_are_recognised(tmp_path, monkeypatch):
    (tmp_path / "raw.zip").write_bytes(b"raw")
    for md5, official in ((hashlib.md5(b"raw").hexdigest(), True), ("0" * 32, False)):
        files = (RawFile("raw.zip", "", md5),)
        monkeypatch.setitem(LABELLED, "pictures", replace(LABELLED["pictures"], raw_files=lambda files=files: files))
        prepare("pictures", tmp_path, tmp_path / md5)
        assert verify("pictures", tmp_path / md5).official is official


# Parts of the training images


def test_a_subset_has_the_same_number_of_each_class(data):
    part = data.subset(9)
    assert part.labels["train"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert part.images["train"].shape == (9, *data.images["train"].shape[1:])
    assert part.images["test"] is data.images["test"] and part.hash == data.hash and part.way == data.way
    of_image = {
        image.numpy().tobytes(): label.item()
        for image, label in zip(data.images["train"], data.labels["train"], strict=True)
    }
    images = [image.numpy().tobytes() for image in part.images["train"]]
    assert [of_image[image] for image in images] == part.labels["train"].tolist() and len(set(images)) == 9
    assert {image.numpy().tobytes() for image in data.subset(4).images["train"]} < set(images)
    assert same(data.subset(30).images["train"], data.images["train"])


@pytest.mark.parametrize("train", [-1, 0, 2, 31])
def test_an_impossible_subset(data, train):
    with pytest.raises(ConfigError) as error:
        data.subset(train)
    assert_one_line(error, f"{train} training images are impossible: {data.name} has 30, and each of its 3 classes")


# Minibatches


def test_a_batch_is_a_pure_function_of_seed_split_and_step(data, root):
    sampler = MinibatchSampler(data, 8, seed=1)
    batches = [sampler.batch_at(step) for step in range(7)]
    assert same(batches[5], MinibatchSampler(load_labelled(data.name, root), 8, seed=1).batch_at(5))
    x, y = batches[0]
    assert x.shape == (8, 3, 32, 32) and x.dtype == torch.float32 and x.is_contiguous()
    assert y.shape == (8,) and y.dtype == torch.int64
    for other in (replace(sampler, seed=2), replace(sampler, augment=False), replace(sampler, data=data.subset(9))):
        assert not torch.equal(other.batch_at(0)[0], x)
    assert MinibatchSampler(data, 9, split="test").batch_at(0)[0].shape[0] == 9


def test_an_epoch_has_each_image_once_and_a_random_order(data):
    sampler = MinibatchSampler(data, 7, augment=False)
    assert sampler.batches == 4  # two images are left out
    everything = torch.cat([x for x, _ in evaluation_batches(data, "train", 100)])
    place = {image.numpy().tobytes(): number for number, image in enumerate(everything)}
    orders = []
    for epoch in range(2):
        batches = [sampler.batch_at(4 * epoch + step) for step in range(4)]
        orders.append([place[image.numpy().tobytes()] for x, _ in batches for image in x])
        assert torch.equal(torch.cat([y for _, y in batches]), data.labels["train"][orders[-1]])
        assert len(set(orders[-1])) == 28
    assert orders[0] != orders[1] and orders[0] != sorted(orders[0])


def test_images_are_augmented_as_by_torchvision(data):
    sampler = MinibatchSampler(data, 15, seed=3)
    seen = set()
    for step in range(6):
        plan = sampler._plan(step)
        for place, top, left, turned, x in zip(*plan.tolist(), sampler.batch_at(step)[0], strict=True):
            image = data.images["train"][place]
            if data.name == "pictures":
                image = transforms.pad(image, [4])
            crop = transforms.crop(image, top, left, 32, 32)
            crop = transforms.horizontal_flip(crop) if turned else crop
            crop = transforms.to_dtype(crop, torch.float32, scale=True)
            expected = transforms.normalize(crop, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
            torch.testing.assert_close(x, expected, rtol=0, atol=2e-6)
            seen.add((top, left, turned))
    for numbers, limit in zip(map(set, zip(*seen, strict=True)), (8, 8, 1), strict=True):
        assert numbers == set(range(limit + 1))  # of the 40x40 images of both, all crops


def test_padding_is_black_before_it_is_normalised(root):
    data = load_labelled("pictures", root)
    white = replace(data, images={split: torch.full_like(part, 255) for split, part in data.images.items()})
    x, _ = MinibatchSampler(white, 30).batch_at(0)
    black, full = (module.normalised(torch.full((1, 3, 1, 1), value, dtype=torch.uint8)) for value in (0, 255))
    assert ((x == black) | (x == full)).all() and (x == black).any()
    torch.testing.assert_close(black.flatten(), torch.tensor([-2.117904, -2.035714, -1.804444]))


def test_without_augmentation_the_middle_is_given(data):
    margin = (data.images["train"].shape[-1] - 32) // 2
    x, y = MinibatchSampler(data, 30, augment=False).batch_at(0)
    middle = data.images["train"][..., margin : margin + 32, margin : margin + 32]
    expected = {image.numpy().tobytes() for image in module.normalised(middle)}
    assert {image.numpy().tobytes() for image in x} == expected


@pytest.mark.parametrize("device", DEVICES)
def test_batches_are_the_same_bits_on_every_device(data, root, device):
    there = load_labelled(data.name, root, device)
    assert there.device.type == device
    for step in (0, 5):
        x, y = MinibatchSampler(there, 8).batch_at(step)
        assert x.device.type == y.device.type == device
        assert same((x.cpu(), y.cpu()), MinibatchSampler(data, 8).batch_at(step))
    x, y = next(MinibatchSampler(there, 8).from_step(5))
    assert same((x.cpu(), y.cpu()), MinibatchSampler(data, 8).batch_at(5))


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning", "ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_workers_give_the_same_batches(data, workers):
    sampler = MinibatchSampler(data, 8, seed=2)
    before = torch.get_rng_state()
    batches = list(islice(sampler.from_step(2, workers), 5))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(same(batch, sampler.batch_at(2 + number)) for number, batch in enumerate(batches))


def test_evaluation_takes_every_image_once_in_order(data):
    for batch in (4, 9, 100):
        parts = list(evaluation_batches(data, "test", batch))
        assert [len(y) for _, y in parts] == [batch] * (9 // batch) + [9 % batch] * (9 % batch > 0)
        x, y = (torch.cat(part) for part in zip(*parts, strict=True))
        margin = (data.images["test"].shape[-1] - 32) // 2
        middle = data.images["test"][..., margin : margin + 32, margin : margin + 32]
        assert torch.equal(x, module.normalised(middle)) and torch.equal(y, data.labels["test"])


def test_a_mapped_file_is_not_changed_by_a_write_to_its_images(photographs, root):
    photographs.images["train"][0] = 0
    verify("photographs", root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "tune"}, "pictures has no split 'tune': choose one of train, validation, test"),
        ({"batch": 0}, "a batch of 0 images is impossible: it must have at least 1"),
        ({"batch": 31}, "a batch of 31 images is impossible: split train of pictures has 30"),
        ({"seed": -1}, "seed -1 is impossible: it must be at least 0"),
    ],
)
def test_impossible_samplers(root, change, message):
    with pytest.raises(ConfigError) as error:
        MinibatchSampler(**{"data": load_labelled("pictures", root), "batch": 8, **change})
    assert str(error.value) == message


def test_impossible_batches(data):
    with pytest.raises(ConfigError, match="step -1 is impossible: it must be at least 0"):
        MinibatchSampler(data, 8).batch_at(-1)
    with pytest.raises(ConfigError, match="has no split 'tune'"):
        evaluation_batches(data, "tune", 8)
    with pytest.raises(ConfigError, match="a batch of 0 images is impossible"):
        evaluation_batches(data, "test", 0)


# Glyphs


def test_glyphs_are_those_of_the_few_shot_tasks_in_the_middle(glyphs):
    data = load_labelled("glyphs-rgb")
    assert (data.title, data.way, data.side) == ("Glyphs (32x32)", 20, 32)
    assert {split: len(part) for split, part in data.images.items()} == {"train": 280, "validation": 40, "test": 80}
    for split, first, last in (("train", 0, 14), ("validation", 14, 16), ("test", 16, 20)):
        drawings = glyphs.images["train"][:20, first:last].flatten(0, 1)
        images = data.images[split]
        assert torch.equal(images[..., 2:-2, 2:-2], drawings.expand(-1, 3, -1, -1)) and images.shape[-1] == 32
        assert images.sum() == 3 * drawings.sum()  # nothing in the margin
        assert torch.equal(data.labels[split], torch.arange(20).repeat_interleave(last - first))
    assert data.hash == "e8a18b053931dc518760eeb5626c335f91f9da06a6339c89c7ba8393c44cf51d"
    assert verify("glyphs-rgb").state == "generated"
