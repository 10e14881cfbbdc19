"""The training pictures that a codebook was fitted to, and those of today.

A codebook is as good as it was when some of its pictures are gone, have other names, or come in
another order; it is another one where there are new pictures, or other contents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
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
        broken: the SHA-256 of those of the skipped that are files with something in them that is
            no picture, by id.
        labels: classes of the pictures, by id, where the codebook was trained by them; else None.
    """

    pictures: Mapping[str, str | None] | None
    skipped: Sequence[tuple[str, str]]
    contents_sha256: str | None
    broken: Mapping[str, str] = MappingProxyType({})
    labels: Mapping[str, Sequence[str]] | None = None


def labels_of(data: Dataset) -> dict[str, list[str]]:
    """Return the classes of all training pictures by id; unclear ones with a question mark."""
    names = data.classes
    return {
        item.id: sorted([*(names[k] for k in item.labels), *(f"?{names[k]}" for k in item.ignored)])
        for item in data.split("train")
    }


def fitted_on(folder: Path) -> FittedOn:
    """Return what a codebook was fitted to.

    Raises:
        BundleError: it cannot be read.
    """
    _, record = read_bundle(folder, CODEBOOK)
    with damage_reported(folder):
        entries = record.get("skipped", ())
        skipped = [(entry["path"], entry["reason"]) for entry in entries]
        broken = {entry["path"]: entry["sha256"] for entry in entries if "sha256" in entry}
        listed = record.get("pictures")
        pictures = None if listed is None else dict(listed.items())
        together, labels = record.get("contents_sha256"), record.get("labels")
        return FittedOn(
            pictures, skipped, together, broken, None if labels is None else dict(labels.items())
        )


class Compared(NamedTuple):
    """How the training pictures of today differ from a codebook's.

    Attributes:
        new: ids of today's that the codebook has not seen.
        lost: ids of those that it was fitted to which are no training pictures any more.
        changed: ids of today's whose content is not what the codebook saw.
        relabelled: ids of today's whose classes are not those that the codebook was trained by.
        renamed: today's ids of those that the codebook knows by others, by these.
    """

    new: tuple[str, ...]
    lost: tuple[str, ...]
    changed: tuple[str, ...]
    relabelled: tuple[str, ...] = ()
    renamed: Mapping[str, str] = MappingProxyType({})


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
    for name in [*lost, *(name for name in fitted.broken if name not in today)]:
        waiting.setdefault(seen[name] or fitted.broken.get(name, ""), []).append(name)
    known = any(digest for digest in waiting)
    new, renamed = [], dict[str, str]()
    for name, item in today.items():
        if name in seen:
            continue
        # Under another name: the same picture. (Pictures are read for that only if it can be.)
        twins = waiting.get(contents.now(item) or "none") if known else None
        if twins:
            renamed[twins.pop(0)] = name
        else:
            new.append(name)
    changed = [
        name
        for name, item in today.items()
        if seen.get(name) is not None and contents.now(item) not in (None, seen[name])
    ]
    labels = {} if fitted.labels is None else labels_of(data)
    names = {name: renamed.get(name, name) for name in fitted.labels or ()}
    relabelled = [
        now
        for name, now in names.items()
        if now in labels and labels[now] != [*(fitted.labels or {})[name]]
    ]
    gone = tuple(name for name in lost if name not in renamed)
    return Compared(tuple(new), gone, tuple(changed), tuple(relabelled), renamed)


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
            pictures that are not what they were, or whose labels it was trained by and are others
            (they are named).
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
    for names, what in (
        (() if compared is None else compared.changed, "changed since"),
        (() if compared is None else compared.relabelled, "have other labels now"),
    ):
        if names:
            raise ValueError(
                f"{out}: {len(names)} training pictures {what} ({names[0]} for one), "
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
