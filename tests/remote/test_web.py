"""Pictures at a web server, whose listings say nothing of sizes and which may not give ranges."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from helpers import toy
from helpers.far import tar_bytes

from mpp_jax.data import DataError, open_dataset
from mpp_jax.data.content import DecodeError
from mpp_jax.remote import addresses
from mpp_jax.remote.addresses import RemoteError
from mpp_jax.remote.listing import listing, matching
from mpp_jax.remote.mirror import Mirror, local_copy

pytest.importorskip("aiohttp")


class Silent(SimpleHTTPRequestHandler):
    breaks: ClassVar[dict[str, int]] = {}
    """How often the connection breaks instead of an answer, by path."""

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        left = self.breaks.get(self.path.rstrip("/"), 0)
        if left:
            self.breaks[self.path.rstrip("/")] = left - 1
            # Closed so, it says that the connection was reset.
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
            self.close_connection = True
            return
        super().do_GET()

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a folder that is served on this machine."""
    monkeypatch.setenv("MPP_JAX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "www").mkdir()
    handler = partial(Silent, directory=str(tmp_path / "www"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_folders_lists_and_tars(web: str, tmp_path: Path) -> None:
    here = toy.write_folder(tmp_path / "www" / "data", train=1, test=1, largest=40)
    (here / "train" / "red").rename(here / "train" / "light red")
    (here / "test" / "red").rename(here / "test" / "light red")
    local, far = open_dataset(here), open_dataset(f"{web}/data")
    assert [(i.id, i.labels, i.split) for i in far.items] == [
        (i.id, i.labels, i.split) for i in local.items
    ]
    assert far.classes == local.classes
    content = (here / local.items[0].id).read_bytes()
    assert far.items[0].source() == content
    listed = tmp_path / "list.csv"
    listed.write_text(f"{web}/data/{far.items[0].id}?a=1,x,train\n{web}/none.png,y,train\n")
    there, missing = open_dataset(listed).items
    assert there.source() == content
    with pytest.raises(DecodeError, match="no such file"):
        missing.source()
    (tmp_path / "www" / "0.tar").write_bytes(tar_bytes({"a.png": content, "a.cls": "x"}))
    [item] = open_dataset(f"wds:{web}/0.tar").items
    with pytest.raises(DecodeError, match="the server does not give parts of files"):
        item.source()  # this one does not


def test_no_folder_that_cannot_be_listed_is_left_out(
    web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As fsspec would have it: a class would be missing, or a copy be emptied."""
    monkeypatch.setattr(addresses, "FIRST_PAUSE", 0.01)
    folder = tmp_path / "www" / "data"
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        (folder / name / "a.png").write_bytes(b"picture")
    whole = {"cat/a.png", "dog/a.png"}
    monkeypatch.setattr(Silent, "breaks", {"/data/cat": 2})
    assert set(listing(f"{web}/data")) == whole
    assert Silent.breaks == {"/data/cat": 0}
    monkeypatch.setattr(Silent, "breaks", {"/data/cat": 1000})
    with pytest.raises(RemoteError, match="tries"):
        listing(f"{web}/data")
    monkeypatch.setattr(Silent, "breaks", {})
    assert listing(f"{web}/nowhere") == {}


def test_no_folder_that_cannot_be_listed_is_left_out_of_a_pattern(
    web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As fsspec would have it: shards would be missing. Folders beside it do not matter."""
    monkeypatch.setattr(addresses, "FIRST_PAUSE", 0.01)
    shards = tmp_path / "www" / "shards"
    for name in ("a-1", "a-2", "b-1"):
        (shards / name / "deep").mkdir(parents=True)
        (shards / name / "0.tar").write_bytes(b"tar")
        (shards / name / "0.txt").write_bytes(b"text")
        (shards / name / "deep" / "1.tar").write_bytes(b"tar")
    both = [f"{web}/shards/a-{n}/0.tar" for n in (1, 2)]
    monkeypatch.setattr(Silent, "breaks", {"/shards/a-2": 2, "/shards/b-1": 1000})
    assert matching(f"{web}/shards/a-*/*.tar") == both
    assert Silent.breaks == {"/shards/a-2": 0, "/shards/b-1": 1000}
    assert matching(f"{web}/shards/a-[1]/*.tar") == both[:1]
    monkeypatch.setattr(Silent, "breaks", {})
    assert len(matching(f"{web}/shards/**/*.tar")) == 6
    assert matching(f"{web}/nowhere/*.tar") == []
    monkeypatch.setattr(Silent, "breaks", {"/shards/a-2": 1000})
    with pytest.raises(DataError, match=r"shards/a-\*/\*\.tar: .*\(6 tries\)"):
        open_dataset(f"wds:{web}/shards/a-*/*.tar")


def test_what_a_page_links_to(web: str, tmp_path: Path) -> None:
    """Its other orders are no files, and nothing is written outside the copy."""
    folder = tmp_path / "www" / "data"
    folder.mkdir()
    (folder / "a.npy").write_bytes(b"a")
    orders = '<a href="?C=N;O=D">Name</a> <a href="a.npy">a.npy</a>'
    (folder / "index.html").write_text(orders)
    assert set(listing(f"{web}/data")) == {"a.npy"}
    assert [p.name for p in local_copy(f"{web}/data").iterdir()] == ["a.npy"]
    outside = tmp_path / "outside"
    (folder / "index.html").write_text(f'<a href="/data/{outside}">x</a>')
    with pytest.raises(RemoteError, match="leads out of its folder"):
        Mirror(f"{web}/data").fetched()
    assert not outside.exists()
