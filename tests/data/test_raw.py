"""Downloads that fail, and archives, folders and pickles that are not to be trusted."""

import contextlib
import gzip
import hashlib
import io
import os
import pickle
import socket
import stat
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from made import write, write_tar, write_zip
from PIL import Image

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
    with pytest.raises(DataError, match=r"neither part\.zip \(\.tar, \.tar\.gz, \.tgz\) nor a folder part/"):
        read_all(tmp_path)


def made_tar(path, *members):
    """A tar archive of (name or TarInfo, content) in this order."""
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as archive:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path.parent


def test_what_is_not_to_keep_is_left_out_however_large(tmp_path, monkeypatch):
    monkeypatch.setattr(raw, "MAX_TAR_BYTES", 500)
    files = {"a/1.png": b"one", "a/large.bin": bytes(1000)}
    trees = [
        write(tmp_path / "part", files),
        write_zip(tmp_path / "part.zip", {f"part/{name}": data for name, data in files.items()}),
        write_tar(tmp_path / "part.tar.gz", files),
    ]
    (tmp_path / "part/a/link").symlink_to(tmp_path)
    for tree in trees:
        with raw.open_path(tree, 5, 100, lambda name: name.endswith(".png")) as (names, read):
            assert {name: read(name) for name in names} == {"part/a/1.png": b"one"}


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz"])
def test_tar_reads_as_a_folder(tmp_path, suffix):
    members = ("./part/b/2.png", b"two"), ("part/a/1.png", b"one"), ("other/3.png", b"three")
    made_tar(tmp_path / f"part{suffix}", *members)
    assert read_all(tmp_path) == {"part/a/1.png": b"one", "part/b/2.png": b"two"}


@pytest.mark.parametrize("name", ["../part/1.png", "part/../../1.png", "/part/1.png", "part\\..\\1.png"])
def test_tar_member_that_points_out(tmp_path, name):
    with pytest.raises(DataError, match="points out of"):
        read_all(made_tar(tmp_path / "part.tar.gz", ("part/0.png", b"0"), (name, b"1")))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_tar_member_that_is_a_link_or_device(tmp_path, kind):
    info = tarfile.TarInfo("part/1.png")
    info.type, info.linkname = kind, "/etc/passwd"
    with pytest.raises(DataError, match="link or a device"):
        read_all(made_tar(tmp_path / "part.tar.gz", (info, b"")))


def test_tar_is_capped(tmp_path, monkeypatch):
    made_tar(tmp_path / "part.tar.gz", *((f"part/{i}.png", b"0" * 100) for i in range(5)))
    assert len(read_all(tmp_path)) == 5
    with pytest.raises(DataError, match="more than the 99 bytes"):
        read_all(tmp_path, max_bytes=99)
    with pytest.raises(DataError, match="more than the 4 "):
        read_all(tmp_path, max_files=4)
    monkeypatch.setattr(raw, "MAX_TAR_BYTES", 499)
    with pytest.raises(DataError, match="more than 499 bytes: extract it"):
        read_all(tmp_path)


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
        with pytest.raises(DataError, match="cannot read .*part.tar") as error:
            read_all(tmp_path, max_bytes=10_000)
        assert "\n" not in str(error.value)


def image_bytes(kind="PNG", mode="RGB", size=(6, 4)):
    file = io.BytesIO()
    Image.new(mode, size, 90).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_open_rgb(kind):
    for mode in ("RGB", "L"):
        image = raw.open_rgb(image_bytes(kind, mode), "x")
        assert image.mode == "RGB" and image.size == (6, 4)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_open_rgb_refuses_damage(kind, monkeypatch):
    whole = image_bytes(kind, size=(60, 40))
    for damaged in (b"", b"GIF89a", whole[:10], whole[: len(whole) // 2]):
        with pytest.raises(DataError, match=r"a/b is not a readable PNG, JPEG or WebP image: ") as error:
            raw.open_rgb(damaged, "a/b")
        assert "\n" not in str(error.value)
    monkeypatch.setattr(raw, "MAX_PIXELS", 2_399)
    with pytest.raises(DataError, match="60x40 pixels are too many"):
        raw.open_rgb(whole, "a/b")


def test_decode_all_stops_at_the_first_error():
    def decode(file):
        if file == "b":
            raise DataError("b is damaged")
        return np.zeros(3, np.uint8)

    images = np.ones((2, 2, 3), np.uint8)
    steps = []
    raw.decode_all([["a", "c"], ["d", "e"]], decode, images, "read", lambda *step: steps.append(step))
    assert not images.any() and steps == [("read", 0, 2), ("read", 1, 2), ("read", 2, 2)]
    with pytest.raises(DataError, match="b is damaged"):
        raw.decode_all([["a", "b"], ["d", "e"]], decode, images, "read", lambda *_: None)


def unpickle(data):
    return raw.load_pickle(io.BytesIO(data), "some.pkl")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickled_arrays(protocol):
    pixels, numbers = np.arange(24, dtype=np.uint8).reshape(2, 3, 4), np.arange(-3, 3).reshape(2, 3)
    content = {"pixels": pixels, "numbers": numbers, "turned": pixels.T, "list": [1, "two"]}
    found = unpickle(pickle.dumps(content, protocol))
    for name in ("pixels", "numbers", "turned"):
        assert np.array_equal(found[name].values, content[name]) and found[name].values.dtype == content[name].dtype
    assert found["list"] == [1, "two"]


def test_pickle_of_python_2():
    """As CIFAR-100's: texts and array contents are byte strings."""
    data = (
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
        b"(K\x01K\x02K\x02\x86cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tb\x89U\x04\x01\x02\xfe\xfftbU\x05names]U\x05a.pngau."
    )
    found = unpickle(data)
    assert found["data"].values.tolist() == [[1, 2], [254, 255]]
    assert [raw.as_text(name) for name in found["names"]] == ["a.png"]


class Hostile:
    """Makes a file when unpickled."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("call", [os.mkdir, eval, exec, getattr, np.load, np.fromfile])
def test_a_hostile_pickle_executes_nothing(tmp_path, call, protocol):
    made = tmp_path / "made"
    argument = f"__import__('os').mkdir({str(made)!r})" if call in (eval, exec) else str(made)
    data = pickle.dumps({"image_data": Hostile(call, argument)}, protocol)
    with pytest.raises(DataError, match=r"cannot read some\.pkl: it asks for \w+\.\w+") as error:
        unpickle(data)
    assert "\n" not in str(error.value) and not made.exists()


@pytest.mark.parametrize("name", ["numpy\nload", "numpy.core.multiarray\nfromfile", "builtins\neval", "os\nsystem"])
def test_names_beside_the_admitted_ones_are_refused(name):
    with pytest.raises(DataError, match="it asks for"):
        unpickle(b"c" + name.encode() + b"\n.")


def test_damaged_pickles():
    whole = pickle.dumps({"a": np.zeros((2, 2), np.uint8)})
    others = [pickle.dumps(content) for content in ([], 1, {1: 2}, {"a": np.zeros(2)}, {"a": np.array([{}])})]
    longer = pickle.dumps({"a": np.zeros((2, 2), np.uint8)}, 2).replace(b"K\x02K\x02\x86", b"K\x02K\x03\x86")
    for damaged in [whole[:end] for end in range(0, len(whole), 7)] + others + [longer]:
        with pytest.raises(DataError, match=r"cannot read some\.pkl: ") as error:
            unpickle(damaged)
        assert "\n" not in str(error.value)
