"""Folders and lists at addresses: the same data sets as on this machine."""

import threading
import time
from pathlib import Path

import fsspec
import pytest
from helpers import toy
from helpers.data_folders import mistake, split_folder, touch
from helpers.decode_samples import encoded, smooth
from helpers.far import BUCKET, Far
from PIL import Image

from mpp_jax.data import Item, canvas_batches, open_dataset
from mpp_jax.data.content import DecodeError, FarPicture
from mpp_jax.data.far_reading import FETCHES, sources
from mpp_jax.data.lists import write_list


@pytest.fixture
def memory():
    """An empty file system in memory: takes a local folder, gives its address."""
    fs = fsspec.filesystem("memory")
    fs.store.clear()

    def put(folder: Path, name: str) -> str:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            fs.pipe_file(f"/{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return f"memory://{name}"

    yield put
    fs.store.clear()


def same(here, there) -> None:
    assert [(i.id, i.labels, i.split) for i in here.items] == [
        (i.id, i.labels, i.split) for i in there.items
    ]
    for name in ("classes", "multi_label", "name"):
        assert getattr(here, name) == getattr(there, name)


def test_folders_by_the_same_rules(tmp_path, memory) -> None:
    split = split_folder(tmp_path / "split", {"a": 2, "b": 3}, {"a": 1, "b": 1})
    touch(split, "train/a/.hidden.jpg", "train/b/Thumbs.db", "train/a/deep/x.jpg", "other/y.jpg")
    same(open_dataset(split), open_dataset(memory(split, "split")))
    classes = touch(tmp_path / "classes", *(f"{c}/{n}.jpg" for c in "pq" for n in range(9)))
    same(open_dataset(classes, seed=3), open_dataset(memory(classes, "classes"), seed=3))
    loose = memory(touch(tmp_path / "loose", "a/x.jpg", "b/x.jpg", "c.jpg"), "loose")
    assert "1 picture file(s)" in open_dataset(loose).warnings[0]
    flat = touch(tmp_path / "flat", "x.jpg", "y.jpg")
    same(open_dataset(flat, to_train=False), open_dataset(memory(flat, "flat"), to_train=False))
    test = touch(tmp_path / "only", "test/a/x.jpg")
    same(open_dataset(test, to_train=False), open_dataset(memory(test, "only"), to_train=False))
    assert "has test/ but no train/" in mistake("memory://only")
    assert "no class folder" in mistake("memory://flat")
    assert "no such folder" in mistake("memory://nowhere")
    assert "archives are read on this machine" in mistake("voc:memory://split")


def test_lists_with_addresses(tmp_path, memory) -> None:
    data = toy.write_list(tmp_path / "data", train=4, test=2)
    there = memory(data.parent, "data")
    same(open_dataset(data), open_dataset(f"{there}/list.csv"))
    mixed = tmp_path / "mixed.csv"
    mixed.write_text(f"{there}/00.png,x,train\n{there}/01.png,y,train\ndata/02.png,x,test\n")
    items = open_dataset(mixed).items
    assert [item.id for item in items] == [f"{there}/00.png", f"{there}/01.png", "data/02.png"]
    assert isinstance(items[0].read, FarPicture)
    assert items[0].source() == (data.parent / "00.png").read_bytes()
    again = tmp_path / "again.csv"
    write_list(open_dataset(f"{there}/list.csv"), again)
    assert [item.id for item in open_dataset(again).items] == [
        f"{there}/{item.id}" for item in open_dataset(data).items
    ]
    mixed.write_text(f"{there}/00.png,x,train\n{there}/00.png,x,train\n")
    assert "both name 'memory://data/00.png'" in mistake(mixed)
    assert mistake("memory://nowhere/list.csv") == "memory://nowhere/list.csv: no such list"


def test_faults_while_pictures_are_read(tmp_path, far: Far) -> None:
    """What passes leaves no trace, what stays is listed; a cut body is never a picture."""
    here = open_dataset(toy.write_folder(tmp_path / "data", train=3, test=1, largest=40))
    there = far.put_folder(tmp_path / "data", "data")
    bad = here.items[1].id
    kinds = ("500", "cut", "torn")

    def fault(method: str, path: str, before: int) -> str | None:
        if not path.endswith(".png") or method != "GET":
            return None
        if path.endswith(bad):
            return kinds[before % 3]
        return kinds[len(path) % 3] if before < 2 else None

    far.fault = fault
    data = open_dataset(there)
    same(here, data)
    batches = canvas_batches(data.items, batch_size=3, threads=4)
    wanted = canvas_batches(here.items, batch_size=3)
    found = {int(i): b.canvas[r] for b in batches for r, i in enumerate(b.index) if i >= 0}
    exact = {int(i): b.canvas[r] for b in wanted for r, i in enumerate(b.index) if i >= 0}
    assert found.keys() == exact.keys() - {1}
    assert all((found[i] == exact[i]).all() for i in found)
    [skipped] = batches.skipped
    assert skipped.path == bad
    assert not skipped.permanent
    assert "(6 tries)" in skipped.reason
    assert all(item.far for item in data.items)
    with pytest.raises(DecodeError, match="no such file"):
        FarPicture(f"s3://{BUCKET}/nowhere.jpg")()


def test_many_are_fetched_at_once(far: Far) -> None:
    """Sixteen answers of a tenth of a second each take one, and not more than asked for."""
    content = encoded(Image.fromarray(smooth(9, 9)), "PNG")
    places = [far.put(f"{n:02d}.png", content) for n in range(48)]
    items = [Item(p, (), "test", read=FarPicture(p, None, len(content)), far=True) for p in places]
    busy, most, lock = 0, 0, threading.Lock()

    def counted(method: str, path: str, before: int) -> None:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        time.sleep(0.1)
        with lock:
            busy -= 1

    far.fault = counted
    given = sources(items)
    assert next(given)() == content
    assert len(far.asked) <= 2 * FETCHES + 1
    assert [one() for one in given] == [content] * 47
    assert 2 < most <= FETCHES
    batches = canvas_batches(items, batch_size=16, threads=1)
    assert sum(int(batch.valid.sum()) for batch in batches) == 48
