"""What the command line does with weight files: list, download, import, verify."""

import dataclasses
import os
from pathlib import Path

from mpp_jax.files import cache_folder, file_digest
from mpp_jax.nets.registry import NETWORKS, get_spec
from mpp_jax.nets.weight_files import DIGEST_LENGTHS, WeightPlace
from mpp_jax.weights.cache import cached_path, fetch
from mpp_jax.weights.convert import Audit, convert
from mpp_jax.weights.digests import Digests
from mpp_jax.weights.fit import fit
from mpp_jax.weights.formats import budget, parse_weights
from mpp_jax.weights.load import (
    imported_folder,
    load_audited,
    naming,
    packaged_file,
    read_converted,
)
from mpp_jax.weights.native import looks_native, save_network, stored_network
from mpp_jax.weights.places import PLACES, get_place
from mpp_jax.weights.source import SourceWeights, WeightsError


@dataclasses.dataclass(frozen=True)
class Verification:
    """What is known about a weight file.

    Attributes:
        path: the file or folder.
        sha256: of its bytes; of a network folder, of the file it came from.
        published: name of the public file that it is, byte for byte; None: none of them.
        networks: networks that it fits (usually one).
        audit: what is assigned from where, for the first of them.
        problem: why it cannot be used or trusted; None: nothing is wrong.
        findings: all that is wrong, where the problem names the first few.
    """

    path: Path
    sha256: str
    published: str | None
    networks: tuple[str, ...]
    audit: Audit | None
    problem: str | None
    findings: tuple[str, ...] = ()


def list_weights(folder: Path | None = None) -> list[dict[str, str]]:
    """Return the files inside the package, the public files and the imported networks.

    Args:
        folder: cache folder of downloads; None: the usual one.

    Returns:
        One ``{"name", "network", "state", "path", "digest", "note", "url"}`` each; state is
        ``"packaged"``, ``"here"``, ``"damaged"`` (there with another digest), ``"unread"`` (there
        and not readable), ``"absent"`` or ``"imported"``. Digests are remembered in the folder
        (`mpp_jax.weights.digests`).
    """
    rows = []
    digests = Digests(cache_folder() if folder is None else folder)
    for network in NETWORKS:
        packaged = packaged_file(network)
        if packaged.exists():
            rows.append(
                {
                    "name": network,
                    "network": network,
                    "state": "packaged",
                    "path": str(packaged),
                    "digest": f"sha256:{digests.of(packaged, 'sha256')}",
                    "note": "part of the package, trained on pictures made by formula",
                    "url": "",
                }
            )
    for network, place in ((n, p) for n, spec in NETWORKS.items() for p in spec.files.places):
        path = cached_path(place, digests.folder)
        rows.append(
            {
                "name": place.name,
                "network": network,
                "state": _state(path, place, digests),
                "path": str(path),
                "digest": f"{place.algorithm}:{place.digest}",
                "note": place.note,
                "url": place.urls[0],
            }
        )
    digests.keep()
    for network in NETWORKS:
        own = imported_folder(network)
        if looks_native(own):
            rows.append(
                {
                    "name": f"{network} (imported)",
                    "network": network,
                    "state": "imported",
                    "path": str(own),
                    "digest": "",
                    "note": "used where no file is given",
                    "url": "",
                }
            )
    return rows


def _state(path: Path, place: WeightPlace, digests: Digests) -> str:
    if not os.path.isfile(path):
        return "absent"
    try:
        right = digests.of(path, place.algorithm).startswith(place.digest)
    except OSError:
        return "unread"
    return "here" if right else "damaged"


def download_weights(name: str, folder: Path | None = None, *, progress: bool = True) -> Path:
    """Download a public file into the cache folder, or find it there; see `fetch`."""
    return fetch(get_place(name), folder=folder, progress=progress)


def import_weights(
    file: str | os.PathLike[str], network: str, out: str | os.PathLike[str] | None = None
) -> tuple[Path, Audit]:
    """Convert a weight file into this package's own form.

    Args:
        file: a weight file of any known format.
        network: what it is for.
        out: folder to write; None: the place where `load_network` looks by itself.

    Returns:
        The folder, and what was assigned from where.

    Raises:
        ValueError: unknown network.
        WeightsError: the file cannot be used, or the folder cannot be written.
    """
    net, audit = load_audited(network, file)
    return save_network(net, imported_folder(network) if out is None else out), audit


def verify_weights(file: str | os.PathLike[str], network: str | None = None) -> Verification:
    """Find out what a weight file is and whether it is sound.

    Args:
        file: a weight file or network folder.
        network: what it should be for; None: whatever it fits.

    Raises:
        ValueError: unknown network.
        WeightsError: there is no such file, or it cannot be read.
    """
    path = Path(file)
    if network is not None and not get_spec(network).has_weights:
        raise WeightsError(f"network: {network!r} computes without weights; it has no file")
    try:
        if path.is_dir():
            return _verify_folder(path, network)
        if path.exists() and not path.is_file():
            raise WeightsError(f"weights: {path}: neither a file nor a folder")
        digests = {name: file_digest(path, name) for name in DIGEST_LENGTHS}
        published = next(
            (p.name for p in PLACES.values() if digests[p.algorithm].startswith(p.digest)), None
        )
        sources, problem = _sources(path, network)
    except OSError as error:
        raise WeightsError(f"weights: {path}: {error.strerror or error}") from error
    found = {name: fit(source, NETWORKS[name]) for name, source in sources.items()}
    usable = [name for name, how in found.items() if not how.errors]
    whole = [name for name in usable if not found[name].notes]
    fits = tuple(whole or usable)
    nearest = max(fits or found, key=lambda name: len(found[name].pairs), default=None)
    target, audit = network or nearest, None
    findings: tuple[str, ...] = ()
    if target in sources:
        try:
            audit = convert(sources[target], NETWORKS[target]).audit
            problem = None
        except WeightsError as error:
            problem, findings = str(error), error.findings
            if network is None and not found[target].pairs:
                names = ", ".join(map(repr, list(sources[target].arrays)[:4]))
                problem = f"it fits no network: its arrays are {names[:200]} ..."
                findings = ()
    if problem is None and published is None and (namesake := _namesake(path)) is not None:
        problem = (
            f"it is named like the public file {namesake.name!r}, but its {namesake.algorithm} is "
            f"{digests[namesake.algorithm]}, not {namesake.digest}"
        )
    return Verification(path, digests["sha256"], published, fits, audit, problem, findings)


def _namesake(path: Path) -> WeightPlace | None:
    return next((place for place in PLACES.values() if place.filename == path.name), None)


def _sources(path: Path, wanted: str | None) -> tuple[dict[str, SourceWeights], str | None]:
    """Return the file as read for each network, and why not for the wanted one or any."""
    size, largest = path.stat().st_size, max(map(budget, NETWORKS.values()))
    if size == 0 or size > largest:
        return {}, f"{size} bytes are no size for a weight file"
    data = path.read_bytes()
    sources: dict[str, SourceWeights] = {}
    problems: dict[str, str] = {}
    common: SourceWeights | None = None  # read once: eight copies of a large file are too many
    # The most generous network first: what it can read, no other refuses for its size.
    for name, spec in sorted(NETWORKS.items(), key=lambda item: -budget(item[1])):
        if len(data) > budget(spec):
            continue
        try:
            source = common or parse_weights(data, spec)
        except WeightsError as error:
            problems[name] = str(error)
            continue
        sources[name] = source
        common = source if source.network is None else None
    first = next((problems[name] for name in NETWORKS if name in problems), None)
    ordered = {name: sources[name] for name in NETWORKS if name in sources}
    return ordered, problems.get(wanted or "", first)


def _verify_folder(path: Path, network: str | None) -> Verification:
    if not looks_native(path):
        raise WeightsError(f"weights: {path}: the folder holds no network")
    try:
        with naming(path):
            name = network or stored_network(path)
            if name not in NETWORKS:
                raise WeightsError(
                    f"the folder holds network {name!r}, which is unknown; take one of "
                    f"{', '.join(NETWORKS)}, or add --plugin FILE"
                )
        converted, sha256 = read_converted(path, NETWORKS[name])
    except WeightsError as error:
        return Verification(path, "", None, (), None, str(error), error.findings)
    return Verification(path, sha256, None, (name,), converted.audit, None)
