"""The activations on disk: what is computed once, what is never met again, what damage does."""

import json
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.decode_samples import encoded
from helpers.toy import TOY, picture, toy_network
from helpers.toy_run import CONFIG, know_toy
from PIL import Image

from mpp_jax.data import DecodeError, Item, batches
from mpp_jax.describe import disk_cache, shards
from mpp_jax.describe.disk_cache import DiskCache
from mpp_jax.describe.pyramid import receptive_windows
from mpp_jax.describe.shards import Shards
from mpp_jax.describe.wants import Wanted

NETWORK = toy_network()
PYRAMID = CONFIG.pyramid
WANTS = {"default": Wanted((0, 2), ((5, True),)), "conv1": Wanted((1,))}
COLOUR = (200, 60, 50)


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    know_toy(monkeypatch)
    monkeypatch.setattr(disk_cache, "BLOCK", 3)


def items(count: int = 5, seed: int = 1) -> list[Item]:
    rng = np.random.default_rng(seed)
    made = [picture(rng, COLOUR, *rng.integers(30, 90, 2)) for _ in range(count)]
    return [Item(f"{i}", (0,), "train", read=lambda p=p: p) for i, p in enumerate(made)]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, dict]]:
    """What the network is asked for: (pictures, wants)."""
    asked: list[tuple[int, dict]] = []
    describe = disk_cache.describe_items

    def watched(network: Any, block: Any, pyramid: Any, *, wants: Any, on_skip: Any) -> Any:
        asked.append((len(block), wants))
        return describe(network, block, pyramid, wants=wants, on_skip=on_skip)

    monkeypatch.setattr(disk_cache, "describe_items", watched)
    return asked


def read(cache: DiskCache, pictures: list[Item], wants: Any = None, skips: Any = None) -> Any:
    """{(source, part): (n, T, C)} in the order of the pictures."""
    parts: dict[Any, dict[int, np.ndarray]] = {}
    wants = WANTS if wants is None else wants
    for described in cache.describe(pictures, wants, ([] if skips is None else skips).append):
        for source, want in wants.items():
            found = described.sources[source]
            arrays = dict(zip(want.scales, (d.x for d in found.scales), strict=True)) | found.crops
            for part, x in arrays.items():
                for row, position in enumerate(described.index):
                    if position >= 0:
                        parts.setdefault((source, part), {})[int(position)] = np.asarray(x[row])
    return {key: np.stack([rows[i] for i in sorted(rows)]) for key, rows in parts.items()}


def test_computed_once_and_rounded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = counted(monkeypatch)
    cache, pictures = DiskCache(tmp_path / "cache", NETWORK, PYRAMID), items()
    first = read(cache, pictures)
    assert [n for n, _ in asked] == [3, 2]
    shapes = {key: x.shape for key, x in first.items()}
    assert shapes == {
        ("default", 0): (5, 1, 16),
        ("default", 2): (5, 25, 16),
        ("default", (5, True)): (5, 10, 16),
        ("conv1", 1): (5, TOY.positions(50, "conv1") ** 2, 8),
    }
    # The pass that computes gives what the file gives: the result does not depend on who was here.
    again = read(DiskCache(tmp_path / "cache", NETWORK, PYRAMID), pictures)
    assert len(asked) == 2
    for key, x in first.items():
        np.testing.assert_array_equal(x, again[key])
        np.testing.assert_array_equal(x, x.astype(np.float16))
    direct = {}
    for described in disk_cache.describe_items(
        NETWORK, pictures, CONFIG.pyramid, wants=WANTS, on_skip=print
    ):
        direct[int(described.index[0])] = described.sources["default"].scales[1].x[0]
    exact = np.stack([direct[i] for i in range(5)])
    np.testing.assert_allclose(first["default", 2], exact, rtol=6e-4, atol=1e-6)


def test_windows_and_masks(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, NETWORK, replace(PYRAMID, batch=3))
    batches = list(cache.describe(items(4), {"default": Wanted((2,))}, print))
    layer = TOY.layer()
    for described, wanted in zip(batches, ([0, 1, 2], [3, -1, -1]), strict=True):
        (scale,) = described.sources["default"].scales
        assert described.index.tolist() == wanted
        assert np.asarray(scale.mask).all(axis=1).tolist() == [i >= 0 for i in wanted]
        np.testing.assert_allclose(
            scale.window, receptive_windows(5, layer.stride, layer.window, 70), atol=1e-6
        )


def test_only_what_is_missing_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = counted(monkeypatch)
    cache, pictures = DiskCache(tmp_path, NETWORK, PYRAMID), items()
    read(cache, pictures, {"default": Wanted((0, 1))})
    asked.clear()
    read(cache, pictures, {"default": Wanted((0, 1, 2))})
    assert asked == [(n, {"default": Wanted((2,))}) for n in (3, 2)]
    asked.clear()
    # A picture changes, and another comes: only they, wherever they stand.
    new = items(2, seed=9)
    changed = [new[0], *pictures[2:4], new[1], *pictures[:2]]
    parts = read(cache, changed, {"default": Wanted((0,))})
    assert [n for n, _ in asked] == [1, 1]
    asked.clear()
    order = [changed.index(pictures[i]) for i in (2, 3, 0, 1)]
    before = read(cache, pictures, {"default": Wanted((0,))})["default", 0]
    np.testing.assert_array_equal(parts["default", 0][order], before[[2, 3, 0, 1]])
    # Some of a block miss one part, others another.
    read(cache, changed[:3], {"default": Wanted((0, 1, 2))})
    assert asked == [(1, {"default": Wanted((1, 2))})]
    asked.clear()
    # Names and labels are nothing to activations.
    renamed = [replace(item, id=f"x{item.id}", labels=(3,), split="test") for item in pictures]
    read(cache, renamed, {"default": Wanted((0, 2))})
    assert asked == []


@pytest.mark.parametrize(
    "change",
    [
        lambda n, p: (replace(n, weights_sha256="f" * 64), p),
        lambda n, p: (replace(n, spec=replace(n.spec, name="other")), p),
        lambda n, p: (replace(n, spec=n.spec.with_pooling("floor")), p),
        lambda n, p: (replace(n, precision="default"), p),
        lambda n, p: (n, replace(p, layer="conv1")),
        lambda n, p: (n, replace(p, rounding="round")),
        lambda n, p: (n, replace(p, resampling="bicubic")),
    ],
)
def test_another_key_never_meets_it(tmp_path: Path, monkeypatch: Any, change: Any) -> None:
    asked = counted(monkeypatch)
    pictures, wants = items(2), {"default": Wanted((1,))}
    read(DiskCache(tmp_path, NETWORK, PYRAMID), pictures, wants)
    read(DiskCache(tmp_path, NETWORK, PYRAMID), pictures, wants)
    assert len(asked) == 1
    read(DiskCache(tmp_path, *change(NETWORK, PYRAMID)), pictures, wants)
    assert len(asked) == 2
    keys = [json.loads(place.read_text()) for place in tmp_path.glob("*/key.json")]
    assert len(keys) == 2
    assert keys[0] != keys[1]


def test_what_is_not_in_the_key_shares_it(tmp_path: Path, monkeypatch: Any) -> None:
    asked = counted(monkeypatch)
    pictures, wants = items(2), {"default": Wanted((1,))}
    read(DiskCache(tmp_path, NETWORK, PYRAMID), pictures, wants)
    other = replace(PYRAMID, scales=(0, 1, 2, 3), batch=2)
    read(DiskCache(tmp_path, NETWORK, other), pictures, wants)
    # The run's own layer by its name, too.
    read(DiskCache(tmp_path, NETWORK, other), pictures, {"fire2": Wanted((1,))})
    assert len(asked) == 1


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def halve(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        *((suffix, halve) for suffix in ("npy", "json")),
        *(("npy", partial(flip, place=place)) for place in (0, 60, 300, -1)),
        *(("json", partial(flip, place=place)) for place in (1, 20, 100, -20)),
        *((suffix, Path.unlink) for suffix in ("npy", "json")),
    ],
)
def test_damage_is_computed_again(
    tmp_path: Path, monkeypatch: Any, suffix: str, damage: Any
) -> None:
    asked = counted(monkeypatch)
    pictures, wants = items(2), {"default": Wanted((1,))}
    first = read(DiskCache(tmp_path, NETWORK, PYRAMID), pictures, wants)["default", 1]
    for file in tmp_path.glob(f"*/*.{suffix}"):
        if file.name != "key.json":
            damage(file)
    again = read(DiskCache(tmp_path, NETWORK, PYRAMID), pictures, wants)["default", 1]
    assert len(asked) == 2
    np.testing.assert_array_equal(first, again)
    read(DiskCache(tmp_path, NETWORK, PYRAMID), pictures, wants)
    assert len(asked) == 2  # and is whole again


def test_pictures_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    good = items(3)
    bad = Item("broken", (0,), "train", path=tmp_path / "broken.jpg")
    gone = Item("gone", (0,), "train", path=tmp_path / "gone.jpg")
    pictures = [good[0], bad, good[1], gone, good[2]]
    for _ in range(2):  # computed, then read
        skips: list[Any] = []
        parts = read(DiskCache(tmp_path / "cache", NETWORK, PYRAMID), pictures, None, skips)
        assert len(parts["default", 2]) == 3
        assert [entry.path for entry in skips] == ["broken", "gone"]
        # Positions are within the pictures given, not within a block.
        assert [pictures[entry.position].id for entry in skips] == ["broken", "gone"]
        assert all(entry.reason for entry in skips)
    # Once the file is there it is read.
    (tmp_path / "gone.jpg").write_bytes(encoded(Image.new("RGB", (40, 50), COLOUR), "PNG"))
    skips = []
    parts = read(DiskCache(tmp_path / "cache", NETWORK, PYRAMID), pictures, None, skips)
    assert len(parts["default", 2]) == 4
    assert [entry.path for entry in skips] == ["broken"]


def test_what_is_decoded_is_what_the_digest_was_taken_of(tmp_path: Path, monkeypatch: Any) -> None:
    asked = counted(monkeypatch)
    first, second = items(2)
    contents = [first.source(), second.source(), second.source()]
    changing = Item("changing", (0,), "train", read=lambda: contents.pop(0))
    found = read(DiskCache(tmp_path, NETWORK, PYRAMID), [changing])
    assert len(contents) == 2  # read once
    again = read(DiskCache(tmp_path, NETWORK, PYRAMID), [first])
    assert len(asked) == 1
    np.testing.assert_array_equal(found["default", 2], again["default", 2])
    later = read(DiskCache(tmp_path, NETWORK, PYRAMID), [changing])
    assert len(asked) == 2
    assert (later["default", 2] != found["default", 2]).any()


def test_large_contents_are_not_held_together(tmp_path: Path, monkeypatch: Any) -> None:
    asked = counted(monkeypatch)
    monkeypatch.setattr(disk_cache, "HELD_BYTES", 1)
    read(DiskCache(tmp_path, NETWORK, PYRAMID), items(3))
    assert [n for n, _ in asked] == [1, 1, 1]


def failing_once(monkeypatch: pytest.MonkeyPatch, error: DecodeError) -> None:
    """Let the decoder fail at its next picture."""
    decode = batches.decode_picture
    errors = [error]

    def maybe(source: Any, *, max_side: int) -> np.ndarray:
        if errors:
            raise errors.pop()
        return decode(source, max_side=max_side)

    monkeypatch.setattr(batches, "decode_picture", maybe)


def test_only_what_is_broken_for_good_is_remembered(tmp_path: Path, monkeypatch: Any) -> None:
    asked = counted(monkeypatch)
    data = encoded(Image.new("RGB", (40, 50), COLOUR), "PNG")
    sound = [Item("a", (0,), "train", read=lambda: data)]
    reasons = ["not enough memory to decode it", "AVIF, which this Pillow does not read"]
    for number, reason in enumerate(reasons):
        cache = tmp_path / str(number)
        failing_once(monkeypatch, DecodeError("a", reason))
        skips: list[Any] = []
        assert read(DiskCache(cache, NETWORK, PYRAMID), sound, None, skips) == {}
        assert [skip.reason for skip in skips] == [reason]
        assert len(read(DiskCache(cache, NETWORK, PYRAMID), sound)["default", 2]) == 1
        # Within one cache, too.
        failing_once(monkeypatch, DecodeError("a", reason))
        one = DiskCache(tmp_path / f"{number} again", NETWORK, PYRAMID)
        assert read(one, sound) == {}
        assert len(read(one, sound)["default", 2]) == 1
    asked.clear()
    broken = [Item("b", (0,), "train", read=lambda: data[:60])]
    for _ in range(2):
        skips = []
        assert read(DiskCache(tmp_path / "broken", NETWORK, PYRAMID), broken, None, skips) == {}
        assert "truncated" in skips[0].reason
        assert len(asked) == 1
    # Another decoder may know better.
    monkeypatch.setattr(shards, "decoder_version", lambda: "pillow 99.0")
    read(DiskCache(tmp_path / "broken", NETWORK, PYRAMID), broken)
    assert len(asked) == 2


def test_a_file_that_cannot_be_read_for_a_while(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.new("RGB", (40, 50), COLOUR), "PNG"))
    pictures = [Item("a.png", (0,), "train", path=path), *items(1)]

    def fail(path: Any) -> bytes:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(disk_cache, "read_picture", fail)
        skips: list[Any] = []
        found = read(DiskCache(tmp_path / "cache", NETWORK, PYRAMID), pictures, None, skips)
        assert len(found["default", 2]) == 1
        assert [(s.path, s.reason) for s in skips] == [
            ("a.png", "cannot be read (Input/output error)")
        ]
    assert len(read(DiskCache(tmp_path / "cache", NETWORK, PYRAMID), pictures)["default", 2]) == 2


def test_a_pipe_among_the_pictures_is_skipped(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    skips: list[Any] = []
    pictures = [Item("pipe.jpg", (0,), "train", path=tmp_path / "pipe.jpg"), *items(1)]
    found = read(DiskCache(tmp_path / "cache", NETWORK, PYRAMID), pictures, None, skips)
    assert len(found["default", 2]) == 1
    assert "named pipe" in skips[0].reason


def test_removed_or_spoilt_in_the_middle(tmp_path: Path) -> None:
    pictures = items(5)
    wants = {"default": Wanted((2,))}
    whole = read(DiskCache(tmp_path / "one", NETWORK, PYRAMID), pictures, wants)["default", 2]
    for spoil in (remove_all, flip_all):
        place = tmp_path / spoil.__name__
        read(DiskCache(place, NETWORK, PYRAMID), pictures, wants)
        found: dict[int, np.ndarray] = {}
        for described in DiskCache(place, NETWORK, PYRAMID).describe(pictures, wants, print):
            for row, position in enumerate(described.index):
                if position >= 0:
                    found[int(position)] = np.asarray(described.sources["default"].scales[0].x[row])
            if len(found) < 4:
                spoil(place)
        np.testing.assert_array_equal(np.stack([found[i] for i in range(5)]), whole)


def test_a_folder_that_does_not_keep_what_is_written(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(Shards, "activations", lose)
    with pytest.raises(ValueError, match="what is written there is not what is read from it"):
        read(DiskCache(tmp_path, NETWORK, PYRAMID), items(1))


def lose(self: Shards, digest: str) -> np.ndarray:
    raise shards.LostError(digest)


def remove_all(place: Path) -> None:
    shutil.rmtree(place)


def flip_all(place: Path) -> None:
    for file in place.glob("*/*.npy"):
        flip(file, -3)


def test_records_that_cannot_be_read(tmp_path: Path) -> None:
    def fail() -> bytes:
        raise DecodeError("record 3", "cannot be read: checksum")

    pictures = [*items(1), Item("record", (0,), "train", read=fail)]
    skips: list[Any] = []
    read(DiskCache(tmp_path, NETWORK, PYRAMID), pictures, None, skips)
    [skip] = skips
    assert skip.path == "record"
    assert "checksum" in skip.reason


def test_beyond_float16_is_refused(tmp_path: Path) -> None:
    loud = replace(
        NETWORK,
        params={
            **NETWORK.params,
            "conv1": {name: leaf * 1e8 for name, leaf in NETWORK.params["conv1"].items()},
        },
    )
    with pytest.raises(ValueError, match="beyond float16; run without --cache"):
        read(DiskCache(tmp_path, loud, PYRAMID), items(1))
