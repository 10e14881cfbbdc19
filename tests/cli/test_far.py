"""The commands on addresses: pictures, results, encodings and models at an S3 server."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from helpers.far import BUCKET, Far, shards_of
from helpers.toy_cli import cli, ok, refused
from helpers.toy_run import OPTIONS, Finished, assert_same_run, store_bytes

from mpp_jax.progress import Bar
from mpp_jax.runs.model import load_model

POOLING = ["--pooling", "mpp,avg", "--quiet"]


def test_a_job_at_addresses(
    far: Far, done: Finished, toy_known: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended by SIGTERM and gone on elsewhere, through faults: the same as from local files."""
    shards = shards_of(done.data)
    for name, content in shards.items():
        (tmp_path / name).write_bytes(content)
        far.put(name, content)
    pattern, log = "shard-{000000..000001}.tar", tmp_path / "job.jsonl"
    network = ["--weights", done.weights, *OPTIONS, *POOLING]
    ok("run", f"wds:{tmp_path}/{pattern}", "--out", tmp_path / "out", *network)

    faults = ("500", "cut", "torn", None)
    far.fault = lambda method, path, before: (
        faults[len(far.asked) % 4] if method == "GET" and before < 3 else None
    )
    update = Bar.update

    def killed(self: Bar, n: float | None = 1) -> bool | None:
        if self._about[0] == "encode" and self.done >= 9:  # a shard is on disk
            os.kill(os.getpid(), signal.SIGTERM)
        return update(self, n)

    there = f"s3://{BUCKET}/runs/out"
    run = ["run", f"wds:s3://{BUCKET}/{pattern}", "--out", there, "--log", log, *network]
    with monkeypatch.context() as patch:
        patch.setattr(Bar, "update", killed)
        ended = cli(*run).exit_code
    assert ended == 143
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["event"] for line in lines[-2:]] == ["error", "end"]
    assert lines[-1]["status"] == 143
    assert lines[-2]["message"].startswith("interrupted; what was done is kept")
    assert any(line.get("stage") == "encode" and line.get("done", 0) >= 8 for line in lines)
    assert far.fs.exists(f"{BUCKET}/runs/out/codebook/record.json")
    earlier = json.loads(far.fs.cat_file(f"{BUCKET}/runs/out/seconds.json"))["seconds"]
    shutil.rmtree(tmp_path / "cache")  # another machine
    result = ok(*run)
    assert f"report: {there}/report.html" in result.stdout
    assert str(tmp_path / "cache") not in result.stdout

    far.fs.get(f"{BUCKET}/runs/out", str(tmp_path / "fetched"), recursive=True)
    assert_same_run(tmp_path / "out", tmp_path / "fetched")
    seconds = json.loads((tmp_path / "fetched" / "metrics.json").read_text())["seconds"]
    assert seconds["describe training pictures"] == earlier["describe training pictures"]
    assert seconds["encode pictures"] > earlier["encode pictures"] > 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["event"] for line in lines].count("start") == 2
    assert lines[-1]["status"] == 0


def test_models_and_encodings_at_addresses(
    far: Far, done: Finished, toy_known: None, tmp_path: Path
) -> None:
    store = far.put_folder(done.out / "encodings", "encodings")
    model = far.put_folder(done.out / "model", "model")
    codebook = far.put_folder(done.out / "codebook", "codebook")
    picture = next(done.data.rglob("*.png"))
    far_picture = far.put("one.png", picture.read_bytes())
    far.put("some/a.png", picture.read_bytes())
    weights = far.put("weights/toy.safetensors", done.weights.read_bytes())
    local = ok("predict", done.out / "model", picture, "--json")
    found = ok(
        "predict", model, far_picture, f"s3://{BUCKET}/some/", "--weights", weights, "--json"
    )
    [one, inside] = json.loads(found.stdout)
    assert [one["path"], inside["path"]] == [far_picture, f"s3://{BUCKET}/some/a.png"]
    assert one["classes"] == inside["classes"] == json.loads(local.stdout)[0]["classes"]
    opened = load_model(model, weights)
    assert opened.predict([far_picture]).ranked(0, 1)[0][0] == one["classes"][0]["class"]
    found = ok("search", store, far_picture, "--json", "--top", "1")
    assert json.loads(found.stdout)[0]["neighbours"][0]["similarity"] == pytest.approx(1, abs=1e-5)
    assert f"{store}: " in ok("verify", store, model, codebook).stderr
    ok("merge", store, "--out", f"s3://{BUCKET}/merged", "--quiet")
    [shard, *_] = far.fs.glob(f"{BUCKET}/merged/*.npy")
    content = far.fs.cat_file(shard)
    far.fs.pipe_file(shard, content[:-1] + bytes([content[-1] ^ 1]))
    found = cli("verify", f"s3://{BUCKET}/merged", "--quiet")
    assert found.exit_code == 1
    assert found.stdout.startswith(f"s3://{shard}: ")
    ok("train", store, "--out", f"s3://{BUCKET}/again", "--pooling", "avg", "--quiet")
    ok("evaluate", f"s3://{BUCKET}/again", store, "--out", f"s3://{BUCKET}/figures", "--quiet")
    assert far.fs.exists(f"{BUCKET}/figures/metrics.json")
    pictures = far.put_folder(done.data, "data")
    ok("encode", pictures, "--codebook", codebook, "--out", f"s3://{BUCKET}/twice", "--quiet")
    far.fs.get(f"{BUCKET}/twice", str(tmp_path / "twice"), recursive=True)
    wanted, got = store_bytes(done.out / "encodings"), store_bytes(tmp_path / "twice")
    assert {n: b for n, b in wanted.items() if n.endswith(".npy")} == {
        n: b for n, b in got.items() if n.endswith(".npy")
    }


def test_pictures_that_stay_away_are_listed(far: Far, done: Finished, toy_known: None) -> None:
    picture = next(done.data.rglob("*.png")).read_bytes()
    good, bad = far.put("good.png", picture), far.put("bad.png", picture)
    far.fault = lambda method, path, before: "cut" if path.endswith("bad.png") else None
    result = cli("predict", done.out / "model", good, bad, "--weights", done.weights, "--quiet")
    assert result.exit_code == 1
    assert result.stdout.startswith(f"{good}: ")
    [line] = [line for line in result.stderr.splitlines() if line.startswith("skipped")]
    assert line.startswith(f"skipped {bad}: cannot be read ({bad}: ")
    assert line.endswith("(6 tries))")


def test_mistakes_with_addresses(far: Far, toy_known: None, done: Finished, tmp_path: Path) -> None:
    there = far.put_folder(done.data, "data")
    assert refused("train", f"s3://{BUCKET}/none", "--out", tmp_path / "m").endswith(
        f"s3://{BUCKET}/none: no such folder, or nothing in it"
    )
    easy = ["--network", "toy", "--weights", done.weights, "--scales", "1", "--pooling", "fc7"]
    line = refused("run", there, "--out", f"{there}/out", *easy)
    assert f"{there}/out: lies among the pictures of {there}" in line
    line = refused("run", there, "--out", tmp_path / "o", "--cache", f"s3://{BUCKET}/c", *easy)
    assert f"s3://{BUCKET}/c: must be on this machine" in line
    assert "no such folder" in refused("run", f"s3://{BUCKET}/no", "--out", tmp_path / "o", *easy)
