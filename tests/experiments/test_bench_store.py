"""The experiments with stores, at a small size."""

from pathlib import Path

import numpy as np

from mpp_jax.storage.store import Store


def test_stores_of_any_size(tmp_path: Path) -> None:
    import bench_store

    writer, items, _ = bench_store.opened(tmp_path / "s", 600)
    assert len(items) == 600
    some = [items[name] for name in writer.tasks[0].pending]
    rows = bench_store.np.ones((len(some), bench_store.DIMENSION), "f")
    writer.put(some, {"mpp": rows})
    for task in [*writer.tasks.values()]:
        bench_store.fill_in(task, tmp_path / "s" / "shard-00000.mpp.npy")
    store = Store.open(tmp_path / "s")
    assert (len(store.items("train")), len(store.items("test"))) == (540, 60)
    found = bench_store.open_alone(tmp_path / "s")
    assert 0 < found["seconds_to_open"] < 60


def test_a_store_is_written_again_in_float16(done: object, tmp_path: Path) -> None:
    import store_dtype

    store: Store = done.store  # type: ignore[attr-defined]
    half = store_dtype.rounded(store, tmp_path / "half")
    assert half.dtype == "float16"
    assert half.items("train").ids == store.items("train").ids
    assert store_dtype.size(half) < store_dtype.size(store)
    np.testing.assert_allclose(half.vectors("mpp", "test"), store.vectors("mpp", "test"), atol=5e-4)
    data = store_dtype.pictures(store)
    assert [item.id for item in data.split("test")] == store.items("test").ids
