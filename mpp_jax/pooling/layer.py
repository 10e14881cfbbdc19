r"""Multi-scale Pyramid Pooling as a layer: PCA, mixture and pooling are parameters, to be trained.

The paper leaves training the representation to future work. Here it is Eq. (1) with every constant
of the codebook a parameter, free of constraints by reparametrisation:

    x'  = V (x - m)                                      V (P, C), m (C,): no longer orthonormal
    w_k = softmax(a)_k,   v_k = exp(b_k)                 weights and variances of the mixture
    f   = l2(sqrt(sum_s e^{c_s} l2(G(x'_s)) / sum_s e^{c_s}))      over the scales s that are there

`init_layer` takes them from a fitted codebook: with c = 0 the layer then is `pool("mpp", ...)` to
rounding. `layer_codebook` gives the codebook back, which everything else takes (all scales weigh
the same there: c is the layer's own).

Gradients. Norms are safe (`l2_normalize`). The derivative of the square root grows without bound
towards 0, where the entries of Fisher vectors change sign; it is held at that of `SMALLEST_POWER`.
(As Sydorov, Sakurada and Lampert, "Deep Fisher Kernels", CVPR 2014, train mixture and machines
together, for one scale and without projection.)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from mpp_jax.describe.dense import Descriptors
from mpp_jax.numerics import PRECISION, l2_normalize, over_pictures, real_dtype, signed_sqrt
from mpp_jax.pooling.protocol import Evidence
from mpp_jax.pooling.variants import scale_fisher_vectors
from mpp_jax.stats.codebook import Codebook
from mpp_jax.stats.mixture import GMM, check_mixture
from mpp_jax.stats.pca import PCA
from mpp_jax.svm.machines import LinearSVM

Loss = Literal["hinge", "softmax"]

SMALLEST_POWER = 1e-6
"""Where entries are smaller, the square root has the derivative that it has here, 500. (At the
paper's size entries are 4e-3 in the mean.)"""

SMALLEST_WEIGHT = 1e-30
"""Components of weight 0 get this one: the logarithm is finite, and nothing comes of them."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["centre", "projection", "logits", "means", "log_variances", "scales"],
    meta_fields=["l2_before", "l2_after"],
)
@dataclass(frozen=True)
class LayerParams:
    """The parameters of the layer; float32, any values.

    Attributes:
        centre: (C,) m.
        projection: (P, C) V.
        logits: (K,) a.
        means: (K, P) of the mixture.
        log_variances: (K, P) b.
        scales: (S,) c, coarsest first.
        l2_before: whether descriptors are L2-normalised before the projection (static).
        l2_after: and after it (static).
    """

    centre: Array
    projection: Array
    logits: Array
    means: Array
    log_variances: Array
    scales: Array
    l2_before: bool = False
    l2_after: bool = False


def init_layer(codebook: Codebook, scales: int) -> LayerParams:
    """Return the parameters with which the layer is `pool("mpp", ...)` by a fitted codebook.

    Args:
        codebook: from `fit_codebook`.
        scales: S, sets of descriptors that the layer will be given.

    Raises:
        ValueError: a mixture that cannot be one, or no scale.
    """
    if scales < 1:
        raise ValueError(f"scales must be at least 1, got {scales}")
    check_mixture(codebook.gmm, "codebook: gmm")
    weights, means, variances = (jnp.asarray(leaf, jnp.float32) for leaf in codebook.gmm)
    alive = (weights > 0)[:, None]  # others may hold anything
    return LayerParams(
        jnp.asarray(codebook.pca.mean, jnp.float32),
        jnp.asarray(codebook.pca.components, jnp.float32),
        jnp.log(jnp.maximum(weights, SMALLEST_WEIGHT)),
        jnp.where(alive, means, 0),
        jnp.log(jnp.where(alive, variances, 1)),
        jnp.zeros(scales),
        codebook.l2_before,
        codebook.l2_after,
    )


def layer_codebook(params: LayerParams) -> Codebook:
    """Return the codebook that parameters stand for; pure. The weights of the scales are not in it.

    Its projection need not be orthonormal any more, and ``explained_variance``, which training
    makes meaningless, is 0.
    """
    unknown = jnp.zeros(params.projection.shape[0], params.projection.dtype)
    pca = PCA(params.centre, params.projection, unknown)
    weights, variances = jax.nn.softmax(params.logits), jnp.exp(params.log_variances)
    return Codebook(pca, GMM(weights, params.means, variances), params.l2_before, params.l2_after)


@jax.custom_jvp
def power(v: Array) -> Array:
    """Return ``sign(v) sqrt(|v|)``; its derivative is finite everywhere, see the module."""
    return signed_sqrt(v)


@power.defjvp
def _power_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (v,), (change,) = primals, tangents
    return power(v), change / (2 * jnp.sqrt(jnp.maximum(jnp.abs(v), SMALLEST_POWER)))


@partial(jax.jit, inline=True)
def mpp_layer(params: LayerParams, descriptors: Sequence[Descriptors]) -> Array:
    """Return the finished representations (B, 2 K P) of pictures, of unit length. Pure.

    Differentiable with respect to the parameters and the activations, so that it also ends a
    network that is trained. A picture without any descriptor gives 0, and gradients of 0.

    Args:
        params: from `init_layer`, or trained.
        descriptors: S of them, one a scale, coarsest first, as `dense_descriptors` gives them; what
            their masks leave out may hold anything.

    Raises:
        ValueError: another number of scales than the parameters have.
    """
    if len(descriptors) != len(params.scales):
        raise ValueError(
            f"descriptors: the layer has weights of {len(params.scales)} scales, got "
            f"{len(descriptors)} sets of descriptors"
        )
    codebook = layer_codebook(params)
    numbers = tuple(range(len(descriptors)))
    # Every share is positive, and the largest is 1.
    shares = jnp.exp(params.scales - jax.lax.stop_gradient(jnp.max(params.scales)))

    def one(picture: tuple[tuple[Array, ...], tuple[Array, ...]]) -> Array:
        rows, mask = picture
        # What is masked out must meet no parameter, or NaN in it would return by the gradient.
        x = tuple(jnp.where(m[:, None], v, 0) for v, m in zip(rows, mask, strict=True))
        evidence = Evidence(numbers, x, mask, ()).counted(codebook)
        vectors, present = scale_fisher_vectors(evidence, codebook)
        share = shares * present
        pooled = jnp.einsum("s,sd->d", share, jnp.stack(vectors), precision=PRECISION)
        return l2_normalize(power(pooled / jnp.maximum(jnp.sum(share), jnp.min(shares))))

    x = tuple(jnp.asarray(part.x, real_dtype(part.x)) for part in descriptors)
    return over_pictures(one, (x, tuple(jnp.asarray(part.mask) for part in descriptors)))


@partial(jax.jit, static_argnames="loss", inline=True)
def layer_loss(
    params: LayerParams,
    svm: LinearSVM,
    descriptors: Sequence[Descriptors],
    targets: ArrayLike,
    loss: Loss = "hinge",
) -> Array:
    """Return the mean loss () of linear classifiers on the layer's representations. Pure.

    Args:
        params: of the layer.
        svm: classifiers, weights (L, 2 K P) and bias (L,).
        descriptors: of B pictures, as `mpp_layer` takes them.
        targets: (B, L) +1, -1, or 0 where a class is not counted.
        loss: "hinge", summed over the classes, each against all others; or "softmax", the cross
            entropy of the classes that are +1 (several share it evenly).

    Raises:
        ValueError: an unknown loss.
    """
    if loss not in ("hinge", "softmax"):
        raise ValueError(f"loss must be 'hinge' or 'softmax', got {loss!r}")
    vectors = mpp_layer(params, descriptors)
    weights, bias = jnp.asarray(svm.weights), jnp.asarray(svm.bias)
    scores = jnp.matmul(vectors, weights.T, precision=PRECISION) + bias[None, :]
    y = jnp.asarray(targets, scores.dtype)
    if loss == "hinge":
        return jnp.mean(jnp.sum(jnp.abs(y) * jax.nn.relu(1 - y * scores), axis=1))
    held = jax.nn.relu(y)
    share = held / jnp.maximum(jnp.sum(held, axis=1, keepdims=True), 1)
    counted = jnp.where(y == 0, -jnp.inf, scores)
    return jnp.mean(optax.safe_softmax_cross_entropy(counted, share))
