"""Folders of raw files that are not trusted."""

import os
from dataclasses import replace

import numpy as np
import pytest
from made import refused, write

from msmeta.data import DATASETS, Arrays
from msmeta.data.trees import grouped, listed, lists_of, located, matching, require_distinct


def names(folder, follow_links=False):
    return [match.string for match in matching(folder, r".*\.png", {"part"}, follow_links)]


def test_links_that_a_user_gives_are_followed_and_those_further_down_refused(tmp_path):
    write(tmp_path, {"stored/a/1.png": b"one"})
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/part").symlink_to(tmp_path / "stored")
    (tmp_path / "folder/2.png").symlink_to(tmp_path / "stored/a/1.png")
    assert names(tmp_path / "folder") == ["2.png", "part/a/1.png"]
    for name, target in (("3.png", "elsewhere"), ("3.png", "a/1.png"), ("folder", "a"), ("folder", "..")):
        link = tmp_path / "stored" / name
        link.symlink_to(target)
        refused(f"part/{name} is a link: --follow-links reads", names, tmp_path / "folder")
        link.unlink()


def test_where_every_file_is_a_link(tmp_path):
    """As data managers make them: the content under its hash in a hidden folder, or in a store elsewhere."""
    stored = write(tmp_path / "store", {"sha/11": b"one", "sha/22": b"two"})
    folder = write(tmp_path / "folder", {"part/.keep/33": b"three"})
    for name, target in {
        "a/1.png": stored / "sha/11",
        "a/2.png": os.path.relpath(stored / "sha/22", folder / "part/a"),
        "b/3.png": "../.keep/33",
        "c": "a",
    }.items():
        (folder / "part" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "part" / name).symlink_to(target)
    found = names(folder, follow_links=True)
    assert found == [f"part/{name}.png" for name in ("a/1", "a/2", "b/3", "c/1", "c/2")]
    assert [(folder / name).read_bytes() for name in found] == [b"one", b"two", b"three", b"one", b"two"]
    refused("part/.* is a link: --follow-links reads", names, folder)


def test_links_within_a_folder_that_is_itself_a_link(tmp_path):
    write(tmp_path, {"stored/a/1.png": b"one", "folder/x": b""})
    (tmp_path / "stored/b").symlink_to("a")
    (tmp_path / "folder/part").symlink_to(tmp_path / "stored")
    assert names(tmp_path / "folder", follow_links=True) == ["part/a/1.png", "part/b/1.png"]


@pytest.mark.parametrize(
    ("name", "target", "why"),
    [
        ("2.png", "../.git/annex/22", r"is a link to \.\./\.git/annex/22, which is not there: fetch the file first"),
        ("2.png", "/dev/null", "is a device"),
        ("b", "/usr", "is a link to a folder elsewhere: give that folder itself"),
        ("b", "..", "is a link to a folder that it is in"),
    ],
)
def test_links_that_are_not_followed(tmp_path, name, target, why):
    folder = write(tmp_path, {"part/a/1.png": b"one"})
    (folder / "part/a" / name).symlink_to(target)
    refused(f"part/a/{name} {why}", names, folder, True)


def test_links_in_a_circle_end(tmp_path):
    folder = write(tmp_path, {"part/a/1.png": b"one", "part/b/2.png": b"two"})
    (folder / "part/a/b").symlink_to("../b")
    (folder / "part/b/a").symlink_to("../a")
    refused("cannot read .*[Ll]inks", names, folder, True)


def test_a_link_to_what_the_user_may_not_read(tmp_path, monkeypatch):
    folder = write(tmp_path, {"part/a/1.png": b"one", "elsewhere/secret": b"two"})
    (tmp_path / "elsewhere/secret").chmod(0)
    if os.geteuid() == 0:  # who may read all, and is asked here what another user is
        monkeypatch.setattr(os, "access", lambda path, mode: path.stat().st_mode & 0o444 != 0)
    (folder / "part/a/2.png").symlink_to(tmp_path / "elsewhere/secret")
    refused("which you may not read", names, folder, True)


def test_what_is_missing_is_to_be_got_again_and_what_is_too_much_is_not():
    rows = [("a", 1), ("a", 2), ("b", 3), ("b", 4)]
    assert grouped("train", reversed(rows), 2, 2) == {"a": [2, 1], "b": [4, 3]}
    for found, why in (
        (rows[:2], "train has 1 classes instead of 2: get it again"),
        ([*rows, ("c", 5)], "train has 3 classes instead of 2: leave only what was published"),
        (rows[:3], "train has 1 images of class b, 1 of them different, instead of 2: get it again"),
        ([*rows[:3], ("b", 3)], "train has 2 images of class b, 1 of them different, instead of 2: get it again"),
        ([*rows, ("a", 5)], "train has 3 images of class a, 3 of them different, instead of 2: leave only what was"),
    ):
        refused(why, grouped, "train", found, 2, 2)


def test_lists(tmp_path):
    folder = write(tmp_path, {"part/train.csv": b"label,filename\nb,x.png\na,y.png\n", "val.csv": b"filename,label\n"})
    lists = lists_of(matching(folder, r"(?:.*/)?(train|val|test)\.csv", {"part"}))
    assert lists == {"train": "part/train.csv", "val": "val.csv"}
    assert listed(folder, lists) == {"train": [("b", "x.png"), ("a", "y.png")], "val": []}
    write(tmp_path, {"train.csv": b""})
    refused(
        r"there are two lists part/train\.csv and train\.csv: leave one",
        lists_of, matching(folder, r"(?:.*/)?(train|val|test)\.csv", {"part"}),
    )  # fmt: skip


def test_images_are_found_by_what_a_list_calls_them():
    images = ["images/a/1.png", "images/b/1.png", "images/b/2.webp", "3.png"]

    def find(*rows):
        return [image for _, image in located({"train": rows}, images)["train"]]

    assert (
        find(("a", "1.png"), ("b", "1.png"), ("b", "b/1.png"), ("b", "images/b/1.png")) == [images[0]] + images[1:2] * 3
    )
    assert find(("b", "2.jpg"), ("b", "b/2.jpg"), ("b", "2"), ("c", "3.png")) == images[2:3] * 3 + images[3:]
    refused(r"a list names 1\.png, which may be images/a/1\.png or images/b/1\.png", find, ("c", "1.png"))
    refused(r"1 of 2 images .* not there, such as 4\.png: get the images again", find, ("c", "3.png"), ("c", "4.png"))
    refused(r"such as \.\./3\.png: these are not the lists of these images", find, ("c", "../3.png"))


def test_more_repeated_images_than_were_published_are_refused_with_both_names():
    images, labels, names = np.arange(5, dtype=np.uint8)[:, None], np.array([0, 0, 0, 1, 1]), list("abcde")
    dataset = replace(DATASETS["omniglot"], repeated=1)
    require_distinct(dataset, Arrays(images, labels, ["x", "y"], names=names))
    images[1] = images[0]
    require_distinct(dataset, Arrays(images, labels, ["x", "y"], names=names))
    images[4] = images[2]
    why = "c and e are the same image; 2 images are the same as another, of those published 1: get it again"
    refused(why, require_distinct, dataset, Arrays(images, labels, ["x", "y"], names=names))
    require_distinct(replace(dataset, repeated=None), Arrays(images, labels, ["x", "y"], names=names))


@pytest.mark.parametrize("name", ["a\x1b[2J", "b\tc", "\x9b31m"])
def test_a_name_with_characters_for_control_is_refused(tmp_path, name):
    write(tmp_path, {f"part/{name}.png": b""})
    refused("is a name with characters for control: rename it", names, tmp_path)
