"""The public face called again and again with one shape: nothing is traced or compiled anew.

What is compiled at every call is kept by JAX at every call, so this bounds memory as well.
"""

import inspect

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.toy import toy_network

import mpp_jax as mpp
from mpp_jax.config import Encoder
from mpp_jax.describe.dense import Descriptors
from mpp_jax.describe.pyramid import receptive_windows, resize_pictures
from mpp_jax.encoders import sets
from mpp_jax.encoders.fisher import fisher_vectors
from mpp_jax.stats.kmeans import sum_by_cluster
from mpp_jax.stats.mixture import log_prob, responsibilities
from mpp_jax.stats.pca import pca_inverse
from mpp_jax.stats.seeding import kmeans_plus_plus
from mpp_jax.svm import cross_validate_svm_primal, fit_svm, fit_svm_primal, gram_scores
from mpp_jax.svm.blocks import resident

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
X = RNG.normal(size=(40, 6)).astype(np.float32)
Y = np.where(X[:, :2] > 0, 1, -1)
POSITIVE = (X[:, 0] > 0).astype(int)
GMM = mpp.GMM(jnp.full(3, 1 / 3), jnp.asarray(X[:3]), jnp.ones((3, 6)))
NARROW = GMM._replace(variances=jnp.full((3, 6), 1e-5))  # takes the direct formulation
PCA = mpp.PCA(jnp.zeros(6), jnp.eye(6), jnp.ones(6))
BOOK = mpp.Codebook(PCA, GMM)
SCALES = [
    Descriptors(jnp.asarray(X[None, :n]), jnp.ones((1, n), bool), jnp.asarray(windows))
    for n, windows in ((1, receptive_windows(1, 10, 32, 30)), (9, receptive_windows(3, 10, 32, 52)))
]
LAYER = mpp.init_layer(BOOK, 2)
MACHINE = mpp.LinearSVM(jnp.ones((2, 36)), jnp.zeros(2))
SMALL = mpp.LinearSVM(jnp.ones((2, 6)), jnp.zeros(2))
PICTURES = RNG.integers(0, 256, (1, 50, 50, 3)).astype(np.uint8)
WIDE = RNG.normal(size=(50, 48)).astype(np.float32)  # enough that a block of 18 is a small share
GRAM = np.asarray(X @ X.T)
PLATT = mpp.PlattScaling(-np.ones(2), np.zeros(2))

FACE = {
    "average_precision": lambda: mpp.average_precision(X[:, 0], Y[:, 0]),
    "confidence_maps": lambda: mpp.confidence_maps(SCALES, MACHINE, BOOK, [(9, 9)]),
    "confusion_matrix": lambda: mpp.confusion_matrix(X[:, :2], POSITIVE),
    "cross_validate_svm": lambda: mpp.cross_validate_svm(GRAM, Y, [1.0], 2, key=KEY),
    "dense_descriptors": lambda: mpp.dense_descriptors(toy_network(), PICTURES, scales=(0,)),
    "dense_sift": lambda: mpp.dense_sift(PICTURES),
    "fisher_vector": lambda: mpp.fisher_vector(X, GMM),
    "fit_codebook": lambda: mpp.fit_codebook(KEY, X, Encoder(pca=2, components=2)),
    "fit_gmm": lambda: mpp.fit_gmm(KEY, X, 2),
    "fit_pca": lambda: mpp.fit_pca(X, 2),
    "fit_platt": lambda: mpp.fit_platt(X[:, :2], Y),
    "fit_svm": lambda: mpp.fit_svm(X, Y),
    "fit_svm_primal": lambda: mpp.fit_svm_primal(X, Y, key=KEY, max_epochs=2),
    "gram_matrix": lambda: mpp.gram_matrix(X),
    "init_layer": lambda: mpp.init_layer(BOOK, 2),
    "l2_normalize": lambda: mpp.l2_normalize(X),
    "layer_codebook": lambda: mpp.layer_codebook(LAYER),
    "mean_class_accuracy": lambda: mpp.mean_class_accuracy(X[:, :2], POSITIVE),
    "pca_transform": lambda: mpp.pca_transform(PCA, X),
    "platt_probabilities": lambda: mpp.platt_probabilities(PLATT, X[:, :2]),
    "pool": lambda: mpp.pool("mpp", SCALES, BOOK),
    "power_l2": lambda: mpp.power_l2(X),
    "signed_sqrt": lambda: mpp.signed_sqrt(X),
    "svm_scores": lambda: mpp.svm_scores(SMALL, X),
    "top1_accuracy": lambda: mpp.top1_accuracy(X[:, :2], POSITIVE),
    "vlad": lambda: mpp.vlad(X, X[:3]),
}


class Reader:
    """Rows that are read when they are asked for."""

    shape = X.shape

    def __getitem__(self, rows):
        return X[rows]


BESIDE = {
    "cross_validate_svm_primal": lambda: cross_validate_svm_primal(
        X, Y, [1.0], 2, key=KEY, max_epochs=2
    ),
    "fisher_vector, direct": lambda: mpp.fisher_vector(X, NARROW),
    "fisher_vectors": lambda: fisher_vectors(X[None], GMM),
    "fisher_vectors in groups": lambda: fisher_vectors(np.stack([X] * 3), GMM, batch=2),
    "fit_pca on the device": lambda: mpp.fit_pca(WIDE, 2, solver="filtered"),
    "fit_svm of a reader": lambda: fit_svm(Reader(), Y),
    "fit_svm_primal of a reader": lambda: fit_svm_primal(Reader(), Y, key=KEY, max_epochs=2),
    "fit_gmm of a stream": lambda: mpp.fit_gmm(KEY, [X[:30], X[30:]], 2),
    "gram_scores": lambda: gram_scores(GRAM, Y * 0.5),
    "kmeans_plus_plus": lambda: kmeans_plus_plus(KEY, X, 3),
    "layer_loss": lambda: mpp.layer_loss(LAYER, MACHINE, SCALES, Y[:1]),
    "log_prob": lambda: log_prob(X, GMM),
    "mpp_layer": lambda: mpp.mpp_layer(LAYER, SCALES),
    "pca_inverse": lambda: pca_inverse(PCA, X),
    "resize_pictures": lambda: resize_pictures(PICTURES, np.array([[50, 40]]), 60),
    "resize_pictures by taps": lambda: resize_pictures(
        PICTURES, np.array([[50, 40]]), 60, most_taps=2
    ),
    "responsibilities": lambda: responsibilities(X, GMM),
    "resident vectors": lambda: resident(X, room=10**6),
    "sum_by_cluster": lambda: sum_by_cluster(jnp.asarray(X), np.arange(40) % 3, 3, form="product"),
    "residual vlad": lambda: mpp.vlad(X, X[:3], assignment="soft", residual=True),
    "bag_of_words": lambda: sets.bag_of_words(X, X[:3]),
    "fisher_gmp": lambda: sets.fisher_gmp(X, GMM),
    "gem_pooling": lambda: sets.gem_pooling(X),
    "generalized_max_pooling": lambda: sets.generalized_max_pooling(X),
    "max_pooling": lambda: sets.max_pooling(X),
    "mean_pooling": lambda: sets.mean_pooling(X),
    "second_order_pooling": lambda: sets.second_order_pooling(X),
    "super_vector": lambda: sets.super_vector(X, X[:3]),
}

NOT_COMPUTING = {
    "decode_picture",
    "load_codebooks",
    "load_model",
    "load_network",
    "open_dataset",
    "preset",
    "register_network",
    "register_pooling",
}


def test_all_of_the_face_is_here():
    functions = {name for name in mpp.__all__ if inspect.isfunction(getattr(mpp, name))}
    assert functions - NOT_COMPUTING == set(FACE)
    assert set(sets.__all__) - {"matrix_sqrt"} <= set(BESIDE)


@pytest.mark.parametrize("name", [*FACE, *BESIDE])
def test_repeated_calls_compile_nothing(name):
    call = {**FACE, **BESIDE}[name]
    for _ in range(2):
        jax.block_until_ready(call())
    seen = []

    def note(event, duration, **_):
        if event.endswith("backend_compile_duration"):
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        for _ in range(3):
            call()
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert not seen, f"{len(seen)} compilations in 3 calls"


def test_the_counter_sees():
    seen = []

    def note(event, duration, **_):
        seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        jax.jit(lambda x: x + 1)(1.0)
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert any(event.endswith("backend_compile_duration") for event in seen)
