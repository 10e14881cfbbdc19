"""Confidence maps of pictures in files, by a trained model, and how they are kept."""

import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mpp_jax.data import Item, Skipped, canvas_batches
from mpp_jax.data.batches import DEFAULT_BUCKETS
from mpp_jax.describe.extraction import Described, describe_sources
from mpp_jax.files import write_file
from mpp_jax.maps.confidence import Reading, check_local, plan_maps, planned_maps, without_bias
from mpp_jax.maps.overlays import panels
from mpp_jax.numerics import stack_unit_vectors
from mpp_jax.pooling import parse
from mpp_jax.runs.model import Model
from mpp_jax.runs.vectors import encode_described, first_encoded, wanted_of
from mpp_jax.svm.machines import svm_scores

MAX_SIDE = 1024
"""Longest side of a map. The finest scale of seven moves its windows by 1/57 of the picture."""


class PictureMaps(NamedTuple):
    """The confidence maps of one picture.

    Attributes:
        position: of the picture among the items.
        size: (height, width) of the decoded picture.
        picture: (h, w, 3) uint8, as large as the maps: ``size``, or smaller by one factor.
        classes: (n,) names, those of the highest scores first unless they were chosen.
        maps: (n, h, w) float32; row y of a map stands for rows y H / h to (y + 1) H / h.
        scores: (n,) float32, of the whole picture.
    """

    position: int
    size: tuple[int, int]
    picture: np.ndarray
    classes: tuple[str, ...]
    maps: np.ndarray
    scores: np.ndarray


def map_pictures(
    model: Model,
    items: Sequence[Item],
    *,
    method: str | None = None,
    classes: Sequence[str] | None = None,
    top: int = 3,
    reading: Reading = "sum",
    bias: bool = False,
    max_side: int = MAX_SIDE,
    on_skip: Callable[[Skipped], object],
) -> Iterator[PictureMaps]:
    """Decode pictures and map a model's confidence in each.

    Args:
        model: from `load_model`.
        items: pictures.
        method: representation; None for the model's primary one.
        classes: names of those wanted; None for the ``top`` of each picture.
        top: number of classes of the highest scores.
        reading: see `mpp_jax.maps.confidence`.
        bias: likewise.
        max_side: of a map in pixels; maps of larger pictures are smaller by a factor.
        on_skip: is told of every picture that could not be decoded or encoded, at the end.

    Raises:
        ValueError: an unknown representation or class, one without local descriptors, or no
            network.
    """
    network = model.opened_network()
    unknown = [name for name in classes or () if name not in model.classes]
    if unknown or (classes is not None and not classes):
        raise ValueError(
            f"classes: the model knows {', '.join(model.classes)}, not {', '.join(unknown)!r}"
        )
    config = model.provenance.config
    name = model.method(method)
    svm = model.svms[name]
    machines = svm if bias else without_bias(svm)
    atoms = parse(name, config.features, config.pyramid.layer)
    check_local(atoms)
    wants = wanted_of(atoms, config.pyramid.scales)
    numbers = {source: want.scales for source, want in wants.items()}
    skipped: list[Skipped] = []
    batches = canvas_batches(items, batch_size=1)
    for batch in batches:
        described = Described(batch.index, describe_sources(network, batch, config.pyramid, wants))
        _, vectors = encode_described(described, wants, model.codebooks, config, atoms)
        whole = stack_unit_vectors([vectors[atom.name] for atom in atoms])
        position = int(batch.index[0])
        if not np.isfinite(whole).all():
            reason = "encoding is not finite"
            skipped.append(Skipped(position, items[position].id, reason))
            continue
        scores = np.asarray(svm_scores(svm, whole))[0]
        best = np.argsort(-scores, kind="stable")[:top]
        chosen = best if classes is None else np.array([model.classes.index(c) for c in classes])
        height, width = (int(n) for n in batch.sizes[0])
        reduced = _map_size((height, width), max_side)
        sources = {source: found.scales for source, found in described.sources.items()}
        maps = planned_maps(
            plan_maps(
                atoms,
                sources,
                model.codebooks,
                numbers,
                np.shape(svm.weights)[1],
                first_encoded(config),
            ),
            sources,
            machines,
            model.codebooks,
            jnp.asarray([reduced], jnp.float32),
            jnp.asarray(chosen),
            reading,
            # Of few sides, as the canvases of pictures: each is a program.
            next((side for side in DEFAULT_BUCKETS if side >= max(reduced)), max(reduced)),
        )
        yield PictureMaps(
            position,
            (height, width),
            _resized(batch.canvas[0, :height, :width], reduced),
            tuple(model.classes[i] for i in chosen),
            np.asarray(maps)[0, :, : reduced[0], : reduced[1]],
            scores[chosen],
        )
    for entry in sorted([*batches.skipped, *skipped]):
        on_skip(entry)


def _map_size(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    factor = min(1.0, max_side / max(size))
    height, width = (max(1, round(n * factor)) for n in size)
    return height, width


def _resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if picture.shape[:2] == size:
        return picture
    return np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BICUBIC))


MAKER = "mpp-jax confidence"
"""What a file of ours says of itself, so that only such a one is written over."""
_ARRAYS = {"maps", "classes", "scores", "size", "method", "reading"}


def save_maps(place: Path, found: PictureMaps, method: str, reading: Reading) -> None:
    """Write ``place``.npz, readable with NumPy alone, and ``place``.png.

    The arrays are maps (n, h, w) float32, classes (n,), scores (n,), size (2,) of the decoded
    picture, method () and reading ().

    Raises:
        OSError: they cannot be written; what was there before is untouched.
    """
    arrays: dict[str, Any] = {
        "maps": found.maps,
        "classes": np.array(found.classes),
        "scores": found.scores,
        "size": np.array(found.size),
        "method": np.array(method),
        "reading": np.array(reading),
    }
    captions = [
        f"{name} {score:+.2f}" for name, score in zip(found.classes, found.scores, strict=True)
    ]
    drawn, info = panels(found.picture, found.maps, captions), PngInfo()
    info.add_text("Software", MAKER)
    write_file(place.with_name(f"{place.name}.npz"), lambda file: np.savez(file, **arrays))
    write_file(
        place.with_name(f"{place.name}.png"),
        lambda file: drawn.save(file, format="PNG", pnginfo=info),
    )


def free_names(pictures: Sequence[str]) -> list[str]:
    """Return a file name without ending for each picture: its own, numbered where it is taken."""
    names: list[str] = []
    for picture in pictures:
        stem = name = Path(picture).stem
        number = 1
        while name.lower() in {taken.lower() for taken in names}:
            number += 1
            name = f"{stem}-{number}"
        names.append(name)
    return names


def check_free(folder: Path, names: Sequence[str]) -> None:
    """Raise unless maps may be written under these names: nothing there, or maps of ours.

    Raises:
        ValueError: a file that `save_maps` did not write, such as the picture itself.
    """
    for name in names:
        for place in (folder / f"{name}.png", folder / f"{name}.npz"):
            if place.exists() and not _is_ours(place):
                raise ValueError(
                    f"{place}: is there already, and is no confidence map that may be written "
                    "over; give another --out"
                )


def _is_ours(place: Path) -> bool:
    try:
        if place.suffix == ".png":
            with Image.open(place) as picture:
                return picture.info.get("Software") == MAKER
        with open(place, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return set(arrays.files) == _ARRAYS
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile):
        return False
