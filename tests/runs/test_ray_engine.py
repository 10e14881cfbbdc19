"""The engine of workers: the line of units, and everything that is sent, without a cluster."""

import pickle
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import toy
from helpers.fake_ray import Actor, FakeRay, RayError
from helpers.far import BUCKET, Far, tar_bytes
from helpers.toy_run import CONFIG, Finished, assert_same_run, quiet, store_bytes

from mpp_jax.cli import stages
from mpp_jax.cli.signals import Terminated, obeyed
from mpp_jax.data import Item, open_dataset
from mpp_jax.data.content import FarPicture, ReadOnce
from mpp_jax.describe.extraction import DescriptorSample, Extractor
from mpp_jax.remote.mirror import Mirror
from mpp_jax.runs import ray_engine, ray_places, ray_worker
from mpp_jax.runs.contents import Contents
from mpp_jax.runs.ray_engine import Cluster, RayEngine, Unit, in_line
from mpp_jax.runs.ray_places import check_places, places_of
from mpp_jax.runs.ray_worker import packed, unpacked
from mpp_jax.runs.settings import Extras
from mpp_jax.runs.shards import Sampling
from mpp_jax.storage.store_shard import ShardWriter

pytestmark = pytest.mark.usefixtures("toy_known")


class Doubler:
    """A worker that doubles."""

    def begin(self) -> None:
        """Nothing to do."""

    def double(self, number: int) -> int:
        if number < 0:
            raise ValueError(f"{number} is negative")
        return 2 * number


def doubled(fake: FakeRay, numbers: list[int], workers: int = 2) -> tuple[list[int], list[str]]:
    said: list[str] = []
    results = in_line(
        fake,
        [Actor(fake, Doubler) for _ in range(workers)],
        lambda worker: worker.begin.remote(),
        lambda worker, unit: getattr(worker, unit.method).remote(*unit.arguments),
        [Unit("double", (), (number,)) for number in numbers],
        said.append,
    )
    return sorted(results), said


class Fates:
    """What happens to calls of a method, one after the other; then nothing special."""

    def __init__(self, **fates: list[Any]) -> None:
        self.fates = fates

    def __call__(self, worker: int, method: str) -> Any:
        left = self.fates.get(f"{method}{worker}", [])
        return left.pop(0) if left else None


def test_units_of_workers_that_die_go_back_into_the_line() -> None:
    numbers = [*range(9)]
    wanted = [2 * n for n in numbers]
    assert doubled(FakeRay(), numbers) == (wanted, [])
    assert doubled(FakeRay(), []) == ([], [])
    died = RayError("killed")
    fates = Fates(double0=[None, died, died], double1=[died], begin0=[died])
    results, said = doubled(FakeRay(fate=fates), numbers)
    assert results == wanted
    assert said == ["a worker died and is started again (killed...)"] * 4


def test_a_worker_that_never_starts_again_holds_up_nothing() -> None:
    fates = Fates(begin0=["never"])
    assert doubled(FakeRay(fate=fates), [1, 2, 3])[0] == [2, 4, 6]
    fates = Fates(double1=[None, RayError("its machine is gone")], begin1=[None, "never"])
    assert doubled(FakeRay(fate=fates), [1, 2, 3, 4])[0] == [2, 4, 6, 8]


def test_workers_that_keep_dying_are_given_up() -> None:
    with pytest.raises(ValueError, match=r"workers died 11 times and nothing was done .*\(gone\)"):
        doubled(FakeRay(fate=lambda worker, method: RayError("gone")), [1, 2])
    # A unit that ends each worker comes last, again and again; the others are done.
    died: list[RayError] = [RayError("gone")] * 100
    fates = Fates(double0=[*died], double1=[None, None, *died])
    with pytest.raises(ValueError, match="workers died 11 times"):
        doubled(FakeRay(fate=fates), [1, 2, 3])


def test_what_a_worker_raises_is_raised() -> None:
    with pytest.raises(ValueError, match=r"^-1 is negative$"):
        doubled(FakeRay(), [1, -1, 2])


def test_samples_come_together_from_parts(done: Finished) -> None:
    """Whoever sampled what, and in which order."""
    network, pyramid = done.network, CONFIG.pyramid
    items = done.dataset.split("train")
    contents = Contents()
    sampling = Sampling(Extractor(network, pyramid), pyramid.scales, contents)

    def take(sample: DescriptorSample, first: int, some: tuple[Item, ...]) -> None:
        sampling.block(first, some, {"default": sample}, lambda n: None, lambda *_: None)

    whole = DescriptorSample(len(items), 100, seed=3)
    take(whole, 0, items)
    merged = DescriptorSample(len(items), 100, seed=3)
    for first in (8, 0, 4, 12):
        part = merged.blank()
        take(part, first, items[first : first + 4])
        merged.merge(pickle.loads(pickle.dumps(part)))
    assert np.array_equal(merged.finish(), whole.finish())
    assert set(contents.read(items)) == {item.id for item in items}


def test_a_network_is_sent_as_it_is(done: Finished) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 35, 35, 3)).astype(np.uint8)
    sent = pickle.loads(pickle.dumps(packed(done.network)))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(sent))
    there = unpacked(sent)
    assert there.spec == done.network.spec
    assert there.weights_sha256 == done.network.weights_sha256
    one, other = (net.descriptors(pictures) for net in (done.network, there))
    assert np.array_equal(one, other)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    """A cluster of four cores in this process."""
    ray = FakeRay()
    for module in (ray_engine, ray_worker):
        monkeypatch.setattr(module, "ray_module", lambda **_: ray)
    monkeypatch.setattr("mpp_jax.cli.engine.keep_freed_memory", lambda: None)
    return ray


def on(cluster: Cluster | None = None) -> Extras:
    return Extras(cluster=cluster or Cluster(workers=2))


def test_a_run_of_workers_is_that_of_one_process(
    done: Finished, fake: FakeRay, tmp_path: Path
) -> None:
    fake.fate = Fates(sample0=[RayError("gone")], encode1=[RayError("gone"), RayError("gone")])
    console = quiet()
    assert stages.run(done.job(tmp_path / "out", extras=on()), console) == 0
    assert_same_run(tmp_path / "out", done.out)
    record = "codebook/record.json"
    assert (tmp_path / "out" / record).read_bytes() == (done.out / record).read_bytes()
    assert len(fake.actors) == 2
    assert fake.killed == fake.actors
    # Nothing to do: no worker.
    fake.actors.clear()
    assert stages.run(done.job(tmp_path / "out", extras=on()), console) == 0
    assert fake.actors == []


def test_skipped_pictures_and_a_cache(done: Finished, fake: FakeRay, tmp_path: Path) -> None:
    """Listed in the same order, whoever met them first; all workers fill one cache."""
    data = toy.write_folder(tmp_path / "data")
    for broken in ("train/blue/01.png", "train/red/04.png", "test/green/00.png"):
        (data / broken).write_bytes(b"no picture")
    dataset = open_dataset(data)
    config = replace(CONFIG, pooling=("avg",))
    for name, cluster in (("here", None), ("there", Cluster())):
        extras = Extras(cache=tmp_path / f"{name} cache", cluster=cluster)
        assert stages.run(done.job(tmp_path / name, config, data=dataset, extras=extras), quiet())
    assert store_bytes(tmp_path / "there/encodings") == store_bytes(tmp_path / "here/encodings")
    here, there = (
        {path.name for path in (tmp_path / f"{name} cache").iterdir()} for name in ("here", "there")
    )
    assert here == there

    items = dataset.split("train")
    parts = [(first, items[first : first + 4]) for first in range(0, len(items), 4)]
    counted: list[int] = []
    skipped: list[tuple[int, str]] = []
    contents, sample = Contents(), DescriptorSample(len(items), 100, seed=0)
    job = done.job(tmp_path / "fit", config, data=dataset).settled()
    with RayEngine(Cluster(), dataset, job.network, job.config) as engine:
        engine.sample(
            parts,
            {"default": sample},
            contents,
            counted.append,
            lambda position, name, reason: skipped.append((position, name)),
        )
    assert sum(counted) == 13
    assert skipped == [(1, "train/blue/01.png"), (14, "train/red/04.png")]
    assert set(contents.read(items)) == {item.id for item in items}
    assert len(sample.finish()) == 13 * 7


def test_what_is_refused(done: Finished, fake: FakeRay, tmp_path: Path) -> None:
    config = replace(CONFIG, pooling=("avg",))

    def run(cluster: Cluster, **changes: Any) -> None:
        stages.run(done.job(tmp_path / "out", config, extras=on(cluster), **changes), quiet())

    with pytest.raises(ValueError, match="--workers 5: the cluster has 4 CPUs; 4 workers at most"):
        run(Cluster(workers=5))
    with pytest.raises(ValueError, match="devices must be between 1 and"):
        run(Cluster(devices=99))
    with pytest.raises(ValueError, match=r"plugin: .*missing\.py is no Python file"):
        run(Cluster(plugins=(tmp_path / "missing.py",)))
    local = [replace(item, path=None, read=ReadOnce("x")) for item in done.dataset.items]
    with pytest.raises(ValueError, match="read in this process alone cannot be sent to workers"):
        run(Cluster(), data=replace(done.dataset, items=tuple(local)))


def test_a_cluster_that_does_not_start_in_time(
    done: Finished, fake: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray waits half a minute for its own processes and raises a bare `Exception`."""

    def init(**options: Any) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(fake, "is_initialized", lambda: False)
    monkeypatch.setattr(fake, "init", init, raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = replace(CONFIG, pooling=("avg",))
    job = done.job(tmp_path / "out", config, extras=on(Cluster()))
    with pytest.raises(ValueError, match=r"Ray cannot start on this machine .*timed out"):
        stages.run(job, quiet())


def test_folders_that_a_worker_does_not_see(
    done: Finished, fake: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = done.job(tmp_path / "out").settled()
    engine = RayEngine(Cluster(), job.data, job.network, job.config, cache=tmp_path / "cache")
    (tmp_path / "cache").rmdir()
    monkeypatch.setattr(ray_places.socket, "gethostname", lambda: "far")
    with engine, pytest.raises(ValueError, match=r"worker on far does not see .*cache; pictures,"):
        engine.sample([(0, done.dataset.items[:2])], {}, Any, print, print)
    monkeypatch.setattr(ray_engine, "__version__", "0.0.9")
    engine = RayEngine(Cluster(), job.data, job.network, job.config)
    with engine, pytest.raises(ValueError, match=r"far has mpp-jax .*, this is 0\.0\.9; install"):
        engine.sample([(0, done.dataset.items[:2])], {}, Any, print, print)


def test_shards_that_are_left(done: Finished, fake: FakeRay, tmp_path: Path) -> None:
    """What one process began, workers finish; what dead ones left behind is removed."""
    config = replace(CONFIG, pooling=("avg",))
    out, whole = tmp_path / "out", tmp_path / "whole"
    for place in (out, whole):
        assert stages.run(done.job(place, config), quiet()) == 0
    wanted = store_bytes(whole / "encodings")
    (out / "encodings" / "shard-00001.json").unlink()
    (out / "encodings" / ".shard-00001.json.1-2.tmp").write_bytes(b"half")
    assert stages.run(done.job(out, config, extras=on()), quiet()) == 0
    assert store_bytes(out / "encodings") == wanted
    assert not [*(out / "encodings").glob(".*")]
    assert len(fake.actors) == 1


def test_places_that_a_worker_must_have(
    done: Finished, far: Far, fake: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every folder and tar, and one address of each server: or else all would be skipped there."""
    picture = next(done.data.rglob("*.png")).read_bytes()
    content = tar_bytes({"a.png": picture, "a.json": {"label": "x", "split": "test"}})
    (tmp_path / "0.tar").write_bytes(content)
    [inside] = open_dataset(f"wds:{tmp_path}/0.tar", to_train=False).items
    gone = Item("gone", (), "test", path=tmp_path / "gone" / "a.png")
    items = [gone, *done.dataset.items, inside]
    addresses = [far.put("a.png", picture), far.put("b.png", picture), f"s3://{BUCKET}/none.png"]
    items += [Item(name, (), "test", read=FarPicture(name), far=True) for name in addresses]
    found = places_of(items)
    folders = {item.path.parent for item in done.dataset.items if item.path is not None}
    assert set(found.seen) == {*folders, tmp_path / "0.tar"}
    assert found.reached == (addresses[0],)
    check_places(found)
    assert places_of(items[-1:]) == ((), ())  # not there for this machine either

    monkeypatch.setattr(ray_places.socket, "gethostname", lambda: "far")
    data = replace(done.dataset, items=tuple(items))
    job = done.job(tmp_path / "out", replace(CONFIG, pooling=("avg",)), data=data).settled()

    def refusal(begins: Any) -> str:
        begin = ray_worker.Worker.begin
        monkeypatch.setattr(
            ray_worker.Worker, "begin", lambda self, given: (begins(), begin(self, given))
        )
        with (
            RayEngine(Cluster(), data, job.network, job.config) as engine,
            pytest.raises(ValueError, match="the worker on far") as caught,
        ):
            engine.sample([(0, items[1:3])], {}, Contents(), print, print)
        monkeypatch.setattr(ray_worker.Worker, "begin", begin)
        return str(caught.value)

    def forbidden() -> None:
        far.fault = lambda method, path, before: "403"

    assert f"cannot read {addresses[0]} (" in (said := refusal(forbidden))
    assert "credentials" in said
    assert f"does not see {tmp_path}/0.tar; " in refusal((tmp_path / "0.tar").unlink)


def test_shards_of_an_address_are_handed_back(
    done: Finished, far: Far, fake: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers do not see the copy on this disk: what they write elsewhere is put there.

    Nor does this machine see what they remember of pictures at addresses: it is told.
    """
    written: list[Path] = []
    write = ShardWriter.write

    def noted(self: ShardWriter) -> None:
        written.append(self.task.folder)
        write(self)

    monkeypatch.setattr(ShardWriter, "write", noted)
    config = replace(CONFIG, pooling=("avg",))
    data = toy.write_folder(tmp_path / "data")
    for broken in (data / "test").rglob("*.png"):  # shards without a vector
        broken.write_bytes(b"no picture")
    (data / "test/blue/00.png").write_bytes((data / "train/blue/00.png").read_bytes())
    dataset = open_dataset(data)
    assert stages.run(done.job(tmp_path / "here", config, data=dataset), quiet()) == 1
    dataset = open_dataset(far.put_folder(data, "data"))
    monkeypatch.setattr("mpp_jax.runs.contents.remember_digest", lambda mark, digest: None)
    with Mirror(f"s3://{BUCKET}/run").written() as out:
        written.clear()
        assert stages.run(done.job(out, config, data=dataset, extras=on()), quiet()) == 1
        assert store_bytes(out / "encodings") == store_bytes(tmp_path / "here" / "encodings")
        assert len(written) == 3
        assert not any(folder.exists() or folder.is_relative_to(out) for folder in written)
    assert far.fs.exists(f"{BUCKET}/run/report.html")
    far.asked.clear()
    contents = Contents()
    assert all(contents.now(item) for item in dataset.items)
    assert not far.asked


def test_a_cluster_is_ended_whole(
    done: Finished, fake: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A SIGTERM that meets its end is obeyed after it: what is left of half of one exits with 1."""
    kill = fake.kill

    def disturbed(actor: Actor) -> None:
        if not fake.killed:
            signal.raise_signal(signal.SIGTERM)
        kill(actor)

    monkeypatch.setattr(fake, "kill", disturbed)
    with pytest.raises(Terminated), obeyed():
        stages.run(done.job(tmp_path / "out", extras=on()), quiet())
    assert len(fake.actors) == 2
    assert fake.killed == fake.actors
