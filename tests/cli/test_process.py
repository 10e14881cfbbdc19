"""The program as its users start it: processes, signals, import cost, and the real network."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import REPOSITORY, TESTS
from helpers.store_samples import listed
from helpers.toy_run import SHARD, Finished, finished_run, know_toy, store_bytes

from mpp_jax.cli.app import main

CLASSES = 15


def python(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env=os.environ | environment,
    )


HELP = """
import sys, time
start = time.process_time()
from mpp_jax.cli.app import main
for words in ([], *([name] for name in main.commands), ["weights", "download"]):
    assert main([*words, "--help"], standalone_mode=False) in (None, 0), words
seconds = time.process_time() - start
heavy = {"jax", "numpy", "flax", "PIL", "orbax", "tensorflow_datasets", "jinja2"} & set(sys.modules)
print(f"{seconds:.3f} {','.join(sorted(heavy)) or 'nothing'}", file=sys.stderr)
"""


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    _, errors = python("-c", HELP).communicate(timeout=300)
    seconds, heavy = errors.split()
    assert heavy == "nothing"
    # Processor time of all help texts together; one of them must take less than a second.
    assert float(seconds) < 1.0


def test_module_is_the_program() -> None:
    process = python("-m", "mpp_jax", "geometry", "squeezenet", "--scales", "1-2", "--json")
    output, errors = process.communicate(timeout=300)
    assert (process.returncode, errors) == (0, "")
    assert [row["positions"] for row in json.loads(output)] == [1, 16]
    process = python("-m", "mpp_jax", "run", "nowhere", "--out", "x")
    output, errors = process.communicate(timeout=300)
    assert (process.returncode, output) == (2, "")
    assert errors == "error: nowhere: no such folder or list file\n"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc")
def test_freed_memory_can_be_kept() -> None:
    code = "from mpp_jax.memory import keep_freed_memory; print(keep_freed_memory())"
    assert python("-c", code).communicate(timeout=300) == ("True\n", "")


def test_interrupt_keeps_complete_shards(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control-C while pictures are encoded; then the same command in another process goes on."""
    know_toy(monkeypatch)
    done: Finished = finished_run(tmp_path_factory)
    out = tmp_path / "out"
    run = ["run", done.data, "--network", "toy", "--weights", done.weights, "--scales", "1-3"]
    run += ["--pooling", "avg,fc7", "--out"]
    # A shell's background jobs ignore SIGINT, and so would what they start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = python(
            TESTS / "helpers" / "toy.py", *run, out, TOY_SHARD=str(SHARD), TOY_PAUSE_AFTER_SHARD="1"
        )
    finally:
        signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 600
    while not (out / "paused").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert output == ""
    assert "Traceback" not in errors
    assert errors.splitlines()[-1] == "interrupted; what was done is kept, run the command again"
    (out / "paused").unlink()
    kept = listed(out / "encodings")
    assert [item.status for item in kept] == ["done"] * 16 + ["pending"] * 8
    shards = {path.name: path.read_bytes() for path in (out / "encodings").glob("shard-*.npy")}
    assert len(shards) == 4  # two shards of two methods
    for place in (out, tmp_path / "whole"):
        result = CliRunner().invoke(main, [str(word) for word in [*run, place]])
        assert result.exit_code == 0, result.output
    resumed = store_bytes(out / "encodings")
    assert resumed == store_bytes(tmp_path / "whole" / "encodings")
    assert shards.items() <= resumed.items()


def test_real_network_on_real_pictures(shared_dir: Path, tmp_path: Path) -> None:
    """Scene-15 with the pretrained SqueezeNet: far above chance, and predictions make sense."""
    data, out = shared_dir / "data" / "scene15", tmp_path / "out"
    weights = shared_dir / "data" / "squeezenet" / "compressed_SqueezeNet.net"
    options = ["--scales", "1", "--limit-per-class", "3", "--pooling", "avg,fc7", "--quiet"]
    network = ["--network", "squeezenet", "--weights", weights]
    arguments = ["run", data, "--out", out, *network, *options]
    result = CliRunner().invoke(main, [str(word) for word in arguments])
    assert result.exit_code == 0, result.output
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["weights_sha256"].startswith("e4ab6960ae8cd81505e1c2136921201507e930966c53")
    assert metrics["pictures"] == {"train": 3 * CLASSES, "test": 3 * CLASSES, "skipped": []}
    # Chance is 1/15. One scale of one position: both representations are the same vector.
    assert metrics["results"]["fc7"]["top1"] > 0.6
    assert metrics["results"]["fc7"] == metrics["results"]["avg"]
    picture = next((data / "train" / "forest").iterdir())
    predicted = CliRunner().invoke(main, ["predict", str(out / "model"), str(picture), "--json"])
    assert json.loads(predicted.stdout)[0]["classes"][0]["class"] == "forest"
    found = CliRunner().invoke(main, ["search", str(out / "encodings"), str(picture), "--json"])
    neighbours = json.loads(found.stdout)[0]["neighbours"]
    assert len(neighbours) == 10
    assert neighbours[0]["classes"] == ["forest"]
