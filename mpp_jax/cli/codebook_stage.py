"""The codebooks of a run: taken from its folder, or fitted and put there."""

from collections.abc import Sequence
from pathlib import Path

from mpp_jax.cli.console import Console, Skips, made_with
from mpp_jax.data import decodable
from mpp_jax.describe.extraction import ActivationSource
from mpp_jax.runs import pipeline
from mpp_jax.runs.contents import Contents
from mpp_jax.runs.fitted_on import (
    Compared,
    FittedOn,
    compare,
    fitted_on,
    labels_of,
    other_settings,
    same_contents,
)
from mpp_jax.runs.provenance import CODEBOOK, load_codebooks, save_codebooks
from mpp_jax.runs.ray_engine import RayEngine
from mpp_jax.runs.settings import CONFIG, Job, write_config
from mpp_jax.runs.sizing import components_for
from mpp_jax.stats.codebook import Codebooks
from mpp_jax.stats.em import EMInfo
from mpp_jax.storage.bundle import check_place, holds_bundle
from mpp_jax.storage.store_format import MANIFEST

FEW_EACH = 3
"""Training pictures for each Gaussian or centre, below which a codebook may be too large: on sets
with 3.7 and 5.9 pyramid pooling gains, with 0.3 it loses (`experiments/README.md`)."""


def codebooks_or_fit(
    job: Job,
    folder: Path,
    activations: ActivationSource,
    contents: Contents,
    console: Console,
    engine: RayEngine | None = None,
) -> tuple[Codebooks, Skips]:
    """Take the codebooks of the same settings that are in ``folder``, or fit and save them.

    Where training pictures have changed, are gone, have other labels than they were trained by, or
    can be read by now that they were fitted without, they are fitted again, unless encodings of the
    run that ``folder`` is the codebook of rest on them; then this is said.

    Returns:
        The codebooks, and the pictures that could not be read for them.
    """
    made = job.made
    check_place(folder, CODEBOOK)
    if holds_bundle(folder):
        codebooks, old = load_codebooks(folder)
        fitted = fitted_on(folder)
        compared = compare(fitted, job.data, contents)
        found = other_settings(old, made, compared)
        used = folder.name == "codebook" and (folder.parent / "encodings" / MANIFEST).exists()
        names = {} if compared is None else compared.renamed
        skipped = [(names.get(name, name), reason) for name, reason in fitted.skipped]
        mended = _readable(job, [name for name, _ in skipped])
        if codebooks and not found:
            lost = () if compared is None else compared.lost
            found = _reasons(fitted, compared, mended, job, contents)
            if used or not found:
                console.say(f"codebook: taken from {folder}")
                if lost:
                    console.say(
                        f"codebook: also fitted to pictures that are no training pictures any "
                        f"more: {len(lost)} ({lost[0]} for one); a new folder would fit without"
                    )
                if not (folder / CONFIG).exists():  # killed right after the codebook was saved
                    write_config(folder, old)
                note = "it can be read by now, but encodings rest on the codebook; a new folder"
                there = {item.id for item in job.data.split("train")}
                return codebooks, [
                    (name, f"{reason} ({note} would use it)" if name in mended else reason)
                    for name, reason in skipped
                    if name in there
                ]
        if codebooks:
            console.say(f"codebook: {folder}: {'; '.join(found)}; it is fitted again")
    skips: Skips = []
    try:
        codebooks, infos = pipeline.fit(
            job.data,
            job.network,
            job.config,
            activations=activations,
            contents=contents,
            engine=engine,
            watcher=console,
            on_skip=lambda name, reason: skips.append((name, reason)),
        )
    except KeyboardInterrupt as error:
        error.add_note("interrupted; a codebook is fitted in one go, and begun anew the next time")
        if job.extras.cache is not None:
            error.add_note(f"activations that were computed are kept in {job.extras.cache}")
        raise
    for key, info in infos.items():
        kind = ("Gaussians", "EM") if isinstance(info.em, EMInfo) else ("centres", "k-means")
        limit = "" if info.em.converged else " (limit reached)"
        console.say(
            f"codebook {key}: {info.samples} descriptors, PCA keeps {info.explained:.1%} of their "
            f"variance, {len(codebooks[key].gmm.means)} {kind[0]}, {kind[1]} "
            f"{int(info.em.iterations)} steps{limit}"
        )
    missing = {name for name, _ in skips}
    few = _few_pictures(len(job.data.split("train")) - len(missing), job.config.encoder.components)
    if few and infos:
        console.say(few)
    used_now = [item for item in job.data.split("train") if item.id not in missing]
    digests = contents.read(used_now)
    pictures = {item.id: digests.get(item.id) for item in used_now}
    broken = contents.read(item for item in job.data.split("train") if item.id in missing)
    labels = labels_of(job.data) if job.config.encoder.finetune else None
    save_codebooks(folder, codebooks, made, skips, pictures, broken=broken, labels=labels)
    write_config(folder, made)
    console.say(f"codebook of {made_with(made.network, made.weights_sha256)}")
    console.wrote("codebook", folder)
    return codebooks, skips


def _few_pictures(pictures: int, components: int) -> str:
    """Return a note where a codebook has seen few pictures for its size; "" where it has enough.

    Gaussians that belong to one or two pictures fit these alone: the Fisher vectors of the training
    pictures, gradients at an optimum, cancel within a class, and those of others do not.
    """
    fitting = components_for(pictures)
    if pictures >= FEW_EACH * components or fitting >= components:
        return ""
    return (
        f"note: {pictures} training pictures for a codebook of {components} are few: its vectors "
        "may lose to a plain mean (avg) or one crop (ap10); see what --pooling best chooses, and "
        f"--components auto in a new folder, which is {fitting} here"
    )


def _reasons(
    fitted: FittedOn, compared: Compared | None, mended: list[str], job: Job, contents: Contents
) -> list[str]:
    """Return why a codebook of the same settings would not come out the same today."""
    found = []
    if mended:
        found.append(f"{len(mended)} training pictures can be read by now ({mended[0]} for one)")
    if compared is None:
        if not same_contents(fitted, job.data.split("train"), contents):
            found.append("training pictures changed since it was fitted")
        return found
    for names, what in (
        (compared.changed, "changed since"),
        (compared.lost, "are gone since"),
        (compared.relabelled, "have other labels now"),
    ):
        if names:
            found.append(f"{len(names)} training pictures {what} ({names[0]} for one)")
    return found


def _readable(job: Job, names: Sequence[str]) -> list[str]:
    """Return those of some training pictures that can be decoded now."""
    chosen = set(names)
    items = [item for item in job.data.split("train") if item.id in chosen]
    return [item.id for item in items if decodable(item)]
