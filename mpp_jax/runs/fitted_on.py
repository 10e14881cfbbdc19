"""The training pictures that a codebook was fitted to, and those of today.

A codebook is as good as it was when some of its pictures are gone, have other names, or come in
another order; it is another one where there are new pictures, or other contents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from mpp_jax.data import Dataset, Item
from mpp_jax.runs.contents import Contents, joint_digest
from mpp_jax.runs.provenance import (
    CODEBOOK,
    Provenance,
    damage_reported,
    fit_settings,
    load_codebooks,
)
from mpp_jax.storage.bundle import holds_bundle, read_bundle
from mpp_jax.storage.store_format import MANIFEST, differences


class FittedOn(NamedTuple):
    """What a codebook's record says of its training pictures.

    Attributes:
        pictures: the SHA-256 of each that was read, None where it is no file, by id; None in
            records of earlier versions of this program, which do not list them.
        skipped: (id, reason) of those that could not be read.
        contents_sha256: such an earlier record's digest of all contents together, if it has one.
    """

    pictures: Mapping[str, str | None] | None
    skipped: Sequence[tuple[str, str]]
    contents_sha256: str | None


def fitted_on(folder: Path) -> FittedOn:
    """Return what a codebook was fitted to.

    Raises:
        BundleError: it cannot be read.
    """
    _, record = read_bundle(folder, CODEBOOK)
    with damage_reported(folder):
        skipped = [(entry["path"], entry["reason"]) for entry in record.get("skipped", ())]
        listed = record.get("pictures")
        pictures = None if listed is None else dict(listed.items())
        return FittedOn(pictures, skipped, record.get("contents_sha256"))


class Compared(NamedTuple):
    """How the training pictures of today differ from a codebook's.

    Attributes:
        new: ids of today's that the codebook has not seen.
        lost: ids of those that it was fitted to which are no training pictures any more.
        changed: ids of today's whose content is not what the codebook saw.
    """

    new: tuple[str, ...]
    lost: tuple[str, ...]
    changed: tuple[str, ...]


def compare(fitted: FittedOn, data: Dataset, contents: Contents) -> Compared | None:
    """Compare a codebook's training pictures with today's; None where it does not list them.

    Args:
        fitted: the codebook's.
        data: the data of today.
        contents: digests of today's pictures.
    """
    if fitted.pictures is None:
        return None
    seen = {**fitted.pictures, **{name: None for name, _ in fitted.skipped}}
    today = {item.id: item for item in data.split("train")}
    lost = [name for name in fitted.pictures if name not in today]
    waiting: dict[str, list[str]] = {}
    for name in lost:
        waiting.setdefault(seen[name] or "", []).append(name)
    known = any(digest for digest in waiting)
    new, found = [], set()
    for name, item in today.items():
        if name in seen:
            continue
        # Under another name: the same picture. (Pictures are read for that only if it can be.)
        twins = waiting.get(contents.now(item) or "none") if known else None
        if twins:
            found.add(twins.pop(0))
        else:
            new.append(name)
    changed = [
        name
        for name, item in today.items()
        if seen.get(name) is not None and contents.now(item) not in (None, seen[name])
    ]
    return Compared(tuple(new), tuple(n for n in lost if n not in found), tuple(changed))


def other_settings(old: Provenance, made: Provenance, compared: Compared | None) -> list[str]:
    """Return how what decides a codebook differs, one phrase each; pictures that are gone do not.

    Args:
        old: the codebook's provenance.
        made: what it is to be made of now.
        compared: its training pictures with those of `made`.
    """
    if compared is None:
        return differences(fit_settings(old), fit_settings(made))
    old = replace(old, pictures_sha256=made.pictures_sha256)
    found = differences(fit_settings(old), fit_settings(made))
    if compared.new:
        found.append(
            f"training pictures that it was not fitted to: {len(compared.new)} "
            f"({compared.new[0]} for one)"
        )
    return found


def check_same_run(out: Path, made: Provenance, data: Dataset, contents: Contents) -> None:
    """Raise where finished encodings would lose the codebook that they were made with.

    Args:
        out: folder of the run.
        made: what it is to be made of now.
        data: the pictures of `made`.
        contents: their digests.

    Raises:
        ValueError: the folder holds encodings by a codebook of other settings, or of training
            pictures that are not what they were (they are named).
    """
    folder = out / "codebook"
    if not holds_bundle(folder) or not (out / "encodings" / MANIFEST).exists():
        return
    _, old = load_codebooks(folder)
    fitted = fitted_on(folder)
    compared = compare(fitted, data, contents)
    found = other_settings(old, made, compared)
    if found:
        raise ValueError(
            f"{out}: holds a run of other settings: {'; '.join(found)}; "
            "give a new folder or remove this one"
        )
    changed = () if compared is None else compared.changed
    if changed:
        raise ValueError(
            f"{out}: {len(changed)} training pictures changed since ({changed[0]} for one), "
            "and its codebook rests on them; give a new folder or remove this one"
        )
    if compared is None and not same_contents(fitted, data.split("train"), contents):
        raise ValueError(
            f"{out}: training pictures changed since, and its codebook rests on them; "
            "give a new folder or remove this one"
        )


def same_contents(fitted: FittedOn, training: Sequence[Item], contents: Contents) -> bool:
    """Return whether an earlier record's digest of all contents is that of today's."""
    left_out = {name for name, _ in fitted.skipped}
    items = [item for item in training if item.id not in left_out]
    digests = {item.id: contents.now(item) for item in items}
    now = joint_digest(items, {name: digest for name, digest in digests.items() if digest})
    return fitted.contents_sha256 in (None, now)
