"""Downloads against a server on the loopback: resume, mirrors, damage, and what stays untouched."""

import dataclasses
import hashlib
import http.server
import re
import threading

import pytest

from mpp_jax.nets.weight_files import DIGEST_LENGTHS, WeightPlace
from mpp_jax.weights.cache import cache_folder, fetch
from mpp_jax.weights.places import PLACES
from mpp_jax.weights.source import WeightsError

DATA = bytes(range(256)) * 2000


@dataclasses.dataclass
class Behaviour:
    """How the server answers a path."""

    data: bytes = DATA
    status: int = 200
    ranges: bool = True
    cut_after: int | None = None  # close the connection after this many bytes
    lie_about_range: bool = False
    length: bool = True


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.paths, self.requests = {}, []

    def url(self, path, **behaviour):
        self.paths[path] = Behaviour(**behaviour)
        return f"http://127.0.0.1:{self.server_port}{path}"

    def handle_error(self, request, client_address):
        pass  # a client that hangs up is part of the tests


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.requests.append((self.path, wanted))
        how = self.server.paths.get(self.path, Behaviour(status=404))
        if how.status != 200:
            self.send_error(how.status)
            return
        start = int(re.match(r"bytes=(\d+)-", wanted)[1]) if wanted and how.ranges else 0
        if start >= len(how.data) > 0:
            self.send_error(416)
            return
        body = how.data[start:]
        self.send_response(206 if start else 200)
        if start:
            told = start - 1 if how.lie_about_range else start
            self.send_header("Content-Range", f"bytes {told}-{len(how.data) - 1}/{len(how.data)}")
        if how.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: how.cut_after])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def place(*urls, data=DATA, algorithm="sha256", digest=None):
    digest = digest or hashlib.new(algorithm, data).hexdigest()
    return WeightPlace("test", "weights.bin", urls, algorithm, digest, "")


def get(where, folder):
    return fetch(where, folder=folder, progress=False, timeout=5)


@pytest.mark.parametrize("algorithm", sorted(DIGEST_LENGTHS))
def test_a_download_is_kept_and_not_repeated(server, tmp_path, algorithm):
    where = place(server.url("/a"), algorithm=algorithm)
    path = get(where, tmp_path / "new" / "folder")
    assert path.read_bytes() == DATA
    assert get(where, path.parent) == path
    assert server.requests == [("/a", None)]
    assert [p.name for p in path.parent.iterdir()] == ["weights.bin"]


def test_a_published_beginning_of_a_digest_is_enough(server, tmp_path):
    where = place(server.url("/a"), digest=hashlib.sha256(DATA).hexdigest()[:8])
    assert get(where, tmp_path).read_bytes() == DATA


def test_an_interrupted_download_continues(server, tmp_path):
    broken, whole = server.url("/broken", cut_after=100_000), server.url("/whole")
    with pytest.raises(WeightsError, match="the connection ended after 100000 of 512000 bytes"):
        get(place(broken), tmp_path)
    assert (tmp_path / "weights.bin.part").stat().st_size == 100_000
    assert get(place(whole), tmp_path).read_bytes() == DATA
    assert server.requests[-1] == ("/whole", "bytes=100000-")
    assert not (tmp_path / "weights.bin.part").exists()


def test_the_next_mirror_continues_what_the_first_began(server, tmp_path):
    urls = (
        server.url("/gone", status=404),
        server.url("/broken", cut_after=7),
        server.url("/whole"),
    )
    assert get(place(*urls), tmp_path).read_bytes() == DATA
    assert server.requests == [("/gone", None), ("/broken", None), ("/whole", "bytes=7-")]


def test_a_server_without_ranges_starts_anew(server, tmp_path):
    (tmp_path / "weights.bin.part").write_bytes(b"stale")
    assert get(place(server.url("/a", ranges=False)), tmp_path).read_bytes() == DATA
    assert get(place(server.url("/b", length=False)), tmp_path / "b").read_bytes() == DATA


def test_a_wrong_part_is_thrown_away(server, tmp_path):
    (tmp_path / "weights.bin.part").write_bytes(b"wrong" * 20)
    assert get(place(server.url("/a")), tmp_path).read_bytes() == DATA
    assert server.requests == [("/a", "bytes=100-"), ("/a", None)]


def test_a_part_that_is_already_whole_or_too_long(server, tmp_path):
    (tmp_path / "weights.bin.part").write_bytes(DATA)
    assert get(place(server.url("/a")), tmp_path).read_bytes() == DATA
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "weights.bin.part").write_bytes(DATA + b"more")
    assert get(place(server.url("/b")), tmp_path / "b").read_bytes() == DATA


def test_a_server_that_lies_about_its_range(server, tmp_path):
    (tmp_path / "weights.bin.part").write_bytes(DATA[:50])
    with pytest.raises(WeightsError, match="the server continues at byte 49, not 50"):
        get(place(server.url("/a", lie_about_range=True)), tmp_path)


def test_a_corrupt_download_replaces_nothing(server, tmp_path):
    path = get(place(server.url("/good")), tmp_path)
    newer = place(server.url("/bad", data=b"rubbish"), digest="0" * 64)
    with pytest.raises(WeightsError, match=r"sha256 is .*, wanted 0000"):
        get(newer, tmp_path)
    assert path.read_bytes() == DATA
    assert [p.name for p in tmp_path.iterdir()] == ["weights.bin"]


def test_a_damaged_file_in_the_cache_is_replaced(server, tmp_path):
    where = place(server.url("/a"))
    path = get(where, tmp_path)
    path.write_bytes(DATA[:-1] + b"\0")
    assert get(where, tmp_path).read_bytes() == DATA
    assert len(server.requests) == 2


def test_two_downloads_at_once_do_not_meet(server, tmp_path):
    where, errors = place(server.url("/a")), []

    def work():
        try:
            assert get(where, tmp_path).read_bytes() == DATA
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert (tmp_path / "weights.bin").read_bytes() == DATA


def test_without_a_network_the_error_says_what_to_do(tmp_path):
    nowhere = "http://127.0.0.1:9/weights.bin"
    with pytest.raises(WeightsError) as caught:
        get(place(nowhere, "file:///etc/passwd"), tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert f"{nowhere}: Connection refused" in message
    assert "file:///etc/passwd: only http and https addresses are taken" in message
    assert "Without a network: get the file elsewhere" in message
    assert str(tmp_path / "weights.bin") in message


def test_a_cache_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match=r"cannot write to the cache folder .*set MPP_JAX_CA"):
        get(place(server.url("/a")), tmp_path / "file" / "folder")


def test_the_cache_folder_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("MPP_JAX_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("MPP_JAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_folder() == tmp_path / "xdg" / "mpp_jax"


def test_the_bar_counts_bytes(server, tmp_path, capsys):
    fetch(place(server.url("/a")), folder=tmp_path)
    assert "weights.bin: 100%" in capsys.readouterr().err


def test_every_place_is_well_formed():
    from mpp_jax.nets import NETWORKS
    from mpp_jax.weights.load import packaged_file

    for name, where in PLACES.items():
        assert where.name == name
        full = DIGEST_LENGTHS[where.algorithm]
        assert len(where.digest) == full or where.filename.endswith(f"{where.digest}.pth")
        assert re.fullmatch(r"[0-9a-f]+", where.digest)
        assert all(url.endswith(where.filename) for url in where.urls)
    packaged = {n for n in NETWORKS if packaged_file(n).exists()}
    assert packaged == {"caffenet_mini"}
    without = {name for name, spec in NETWORKS.items() if not spec.files.places}
    assert without == packaged | {"squeezenet_v11", "efficientnet_lite0"}
