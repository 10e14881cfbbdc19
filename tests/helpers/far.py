"""An S3 server on loopback (moto's), faults in front of it, and tars as others write them."""

import io
import json
import logging
import tarfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

BUCKET = "bucket"
_HOP = {"connection", "transfer-encoding", "content-length", "host", "expect"}


@dataclass
class Far:
    """A bucket behind a proxy that can be told to fail.

    Attributes:
        fs: the file system, for putting things there.
        fault: is asked before each request: (method, path, how often it was asked for before);
            returns None, "500", "403", "cut" (a body that ends early, and whose length says so),
            "torn" (one whose connection breaks) or a number of seconds to wait.
        asked: (method, path) of every request.
    """

    fs: Any
    fault: Callable[[str, str, int], str | float | None] = lambda method, path, before: None
    asked: list[tuple[str, str]] = field(default_factory=list)

    def put(self, name: str, content: bytes) -> str:
        """Put a file into the bucket; return its address."""
        self.fs.pipe_file(f"{BUCKET}/{name}", content)
        return f"s3://{BUCKET}/{name}"

    def put_folder(self, folder: Path, name: str) -> str:
        """Put all files of a folder into the bucket; return the address of the folder."""
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            self.put(f"{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return f"s3://{BUCKET}/{name}"


def _proxy(target: str, far: Far) -> ThreadingHTTPServer:
    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            """Say nothing."""

        def _body(self) -> bytes | None:
            if self.headers.get("Transfer-Encoding") != "chunked":
                length = int(self.headers.get("Content-Length") or 0)
                return self.rfile.read(length) if length else None
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content

        def _forward(self) -> None:
            path = self.path.split("?")[0]
            body = self._body()
            before = far.asked.count((self.command, path))
            far.asked.append((self.command, path))
            fault = far.fault(self.command, path, before)
            if isinstance(fault, int | float):
                time.sleep(fault)
            if fault in ("500", "403"):
                self.send_response(int(fault))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP}
            headers.setdefault("Content-Type", "application/octet-stream")  # else urllib's: a form
            request = urllib.request.Request(
                target + self.path, data=body, headers=headers, method=self.command
            )
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    self._answer(answer.status, answer.headers, answer.read(), fault)
            except urllib.error.HTTPError as error:
                self._answer(error.code, error.headers, error.read(), fault)

        def _answer(self, status: int, headers: Any, content: bytes, fault: Any) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in _HOP:
                    self.send_header(name, value)
            length = len(content)
            if self.command == "HEAD":
                length = int(headers.get("Content-Length") or 0)
            if fault == "cut":
                content, length = content[: length // 2], length // 2
            self.send_header("Content-Length", str(length))
            self.end_headers()
            if self.command != "HEAD":
                torn = fault == "torn"
                self.wfile.write(content[: length // 2] if torn else content)
                if torn:
                    self.close_connection = True

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _forward

    return ThreadingHTTPServer(("127.0.0.1", 0), Proxy)


_server: list[str] = []


def _moto() -> str:
    """Return the address of moto's server, started once a session; its threads are daemons."""
    if not _server:
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        _server.append(f"http://{host}:{port}")
    return _server[0]


@contextmanager
def far_bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Far]:
    """Give an empty bucket on a server of this machine; retries pause for moments only."""
    import s3fs
    from fsspec.config import conf

    from mpp_jax.remote import addresses

    target = _moto()
    urllib.request.urlopen(
        urllib.request.Request(f"{target}/moto-api/reset", data=b"", method="POST"), timeout=30
    ).close()
    far = Far(None)
    proxy = _proxy(target, far)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    options = {
        "endpoint_url": f"http://127.0.0.1:{proxy.server_port}",
        "key": "k",
        "secret": "s",
        "client_kwargs": {"region_name": "us-east-1"},
        "config_kwargs": {"read_timeout": 2},
    }
    monkeypatch.setitem(conf, "s3", options)
    monkeypatch.setattr(addresses, "FIRST_PAUSE", 0.02)
    direct = options | {"endpoint_url": target, "config_kwargs": {"read_timeout": 30}}
    far.fs = s3fs.S3FileSystem(**direct, skip_instance_cache=True, use_listings_cache=False)
    far.fs.call_s3("create_bucket", Bucket=BUCKET)
    try:
        yield far
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()


def tar_bytes(files: Mapping[str, bytes | str | dict[str, Any]]) -> bytes:
    """Return a tar of files, as `tarfile` (and so webdataset) writes it."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as tar:
        for name, content in files.items():
            text = json.dumps(content) if isinstance(content, dict) else content
            data = text.encode() if isinstance(text, str) else text
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return held.getvalue()


def shards_of(data: Path) -> dict[str, bytes]:
    """Return a folder's pictures as two tars by name, with class and split in their .json."""
    files: list[dict[str, Any]] = [{}, {}]
    for number, path in enumerate(sorted(data.rglob("*.png"))):
        split, label, _ = path.relative_to(data).parts
        files[number % 2] |= {
            f"{number:06d}.png": path.read_bytes(),
            f"{number:06d}.json": {"label": label, "split": split},
        }
    return {f"shard-{n:06d}.tar": tar_bytes(part) for n, part in enumerate(files)}
