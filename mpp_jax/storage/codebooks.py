"""Codebooks as arrays and records: what bundles and digests hold of them."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mpp_jax.stats.codebook import Codebook, Codebooks
from mpp_jax.stats.mixture import GMM
from mpp_jax.stats.pca import PCA
from mpp_jax.storage.bundle import arrays_digest


def codebook_arrays(codebooks: Codebooks) -> dict[str, Any]:
    """Return the arrays of codebooks as a nested dict; empty where there is no codebook."""
    if not codebooks:
        return {}
    return {
        "codebooks": {
            key: {"pca": book.pca._asdict(), "gmm": book.gmm._asdict()}
            for key, book in sorted(codebooks.items())
        }
    }


def codebook_record(codebooks: Codebooks) -> dict[str, dict[str, bool]]:
    """Return what is no array of codebooks, as JSON values."""
    return {
        key: {"l2_before": book.l2_before, "l2_after": book.l2_after}
        for key, book in sorted(codebooks.items())
    }


def codebooks_from(arrays: Mapping[str, Any], record: Mapping[str, Any]) -> Codebooks:
    """Return the codebooks of a bundle.

    Args:
        arrays: the bundle's, see `codebook_arrays`.
        record: its record, which has `codebook_record` under "codebooks".

    Raises:
        KeyError, TypeError: entries that are missing or of another form.
    """
    books = {}
    for key, flags in record["codebooks"].items():
        parts = jax.tree.map(jnp.asarray, arrays["codebooks"][key])
        pca, gmm = PCA(**parts["pca"]), GMM(**parts["gmm"])
        books[key] = Codebook(pca, gmm, flags["l2_before"], flags["l2_after"])
    return books


def codebooks_digest(codebooks: Codebooks, keys: Iterable[str | None]) -> str | None:
    """Return the SHA-256 of the codebooks of some keys; None where none of them is there."""
    wanted = set(keys)
    used = {key: book for key, book in codebooks.items() if key in wanted}
    return arrays_digest(codebook_arrays(used)) if used else None
