"""Files and folders whole or not at all, and what is left of processes that were killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from msmeta import files
from msmeta.errors import DataError, WriteError

NOBODY = 999_999_999
"""A number that no process has."""


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    files.write(tmp_path / "a/b/file", b"long content")
    files.write(tmp_path / "a/b/file", b"new")
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "a/b").iterdir()] == [("file", b"new")]
    (tmp_path / "a/full").mkdir()
    with pytest.raises(DataError, match="^cannot write .*/a/full: Is a directory.*$"):
        files.write(tmp_path / "a/full", b"new", DataError)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["b", "full"]


def test_what_cannot_be_written_is_named_with_the_room_that_there_is(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=rf"^cannot write {tmp_path}/file/x: .* \(1,500 bytes needed, [\d,]+ free\)$"):
        files.write(tmp_path / "file" / "x", b"x" * 1500)
    with pytest.raises(WriteError, match=rf"^cannot write {tmp_path}/x: No space left on device \([\d,]+ bytes needed"):
        files.require_room(tmp_path / "x", 2**40, count=2**20)
    files.require_room(tmp_path / "new" / "x", 1000)
    assert files.WriteError.exit_status == 3 and not (tmp_path / "new").exists()


def test_half_a_file_goes_with_the_next_one_where_its_process_is_gone(tmp_path):
    names = [f".x.{NOBODY}", f".x.{10**30}", f".x.{os.getppid()}", ".x.old", f".y.{NOBODY}"]
    for name in names:
        (tmp_path / name).write_text("half")
    files.write(tmp_path / "x", b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names[2:], "x"])


HOLDS = """
import sys
from pathlib import Path
from msmeta import files
with files.working_folder("a", Path(sys.argv[1])) as folder:
    print(folder.name, flush=True)
    sys.stdin.readline()
"""


def test_a_working_folder_goes_with_its_process_and_never_before(tmp_path):
    others = [".a-b", ".a-x-01234567", "a-01234567", ".a-0123456789", ".b-01234567"]
    for name in [*others, ".a-01234567"]:
        (tmp_path / name / "built").mkdir(parents=True)
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        held = tmp_path / process.stdout.readline().strip()
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, held.name])
        with files.working_folder("a", tmp_path) as own:
            assert own.is_dir() and own != held
        assert held.is_dir() and not own.exists()
        process.kill()
    assert held.is_dir()
    with pytest.raises(RuntimeError), files.working_folder("a", tmp_path):
        raise RuntimeError
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk is played by /dev/full")
def test_a_full_disk_leaves_what_was_there(tmp_path):
    files.write(tmp_path / "x", b"old")
    (tmp_path / f".x.{os.getpid()}").symlink_to("/dev/full")
    with pytest.raises(WriteError, match="No space left on device"):
        files.write(tmp_path / "x", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["x"] and (tmp_path / "x").read_bytes() == b"old"
