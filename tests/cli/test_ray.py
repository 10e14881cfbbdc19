"""The engine on real clusters: workers are killed, the command is, and nothing is lost."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from helpers import ray_toy
from helpers.toy_cli import ok
from helpers.toy_run import Finished, assert_same_run, store_bytes

from mpp_jax.runs import pipeline

pytestmark = pytest.mark.slow

PATIENCE = 900
WHOLE = ["--scales", "1-3", "--pca", "6", "--components", "4", "--samples", "200"]
WHOLE += ["--pooling", "mpp,avg"]
QUICK = ["--scales", "1-2", "--pooling", "avg"]


@pytest.fixture(autouse=True)
def small_shards(toy_known: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "SHARD_SIZE", ray_toy.TOYS)


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    """A folder of orders for workers, with the plug-in that has them obeyed."""
    return ray_toy.write_plugin(tmp_path / "orders").parent


def start(done: Finished, orders: Path, out: Path, *options: str) -> "subprocess.Popen[str]":
    run = ["run", done.data, "--out", out, "--network", "toy", "--weights", done.weights]
    plugin = ["--plugin", orders / "ray_plugin.py"]
    return ray_toy.start(*run, *plugin, "--engine", "ray", *options)


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=PATIENCE)
    assert "Traceback" not in errors
    assert "raylet" not in output + errors
    return process.returncode, output, errors


def here(done: Finished, out: Path, *options: str) -> Path:
    """The same run in this process alone."""
    ok("run", done.data, "--out", out, "--network", "toy", "--weights", done.weights, *options)
    return out


def until(true: Callable[[], object], process: "subprocess.Popen[str] | None" = None) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def shards(out: Path) -> list[Path]:
    return [*(out / "encodings").glob("shard-*.npy")]


def test_workers_that_die(done: Finished, orders: Path, tmp_path: Path) -> None:
    """Two of six shards end their worker; the run is that of one process all the same."""
    for shard in (1, 4):
        (orders / f"die-{shard}").touch()
    process = start(done, orders, tmp_path / "out", *WHOLE, "--workers", "2")
    status, output, errors = ended(process)
    assert status == 0, errors
    assert [line.split(":")[0] for line in output.splitlines()] == [
        *("codebook", "encodings", "model", "scores", "metrics", "report"),
    ]
    assert errors.count("a worker died and is started again") >= 2
    assert not [*orders.glob("die-*")]
    assert not [*(tmp_path / "out" / "encodings").glob(".*")]
    whole = here(done, tmp_path / "whole", *WHOLE)
    assert_same_run(tmp_path / "out", whole)
    record = "codebook/record.json"
    assert (tmp_path / "out" / record).read_bytes() == (whole / record).read_bytes()


def test_the_command_dies_and_is_given_again(done: Finished, orders: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (orders / "slow").touch()
    for sent, status in ((signal.SIGKILL, -9), (signal.SIGTERM, 143)):
        before = len(shards(out))
        process = start(done, orders, out, *QUICK, "--workers", "2")
        until(lambda before=before: len(shards(out)) > before, process)
        family = psutil.Process(process.pid).children(recursive=True)
        assert family
        process.send_signal(sent)
        found, output, errors = ended(process)
        assert (found, output) == (status, "")
        if sent == signal.SIGTERM:
            assert errors.splitlines()[-1].startswith("interrupted; what was done is kept")
        _, alive = psutil.wait_procs(family, timeout=120)
        assert not alive
    kept = {path.name: path.read_bytes() for path in shards(out)}
    assert 2 <= len(kept) < 6
    for path in orders.glob("pid-*"):
        path.unlink()
    process = start(done, orders, out, *QUICK, "--workers", "2")
    until(lambda: [*orders.glob("pid-*")], process)
    worker = psutil.Process(int(next(orders.glob("pid-*")).name.removeprefix("pid-")))
    worker.kill()
    status, _, errors = ended(process)
    assert status == 0, errors
    encodings = store_bytes(out / "encodings")
    assert kept.items() <= encodings.items()
    assert encodings == store_bytes(here(done, tmp_path / "whole", *QUICK) / "encodings")


HOLDER = """
import os, sys
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
import ray
ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def address() -> Iterator[str]:
    """A cluster of somebody else's."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=ray_toy.environment(),
    )
    assert holder.stdout is not None
    yield holder.stdout.readline().strip()
    assert holder.poll() is None, "a command ended the cluster of others"
    holder.communicate(timeout=PATIENCE)


def test_the_cluster_of_others(done: Finished, orders: Path, tmp_path: Path, address: str) -> None:
    """It stays; what a worker raises comes out as one line; too many workers are refused."""
    place = ("--address", address, "--quiet")
    loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # the cluster listens there alone
    run = ["run", done.data, "--out", tmp_path / "out", "--network", "toy"]
    run += ["--weights", done.weights, "--plugin", orders / "ray_plugin.py", *QUICK]
    run += ["--engine", "ray", *place]
    (orders / "fail").touch()
    status, output, errors = ended(ray_toy.start(*run, **loopback))
    assert (status, output) == (2, "")
    assert errors == "error: the disk of the worker fails\n"
    status, output, errors = ended(ray_toy.start(*run, "--workers", "9", **loopback))
    assert (status, output) == (2, "")
    assert errors == "error: --workers 9: the cluster has 2 CPUs; 2 workers at most\n"
    (orders / "fail").unlink()
    status, output, errors = ended(ray_toy.start(*run, **loopback))
    assert (status, errors) == (0, "")
    whole = here(done, tmp_path / "whole", *QUICK)
    assert store_bytes(tmp_path / "out" / "encodings") == store_bytes(whole / "encodings")
