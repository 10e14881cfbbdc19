"""The codebooks of a run: taken from its folder, or fitted and put there."""

from collections.abc import Sequence
from pathlib import Path

from mpp_jax.cli.console import Console, Skips, made_with
from mpp_jax.data import decodable
from mpp_jax.describe.extraction import ActivationSource
from mpp_jax.runs import pipeline
from mpp_jax.runs.contents import Contents, joint_digest
from mpp_jax.runs.provenance import (
    CODEBOOK,
    fitted_on,
    load_codebooks,
    lost_pictures,
    same_fit,
    save_codebooks,
)
from mpp_jax.runs.settings import CONFIG, Job, write_config
from mpp_jax.stats.codebook import Codebooks
from mpp_jax.stats.em import EMInfo
from mpp_jax.storage.bundle import check_place, holds_bundle
from mpp_jax.storage.store_format import MANIFEST, read_manifest


def check_same_pictures(job: Job, contents: Contents) -> None:
    """Raise where encodings rest on a codebook of training pictures that have changed since."""
    encodings = job.out / "encodings"
    if not holds_bundle(job.out / "codebook") or not (encodings / MANIFEST).exists():
        return
    _, stored = read_manifest(encodings)
    encoded = {item.id: item.sha256 for item in stored if item.sha256 is not None}
    training = (item for item in job.data.split("train") if item.id in encoded)
    changed = [i.id for i in training if contents.now(i) not in (None, encoded[i.id])]
    if changed:
        raise ValueError(
            f"{job.out}: {len(changed)} training pictures changed since ({changed[0]} for one), "
            "and its codebook rests on them; give a new folder or remove this one"
        )


def codebooks_or_fit(
    job: Job,
    folder: Path,
    activations: ActivationSource,
    contents: Contents,
    console: Console,
) -> tuple[Codebooks, Skips]:
    """Take the codebooks of the same settings that are in ``folder``, or fit and save them.

    Where a training picture has changed, or can be read by now that they were fitted without, they
    are fitted again, unless encodings rest on them; then it is among the pictures returned.

    Returns:
        The codebooks, and the pictures that could not be read for them.
    """
    made = job.made
    check_place(folder, CODEBOOK)
    if holds_bundle(folder):
        codebooks, old = load_codebooks(folder)
        encodings = folder.parent / "encodings"
        if codebooks and not same_fit(encodings, old, made, job.data):
            lost = lost_pictures(encodings, old, job.data)
            without, digest = fitted_on(folder)
            mended = _readable(job, [name for name, _ in without])
            same = digest is None or digest == _digest_now(job, without, contents)
            used = (encodings / MANIFEST).exists()
            if used or (same and not mended):
                console.say(f"codebook: taken from {folder}")
                if lost:
                    console.say(
                        f"codebook: fitted to {len(lost)} pictures more, which are gone ({lost[0]} "
                        "for one); a new folder would fit without them"
                    )
                if not (folder / CONFIG).exists():  # killed right after the codebook was saved
                    write_config(folder, old)
                note = "it can be read by now, but encodings rest on the codebook; a new folder"
                return codebooks, [
                    (name, f"{reason} ({note} would use it)" if name in mended else reason)
                    for name, reason in without
                ]
            why = "training pictures changed"
            if mended:
                why = f"{len(mended)} training pictures can be read by now ({mended[0]} for one)"
            console.say(f"codebook: {why} since {folder} was fitted; it is fitted again")
    skips: Skips = []
    try:
        codebooks, infos = pipeline.fit(
            job.data,
            job.network,
            job.config,
            activations=activations,
            contents=contents,
            watcher=console,
            on_skip=lambda name, reason: skips.append((name, reason)),
        )
    except KeyboardInterrupt as error:
        error.add_note("interrupted; a codebook is fitted in one go, and begun anew the next time")
        if job.extras.cache is not None:
            error.add_note(f"activations that were computed are kept in {job.extras.cache}")
        raise
    for key, info in infos.items():
        steps = f"{'EM' if isinstance(info.em, EMInfo) else 'k-means'} {int(info.em.iterations)}"
        console.say(
            f"codebook {key}: {info.samples} descriptors, PCA keeps {info.explained:.1%} of their "
            f"variance, {steps} steps{'' if info.em.converged else ' (limit reached)'}"
        )
    training = job.data.split("train")
    digest = joint_digest(training, contents.read(training))
    save_codebooks(folder, codebooks, made, skips, digest)
    write_config(folder, made)
    console.say(f"codebook of {made_with(made.network, made.weights_sha256)}")
    console.wrote("codebook", folder)
    return codebooks, skips


def _digest_now(job: Job, without: Sequence[tuple[str, str]], contents: Contents) -> str | None:
    """Return the joint digest of the training pictures now, but for those named."""
    left_out = {name for name, _ in without}
    items = [item for item in job.data.split("train") if item.id not in left_out]
    digests = {item.id: contents.now(item) for item in items}
    return joint_digest(items, {name: digest for name, digest in digests.items() if digest})


def _readable(job: Job, names: Sequence[str]) -> list[str]:
    """Return those of some training pictures that can be decoded now."""
    chosen = set(names)
    items = [item for item in job.data.split("train") if item.id in chosen]
    return [item.id for item in items if decodable(item)]
