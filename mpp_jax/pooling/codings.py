r"""The other encoders of the core in Eq. (1)'s place of the Fisher vector.

With E any encoder of one scale's descriptors and l2, sqrt as in `variants`:

    l2(sqrt(1/|S| sum_s l2(E(x_s))))

    vlad   vectors of locally aggregated descriptors      on x'_s, centres: the mixture's means
    bow    bag of words (hard)                            on x'_s, likewise
    sv     super-vector coding                            on x'_s, likewise
    gmp    generalised max pooling of Fisher vectors      on x'_s
    cov    square root of the second moments              on x'_s
    max    largest value of each channel                  on x_s
    gem    generalised mean, p = 3                        on x_s
"""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from jax import Array

from mpp_jax.encoders import sets
from mpp_jax.encoders.vlad import vlad
from mpp_jax.numerics import l2_normalize, power_l2
from mpp_jax.pooling.protocol import Evidence, projected, register_pooling
from mpp_jax.stats.codebook import FISHER, Codebook

SetEncoder = Callable[[Array, Codebook, Array], Array]
"""(descriptors (T, D), codebook, mask (T,)) -> (E,)."""


def scale_wise(encoder: SetEncoder, raw: bool, evidence: Evidence, codebook: Codebook) -> Array:
    """Pool as `mpp` does, with another encoder of the raw or the projected descriptors."""
    if raw:
        sets = list(zip(evidence.x, evidence.mask, strict=True))[evidence.first :]
    else:
        sets = projected(evidence, codebook)
    vectors = [l2_normalize(encoder(x, codebook, mask)) for x, mask in sets]
    present = sum(jnp.any(mask).astype(jnp.float32) for _, mask in sets)
    return power_l2(sum(vectors) / jnp.maximum(present, 1.0))


def _register(name: str, encoder: SetEncoder, *, raw: bool = False) -> None:
    codebook = None if raw else FISHER
    register_pooling(name, codebook=codebook)(partial(scale_wise, encoder, raw))


_register("vlad", lambda x, book, mask: vlad(x, book.gmm.means, mask))
_register("bow", lambda x, book, mask: sets.bag_of_words(x, book.gmm.means, mask))
_register("sv", lambda x, book, mask: sets.super_vector(x, book.gmm.means, mask))
_register("gmp", lambda x, book, mask: sets.fisher_gmp(x, book.gmm, mask))
_register("cov", lambda x, book, mask: sets.second_order_pooling(x, None, mask, centred=False))
_register("max", lambda x, book, mask: sets.max_pooling(x, None, mask), raw=True)
_register("gem", lambda x, book, mask: sets.gem_pooling(x, 3.0, mask), raw=True)
