"""Activations on disk: one pass of the network serves every variant and every PCA and mixture.

Layout::

    CACHE/<key>/key.json      what the activations are of, in clear
    CACHE/<key>/<shard>.npy   float16 (n, T, C): one scale, or one set of crops, of n pictures
    CACHE/<key>/<shard>.json  {"pictures": [SHA-256 of a picture's content, ...],
                               "rows": [its row in the shard, or null, ...],
                               "reasons": [null, or why it could not be decoded, ...]}

``<key>`` is a digest of ``key.json``: network, weights' SHA-256, layer, scale or crops, side,
resize, dtype, precision and kind of device. Pictures are found by their content, in whatever order,
split or selection they come. So whatever changes, a stale entry is never met; it is only of no use
any more, and the folder may be removed at any time. Reading a picture to hash it costs little
beside the network.

Activations are rounded to float16 (relative error 5e-4) before anything reads them, in the pass
that writes them too: results do not depend on what was there.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mpp_jax.config import Pyramid
from mpp_jax.data import DecodeError, Item, Skipped
from mpp_jax.describe.dense import Activations, Crops, Descriptors, describer
from mpp_jax.describe.extraction import (
    Described,
    Wanted,
    Wants,
    batch_size,
    describe_items,
    source_layer,
)
from mpp_jax.describe.pyramid import receptive_windows, scale_side
from mpp_jax.files import write_file
from mpp_jax.nets import Network
from mpp_jax.nets.registry import PACKAGED

VERSION = 1
KEY = "key.json"
BLOCK = 64
"""Pictures of a shard: what an interruption loses at most."""
OPEN_SHARDS = 64

Part = tuple[str, int | Crops]
"""(source, scale or crops)."""
Place = tuple[str, int] | str
"""(shard, row) of a picture, or why it could not be decoded."""


class DiskCache:
    """The stored activations of one network and pyramid: an `ActivationSource`."""

    def __init__(self, folder: Path, network: Network, pyramid: Pyramid) -> None:
        """Use (and make, when there is something to keep) a folder."""
        self._folder = folder
        self._network = network
        self._pyramid = pyramid
        self._indices: dict[Part, dict[str, Place]] = {}
        self._shards: dict[tuple[Part, str], np.ndarray] = {}

    def describe(
        self, items: Sequence[Item], wants: Wants, on_skip: Callable[[Skipped], object]
    ) -> Iterator[Described]:
        """Yield what is wanted of pictures, computing and keeping what is not there.

        Raises:
            ValueError: activations beyond float16's range.
        """
        for start in range(0, len(items), BLOCK):
            block = items[start : start + BLOCK]
            digests = [picture_digest(item) for item in block]
            self._complete(block, digests, wants)
            yield from self._read(digests, wants, start)
            for position, digest in enumerate(digests):
                reason = self._reason(digest, wants)
                if reason is not None:
                    on_skip(Skipped(start + position, block[position].id, reason))

    def key(self, part: Part) -> dict[str, Any]:
        """Return everything that decides a part, as JSON values."""
        source, what = part
        network = describer(self._network, source)
        pyramid, spec = self._pyramid, network.spec
        side = scale_side(spec.side, what, pyramid.rounding) if isinstance(what, int) else spec.side
        users = {} if spec.name in PACKAGED else {"description": repr(spec)}
        return users | {
            "version": VERSION,
            "network": spec.name,
            "weights_sha256": network.weights_sha256,
            "pooling": spec.pooling,
            "layer": source_layer(spec, source, pyramid),
            "scale": what if isinstance(what, int) else None,
            "crops": None if isinstance(what, int) else list(what),
            "side": side,
            "resampling": pyramid.resampling,
            "dtype": str(jnp.dtype(network.dtype)),
            "precision": network.precision,
            "device": jax.default_backend(),
        }

    def _place(self, part: Part) -> Path:
        text = json.dumps(self.key(part), sort_keys=True)
        return self._folder / hashlib.sha256(text.encode()).hexdigest()[:16]

    def _index(self, part: Part) -> dict[str, Place]:
        """Return where every picture is; read from the folder the first time."""
        if part not in self._indices:
            found: dict[str, Place] = {}
            for file in sorted(self._place(part).glob("*.json")):
                if file.name != KEY:
                    found |= _read_shard_index(file)
            self._indices[part] = found
        return self._indices[part]

    def _reason(self, digest: str, wants: Wants) -> str | None:
        places = (self._index(part)[digest] for part in _parts(wants))
        return next((place for place in places if isinstance(place, str)), None)

    def _complete(self, block: Sequence[Item], digests: list[str], wants: Wants) -> None:
        """Compute what is missing of the pictures of a block, those together that miss the same."""
        groups: dict[tuple[Part, ...], list[int]] = {}
        for position, digest in enumerate(digests):
            missing = tuple(part for part in _parts(wants) if digest not in self._index(part))
            if missing:
                groups.setdefault(missing, []).append(position)
        for parts, positions in groups.items():
            self._compute([block[i] for i in positions], [digests[i] for i in positions], parts)

    def _compute(self, items: Sequence[Item], digests: list[str], parts: Sequence[Part]) -> None:
        wants: Wants = {}
        for source in dict.fromkeys(source for source, _ in parts):
            mine = [what for other, what in parts if other == source]
            scales = tuple(what for what in mine if isinstance(what, int))
            wants[source] = Wanted(scales, tuple(w for w in mine if not isinstance(w, int)))
        skipped: list[Skipped] = []
        found: dict[Part, dict[int, np.ndarray]] = {part: {} for part in parts}
        for described in describe_items(
            self._network, items, self._pyramid, wants=wants, on_skip=skipped.append
        ):
            for part, x in _arrays(described, wants).items():
                values = np.asarray(x, np.float32)
                for row, position in enumerate(described.index):
                    if position >= 0:
                        found[part][int(position)] = _half(values[row], part)
        reasons: list[str | None] = [None] * len(items)
        for entry in skipped:
            reasons[entry.position] = entry.reason
        shard = hashlib.sha256("".join(digests).encode()).hexdigest()[:32]
        for part, rows in found.items():
            self._write(part, shard, digests, reasons, rows)

    def _write(
        self,
        part: Part,
        shard: str,
        digests: list[str],
        reasons: list[str | None],
        rows: dict[int, np.ndarray],
    ) -> None:
        place = self._place(part)
        place.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.key(part), indent=1) + "\n"
        (place / KEY).write_text(text, encoding="utf-8")
        order = sorted(rows)
        numbers = {position: row for row, position in enumerate(order)}
        record = {
            "pictures": digests,
            "rows": [numbers.get(position) for position in range(len(digests))],
            "reasons": reasons,
        }
        if order:
            array = np.stack([rows[position] for position in order])
            write_file(place / f"{shard}.npy", lambda file: np.save(file, array))
        # After the arrays: what it names is there.
        write_file(place / f"{shard}.json", json.dumps(record).encode())
        self._shards.pop((part, shard), None)
        self._index(part).update(_read_shard_index(place / f"{shard}.json"))

    def _read(self, digests: list[str], wants: Wants, start: int) -> Iterator[Described]:
        good = [i for i, digest in enumerate(digests) if self._reason(digest, wants) is None]
        size = batch_size(self._pyramid)
        for first in range(0, len(good), size):
            chosen = good[first : first + size]
            index = np.full(size, -1, np.int64)
            index[: len(chosen)] = chosen
            rows = [digests[i] for i in (*chosen, *[chosen[0]] * (size - len(chosen)))]
            valid = index >= 0
            sources = {}
            for source, want in wants.items():
                scales = tuple(
                    self._descriptors(source, k, self._take((source, k), rows), valid)
                    for k in want.scales
                )
                crops = {c: self._take((source, c), rows) for c in want.crops}
                sources[source] = Activations(scales, crops)
            yield Described(np.where(valid, index + start, -1), sources)

    def _take(self, part: Part, digests: list[str]) -> jax.Array:
        """Return the activations (n, T, C) float32 of pictures."""
        rows = []
        for digest in digests:
            place = self._index(part)[digest]
            assert not isinstance(place, str)  # those were left out
            shard, row = place
            if (part, shard) not in self._shards:
                if len(self._shards) >= OPEN_SHARDS:
                    self._shards.clear()
                file = self._place(part) / f"{shard}.npy"
                self._shards[part, shard] = np.load(file, mmap_mode="r", allow_pickle=False)
            rows.append(np.asarray(self._shards[part, shard][row], np.float32))
        return jnp.asarray(np.stack(rows))

    def _descriptors(self, source: str, scale: int, x: jax.Array, valid: np.ndarray) -> Descriptors:
        spec = describer(self._network, source).spec
        layer = spec.layer(source_layer(spec, source, self._pyramid))
        side = scale_side(spec.side, scale, self._pyramid.rounding)
        positions = spec.positions(side, layer.name)
        window = receptive_windows(positions, layer.stride, layer.window, side)
        mask = jnp.broadcast_to(jnp.asarray(valid)[:, None], x.shape[:2])
        return Descriptors(x, mask, jnp.asarray(window))


def _parts(wants: Wants) -> list[Part]:
    parts: list[Part] = []
    for source, want in wants.items():
        parts += [(source, scale) for scale in want.scales]
        parts += [(source, crops) for crops in want.crops]
    return parts


def _arrays(described: Described, wants: Wants) -> dict[Part, jax.Array]:
    """Return the arrays of a batch by part."""
    arrays: dict[Part, jax.Array] = {}
    for source, want in wants.items():
        found = described.sources[source]
        for k, scale in zip(want.scales, found.scales, strict=True):
            arrays[source, k] = scale.x
        for crops, x in found.crops.items():
            arrays[source, crops] = x
    return arrays


def _read_shard_index(file: Path) -> dict[str, Place]:
    """Return where a shard has its pictures; nothing where it is damaged or not whole."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        triples = list(zip(record["pictures"], record["rows"], record["reasons"], strict=True))
        rows = [row for _, row, _ in triples if row is not None]
        if rows:
            shard = np.load(file.with_suffix(".npy"), mmap_mode="r", allow_pickle=False)
            if shard.dtype != np.float16 or shard.ndim != 3 or len(shard) != len(rows):
                return {}
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return {}
    return {
        digest: (file.stem, row) if row is not None else str(reason)
        for digest, row, reason in triples
    }


def picture_digest(item: Item) -> str:
    """Return the SHA-256 of a picture's content, whatever its name."""
    try:
        content = item.source()
        if isinstance(content, Path):
            content = content.read_bytes()
    except (OSError, DecodeError) as error:  # unreadable now; another picture once it can be read
        content = f"unreadable: {error}".encode()
    if isinstance(content, np.ndarray):
        head = f"array {content.dtype} {content.shape} ".encode()
        content = head + np.ascontiguousarray(content).tobytes()
    return hashlib.sha256(content).hexdigest()


def _half(values: np.ndarray, part: Part) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all() and np.isfinite(values).all():
        raise ValueError(
            f"cache: activations of {part[0]!r} reach {np.abs(values).max():.3g}, beyond float16; "
            "run without --cache"
        )
    return half
