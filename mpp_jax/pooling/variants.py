r"""The paper's variants, and those its tables compare with.

Notation: x_s the activations of scale s, x'_s after the codebook's projection, G(X) the Fisher
vector of a set X, l2 the division by the Euclidean norm, S the scales that have descriptors.

    fc7          l2(x_0)                                   the whole picture at the base side
    ap1          l2(centre crop of 256 x 256)              the paper's "FC7" (Table 2)
    ap10, ap50   l2(mean over 5 or 25 crops and flips)     Table 2
    avg          l2(1/|S| sum_s l2(mean x_s))
    nfk          l2(sqrt(G(union_s x'_s)))                 Eq. (2)
    csf          l2(sqrt(concat_s l2(G(x'_s))))            Table 2
    mpp          l2(sqrt(1/|S| sum_s l2(G(x'_s))))         Eq. (1)
    mpp-entropy  the same, scale s weighted by the entropy of its components' shares
    fv1 .. fv7   l2(sqrt(G(x'_s))) of one scale            Figure 3
    mop          l2(concat(l2(x_0), VLAD(x'_2), VLAD(x'_4)))    Gong et al. 2014

with sqrt the signed square root ("power normalisation" with exponent 1/2).
"""

import jax
import jax.numpy as jnp
from jax import Array

from mpp_jax.encoders.fisher import fisher_from_statistics
from mpp_jax.encoders.vlad import vlad
from mpp_jax.numerics import l2_normalize, power_l2
from mpp_jax.pooling.protocol import Evidence, projected, register_pooling, scale_statistics
from mpp_jax.stats.codebook import Codebook, Recipe


def mean_descriptor(x: Array, mask: Array) -> Array:
    """Return the mean (C,) of the valid rows of x (T, C); zero where there is none."""
    weight = mask.astype(x.dtype)[:, None]
    total = jnp.sum(jnp.where(mask[:, None], x, 0), axis=0)
    return total / jnp.maximum(jnp.sum(weight), 1)


def scale_fisher_vectors(evidence: Evidence, codebook: Codebook) -> tuple[list[Array], Array]:
    """Return the L2-normalised Fisher vectors of the scales, and (S,) 1.0 or 0.0 for presence."""
    statistics = scale_statistics(evidence)
    vectors = [l2_normalize(fisher_from_statistics(s, codebook.gmm)) for s in statistics]
    return vectors, jnp.stack([(s.count > 0).astype(jnp.float32) for s in statistics])


@register_pooling("fc7", codebook=None, scales=(0,))
def fc7(evidence: Evidence, codebook: Codebook) -> Array:
    """Return the activation of the whole picture: the base scale, averaged where it has several."""
    return l2_normalize(mean_descriptor(evidence.x[0], evidence.mask[0]))


def _crops(evidence: Evidence, codebook: Codebook) -> Array:
    assert evidence.crops is not None  # encode() checks
    return l2_normalize(jnp.mean(evidence.crops, axis=0))


register_pooling("ap1", crops=1, codebook=None)(_crops)
register_pooling("ap10", crops=5, flip=True, codebook=None)(_crops)
register_pooling("ap50", crops=25, flip=True, codebook=None)(_crops)


@register_pooling("avg", codebook=None)
def avg(evidence: Evidence, codebook: Codebook) -> Array:
    """Return the mean over scales of the L2-normalised mean activations: MPP without Fisher."""
    pairs = zip(evidence.x, evidence.mask, strict=True)
    return l2_normalize(sum(l2_normalize(mean_descriptor(x, mask)) for x, mask in pairs))


@register_pooling("nfk", reads="statistics")
def nfk(evidence: Evidence, codebook: Codebook) -> Array:
    """Return the naive Fisher kernel's, Eq. (2): one Fisher vector of all scales together."""
    together = jax.tree.map(lambda *parts: sum(parts), *scale_statistics(evidence))
    return power_l2(fisher_from_statistics(together, codebook.gmm))


@register_pooling("csf", reads="statistics")
def csf(evidence: Evidence, codebook: Codebook) -> Array:
    """Concatenate the scale-wise normalised Fisher vectors."""
    vectors, _ = scale_fisher_vectors(evidence, codebook)
    return power_l2(jnp.concatenate(vectors))


@register_pooling("mpp", reads="statistics")
def mpp(evidence: Evidence, codebook: Codebook) -> Array:
    """Pool the multi-scale pyramid, Eq. (1): mean of the scale-wise normalised Fisher vectors."""
    vectors, present = scale_fisher_vectors(evidence, codebook)
    return power_l2(sum(vectors) / jnp.maximum(jnp.sum(present), 1.0))


@register_pooling("mpp-entropy", reads="statistics")
def mpp_entropy(evidence: Evidence, codebook: Codebook) -> Array:
    """Pool as `mpp`, scales weighing what they say: by the entropy of their components' shares.

    Scale s has the weight H(p_s) / log K, with p_sk = 1/N sum_i q_ik, the share of component k in
    its N descriptors: 0 where one component explains them all (as the single descriptor of the
    coarsest scale often is), 1 where all are equally at work. The first author's published
    experiments weigh scales by an entropy too; the formula is ours.
    """
    statistics = scale_statistics(evidence)
    vectors = [l2_normalize(fisher_from_statistics(s, codebook.gmm)) for s in statistics]
    weights = []
    for s in statistics:
        share = s.s0 / jnp.maximum(jnp.sum(s.s0), 1e-30)
        some = share > 0
        weights.append(-jnp.sum(jnp.where(some, share * jnp.log(jnp.where(some, share, 1)), 0)))
    # One component has no entropy, neither has a picture of one descriptor: equal weights then.
    weight = jnp.stack(weights) / jnp.log(jnp.maximum(codebook.gmm.weights.shape[0], 2))
    total = jnp.sum(weight)
    weight = jnp.where(total > 1e-6, weight / jnp.where(total > 1e-6, total, 1), 1 / len(weights))
    return power_l2(sum(w * v for w, v in zip(weight, vectors, strict=True)))


for _number in range(7):
    register_pooling(f"fv{_number + 1}", scales=(_number,), reads="statistics")(nfk)

MOP = Recipe("pca500-k100", pca=500, components=100, mixture=False)


@register_pooling("mop", codebook=MOP, scales=(0, 2, 4))
def mop(evidence: Evidence, codebook: Codebook) -> Array:
    """Pool orderless at three scales (Gong et al., ECCV 2014): fc7, and VLAD of two finer scales.

    Scales 2 and 4 (from 0), whose windows are 1/2 and 1/4 of the picture's side like theirs; 100
    centres on 500 principal components each. Their last PCA to 4,096 dimensions is left out.
    """
    levels = [vlad(y, codebook.gmm.means, mask) for y, mask in projected(evidence, codebook)[1:]]
    return l2_normalize(jnp.concatenate([fc7(evidence, codebook), *levels]))
