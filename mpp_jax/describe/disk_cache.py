"""Activations on disk: one pass of the network serves every variant and every PCA and mixture.

CACHE holds a folder for each network, layer and scale (or set of crops); its name is a digest of
its ``key.json``: network, weights' SHA-256, layer, scale or crops, side, resize, dtype, precision
and kind of device. `mpp_jax.describe.shards` says what is inside. Pictures are found by their
content, in whatever order, split or selection they come. So whatever changes, a stale entry is
never met; it is only of no use any more, and the folder may be removed at any time.

A picture is read once: what is decoded are the bytes whose digest was taken. Only contents that
are broken for good are remembered as such, for the decoder that found them so; a file that could
not be read, or a lack of memory, is tried again next time.

Activations are rounded to float16 (relative error 5e-4) before anything reads them, in the pass
that writes them too: results do not depend on what was there.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mpp_jax.config import Pyramid
from mpp_jax.data import DecodeError, Item, Skipped
from mpp_jax.data.content import read_picture, reading_reported
from mpp_jax.data.far_reading import sources
from mpp_jax.describe.batches import batch_size
from mpp_jax.describe.dense import Activations, Crops, Descriptors, describer
from mpp_jax.describe.extraction import Described, describe_items
from mpp_jax.describe.pyramid import receptive_windows, scale_side
from mpp_jax.describe.shards import LostError, Shards
from mpp_jax.describe.wants import Wanted, Wants, source_layer
from mpp_jax.nets import Network
from mpp_jax.nets.registry import PACKAGED

VERSION = 2
"""Of the key; a change of the files, or of what pictures decode to, makes a new one."""
BLOCK = 64
"""Pictures of a shard: what an interruption loses at most."""
HELD_BYTES = 2**28
"""Bytes of pictures not described yet that are held before they are."""
TRIES = 3
"""How often activations are computed that are lost again before they can be read."""

Part = tuple[str, int | Crops]
"""(source, scale or crops)."""


@dataclass
class _Picture:
    """A picture on its way.

    Attributes:
        position: among all.
        item: the picture.
        digest: SHA-256 of its content; empty where it could not be read.
        content: what is to be decoded; None once it is described.
        skipped: why it is not.
    """

    position: int
    item: Item
    digest: str = ""
    content: bytes | np.ndarray | None = None
    skipped: Skipped | None = None

    @property
    def held(self) -> int:
        """Bytes of the content."""
        if self.content is None:
            return 0
        return self.content.nbytes if isinstance(self.content, np.ndarray) else len(self.content)

    def read(self, given: Callable[[], Any] | None = None) -> None:
        """Read the content, from what gives it where that was begun, and take its digest."""
        try:
            with reading_reported(self.item.id):
                source = given() if given is not None else self.item.source()
                self.content = read_picture(source) if isinstance(source, Path) else source
            self.digest = picture_digest(self.content)
        except DecodeError as error:
            self.skip(error.reason)

    def skip(self, reason: str) -> None:
        """Leave it out."""
        self.skipped, self.content = Skipped(self.position, self.item.id, reason), None


class DiskCache:
    """The stored activations of one network and pyramid: an `ActivationSource`."""

    rounded: ClassVar[str | None] = "float16"

    def __init__(self, folder: Path, network: Network, pyramid: Pyramid) -> None:
        """Use (and make, when there is something to keep) a folder."""
        self._folder = folder
        self._network = network
        self._pyramid = pyramid
        self._shards: dict[Part, Shards] = {}

    def describe(
        self, items: Sequence[Item], wants: Wants, on_skip: Callable[[Skipped], object]
    ) -> Iterator[Described]:
        """Yield what is wanted of pictures, computing and keeping what is not there.

        Raises:
            ValueError: activations beyond float16's range, or a folder that does not keep them.
        """
        for block in self._blocks(items, _parts(wants)):
            self._complete(block, wants)
            yield from self._read(block, wants)
            for picture in block:
                if picture.skipped is not None:
                    on_skip(picture.skipped)

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

    def _of(self, part: Part) -> Shards:
        if part not in self._shards:
            key = self.key(part)
            text = json.dumps(key, sort_keys=True)
            name = hashlib.sha256(text.encode()).hexdigest()[:16]
            self._shards[part] = Shards(self._folder / name, key)
        return self._shards[part]

    def _blocks(self, items: Sequence[Item], parts: Sequence[Part]) -> Iterator[list[_Picture]]:
        """Yield pictures in blocks; the contents of those that are there are dropped."""
        block: list[_Picture] = []
        held = 0
        for position, (item, given) in enumerate(zip(items, sources(items), strict=True)):
            picture = _Picture(position, item)
            picture.read(given)
            block.append(picture)
            if all(picture.digest in self._of(part) for part in parts):
                picture.content = None
            held += picture.held
            if len(block) == BLOCK or held >= HELD_BYTES:
                yield block
                block, held = [], 0
        if block:
            yield block

    def _missing(self, picture: _Picture, parts: Sequence[Part]) -> tuple[Part, ...]:
        """Return what is to be computed of a picture; it is skipped where it never can be."""
        if picture.skipped is not None:
            return ()
        for part in parts:
            reason = self._of(part).reason(picture.digest)
            if reason is not None:
                picture.skip(reason)
                return ()
        return tuple(part for part in parts if picture.digest not in self._of(part))

    def _complete(self, block: Sequence[_Picture], wants: Wants) -> None:
        """Compute what is missing of the pictures of a block, those together that miss the same."""
        parts = _parts(wants)
        if any(self._missing(picture, parts) for picture in block):
            for part in parts:
                self._of(part).refresh()  # another process may have been quicker
        groups: dict[tuple[Part, ...], list[_Picture]] = {}
        for picture in block:
            missing = self._missing(picture, parts)
            if missing and picture.content is None:  # was there, and is lost
                picture.read()
                missing = self._missing(picture, parts)
            if missing:
                groups.setdefault(missing, []).append(picture)
        for missing, pictures in groups.items():
            self._compute(pictures, missing)

    def _compute(self, pictures: Sequence[_Picture], parts: Sequence[Part]) -> None:
        wants: Wants = {}
        for source in dict.fromkeys(source for source, _ in parts):
            mine = [what for other, what in parts if other == source]
            scales = tuple(what for what in mine if isinstance(what, int))
            wants[source] = Wanted(scales, tuple(w for w in mine if not isinstance(w, int)))
        skipped: list[Skipped] = []
        found: dict[Part, dict[int, np.ndarray]] = {part: {} for part in parts}
        items = [_held(picture) for picture in pictures]
        for described in describe_items(
            self._network, items, self._pyramid, wants=wants, on_skip=skipped.append
        ):
            for part, x in _arrays(described, wants).items():
                values = np.asarray(x, np.float32)
                for row, position in enumerate(described.index):
                    if position >= 0:
                        found[part][int(position)] = _half(values[row], part)
        reasons: list[str | None] = [None] * len(pictures)
        for entry in skipped:
            pictures[entry.position].skip(entry.reason)
            if entry.permanent:
                reasons[entry.position] = entry.reason
        digests = [picture.digest for picture in pictures]
        for part in parts:
            self._of(part).write(digests, reasons, found.pop(part))
        for picture in pictures:
            picture.content = None

    def _read(self, block: Sequence[_Picture], wants: Wants) -> Iterator[Described]:
        good = [picture for picture in block if picture.skipped is None]
        size = batch_size(self._network, self._pyramid)
        for first in range(0, len(good), size):
            chosen, arrays = self._batch(good[first : first + size], size, wants)
            if not chosen:
                continue
            index = np.full(size, -1, np.int64)
            index[: len(chosen)] = [picture.position for picture in chosen]
            valid = index >= 0
            sources = {}
            for source, want in wants.items():
                scales = tuple(
                    self._descriptors(source, k, arrays[source, k], valid) for k in want.scales
                )
                crops = {c: arrays[source, c] for c in want.crops}
                sources[source] = Activations(scales, crops)
            yield Described(index, sources)

    def _batch(
        self, pictures: list[_Picture], size: int, wants: Wants
    ) -> tuple[list[_Picture], dict[Part, jax.Array]]:
        """Return the pictures and their activations, padded with the first to ``size`` rows.

        What was removed or damaged since it was found is computed again.
        """
        for _ in range(TRIES):
            if not pictures:
                return [], {}
            padded = [*pictures, *[pictures[0]] * (size - len(pictures))]
            try:
                return pictures, {part: self._take(part, padded) for part in _parts(wants)}
            except LostError:
                self._complete(pictures, wants)
                pictures = [picture for picture in pictures if picture.skipped is None]
        raise ValueError(
            f"cache: {self._folder}: what is written there is not what is read from it; "
            "use another folder"
        )

    def _take(self, part: Part, pictures: Sequence[_Picture]) -> jax.Array:
        """Return the activations (n, T, C) float32 of pictures."""
        rows = [self._of(part).activations(picture.digest) for picture in pictures]
        return jnp.asarray(np.stack(rows).astype(np.float32))

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


def picture_digest(content: bytes | np.ndarray) -> str:
    """Return the SHA-256 of a picture's content: of a file's bytes, or of an array."""
    if isinstance(content, np.ndarray):
        head = f"array {content.dtype} {content.shape} ".encode()
        content = head + np.ascontiguousarray(content).tobytes()
    return hashlib.sha256(content).hexdigest()


def _held(picture: _Picture) -> Item:
    """Return the item with the content whose digest was taken."""
    content = picture.content
    assert content is not None  # `_complete` reads what is missing
    return replace(picture.item, path=None, read=lambda: content)


def _half(values: np.ndarray, part: Part) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all() and np.isfinite(values).all():
        raise ValueError(
            f"cache: activations of {part[0]!r} reach {np.abs(values).max():.3g}, beyond float16; "
            "run without --cache"
        )
    return half
