"""The engine on a real cluster, with pictures in tars, here and at addresses, and results there."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fsspec.config import conf
from helpers import ray_toy
from helpers.far import BUCKET, Far, shards_of
from helpers.toy_cli import ok
from helpers.toy_run import OPTIONS, Finished, assert_same_run

from mpp_jax.runs import pipeline

pytestmark = pytest.mark.slow

TARS = "shard-{000000..000001}.tar"
PATIENCE = 900


def test_tars_and_addresses(
    far: Far, done: Finished, toy_known: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same run as of one process."""
    monkeypatch.setattr(pipeline, "SHARD_SIZE", ray_toy.TOYS)
    for name, content in shards_of(done.data).items():
        (tmp_path / name).write_bytes(content)
        far.put(name, content)
    plugin = ray_toy.write_plugin(tmp_path / "orders")
    options = [*OPTIONS, "--weights", done.weights, "--pooling", "mpp,avg"]
    # The processes are others: what is configured here goes by the environment.
    settings = conf["s3"] | {"config_kwargs": {"read_timeout": 60}}

    def ray(data: str, out: Any) -> "subprocess.Popen[str]":
        run = ["run", data, "--out", out, *options, "--plugin", plugin]
        run += ["--engine", "ray", "--workers", "2"]
        return ray_toy.start(*run, FSSPEC_S3=json.dumps(settings))

    def ended(process: "subprocess.Popen[str]") -> str:
        output, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors
        return output

    ok("run", f"wds:{tmp_path}/{TARS}", "--out", tmp_path / "whole", *options)
    ended(ray(f"wds:{tmp_path}/{TARS}", tmp_path / "out"))
    assert_same_run(tmp_path / "out", tmp_path / "whole")

    there = f"s3://{BUCKET}/runs/out"
    far.asked.clear()
    output = ended(ray(f"wds:s3://{BUCKET}/{TARS}", there))
    assert f"report: {there}/report.html" in output
    assert ("GET", f"/{BUCKET}/shard-000000.tar") in far.asked
    far.fs.get(f"{BUCKET}/runs/out", str(tmp_path / "fetched"), recursive=True)
    assert_same_run(tmp_path / "fetched", tmp_path / "whole")
