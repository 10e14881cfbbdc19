"""Bad pictures, refusals in one line, interruption, exit statuses."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import toy
from helpers.toy_cli import EASY, cli, ok, refused, tiny
from helpers.toy_run import (
    OPTIONS,
    Finished,
    tree_bytes,
)
from PIL import Image

from mpp_jax.storage.store import Store

pytestmark = pytest.mark.usefixtures("toy_known")


# ------------------------------------------------------------------------------ bad pictures


def write_bad_pictures(folder: Path, width: int) -> tuple[set[str], dict[str, str]]:
    """Write every kind of odd file, one of them so many pixels wide.

    Returns names that must work, and the others with their reasons.
    """
    rng = np.random.default_rng(0)
    pixels = toy.picture(rng, toy.COLOURS["red"], 40, 50)
    rgb = Image.fromarray(pixels)
    grey16 = rng.integers(0, 65536, (40, 50)).astype(np.uint16)
    before = {path.name for path in folder.iterdir()}
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb.convert("CMYK").save(folder / "cmyk.jpg")
    rgb.convert("L").save(folder / "grey.png")
    rgb.quantize(16).save(folder / "palette.png")
    rgb.convert("RGBA").save(folder / "rgba.png")
    Image.fromarray(grey16).save(folder / "grey16.png")
    rgb.save(folder / "rotated.jpg", exif=exif)
    Image.fromarray(pixels[:1, :1]).save(folder / "one.png")
    Image.fromarray(np.tile(pixels[:2], (1, width // 50, 1))).save(folder / "wide.png")
    rgb.save(folder / "misnamed.jpg", format="PNG")
    works = {path.name for path in folder.iterdir()} - before
    whole = (folder / "rotated.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("no picture at all")
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    return works, {
        "empty.jpg": "empty file (0 bytes)",
        "gone.jpg": "no such file",
        "text.jpg": "not a picture in a known format",
        "truncated.jpg": "truncated or damaged",
    }


def test_every_bad_picture_at_once(done: Finished, tmp_path: Path) -> None:
    data, out = tiny(tmp_path / "data", train=8, test=2), tmp_path / "out"
    expected = {}
    for split, width in (("train", 20_000), ("test", 400)):
        works, reasons = write_bad_pictures(data / split / "red", width)
        expected |= {f"{split}/red/{name}": reason for name, reason in reasons.items()}
    (data / "train" / "empty-class").mkdir()
    weights = ("--weights", done.weights)
    result = cli("run", data, "--out", out, *OPTIONS, *weights, "--pooling", "mpp,ap10", "--quiet")
    assert result.exit_code == 1
    store = Store.open(out / "encodings")
    statuses = {item.id: item.status for item in store.all_items}
    for split in ("train", "test"):
        assert {statuses[f"{split}/red/{name}"] for name in works} == {"done"}
    for method in ("mpp", "ap10"):
        norms = np.linalg.norm(store.vectors(method, "train"), axis=1)
        np.testing.assert_allclose(norms, 1, atol=1e-4)
    # On standard error, in metrics.json and in the report: each with its reason.
    skipped = json.loads((out / "metrics.json").read_text())["pictures"]["skipped"]
    pairs = [(entry["path"], entry["reason"]) for entry in skipped]
    assert result.stderr.splitlines() == [f"skipped {path}: {reason}" for path, reason in pairs]
    report = (out / "report.html").read_text()
    reasons = dict(pairs)
    assert "class 'empty-class' without any picture" in reasons.pop("data")
    assert set(reasons) == set(expected)
    for path, reason in expected.items():
        assert reason in reasons[path]
        assert f"<code>{path}</code>" in report
    counts = json.loads((out / "metrics.json").read_text())["pictures"]
    assert (counts["train"], counts["test"]) == (24 + len(works), 6 + len(works))
    # The parts say so as well.
    fit = cli("fit", data, "--out", tmp_path / "book", *OPTIONS, *weights, "--quiet")
    told = [line for line in result.stderr.splitlines() if "test/red/" not in line]
    assert (fit.exit_code, fit.stderr.splitlines()) == (1, told)
    encode = ("encode", data, "--codebook", out / "codebook", "--pooling", "mpp")
    again = cli(*encode, "--out", tmp_path / "store", "--quiet")
    assert (again.exit_code, again.stderr) == (1, result.stderr)
    model = cli("evaluate", out / "model", out / "encodings", "--out", tmp_path / "e", "--quiet")
    assert model.exit_code == 1
    assert [line for line in model.stderr.splitlines() if "/red/" not in line] == []


def test_file_names_need_not_be_utf8(done: Finished, tmp_path: Path) -> None:
    data, out = tiny(tmp_path / "data"), tmp_path / "out"
    odd = data / "train" / "red" / os.fsdecode(b"caf\xe9.png")
    try:
        (data / "train" / "red" / "00.png").rename(odd)
    except OSError:
        pytest.skip("this file system takes no such names")
    (data / "test" / "red" / os.fsdecode(b"bad\xe9.png")).write_bytes(b"")
    result = cli("run", data, "--out", out, *EASY, "--weights", done.weights, "--quiet")
    assert result.exit_code == 1
    assert result.stderr == "skipped test/red/bad\\udce9.png: empty file (0 bytes)\n"
    found = ok("search", out / "encodings", odd, "--top", 1).stdout
    assert "train/red/caf\\udce9.png" in found.splitlines()[1]
    assert ok("predict", out / "model", odd).stdout.startswith(str(data / "train/red/caf\\udce9"))
    (entry,) = json.loads(ok("predict", out / "model", odd, "--json").stdout)
    assert entry["path"] == str(odd)


def test_a_class_of_which_nothing_can_be_read(done: Finished, tmp_path: Path) -> None:
    """The encodings are kept, and the reasons are told before the error."""
    data, out = tiny(tmp_path / "data"), tmp_path / "out"
    for path in (data / "train" / "blue").iterdir():
        path.write_bytes(b"")
    run = ("run", data, "--out", out, *EASY, "--weights", done.weights, "--quiet")
    result = cli(*run)
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert lines[0].startswith("skipped train/blue/00.png: empty file")
    assert lines[2].startswith("error: class 'blue' has no training picture that could be read")
    assert Store.open(out / "encodings").items("test")
    for path in (data / "test").rglob("*.png"):
        path.write_bytes(b"")
    assert "no test picture could be read" not in result.stderr
    for path in (data / "train" / "blue").iterdir():
        shutil.copy(data / "train" / "red" / path.name, path)
    result = cli(*run[:3], tmp_path / "other", *run[4:])
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("error: no test picture could be read")
    assert (tmp_path / "other" / "model" / "record.json").is_file()


def test_mended_pictures_are_read_by_the_same_command(done: Finished, tmp_path: Path) -> None:
    """What the error advises helps, and what is said afterwards is true of the files by then."""
    data, out = tiny(tmp_path / "data"), tmp_path / "out"
    kept = shutil.copytree(data / "train" / "blue", tmp_path / "kept")
    for path in (data / "train" / "blue").iterdir():
        path.write_bytes(b"")
    run = ("run", data, "--out", out, *EASY, "--weights", done.weights, "--quiet")
    result = cli(*run)
    assert result.exit_code == 2
    # Not that of another class, which has all pictures that are left.
    assert "error: class 'blue' has no training picture" in result.stderr.splitlines()[-1]
    shutil.copy(kept / "00.png", data / "train" / "blue")
    result = cli(*run)
    assert result.exit_code == 1
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == [
        f"skipped train/blue/{path.name}" for path in sorted(kept.iterdir())[1:]
    ]
    shutil.copytree(kept, data / "train" / "blue", dirs_exist_ok=True)
    result = cli(*run)
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads((out / "metrics.json").read_text())["pictures"]["skipped"] == []


# ------------------------------------------------------------------------------ refusals


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tiny(tmp_path / "data")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scales", "0"], "'--scales': '0': write scales as 1-7, 3 or 1,2,4-6"),
        (["--scales", "3-1"], "write scales as"),
        (["--scales", "1-99"], "write scales as"),
        (["--scales", "one"], "write scales as"),
        (["--scales", ""], "write scales as"),
        (["--pooling", "map"], "pooling: no variant 'map'; there are ap1, ap10"),
        (["--pooling", "avg,avg"], "pooling must name different representations"),
        (["--pooling", "avg+avg"], "'avg+avg' stacks a representation with itself"),
        (["--pooling", ","], "name at least one representation"),
        (["--network", "resnet"], "network: 'resnet' is unknown; take one of"),
        (["--layer", "conv7"], "network 'toy' has no layer 'conv7'"),
        (["--scales", "2-3", "--pooling", "fc7"], "'fc7' reads scale 1, which is not among 2, 3"),
        (["--pooling", "mpp", "--components", "999"], "--components 999; use more pictures"),
        (["--pooling", "mpp", "--pca", "17"], "cannot fit --pca 17"),
        (["--components", "0"], "Invalid value for '--components'"),
        (["--c", "0"], "Invalid value for '--c'"),
        (["--seed", "-1"], "Invalid value for '--seed'"),
        (["--test-fraction", "1"], "Invalid value for '--test-fraction'"),
        (["--limit-per-class", "0"], "Invalid value for '--limit-per-class'"),
        (["--dtype", "float64"], "Invalid value for '--dtype'"),
        (["--colour", "red"], "No such option '--colour'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_options(
    done: Finished, data: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    out = tmp_path / "out"
    line = refused("run", data, "--out", out, *EASY, "--weights", done.weights, *arguments)
    assert message in line.replace("No such option: ", "No such option ").replace("‘", "'")
    assert not out.exists()


def test_bad_data(done: Finished, data: Path, tmp_path: Path) -> None:
    end = ("--out", tmp_path / "out", *EASY, "--weights", done.weights)
    assert "nowhere: no such folder or list file" in refused("run", tmp_path / "nowhere", *end)
    assert "Missing option '--out'" in refused("run", data)
    (data / "test" / "violet").mkdir()
    shutil.copy(data / "test/red/00.png", data / "test/violet")
    line = refused("run", data, *end)
    assert "test has class 'violet', of which training has no picture" in line
    one = toy.write_folder(tmp_path / "one", train=1, test=0, classes=["red"])
    assert "no test picture, so there is nothing to evaluate" in refused("run", one / "train", *end)
    single = tiny(tmp_path / "single", classes=["red"])
    assert "class 'red' is that of every training picture" in refused("run", single, *end)
    assert not (tmp_path / "out").exists()
    (tmp_path / "bad.csv").write_text("a.png,red\n")
    assert "line 1: 2 column(s) instead of 3" in refused("run", tmp_path / "bad.csv", *end)


def test_bad_weights(done: Finished, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def weights(place: Path) -> str:
        return refused("run", data, "--out", out, *EASY, "--weights", place)

    assert "none.net: No such file or directory; give the path" in weights(tmp_path / "none.net")
    (tmp_path / "text.net").write_text("no weights here")
    assert "text.net: not a weight file of a known format" in weights(tmp_path / "text.net")
    (tmp_path / "cut.net").write_bytes(done.weights.read_bytes()[:-5])
    assert "cut.net: the safetensors file is truncated" in weights(tmp_path / "cut.net")
    from safetensors.numpy import save_file

    arrays = toy.weight_arrays(done.network)
    arrays["conv1/bias"][3] = np.nan
    save_file(arrays, tmp_path / "nan.net")
    assert "'conv1/bias' holds values that are not finite" in weights(tmp_path / "nan.net")
    arrays["conv1/bias"][3] = 3e38
    save_file(arrays, tmp_path / "huge.net")
    run = ("run", data, "--out", out, *OPTIONS, "--components", "2", "--pooling", "mpp,avg")
    assert "the network overflows; check its weight file" in refused(
        *run, "--weights", tmp_path / "huge.net"
    )
    del arrays["conv1/bias"]
    save_file(arrays, tmp_path / "part.net")
    assert "does not fit network 'toy'" in weights(tmp_path / "part.net")
    assert not out.exists()


def test_bad_folders(done: Finished, data: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("private")
    before = tree_bytes(tmp_path)
    run = ("run", data, *EASY, "--weights", done.weights, "--out")
    assert "mine: not empty, and no earlier run" in refused(*run, tmp_path / "mine")
    assert "diary.txt: is a file" in refused(*run, tmp_path / "mine/diary.txt")
    assert "no encodings here" in refused("train", tmp_path / "mine", "--out", tmp_path / "m")
    assert "no model" in refused("predict", tmp_path / "mine", "a.jpg")
    assert "no codebook" in refused(
        *("encode", data, "--codebook", tmp_path / "mine", "--out", tmp_path / "s")
    )
    assert "no model" in refused(
        *("evaluate", tmp_path / "none", done.store.path, "--out", tmp_path / "e")
    )
    model = done.out / "model"
    assert "the model knows mpp, nfk" in refused("predict", model, "a.jpg", "--method", "vlad")
    other = toy.write_weights(tmp_path / "other.safetensors", seed=1)
    assert "give the same file with --weights" in refused(
        "predict", model, "a.jpg", "--weights", other
    )
    other.unlink()
    assert tree_bytes(tmp_path) == before


@pytest.mark.parametrize("command", ["run", "fit", "encode", "evaluate", "demo"])
def test_nothing_is_written_among_the_pictures(
    done: Finished, data: Path, tmp_path: Path, command: str
) -> None:
    """The next time it would be a class, or some of one's pictures."""
    rest = {
        "run": (data, "--weights", done.weights, *EASY),
        "fit": (data, "--weights", done.weights, *OPTIONS),
        "encode": (data, "--codebook", done.out / "codebook"),
        "evaluate": (done.out / "model", done.store.path, "--data", data),
        "demo": ("--data", data),
    }[command]
    before = tree_bytes(data)
    for place in (data / "train" / "out", data / "test" / "red", data):
        assert "lies among the pictures" in refused(command, *rest, "--out", place)
    if command in ("run", "fit", "encode"):
        cache = ("--cache", data / "train" / "cache")
        assert "train/cache: lies among" in refused(command, *rest, "--out", tmp_path / "o", *cache)
    assert tree_bytes(data) == before


def test_a_run_may_lie_beside_train_and_test(
    done: Finished, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data)
    for _ in range(2):
        ok("run", ".", "--out", "out", *EASY, "--weights", done.weights)
    monkeypatch.chdir(data / "train")
    run = ("run", ".", "--out", "out", *EASY, "--weights", done.weights)
    assert "out: lies among the pictures of ." in refused(*run)


def test_another_split_is_noted(done: Finished, tmp_path: Path) -> None:
    """A codebook may serve other pictures than its own, but not unsaid."""
    encode = ("encode", done.data, "--codebook", done.out / "codebook", "--pooling", "avg")
    fewer = ok(*encode, "--out", tmp_path / "a", "--limit-per-class", 2)
    assert "was fitted to other training pictures than these" in fewer.stderr
    assert "other training pictures" not in ok(*encode, "--out", tmp_path / "b").stderr
