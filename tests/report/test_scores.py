"""Scores in files: what they may be written over, and what a killed process leaves."""

import json
from pathlib import Path

import numpy as np
import pytest

from mpp_jax.report import scores as module
from mpp_jax.report.scores import RECORD, ScoresPlace, kit_ids, read_scores

SCORES = {"fc7": np.float32([[1, 2], [3, 4]]), "mpp": np.float32([[0.1, -1e-9], [1e20, 3]])}
TARGETS = np.array([[1, -1], [0, 1]])
IDS = ["a/1.jpg", "b/2.v.jpg"]


def write(place: str, classes: tuple[str, ...] = ("cat", "dog")) -> ScoresPlace:
    found = ScoresPlace.read(place)
    found.write(SCORES, IDS, classes, TARGETS, "mpp")
    return found


def test_numbers_read_back_as_they_were(tmp_path: Path) -> None:
    write(f"{tmp_path}/kit/")
    write(f"{tmp_path}/s.csv")
    write(f"{tmp_path}/s.npz")
    kit = [(tmp_path / f"kit/comp1_cls_test_{c}.txt").read_text() for c in ("cat", "dog")]
    assert kit == ["1 0.1\n2.v 1e+20\n", "1 -1e-09\n2.v 3.0\n"]
    assert (tmp_path / "s.csv").read_text() == (
        "method,id,cat,dog\nmpp,a/1.jpg,0.1,-1e-09\nmpp,b/2.v.jpg,1e+20,3.0\n"
        "fc7,a/1.jpg,1.0,2.0\nfc7,b/2.v.jpg,3.0,4.0\n"
    )
    with np.load(tmp_path / "s.npz") as held:
        assert list(held["methods"]) == ["mpp", "fc7"]
        np.testing.assert_array_equal(held["scores"], [SCORES["mpp"], SCORES["fc7"]])
        np.testing.assert_array_equal(held["targets"], TARGETS)


def test_arrays_are_read_back(tmp_path: Path) -> None:
    write(f"{tmp_path}/s.npz")
    found = read_scores(tmp_path / "s.npz")
    assert (found.ids, found.classes) == (tuple(IDS), ("cat", "dog"))
    assert list(found.scores) == ["mpp", "fc7"]
    np.testing.assert_array_equal(found.scores["fc7"], SCORES["fc7"])
    np.testing.assert_array_equal(found.targets, TARGETS)
    with pytest.raises(FileNotFoundError):
        read_scores(tmp_path / "none.npz")
    held = dict(np.load(tmp_path / "s.npz"))
    content = (tmp_path / "s.npz").read_bytes()
    np.savez(tmp_path / "short.npz", **held | {"ids": held["ids"][:1]})
    np.savez(tmp_path / "other.npz", **held | {"format": np.array("x")})
    (tmp_path / "cut.npz").write_bytes(content[:-30])
    (tmp_path / "flipped.npz").write_bytes(content.replace(np.float32(4).tobytes(), b"abcd"))
    for name in ("short", "other", "cut", "flipped"):
        with pytest.raises(ValueError, match=f"{name}.npz"):
            read_scores(tmp_path / f"{name}.npz")


def test_names_of_any_bytes(tmp_path: Path) -> None:
    name = b"caf\xe9,1.jpg".decode("utf-8", "surrogateescape")
    ScoresPlace.read(f"{tmp_path}/s.csv").write(
        {"mpp": SCORES["mpp"][:1]}, [name], ("cat", "dog"), TARGETS[:1], "mpp"
    )
    assert b'mpp,"caf\xe9,1.jpg",' in (tmp_path / "s.csv").read_bytes()


def test_kit_files_of_other_classes_are_taken_away(tmp_path: Path) -> None:
    """Else the kit would mix two sets; what somebody changed or added stays."""
    write(f"{tmp_path}/kit/", ("cat", "dog"))
    (tmp_path / "kit/comp1_cls_test_eel.txt").write_text("mine")
    write(f"{tmp_path}/kit", ("cat", "cow"))
    names = sorted(file.name for file in (tmp_path / "kit").iterdir())
    assert names == [*(f"comp1_cls_test_{c}.txt" for c in ("cat", "cow", "eel")), RECORD]
    with pytest.raises(ValueError, match=r"comp1_cls_test_eel.txt: is there already"):
        write(f"{tmp_path}/kit", ("cat", "eel"))
    (tmp_path / "kit" / RECORD).write_text("{}")
    with pytest.raises(ValueError, match="was not made by this program"):
        write(f"{tmp_path}/kit", ("cat", "cow"))


def test_a_killed_process_leaves_files_that_are_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(f"{tmp_path}/kit/")
    whole, left = module.write_file, [2]  # the record and one file

    def killed(path: Path, content: bytes) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        whole(path, content)

    monkeypatch.setattr(module, "write_file", killed)
    monkeypatch.setitem(SCORES, "mpp", SCORES["mpp"] + 1)
    with pytest.raises(KeyboardInterrupt):
        write(f"{tmp_path}/kit/")
    monkeypatch.setattr(module, "write_file", whole)
    write(f"{tmp_path}/kit/")
    record = json.loads((tmp_path / "kit" / RECORD).read_text())
    assert {name: len(digests) for name, digests in record["files"].items()} == {
        "comp1_cls_test_cat.txt": 1,
        "comp1_cls_test_dog.txt": 1,
    }


@pytest.mark.parametrize(
    ("ids", "classes", "said"),
    [
        (["a/1.jpg", "b/1.png"], ["cat"], "'a/1.jpg' and 'b/1.png' would both be '1'"),
        (["a b.jpg"], ["cat"], "has blanks"),
        (["1.jpg"], ["a/b"], "class 'a/b' cannot be a part of a file's name"),
    ],
)
def test_names_that_the_kit_cannot_have(ids: list[str], classes: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        kit_ids(ids, classes)
