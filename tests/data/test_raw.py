"""Downloads that fail, and archives, folders and images that are not to be trusted."""

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
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import made
import numpy as np
import pytest
from made import write, write_tar, write_zip
from PIL import Image

from msmeta.data import DATASETS, prepare, raw, trees
from msmeta.data.dataset import RawFile
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
def test_download_that_fails(tmp_path, server, quick, path, reason):
    file = RawFile(f"{server}/{path}", "0" * 32)
    with pytest.raises(DataError, match=f"{path} .*{reason}.*--from DIR"):
        raw.download("some", (file,), tmp_path, lambda *_: None)
    assert socket.getdefaulttimeout() is None


def names(folder):
    return [match.string for match in trees.matching(folder, r".*\.(png|bin)", {"part"})]


def read_all(archive, wanted=".*"):
    """What is extracted, by name."""
    into = archive.parent / "extracted"
    raw.extract(archive, into, wanted)
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


def refused(archive, match):
    with pytest.raises(DataError, match=match) as error:
        raw.extract(archive, archive.parent / "extracted")
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
    for number, kind in enumerate(("folder", "zip", ".tar", ".tar.gz", ".tgz")):
        folder = raw.extracted(tmp_path / kind, ["part"], ".*", tmp_path / str(number), lambda *_: None)
        assert (folder == tmp_path / kind) == (kind == "folder")
        assert names(folder) == ["part/a/1.png", "part/b/2.png"]
        assert (folder / "part/b/2.png").read_bytes() == b"two"


def test_an_archive_stands_before_a_folder_and_beside_other_files(tmp_path):
    source = write(tmp_path / "raw", {"part/1.png": b"folder", "2.png": b"beside", "other/3.png": b"other"})
    write_zip(source / "part.zip", {"1.png": b"archive"})
    folder = raw.extracted(source, ["part", "none"], ".*", tmp_path / "into", lambda *_: None)
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
        ("MAX_BYTES", 100, "more than the 99 bytes"),
        ("MAX_FILES", 5, "more than the 4 "),
        ("MAX_ARCHIVE_BYTES", 500, "more than the 499 bytes"),
    ],
)
def test_size_and_number_are_capped(tmp_path, monkeypatch, name, enough, message):
    members = [(f"part/{i}.png", b"0" * 100) for i in range(5)]
    archives = [made_zip(tmp_path, *members), made_tar(tmp_path / "part.tar.gz", *members)]
    folder = write(tmp_path / "folder", dict(members))
    monkeypatch.setattr(raw, name, enough)
    assert len(read_all(archives[0])) == len(read_all(archives[1])) == len(names(folder)) == 5
    monkeypatch.setattr(raw, name, enough - 1)
    for archive in archives:
        refused(archive, message)
    if name != "MAX_ARCHIVE_BYTES":
        with pytest.raises(DataError, match=message):
            names(folder)


def test_what_is_not_wanted_is_left_out_however_large(tmp_path, monkeypatch):
    monkeypatch.setattr(raw, "MAX_BYTES", 500)
    files = {"part/a/1.png": b"one", "part/a/large.txt": bytes(1000)}
    write(tmp_path, files)
    (tmp_path / "part/a/link").symlink_to(tmp_path / "part/a/1.png")
    assert names(tmp_path) == ["part/a/1.png"]
    for archive in (write_zip(tmp_path / "part.zip", files), write_tar(tmp_path / "part.tar.gz", files, top="")):
        assert read_all(archive, r".*\.png") == {"part/a/1.png": b"one"}


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

    monkeypatch.setattr(zipfile.ZipFile, "extractall", full)
    made_zip(tmp_path, ("images_background/1.png", b"1")).rename(tmp_path / "images_background.zip")
    with pytest.raises(DataError, match=f"omniglot: cannot write {tmp_path}/x: No space left on device"):
        prepare("omniglot", tmp_path, tmp_path / "data")


def image_bytes(kind="PNG", mode="RGB", size=(6, 4)):
    file = io.BytesIO()
    Image.new(mode, size, 90).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_open_image(kind):
    for mode in ("RGB", "L"):
        image = raw.open_image(image_bytes(kind, mode), "x")
        assert image.mode == "RGB" and image.size == (6, 4)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_open_image_refuses_damage(kind, monkeypatch):
    whole = image_bytes(kind, size=(60, 40))
    for damaged in (b"", b"GIF89a", whole[:10], whole[: len(whole) // 2]):
        made.refused("a/b is not a readable PNG, JPEG or WebP image: ", raw.open_image, damaged, "a/b")
    monkeypatch.setattr(raw, "MAX_PIXELS", 2_399)
    with pytest.raises(DataError, match="60x40 pixels are too many"):
        raw.open_image(whole, "a/b")


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_sixteen_bits_a_pixel_become_eight(mode):
    """Pillow converts them by cutting off at 255."""
    values = np.array([[0, 10_000, 32_768, 65_535]], np.uint16)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    found = np.asarray(raw.open_image(file.getvalue(), "x", mode=mode))
    assert np.array_equal(found.reshape(4, -1)[:, 0], [0, 39, 128, 255])


@pytest.mark.parametrize("values", [[-1, 5], [0, 70_000], [0.5, 1.0]])
def test_pixels_that_are_not_of_8_or_16_bits_are_refused(values):
    """As TIFF files can hold; Pillow would clip them."""
    file = io.BytesIO()
    Image.fromarray(np.array([values], np.float32 if 0.5 in values else np.int32)).save(file, "TIFF")
    made.refused("its pixels are not of 8 or 16 bits", raw.open_image, file.getvalue(), "x", ("TIFF",))


@pytest.mark.parametrize(("data", "why"), [(b"", "it is empty"), (b"<html>", "it has none of these formats")])
def test_an_image_that_is_none_is_refused_without_an_address_in_memory(data, why):
    with pytest.raises(DataError) as error:
        raw.open_image(data, "n01/a.jpg")
    assert str(error.value) == f"n01/a.jpg is not a readable PNG, JPEG or WebP image: {why}"


def test_decode_all_stops_at_the_first_error(tmp_path):
    def decode(data, name):
        if data == b"b":
            raise DataError(f"{name} is damaged")
        return np.zeros(3, np.uint8)

    write(tmp_path, {name: name.encode() for name in "abcd"})
    dataset, steps = replace(DATASETS["omniglot"], title="Letters", shape=(3,)), []
    read = partial(raw.decode_all, dataset, tmp_path)
    images = read(["a", "c", "d"], decode, lambda *step: steps.append(step), np.ones)
    assert images.shape == (3, 3) and not images.any() and steps == [("read Letters", done, 3) for done in range(4)]
    for name, message in (("b", "b is damaged"), ("e", "cannot read e: .*No such file")):
        with pytest.raises(DataError, match=message):
            read(["a", name, "d"], decode, lambda *_: None, np.ones)
