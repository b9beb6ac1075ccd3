"""Downloads that fail, and archives and folders that are not to be trusted."""

import contextlib
import hashlib
import socket
import stat
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from msmeta.data import RawFile, prepare, raw
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
    from torchvision.datasets import Omniglot

    monkeypatch.setattr(Omniglot, "download_url_prefix", url)


def assert_gives_up(root, url):
    start = time.perf_counter()
    with pytest.raises(DataError) as error:
        prepare("omniglot", root=root)
    assert time.perf_counter() - start < 5
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith("omniglot") and url in line and "msmeta data prepare omniglot --from DIR" in line
    assert list(root.iterdir()) == []


def test_the_bounds_hold_ten_seconds():
    assert raw.REACH_SECONDS < 10


def test_closed_port(tmp_path, closed_port, monkeypatch):
    omniglot_from(closed_port, monkeypatch)
    assert_gives_up(tmp_path, closed_port)


def test_host_that_never_answers(tmp_path, blackhole, quick, monkeypatch):
    omniglot_from(blackhole, monkeypatch)
    assert_gives_up(tmp_path, blackhole)


def test_name_resolution_that_never_ends(tmp_path, quick, monkeypatch):
    """No socket timeout bounds getaddrinfo."""
    done = threading.Event()

    def getaddrinfo(*_, **__):
        done.wait(20)
        raise socket.gaierror("too late")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    omniglot_from("http://example.invalid", monkeypatch)
    assert_gives_up(tmp_path, "http://example.invalid")
    done.set()


def test_download(tmp_path, server):
    steps = []
    file = RawFile("some.zip", f"{server}/file", hashlib.md5(CONTENT).hexdigest())
    raw.download("some", (file,), tmp_path, lambda *step: steps.append(step))
    assert (tmp_path / "some.zip").read_bytes() == CONTENT
    assert steps == [("download some.zip", 0, 1), ("download", 1, 1)]
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize(("path", "reason"), [("missing", "404"), ("stall", "timed out"), ("file", "corrupted")])
def test_download_that_fails(tmp_path, server, quick, path, reason):
    file = RawFile("some.zip", f"{server}/{path}", "0" * 32)
    with pytest.raises(DataError, match=f"{path} .*{reason}.*--from DIR"):
        raw.download("some", (file,), tmp_path, lambda *_: None)
    assert socket.getdefaulttimeout() is None


def read_all(folder, **limits):
    with raw.open_tree(folder, "part", **{"max_files": 5, "max_bytes": 100} | limits) as (names, read):
        return {name: read(name) for name in names}


def made(folder, *members):
    with zipfile.ZipFile(folder / "part.zip", "w") as archive:
        for member in members:
            archive.writestr(*member)
    return folder


def test_archive_and_folder_read_alike(tmp_path):
    files = {"part/a/1.png": b"one", "part/b/2.png": b"two"}
    made(tmp_path, *files.items(), ("other/3.png", b"three"))
    extracted = tmp_path / "extracted"
    for name, data in files.items():
        (extracted / name).parent.mkdir(parents=True)
        (extracted / name).write_bytes(data)
    assert read_all(tmp_path) == read_all(extracted) == files


@pytest.mark.parametrize("name", ["../part/1.png", "part/../../1.png", "/part/1.png", "part\\..\\1.png"])
def test_member_that_points_out(tmp_path, name):
    info = zipfile.ZipInfo("x")
    info.filename = name
    with pytest.raises(DataError, match="points out of"):
        read_all(made(tmp_path, ("part/0.png", b"0"), (info, b"1")))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_member_that_is_a_link_or_device(tmp_path, kind):
    info = zipfile.ZipInfo("part/1.png")
    info.external_attr = (kind | 0o644) << 16
    with pytest.raises(DataError, match="link or a device"):
        read_all(made(tmp_path, (info, b"/etc/passwd")))


def test_links_in_a_folder(tmp_path):
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "1.png").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="1.png is a link"):
        read_all(tmp_path)
    (tmp_path / "part" / "1.png").unlink()
    (tmp_path / "part" / "folder").symlink_to(tmp_path)
    with pytest.raises(DataError, match="folder is a link"):
        read_all(tmp_path)


def test_size_and_number_are_capped(tmp_path):
    made(tmp_path, *((f"part/{i}.png", b"0" * 100) for i in range(5)))
    read_all(tmp_path)
    with zipfile.ZipFile(tmp_path / "part.zip") as archive:
        archive.extractall(tmp_path / "extracted")
    for folder in (tmp_path, tmp_path / "extracted"):
        with pytest.raises(DataError, match="more than the 99 bytes"):
            read_all(folder, max_bytes=99)
        with pytest.raises(DataError, match="more than the 4 "):
            read_all(folder, max_files=4)


def test_damaged_archive(tmp_path):
    made(tmp_path, ("part/1.png", b"first content"), ("part/2.png", b"second content"))
    whole = (tmp_path / "part.zip").read_bytes()
    for damaged in (b"", b"hello", whole[:40], whole[: len(whole) // 2], whole.replace(b"second", b"sEcond", 1)):
        (tmp_path / "part.zip").write_bytes(damaged)
        with pytest.raises(DataError, match="cannot read .*part.zip") as error:
            read_all(tmp_path)
        assert "\n" not in str(error.value)


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match=r"neither part\.zip nor a folder part/"):
        read_all(tmp_path)
