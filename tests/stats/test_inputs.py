"""Fits take what people have: nested lists, data frames, lists of rows and of frames."""

import jax
import numpy as np
import pandas
import pytest

from mpp_jax.config import Encoder
from mpp_jax.stats.codebook import fit_codebook
from mpp_jax.stats.gmm import fit_gmm
from mpp_jax.stats.kmeans import fit_kmeans
from mpp_jax.stats.pca import fit_pca, pca_transform

KEY = jax.random.key(0)
X = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
FRAME = pandas.DataFrame(X, columns=list("abc"))
FITS = {
    "gmm": lambda x: fit_gmm(KEY, x, 2)[0],
    "kmeans": lambda x: fit_kmeans(KEY, x, 2)[0],
    "pca": lambda x: fit_pca(x, 2),
}
MATRICES = {
    "nested list": X.tolist(),
    "tuple of rows": tuple(X),
    "frame": FRAME,
    "objects": X.astype(object),
    "nullable frame": FRAME.astype("Float32"),
    "series of rows": pandas.Series(list(X)),
}


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_all_the_same_fit(fit):
    wanted = jax.tree.leaves(fit(X))
    for name, given in MATRICES.items():
        for a, b in zip(jax.tree.leaves(fit(given)), wanted, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)
    streamed = jax.tree.leaves(fit([X[:20], X[20:]]))
    objects = np.empty(2, object)
    objects[:] = [X[:20], X[20:]]
    for given in ([FRAME[:20], FRAME[20:]], objects, [X[:20].tolist(), X[20:].tolist()]):
        for a, b in zip(jax.tree.leaves(fit(given)), streamed, strict=True):
            np.testing.assert_array_equal(a, b)


def test_codebook_of_a_frame():
    config = Encoder(pca=2, components=2)
    one, other = (fit_codebook(KEY, x, config)[0] for x in (X, FRAME))
    np.testing.assert_array_equal(one.gmm.means, other.gmm.means)


def test_whitened_descriptors_have_variance_one():
    x = (X * [1.0, 5.0, 30.0]).astype(np.float32)
    plain, whitened = (
        fit_codebook(KEY, x, Encoder(pca=2, components=2, whiten=white))[0]
        for white in (False, True)
    )
    y = np.asarray(pca_transform(whitened.pca, x))
    np.testing.assert_allclose(y.std(axis=0, ddof=1), 1, rtol=1e-4)
    assert np.asarray(pca_transform(plain.pca, x)).std(axis=0, ddof=1).min() > 3
    np.testing.assert_allclose(
        whitened.pca.explained_variance, plain.pca.explained_variance, rtol=1e-5
    )


def test_what_is_no_matrix_is_named():
    with pytest.raises(ValueError, match="rows of x must be equally long"):
        fit_pca([[1.0, 2.0], [3.0]], 1)
    with pytest.raises(TypeError, match="x must hold real numbers"):
        fit_pca(pandas.DataFrame({"a": [1.0, 2.0], "b": ["u", "v"]}), 1)
    with pytest.raises(ValueError, match="x holds NaN or infinity"):
        fit_pca(FRAME.where(FRAME < 1), 1)
    with pytest.raises(ValueError, match="holds no row"):
        fit_pca([], 1)
