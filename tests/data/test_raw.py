"""Downloads that fail, and archives and folders that are not to be trusted."""

import contextlib
import gzip
import hashlib
import io
import os
import shutil
import socket
import stat
import tarfile
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import made
import pytest
from made import write, write_tar, write_zip

from msmeta.data import DATASETS, prepare, raw, trees
from msmeta.data.dataset import Limits, RawFile
from msmeta.errors import DataError

CONTENT = b"not much" * 100


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(raw, "REACH_SECONDS", 0.3)
    monkeypatch.setattr(raw, "STALL_SECONDS", 0.3)


@pytest.fixture
def server():
    """A web server: /file is there, /missing is not, /stall sends half and then nothing."""
    done = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(404 if self.path == "/missing" else 200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()
            # torchvision asks once more than it reads, to follow redirects, and hangs up.
            with contextlib.suppress(OSError):
                self.wfile.write(CONTENT[:400])
                if self.path == "/stall":
                    done.wait(10)
                else:
                    self.wfile.write(CONTENT[400:])

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        done.set()
        http.shutdown()


@pytest.fixture
def closed_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def blackhole():
    """Accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def omniglot_from(url, monkeypatch):
    files = (RawFile(f"{url}/images_background.zip", "0" * 32),)
    monkeypatch.setitem(DATASETS, "omniglot", replace(DATASETS["omniglot"], raw_files=files))


def assert_gives_up(root, url, reason):
    with pytest.raises(DataError, match=reason) as error:
        prepare("omniglot", root=root)
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith("omniglot") and url in line and "msmeta data prepare omniglot --from DIR" in line
    assert list(root.iterdir()) == []


def test_the_bounds_hold_ten_seconds():
    assert raw.REACH_SECONDS < 10


def test_closed_port(tmp_path, closed_port, monkeypatch):
    omniglot_from(closed_port, monkeypatch)
    assert_gives_up(tmp_path, closed_port, "refused")


def test_host_that_never_answers(tmp_path, blackhole, quick, monkeypatch):
    omniglot_from(blackhole, monkeypatch)
    assert_gives_up(tmp_path, blackhole, "timed out|no answer within 0.3 s")


def test_name_resolution_that_never_ends(tmp_path, quick, monkeypatch):
    """No socket timeout bounds getaddrinfo."""
    done = threading.Event()

    def getaddrinfo(*_, **__):
        done.wait()
        raise socket.gaierror("too late")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    omniglot_from("http://example.invalid", monkeypatch)
    assert_gives_up(tmp_path, "http://example.invalid", "no answer within 0.3 s")
    done.set()


def test_download(tmp_path, server):
    steps = []
    file = RawFile(f"{server}/file", hashlib.md5(CONTENT).hexdigest())
    raw.download("some", (file,), tmp_path, lambda *step: steps.append(step))
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert steps == [("download file", 0, 1), ("download", 1, 1)]
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize(("path", "reason"), [("missing", "404"), ("stall", "timed out"), ("file", "corrupted")])
def test_download_that_fails(tmp_path, server, path, reason, request):
    if path == "stall":
        request.getfixturevalue("quick")
    file = RawFile(f"{server}/{path}", "0" * 32)
    with pytest.raises(DataError, match=f"{path} .*{reason}.*--from DIR"):
        raw.download("some", (file,), tmp_path, lambda *_: None)
    assert socket.getdefaulttimeout() is None


def names(folder):
    return [match.string for match in trees.matching(folder, r".*\.(png|bin)", {"part"})]


def read_all(archive, wanted=".*", limits=raw.ANY):
    """What is extracted, by name."""
    into = archive.parent / "extracted"
    raw.extract(archive, into, wanted, limits)
    files = {path.relative_to(into).as_posix(): path.read_bytes() for path in into.rglob("*") if path.is_file()}
    shutil.rmtree(into)
    return files


def made_zip(folder, *members):
    """A zip archive of (name or ZipInfo, content) in this order."""
    with zipfile.ZipFile(folder / "part.zip", "w") as archive:
        for member in members:
            archive.writestr(*member)
    return folder / "part.zip"


def made_tar(path, *members):
    """A tar archive of (name or TarInfo, content) in this order."""
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as archive:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def refused(archive, match, limits=raw.ANY):
    with pytest.raises(DataError, match=match) as error:
        raw.extract(archive, archive.parent / "extracted", limits=limits)
    assert "\n" not in str(error.value) and str(archive) in str(error.value)
    shutil.rmtree(archive.parent / "extracted")


def test_archives_are_read_as_folders(tmp_path):
    files = {"a/1.png": b"one", "b/2.png": b"two"}
    write(tmp_path / "folder/part", files)
    write_zip(tmp_path / "zip/part.zip", files)
    for suffix in (".tar", ".tar.gz", ".tgz"):
        members = ("./b/2.png", b"two"), ("a/1.png", b"one")
        (tmp_path / suffix).mkdir()
        made_tar(tmp_path / suffix / f"part{suffix}", *members)
    dataset = replace(DATASETS["omniglot"], archives=("part",))
    for number, kind in enumerate(("folder", "zip", ".tar", ".tar.gz", ".tgz")):
        folder = raw.extracted(tmp_path / kind, dataset, tmp_path / str(number), lambda *_: None)
        assert (folder == tmp_path / kind) == (kind == "folder")
        assert names(folder) == ["part/a/1.png", "part/b/2.png"]
        assert (folder / "part/b/2.png").read_bytes() == b"two"


def test_an_archive_stands_before_a_folder_and_beside_other_files(tmp_path):
    source = write(tmp_path / "raw", {"part/1.png": b"folder", "2.png": b"beside", "other/3.png": b"other"})
    write_zip(source / "part.zip", {"1.png": b"archive"})
    dataset = replace(DATASETS["omniglot"], archives=("part", "none"))
    folder = raw.extracted(source, dataset, tmp_path / "into", lambda *_: None)
    assert names(folder) == ["2.png", "part/1.png"] and (folder / "other/3.png").read_bytes() == b"other"
    assert (folder / "part/1.png").read_bytes() == b"archive"


@pytest.mark.parametrize("name", ["../part/1.png", "part/../../1.png", "/part/1.png", "part\\..\\1.png"])
def test_member_that_points_out(tmp_path, name):
    info = zipfile.ZipInfo("x")
    info.filename = name
    refused(made_zip(tmp_path, ("part/0.png", b"0"), (info, b"1")), "points out of")
    refused(made_tar(tmp_path / "part.tar.gz", ("part/0.png", b"0"), (name, b"1")), "points out of")


def test_member_that_is_a_link_or_device(tmp_path):
    for kind in (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR):
        info = zipfile.ZipInfo("part/1.png")
        info.external_attr = (kind | 0o644) << 16
        refused(made_zip(tmp_path, (info, b"/etc/passwd")), "link or a device")
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
        info = tarfile.TarInfo("part/1.png")
        info.type, info.linkname = kind, "/etc/passwd"
        refused(made_tar(tmp_path / "part.tar.gz", (info, b"")), "link or a device")


@pytest.mark.parametrize(
    ("name", "enough", "message"),
    [
        ("member", 100, "more than the 99 bytes"),
        ("members", 5, "more than the 4 members"),
        ("archive", 10_240, "more than the 10,239 bytes"),
    ],
)
def test_size_and_number_are_capped(tmp_path, name, enough, message):
    files = {f"part/{i}.png": b"0" * (2_048 if name == "archive" else 100) for i in range(5)}
    compressed = zipfile.ZIP_DEFLATED
    archives = [
        made_zip(tmp_path, *((*file, compressed) for file in files.items())),
        made_tar(tmp_path / "part.tar.gz", *files.items()),
    ]
    for archive in archives:
        assert len(read_all(archive, limits=Limits(**{name: enough}))) == 5
        refused(archive, message, Limits(**{name: enough - 1}))


def test_size_and_number_of_the_files_of_a_folder_are_capped(tmp_path, monkeypatch):
    folder = write(tmp_path / "folder", {f"part/{i}.png": b"0" * 100 for i in range(5)})
    for name, enough, message in (("MAX_BYTES", 100, "more than the 99 bytes"), ("MAX_FILES", 5, "more than the 4 ")):
        with monkeypatch.context() as patch:
            patch.setattr(raw, name, enough)
            assert len(names(folder)) == 5
            patch.setattr(raw, name, enough - 1)
            made.refused(message, names, folder)


def test_what_is_not_wanted_is_left_out_however_large(tmp_path, monkeypatch):
    monkeypatch.setattr(raw, "MAX_BYTES", 500)
    files = {"part/a/1.png": b"one", "part/a/large.txt": bytes(1000)}
    write(tmp_path, files)
    (tmp_path / "part/a/link").symlink_to(tmp_path / "part/a/1.png")
    assert names(tmp_path) == ["part/a/1.png"]
    for archive in (write_zip(tmp_path / "part.zip", files), write_tar(tmp_path / "part.tar.gz", files, top="")):
        assert read_all(archive, r".*\.png", Limits(member=500)) == {"part/a/1.png": b"one"}


def test_damaged_archive(tmp_path):
    archive = made_zip(tmp_path, ("part/1.png", b"first content"), ("part/2.png", b"second content"))
    whole = archive.read_bytes()
    for damaged in (b"", b"hello", whole[:40], whole[: len(whole) // 2], whole.replace(b"second", b"sEcond", 1)):
        archive.write_bytes(damaged)
        refused(archive, "cannot read .*part.zip")


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_damaged_tar(tmp_path, suffix):
    path = tmp_path / f"part{suffix}"
    made_tar(path, ("part/1.png", b"first"), ("part/2.png", os.urandom(5000)), ("part/3.png", b"third"))
    whole = path.read_bytes()
    plain = gzip.decompress(whole) if suffix == ".tar.gz" else whole
    header = plain.replace(b"part/2.png", b"part/9.png", 1)  # its checksum is wrong now
    damages = [
        b"",
        b"hello",
        whole[:300],
        whole[: len(whole) // 2],
        gzip.compress(header) if plain != whole else header,
    ]
    if suffix == ".tar.gz":
        damages += [whole[:-8] + bytes(8), whole[:2000] + b"?" + whole[2001:]]
    for damaged in damages:
        path.write_bytes(damaged)
        refused(path, "cannot read .*part.tar")


def test_a_full_disk_is_not_the_fault_of_the_archive(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", str(tmp_path / "x"))

    made_zip(tmp_path, ("images_background/1.png", b"1")).rename(tmp_path / "images_background.zip")
    monkeypatch.setattr(zipfile.ZipFile, "open", full)
    with pytest.raises(DataError, match=f"omniglot: cannot write {tmp_path}/x: No space left on device"):
        prepare("omniglot", tmp_path, tmp_path / "data")
