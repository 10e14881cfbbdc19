"""Pictures at a web server, whose listings say nothing of sizes and which may not give ranges."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from helpers import toy
from helpers.far import tar_bytes

from mpp_jax.data import open_dataset
from mpp_jax.data.content import DecodeError

pytest.importorskip("aiohttp")


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


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
