"""Copies of folders at addresses: only what changed is moved, descriptions go last."""

import json
import shutil
import time
from pathlib import Path

import pytest
from helpers.far import BUCKET, Far

from mpp_jax.files import BusyError
from mpp_jax.remote import mirror
from mpp_jax.remote.addresses import RemoteError
from mpp_jax.remote.mirror import Mirror, local_copy, local_file, shown

ADDRESS = f"s3://{BUCKET}/out"


def there(far: Far) -> dict[str, bytes]:
    names = far.fs.find(f"{BUCKET}/out")
    return {name.removeprefix(f"{BUCKET}/out/"): far.fs.cat_file(name) for name in names}


def moved(far: Far, method: str) -> list[str]:
    names = [path.removeprefix(f"/{BUCKET}/out/") for kind, path in far.asked if kind == method]
    return [name for name in names if not name.startswith("/")]


def test_what_is_read_is_copied_once(far: Far, tmp_path: Path) -> None:
    for name in ("a.npy", "deep/b.npy"):
        far.put(f"out/{name}", name.encode() * 9)
    far.fault = lambda method, path, before: "cut" if method == "GET" and before < 1 else None
    folder = local_copy(f"{ADDRESS}/")
    assert (folder / "deep" / "b.npy").read_bytes() == b"deep/b.npy" * 9
    assert shown(f"model: {folder}/a.npy") == f"model: {ADDRESS}/a.npy"
    far.asked.clear()
    far.put("out/a.npy", b"new")
    far.fs.rm_file(f"{BUCKET}/out/deep/b.npy")
    assert local_copy(ADDRESS) == folder
    assert moved(far, "GET") == ["a.npy", "a.npy"]  # the first one was cut
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["a.npy"]
    assert local_copy(tmp_path) == tmp_path
    with pytest.raises(RemoteError, match="no such folder"):
        local_copy(f"s3://{BUCKET}/nowhere")


def test_what_is_written_is_sent(far: Far) -> None:
    far.fault = lambda method, path, before: "500" if method == "PUT" and not before else None
    with Mirror(ADDRESS).written() as folder:
        folder.mkdir(exist_ok=True)
        (folder / "record.json").write_text("{}")
        (folder / "shard.npy").write_bytes(b"x" * 100)
        (folder / ".out.lock").touch()
        (folder / ".new.partial").mkdir()
        (folder / ".new.partial" / "half").touch()
        with pytest.raises(BusyError) as caught, Mirror(ADDRESS).written():
            pass
        assert shown(str(caught.value)).startswith(f"{ADDRESS}: another process is writing")
    assert there(far) == {"record.json": b"{}", "shard.npy": b"x" * 100}
    assert list(dict.fromkeys(moved(far, "PUT"))) == ["shard.npy", "record.json"]
    far.asked.clear()
    far.fault = lambda method, path, before: None
    with Mirror(ADDRESS).written() as folder:
        (folder / "record.json").write_text("{1}")
        (folder / "shard.npy").unlink()
    assert there(far) == {"record.json": b"{1}"}
    assert (moved(far, "GET"), moved(far, "PUT")) == ([], ["record.json"])


def test_finished_files_are_sent_while_the_work_goes_on(
    far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "SEND_SECONDS", 0.05)
    with Mirror(ADDRESS).written() as folder:
        folder.mkdir()
        (folder / "shard-0.npy").write_bytes(b"0")
        deadline = time.monotonic() + 60
        while ("HEAD", f"/{BUCKET}/out/shard-0.npy") not in far.asked:  # asked for when it is sent
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert there(far) == {"shard-0.npy": b"0"}


def test_nothing_is_described_that_is_not_there(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job writes while files are looked for: an array, and what describes it."""
    rglob, count = Path.rglob, 0

    def looked(folder: Path, pattern: str) -> list[Path]:
        nonlocal count
        found, count = [*rglob(folder, pattern)], count + 1
        (folder / f"shard-{count}.npy").write_bytes(b"new")
        (folder / "record.json").write_text(f"shard-{count}.npy")
        return found

    copy = Mirror(ADDRESS)
    copy.folder.mkdir(parents=True)
    (copy.folder / "record.json").write_text("none")
    monkeypatch.setattr(Path, "rglob", looked)
    copy._send()
    assert count
    sent = there(far)
    assert sent[sent["record.json"].decode()] == b"new"


def test_what_could_not_be_sent_is_sent_the_next_time(far: Far) -> None:
    far.fault = lambda method, path, before: "500" if method == "PUT" else None

    def work() -> None:
        with Mirror(ADDRESS).written() as folder:
            folder.mkdir()
            (folder / "shard-0.npy").write_bytes(b"0")

    with pytest.raises(RemoteError, match="give the same command again"):
        work()
    assert there(far) == {}
    far.fault = lambda method, path, before: None
    with Mirror(ADDRESS).written() as again:
        assert (again / "shard-0.npy").read_bytes() == b"0"
    assert there(far) == {"shard-0.npy": b"0"}
    shutil.rmtree(again.parent)  # the copy may go
    with Mirror(ADDRESS).written() as folder:
        assert (folder / "shard-0.npy").read_bytes() == b"0"


def test_one_file(far: Far) -> None:
    address = far.put("out/weights.npz", b"weights")
    far.put("out/other.npz", b"other")
    place = local_file(address)
    assert place.read_bytes() == b"weights"
    assert [path.name for path in place.parent.iterdir()] == ["weights.npz"]
    far.asked.clear()
    assert local_file(address) == place
    assert moved(far, "GET") == []
    with pytest.raises(RemoteError, match="out/none: no such file"):
        local_file(f"{ADDRESS}/none")
    assert {path.name for path in local_file(f"{ADDRESS}/").iterdir()} == {
        "weights.npz",
        "other.npz",
    }


def test_a_damaged_record_only_costs_time(far: Far) -> None:
    far.put("out/a.npy", b"a")
    folder = local_copy(ADDRESS)
    (folder.parent / "record.json").write_text(json.dumps({"same": {"a.npy": 1}}))
    assert (local_copy(ADDRESS) / "a.npy").read_bytes() == b"a"
